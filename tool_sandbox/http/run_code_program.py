"""Runs inside the sandbox, under the system's own Python: standard library only, and nothing of this package.

Gives a program what a request to `/run_code` promises (files, standard input, its own time and memory), and says after
a mark how it ended. The sandbox's limits stay around all of it; whoever forges the report harms only their own.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from types import FrameType

STDERR_CHARACTERS = 65536


class OutOfTime(BaseException):
    """The time of the request is over."""


def serve(
    code: str,
    stdin: str,
    files: dict[str, str],
    fetch_files: list[str],
    seconds: float,
    memory_bytes: int,
    mark: str,
) -> None:
    """Run `code`; then print `mark` and the report as one JSON object. Raises what the code raised."""
    for path, content in files.items():
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(content))
    feed(stdin)
    sys.stderr, real = io.StringIO(), sys.stderr
    limit(seconds, memory_bytes)
    report: dict[str, object] = {"return_code": 0, "timed_out": False}
    failure = None
    try:
        # Without `dont_inherit`, the code would get this file's `annotations` import.
        exec(compile(code, "<code>", "exec", dont_inherit=True), {"__name__": "__main__"})
    except OutOfTime:
        report = {"return_code": None, "timed_out": True}
    except SystemExit as end:
        report["return_code"] = exit_code(end)
    except BaseException as error:  # noqa: BLE001 - whatever the model's code raises is data
        report["return_code"] = 1
        failure = error
    signal.setitimer(signal.ITIMER_REAL, 0)
    if failure is not None:
        # The first frame is this function's.
        traceback.print_exception(failure.with_traceback(failure.__traceback__ and failure.__traceback__.tb_next))
    written, sys.stderr = sys.stderr, real
    report["stderr"] = written.getvalue()[-STDERR_CHARACTERS:] if isinstance(written, io.StringIO) else ""
    report["files"] = {path: base64.b64encode(content).decode() for path, content in fetched(fetch_files)}
    print(mark + json.dumps(report))
    if failure is not None:
        raise failure


def feed(stdin: str) -> None:
    """Let standard input give `stdin`, also to code that reads descriptor 0 itself."""
    descriptor = os.open(".stdin", os.O_RDWR | os.O_CREAT, 0o600)
    os.unlink(".stdin")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(stdin.encode())
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.dup2(descriptor, 0)
    os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open for the code


def limit(seconds: float, memory_bytes: int) -> None:
    """Narrow the sandbox's limits to those of the request; where a sandbox forbids even that, its own stay."""
    with contextlib.suppress(OSError, ValueError):
        signal.signal(signal.SIGALRM, out_of_time)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    if memory_bytes > 0:
        with contextlib.suppress(OSError, ValueError):
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))


def out_of_time(number: int, frame: FrameType | None) -> None:
    """Handler of the timer."""
    raise OutOfTime


def exit_code(end: SystemExit) -> int:
    """What the process would have ended with."""
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)
    return 1


def fetched(paths: list[str]) -> list[tuple[str, bytes]]:
    """Path and content of those files that can be read."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            found.append((path, file.read()))
    return found
