"""`steptool score`: from its arguments to a file of results, and to what the votes of its judge come to.

Owns what the arguments mean together, and where votes are kept: in a file beside the results, unless the recipe names a
store. The work is done by `reward_service.offline`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cluster.errors import BadConfiguration, Stopped
from cluster.reward_assembly import opened_service
from cluster.reward_file import read_rewards
from reward_service.client import RewardClient, RewardSource
from reward_service.config import JudgeSignal, RewardConfig, SignalsConfig
from reward_service.errors import RewardRequestError, RewardUnavailable, ScorerUnavailable
from reward_service.judge.config import JudgeConfig
from reward_service.judged import JudgeSignals
from reward_service.offline import Annotation, annotate, conversations_read, read_trajectories
from reward_service.parquet_results import SUFFIX, lines_beside
from reward_service.result_file import InvalidFile
from reward_service.wire import ConversationItem, TrajectoryItem

KEY_VARIABLE = "STEPTOOL_REWARD_KEY"
STORE_SUFFIX = ".votes.sqlite"
Advance = Callable[[int, int], None]
"""Told how many trajectories have a result, of how many."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is to score, as the command line says it."""

    reward: Path | None = None
    url: str | None = None
    judge: str | None = None
    judge_model: str | None = None
    votes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            BadConfiguration: two ways to score are named, or half of one.
        """
        ways = {"--reward": self.reward, "--url": self.url, "--judge": self.judge}
        named = [name for name, value in ways.items() if value is not None]
        if len(named) > 1:
            raise BadConfiguration(f"{' and '.join(named)}: found both; each says who scores, give one of them")
        if (self.judge is None) != (self.judge_model is None):
            raise BadConfiguration("--judge and --judge-model: found one; the judge needs its address and its model")
        if self.votes is not None and self.judge is None:
            raise BadConfiguration("--votes: found no --judge; a recipe says `votes` in its section `judge`")


def score_file(source: Path, out: Path, asked: Asked, advance: Advance) -> Mapping[str, Any]:
    """Add to `out`, JSON lines or Parquet, what it lacks of the results for `source`; counts and means, and the judge's
    if there is one.

    Raises:
        BadConfiguration: a file, an address or a recipe that cannot be used.
        Stopped: the service at `asked.url` gave no answer; another run goes on from here.
    """
    try:
        return asyncio.run(_scored(source, out, asked, advance))
    except InvalidFile as error:
        raise BadConfiguration(str(error)) from error
    except (RewardUnavailable, ScorerUnavailable) as error:
        raise Stopped(f"{error}; {out} keeps what was scored, run the same command again to go on") from error
    except RewardRequestError as error:
        raise BadConfiguration(f"{out}: {error}") from error


def configuration(out: Path, asked: Asked) -> RewardConfig:
    """What to score by; a judge without a store of its own keeps its votes beside `out`.

    Raises:
        BadConfiguration: the recipe, or the judge's address, does not fit.
    """
    config = read_rewards(asked.reward) if asked.reward else RewardConfig()
    if asked.judge is not None:
        config = _judged_by(asked)
    return config.votes_kept_in(out.with_name(out.name + STORE_SUFFIX))


def _judged_by(asked: Asked) -> RewardConfig:
    votes = {} if asked.votes is None else {"votes": asked.votes}
    try:
        judge = JudgeConfig.model_validate({"url": asked.judge, "model": asked.judge_model, **votes})
    except ValidationError as error:
        # Without the input, which may hold a credential.
        reasons = "; ".join(one["msg"] for one in error.errors(include_url=False, include_input=False))
        raise BadConfiguration(f"--judge, --judge-model, --votes: {reasons}") from None
    signal = JudgeSignal()
    signals = SignalsConfig(success=signal, contribution=signal, solved=signal)
    # Nobody waits for the answer of one request here: it may take as long as a vote may.
    return RewardConfig(signals=signals, judge=judge, score_seconds=judge.vote_seconds)


async def _scored(source: Path, out: Path, asked: Asked, advance: Advance) -> Mapping[str, Any]:
    items = read_trajectories(source)
    annotation = Annotation()
    async with _scorer(out, asked) as (rewards, judge):
        with lines_beside(out) if out.suffix == SUFFIX else nullcontext(out) as lines:
            async for annotation in annotate(items, lines, rewards):
                advance(annotation.trajectories, len(items))
        return {**annotation.as_dict(), **await _agreement(judge, items)}


async def _agreement(
    judge: JudgeSignals | None, items: Sequence[TrajectoryItem | ConversationItem]
) -> Mapping[str, Any]:
    if judge is None:
        return {}
    return {"judge": (await judge.agreement(conversations_read(items))).as_dict()}


@asynccontextmanager
async def _scorer(out: Path, asked: Asked) -> AsyncIterator[tuple[RewardSource, JudgeSignals | None]]:
    """Whoever scores, and the judge behind it where it is one of ours."""
    if asked.url is not None:
        async with RewardClient(asked.url, os.environ.get(KEY_VARIABLE)) as client:
            yield client, None
    else:
        async with opened_service(configuration(out, asked)) as assembly:
            yield assembly.service, assembly.local_judge
