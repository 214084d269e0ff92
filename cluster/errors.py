"""Errors that end a run, each with the exit code that the command line gives it.

Tree: `RunError` ← `BadConfiguration` (2), `NotEnoughResources` (3), `CheckpointError` (2),
`NotReproduced` (1), `Stopped` (75).
"""

from __future__ import annotations


class RunError(RuntimeError):
    """Ends a run with a message for its user and no stack trace."""

    exit_code = 1


class BadConfiguration(RunError):
    """A setting, a preset, a path or a task that cannot be used."""

    exit_code = 2


class NotEnoughResources(RunError):
    """The cluster did not offer what the run needs within its deadline, or the disk is full."""

    exit_code = 3


class CheckpointError(RunError):
    """A checkpoint is damaged or belongs to another run."""

    exit_code = 2


class NotReproduced(RunError):
    """What was done again did not come out as it was recorded."""

    exit_code = 1


class Stopped(RunError):
    """Asked to stop; everything up to the last finished iteration is saved."""

    exit_code = 75
