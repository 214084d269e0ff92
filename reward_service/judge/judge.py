"""The judge: asks for votes, and tells what they come to.

Owns `Judge` and `fingerprint`. Consumes trajectories; produces one `Judgement` each. A caller that keeps votes, so that
each is cast once, takes `vote` and `judgement` apart; `judge` is both together.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import httpx

from reward_service.errors import JudgeKeyMissing, JudgeUnavailable
from reward_service.judge.answer import Answer, Misfit, answer_schema, read_answer
from reward_service.judge.config import JudgeConfig
from reward_service.judge.endpoint import ChatEndpoint
from reward_service.judge.judgement import FinalVerdict, Flag, Judgement, StepVerdict, Usage, Vote
from reward_service.judge.prompt import prompt
from reward_service.judge.questions import Question, questions
from reward_service.judge.record import Record, record_of
from reward_service.judge.scanner import rules_text
from reward_service.judge.tally import tallied
from reward_service.judge.template import template_text
from reward_service.signals import Episode
from reward_service.wire import TrajectoryItem

JUDGE_VERSION = 3
"""Part of every fingerprint. Raise it with any change of this package's code that may change a grade."""
_DECIDING = (
    *("model", "scope", "votes", "temperature", "max_tokens", "structured", "text_characters", "record_characters"),
    "answer_retries",
)
"""Settings that decide the grades. The address, deadlines and prices do not."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Case:
    """A trajectory made ready to be judged: the part that is the same for every vote."""

    episode: Episode
    record: Record
    flags: tuple[Flag, ...]
    questions: tuple[Question, ...]
    """The requests of one vote."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """The end of one question."""

    answer: Answer | None
    """None: lost."""
    misfits: tuple[str, ...]
    usage: Usage


def fingerprint(config: JudgeConfig) -> str:
    """SHA-256, in hexadecimal, of what decides the grades: template, rules, schema, model and settings."""
    recipe = {
        "version": JUDGE_VERSION,
        "template": template_text(),
        "rules": rules_text(),
        "schema": answer_schema(1, final=True),
        "settings": config.model_dump(mode="json", include=set(_DECIDING)),
        "defences": sorted(config.defences),
    }
    canonical = json.dumps(recipe, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Judge:
    """One judge, for one event loop; safe for many trajectories at once."""

    def __init__(
        self,
        config: JudgeConfig,
        environment: Mapping[str, str] = os.environ,
        transport: httpx.AsyncBaseTransport | None = None,
        chance: random.Random | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`chance` draws what no text may guess; None is the system's. `pause` waits between retries.

        Raises:
            JudgeKeyMissing: `environment` does not hold the key.
        """
        self.config = config
        self.fingerprint = fingerprint(config)
        self._chance = random.SystemRandom() if chance is None else chance
        self.endpoint = ChatEndpoint(config, _key(config, environment), transport, pause)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.endpoint.aclose()

    async def judge(self, item: TrajectoryItem) -> Judgement:
        """Cast all votes and count them.

        Raises:
            JudgeUnavailable: the endpoint is down, refuses, or takes too long.
        """
        # The scanner takes milliseconds for each kilobyte, which other requests need not wait for.
        case = await asyncio.to_thread(self.case, item)
        return self.judgement(case, await _all(self.vote(case) for _ in range(self.config.votes)))

    def case(self, item: TrajectoryItem) -> Case:
        """`item` as the judge will read it."""
        record, flags = record_of(item, self.config)
        episode = item.episode()
        return Case(episode, record, flags, questions(episode, self.config.scope, flags))

    async def vote(self, case: Case, paid: Callable[[Usage], None] = lambda _: None) -> Vote:
        """One vote. An answer that does not fit is asked for again, then lost.

        `paid` hears of every answer as it comes, also of those to a vote that comes to nothing.

        Raises:
            JudgeUnavailable: as `judge`.
        """
        seconds = self.config.vote_seconds
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                answered = await _all(
                    self._answered(case.record, question, deadline, paid) for question in case.questions
                )
        except TimeoutError:
            raise JudgeUnavailable(self.config.url, f"no vote within {seconds:g} s") from None
        return _merged(len(case.record.steps), case.questions, answered)

    def judgement(self, case: Case, votes: Sequence[Vote]) -> Judgement:
        """What `votes` on `case` come to; asks nobody."""
        return tallied(case.episode, votes, case.flags, self.config)

    async def _answered(
        self, record: Record, question: Question, deadline: float, paid: Callable[[Usage], None]
    ) -> _Answered:
        usage, misfits = Usage(), []
        for _ in range(self.config.answer_retries + 1):
            request = prompt(record, question, self.config.defences, self._chance)
            schema = answer_schema(len(request.marks.ids), question.final)
            reply = await self.endpoint.ask(request.messages, schema, deadline)
            usage += reply.usage
            paid(reply.usage)
            try:
                if not reply.finished:
                    raise Misfit(f"the answer was cut at {self.config.max_tokens} tokens")
                answer = read_answer(reply.text, request.marks, question.final, self.config.defences)
            except Misfit as misfit:
                misfits.append(str(misfit))
            else:
                return _Answered(answer, tuple(misfits), usage)
        return _Answered(None, tuple(misfits), usage)


async def _all(work: Iterable[Awaitable[Value]]) -> list[Value]:
    """All results; waits for the others before it raises the first error, so that nothing runs on unseen."""
    results = await asyncio.gather(*work, return_exceptions=True)
    found: list[Value] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found


def _merged(steps: int, asked: Sequence[Question], answered: Sequence[_Answered]) -> Vote:
    verdicts: list[StepVerdict | None] = [None] * steps
    final: FinalVerdict | None = None
    for question, end in zip(asked, answered, strict=True):
        if end.answer is None:
            continue
        for position, verdict in zip(question.steps, end.answer.steps, strict=True):
            verdicts[position] = verdict
        final = end.answer.final or final
    misfits = tuple(misfit for end in answered for misfit in end.misfits)
    return Vote(tuple(verdicts), final, misfits, sum((end.usage for end in answered), Usage()))


def _key(config: JudgeConfig, environment: Mapping[str, str]) -> str | None:
    if config.key_variable is None:
        return None
    key = environment.get(config.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise JudgeKeyMissing(
            f"judge {config.url}: the environment variable {config.key_variable} is not set, empty, or no printable "
            "ASCII; put the server's API key there, or leave key_variable out where the server asks for none"
        )
    return key
