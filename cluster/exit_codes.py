"""Which errors are whose: one message and an exit code for what is the user's or the cluster's.

Owns the mapping that every command goes through. Exit codes: 0 done, 1 our own defect, 2 bad configuration or input, 3
not enough resources, 75 stopped but resumable.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.text import Text

from actors.errors import BadInput, EngineFailure, RolloutsLost
from cluster.errors import BadConfiguration, NotEnoughResources, RunError, Stopped
from cluster.models import ModelError
from learner.errors import BadCheckpoint, LearnerLost
from reward_service.errors import ServiceNotStarted, StepModelUnusable
from tool_sandbox.errors import (
    AuditFailed,
    InvalidKeys,
    InvalidTool,
    InvalidToolset,
    IsolationUnavailable,
    NoSuchTask,
    UnknownToolset,
)

_BAD_INPUT = (
    BadInput,
    BadCheckpoint,
    UnknownToolset,
    InvalidToolset,
    InvalidTool,
    InvalidKeys,
    NoSuchTask,
    ModelError,
    StepModelUnusable,
)
_LOST = (LearnerLost, RolloutsLost, EngineFailure)
"""A part of the run died: it goes on from its newest checkpoint when it is started again."""
_SHORT = (ServiceNotStarted, IsolationUnavailable, AuditFailed)
"""A part did not come up, or could not go on: the machine or the cluster lacks something."""


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turn what is the user's or the cluster's into one message and an exit code; our own defects keep their trace."""
    try:
        yield
    except (RunError, *_BAD_INPUT, *_LOST, *_SHORT) as error:
        _complain(str(error))
        raise typer.Exit(_code(error)) from error
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        _complain(f"disk full at {error.filename or 'an unnamed file'}; make room and run again to continue")
        raise typer.Exit(NotEnoughResources.exit_code) from error


def _complain(message: str) -> None:
    Console(stderr=True).print(Text(f"steptool: {message}", style="bold red"), highlight=False, soft_wrap=True)


def _code(error: Exception) -> int:
    if isinstance(error, RunError):
        return error.exit_code
    if isinstance(error, _SHORT):
        return NotEnoughResources.exit_code
    return Stopped.exit_code if isinstance(error, _LOST) else BadConfiguration.exit_code
