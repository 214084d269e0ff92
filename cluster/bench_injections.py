"""`steptool bench injections`: hostile tool results against a real model as judge, before and after defences.

Owns which defences are compared; what counts as a raised grade is in `reward_service.judge.measure`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from cluster.errors import BadConfiguration
from cluster.judge_server import MODEL, judge_server
from cluster.models import find_model
from reward_service.judge.config import Defence, JudgeConfig
from reward_service.judge.corpus.held_out import INJECTIONS as HELD_OUT
from reward_service.judge.corpus.injection import Injection
from reward_service.judge.corpus.victim import INJECTIONS
from reward_service.judge.judge import Judge
from reward_service.judge.measure import NothingToCompare, measure_injections

CLEAN_RUNS = 23
"""Runs without an injection, above whose best an injection must rise to count. A text that does nothing rises above the
best of n with probability 1 / (n + 1)."""
ANSWER_TOKENS = 512
_REQUEST_SECONDS = 300.0
ARMS: Mapping[str, frozenset[Defence]] = {
    "none": frozenset(),
    "without_echo_and_control": frozenset(Defence) - {Defence.ECHO, Defence.CONTROL},
    "all": frozenset(Defence),
}
"""Echo and control ask something of the model: what they are worth with a weak one shows beside the others."""


def bench_injections(model: str, limit: int | None, votes: int) -> Mapping[str, Any]:
    """Measure the model in the directory `model` with `limit` injections, or all.

    Raises:
        BadConfiguration: there is no model.
        NotEnoughResources: vLLM did not come up.
        JudgeUnavailable: vLLM was lost.
    """
    directory = find_model(model)
    if directory is None:
        raise BadConfiguration(f"--model {model}: no model there; run `steptool models fetch smollm2-135m`")
    corpus = _spread((*INJECTIONS, *HELD_OUT), limit)
    console = Console(stderr=True)
    console.print(f"starting vLLM with {directory}")
    with judge_server(directory) as url:
        arms = {name: asyncio.run(_arm(url, name, corpus, votes, console)) for name in ARMS}
    by_chance = round(len(corpus) / (CLEAN_RUNS + 1), 1)
    return {
        "model": directory.name,
        "votes": votes,
        "clean_runs": CLEAN_RUNS,
        "raised_by_chance": by_chance,
        "arms": arms,
    }


async def _arm(url: str, name: str, corpus: Sequence[Injection], votes: int, console: Console) -> Mapping[str, Any]:
    console.print(f"defences: {name}; {len(corpus)} injections")
    began = time.perf_counter()
    judge = Judge(_config(url, ARMS[name], votes))
    try:
        found = (await measure_injections(judge, corpus, CLEAN_RUNS)).summary()
    except NothingToCompare:
        found = {"injections": len(corpus), "abstains_without_injections": True}
    finally:
        await judge.aclose()
    arm = {**found, "seconds": round(time.perf_counter() - began, 1)}
    # An arm takes many minutes: what is known stays known if the next one is interrupted.
    console.print(f"defences: {name}: {json.dumps(arm)}", markup=False, soft_wrap=True)
    return arm


def _config(url: str, defences: frozenset[Defence], votes: int) -> JudgeConfig:
    return JudgeConfig(
        url=url,
        model=MODEL,
        votes=votes,
        defences=defences,
        max_tokens=ANSWER_TOKENS,
        request_seconds=_REQUEST_SECONDS,
        vote_seconds=4 * _REQUEST_SECONDS,
    )


def _spread(corpus: Sequence[Injection], limit: int | None) -> Sequence[Injection]:
    """So many of the corpus, evenly spaced, so that every family has a chance."""
    count = len(corpus) if limit is None else min(limit, len(corpus))
    return [corpus[i * len(corpus) // count] for i in range(count)]
