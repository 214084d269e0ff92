"""Contribution by replay: recorded calls are made again in sessions of the task's own toolset."""
