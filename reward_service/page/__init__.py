"""The page for people, and the numbers that it shows."""
