"""Isolation: running text that the model wrote where it can reach nothing but a CPU, some memory and its own output."""
