"""What the supervisor of a sandbox counts."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tool_sandbox.isolation.inside.supervision import Baseline, Pipes, Watch

LIMITS = {
    "cpu_seconds": 5,
    "wall_seconds": 5.0,
    "starved_seconds": 60.0,
    "memory_bytes": 2**30,
    "files": 10,
    "tmp_bytes": 2**20,
    "output_bytes": 100,
}
BURNT_SECONDS = 0.05


def burn_and_exit() -> None:
    while time.process_time() < BURNT_SECONDS:
        pass
    os._exit(0)


def test_a_call_that_is_over_before_it_is_looked_at_costs_what_it_used(tmp_path: Path) -> None:
    """On a busy machine the supervisor may not run between the fork and the end of a short call."""
    pipes = [os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) for _ in range(3)]
    before = Baseline([])
    child = os.fork()
    if child == 0:
        burn_and_exit()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    watch = Watch(
        child, Pipes(*(ours for ours, _ in pipes)), LIMITS, lambda: [child], str(tmp_path), lambda _: (0, 0), before
    )
    watch.follow(until_report=False)
    os.waitpid(child, 0)
    watch.settle()
    for pipe in pipes:
        for descriptor in pipe:
            os.close(descriptor)
    assert watch.ended.stopped is None
    assert BURNT_SECONDS <= watch.ended.cpu_seconds <= watch.ended.wall_seconds + 0.5
