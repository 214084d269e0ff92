"""Ranks without Ray: one function in several processes that meet on loopback, each wait with a deadline."""

from __future__ import annotations

import multiprocessing
import os
import queue
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
# Importing torch, DeepSpeed and Transformers takes longer than all that ranks compute: one process does it for them.
_CONTEXT.set_forkserver_preload(["learner.rank"])


def run_gang(work: Callable[..., Any], ranks: int, *arguments: Any, seconds: float = 120.0) -> list[Any]:
    """`work(rank, *arguments)` on every rank at once, with `MASTER_ADDR` and `MASTER_PORT` set; the results by rank.

    `work` and what it gives must pickle; tensors are better given as lists or arrays.

    Raises:
        RuntimeError: a rank raised, died or was not done in time; the others are ended.
    """
    answers: Any = _CONTEXT.Queue()
    port = _free_port()
    members = [_CONTEXT.Process(target=_serve, args=(answers, port, work, rank, arguments)) for rank in range(ranks)]
    for member in members:
        member.start()
    try:
        return _collect(answers, members, time.monotonic() + seconds)
    finally:
        _end(members)
        answers.close()


def _collect(answers: Any, members: list[Any], end: float) -> list[Any]:
    found: dict[int, Any] = {}
    while len(found) < len(members):
        missing = [rank for rank in range(len(members)) if rank not in found]
        try:
            rank, result, error = answers.get(timeout=1.0)
        except queue.Empty:
            dead = [rank for rank in missing if members[rank].exitcode not in (None, 0)]
            if dead or time.monotonic() > end:
                raise RuntimeError(f"gang: ranks {missing} gave no answer, of them {dead} died") from None
            continue
        if error is not None:
            raise RuntimeError(f"gang: rank {rank} raised\n{error}")
        found[rank] = result
    return [found[rank] for rank in range(len(members))]


def _end(members: list[Any]) -> None:
    for member in members:
        member.join(timeout=5.0)
        if member.is_alive():
            member.kill()
            member.join(timeout=5.0)
        member.close()


def _serve(answers: Any, port: int, work: Callable[..., Any], rank: int, arguments: tuple[Any, ...]) -> None:
    # LOCAL_SIZE 1: DeepSpeed would otherwise look for its shared-memory collectives between the ranks.
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_SIZE="1")
    try:
        answers.put((rank, work(rank, *arguments), None))
    except BaseException:
        answers.put((rank, None, traceback.format_exc()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
