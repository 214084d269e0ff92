"""Signals by a learned step model: a sequence classifier that reads a trajectory up to the step that it scores."""
