"""Ranks without Ray: one function in several processes that meet on loopback, with a deadline for all of them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# Importing torch, DeepSpeed and Transformers takes longer than all that ranks compute: one process does it for them.
_CONTEXT.set_forkserver_preload(["learner.rank"])


def run_gang(work: Callable[..., Any], ranks: int, *arguments: Any, seconds: float = 400.0) -> list[Any]:
    """`work(rank, *arguments)` on every rank at once, `MASTER_ADDR` and `MASTER_PORT` set; results by rank.

    `work` is a function of a module; what it gives is pickled, so tensors are better given as arrays.

    Raises:
        TimeoutError: a rank died or was not done in time.
        Exception: what the first rank to fail raised. The others are ended in either case.
    """
    end = time.monotonic() + seconds
    with _CONTEXT.Pool(ranks, _prepare, (_free_port(),)) as pool:
        answers = [pool.apply_async(work, (rank, *arguments)) for rank in range(ranks)]
        while silent := [rank for rank, answer in enumerate(answers) if not _is_done(answer)]:
            if time.monotonic() > end:
                raise TimeoutError(f"gang: ranks {silent} of {ranks} silent for {seconds:.0f} s")
            time.sleep(0.02)
        return [answer.get() for answer in answers]


def _is_done(answer: Any) -> bool:
    """Raises what the rank raised."""
    if not answer.ready():
        return False
    answer.get()
    return True


def _prepare(port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
