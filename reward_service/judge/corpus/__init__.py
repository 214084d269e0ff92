"""Hostile tool results, harmless ones that look like them, and the trajectory that they stand in."""
