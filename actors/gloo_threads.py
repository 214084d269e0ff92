"""Keep gloo's idle threads from interrupting the arithmetic of their own machine.

gloo polls its sockets in one thread per process group, a hundred times a second each, and vLLM makes about a dozen
groups even where the world has one rank. On two cores those wake-ups take a core from an OpenMP team a thousand times a
second, and the other half of the team waits for it: updates of the learner ran at three quarters of their speed.
"""

from __future__ import annotations

import os
from pathlib import Path

THREAD_NAME = "gloo_tcp_loop"
_THREADS = Path("/proc/self/task")


def yield_to_arithmetic() -> int:
    """Give gloo's threads of this process the scheduler's idle class; returns how many were found.

    Call it once the groups exist and only where one rank is alone: there nothing ever arrives on those sockets. Does
    nothing where the kernel has no such threads to show.
    """
    if not _THREADS.is_dir():
        return 0
    found = [int(task.name) for task in _THREADS.iterdir() if _name(task) == THREAD_NAME]
    for thread in found:
        os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    return len(found)


def _name(task: Path) -> str:
    try:
        return (task / "comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return "a thread that has ended"
