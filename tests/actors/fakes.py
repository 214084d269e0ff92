"""An engine that says what a script says, and the real parts that an episode plays with beside it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoTokenizer

from actors.config import CompactPrompt, EpisodeConfig
from actors.engine import Generation, Sampling
from actors.episode import EpisodeRequest, Episodes
from actors.parsing import ActionParser
from actors.prompt import ChatFormat, build_chat_format
from actors.recipes import tool_specs
from actors.scoring import ScoredTrajectory
from actors.trajectory import Answer, Step, Trajectory, VersionSpan
from cluster.environment import home
from reward_service.rewards import StepReward, TrajectoryReward
from tool_sandbox.client import LocalSandbox, SandboxClient
from tool_sandbox.config import PoolConfig
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.session import LedgerSession
from tool_sandbox.tasks import GroundTruth, Split, StopReason, Task
from tool_sandbox.tools import CallOutcome, ToolCall

LEDGER = LedgerToolset()
TASK = Task("ledger-1", "ledger", "How much?", (), GroundTruth(answer="7", minimum_calls=1), "L0", Split.TRAIN, {})
VERSION = 7
"""Policy version that a scripted engine claims to serve."""


@functools.cache
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(home() / ".models" / "smollm2-135m")


@functools.cache
def chat() -> ChatFormat:
    return build_chat_format(tokenizer(), CompactPrompt())


@functools.cache
def parser() -> ActionParser:
    return ActionParser("hermes", tokenizer())


def generation(token_ids: Sequence[int], *, ended: bool = True) -> Generation:
    ids = tuple(token_ids)
    logprobs = tuple(-0.01 * (i + 1) for i in range(len(ids)))
    return Generation(ids, logprobs, (VersionSpan(VERSION, 0, len(ids)),), ended)


def said(text: str) -> Generation:
    """A turn in the tokens that the tokenizer would choose."""
    return generation(chat().action_ids(text))


def spelled(text: str) -> Generation:
    """A turn sampled letter by letter: the same text in other tokens than the tokenizer would choose."""
    letters = [token for letter in text for token in chat().text_ids(letter)]
    return generation([*letters, chat().end_of_turn_id])


def cut_off(text: str) -> Generation:
    """A turn that ran into its token budget."""
    return generation(chat().text_ids(text), ended=False)


@dataclass(slots=True)
class ScriptedEngine:
    """Says the turns of its script, by trajectory, and writes down what it was asked."""

    script: Mapping[str, Sequence[Generation]]
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    samplings: list[Sampling] = field(default_factory=list)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Generation:
        self.prompts.append(tuple(prompt_ids))
        self.samplings.append(sampling)
        trajectory, _, turn = request_id.rpartition("/")
        return self.script[trajectory][int(turn)]

    async def token_logprobs(self, token_ids: Sequence[int], request_id: str) -> tuple[float, ...]:
        raise AssertionError("an episode asks for no log-probabilities of given tokens")


class ForgetfulSandbox(LocalSandbox):
    """The real sandbox, which loses its session when the `lost_at`-th call comes."""

    def __init__(self, lost_at: int) -> None:
        super().__init__(PoolConfig())
        self._lost_at = lost_at
        self._calls = 0

    async def call(self, lease: str, call: ToolCall) -> CallOutcome:
        self._calls += 1
        if self._calls == self._lost_at:
            await self.close(lease)
        return await super().call(lease, call)


class Conversation(LedgerSession):
    """A ledger session whose user speaks on, and which judges by itself: solved once everything was said and done."""

    def __init__(self, task: Task, said: Sequence[str]) -> None:
        super().__init__(task, {})
        self._said = list(said)

    def user_turn(self) -> str | None:
        return self._said.pop(0) if self._said else None

    def verdict(self, answer: str | None) -> bool | None:
        return answer == "bye" and not self._said and self.next_call() is None


def conversation(*said: str) -> LocalSandbox:
    """A sandbox whose sessions are conversations."""
    config = PoolConfig()
    opener = functools.partial(Conversation, said=said)
    return LocalSandbox(config, opener)


def request(task: Task, id: str = "t-1", max_turn_tokens: int = 48, seed: int | None = None) -> EpisodeRequest:
    return EpisodeRequest(id, "g-1", task, temperature=1.0, max_turn_tokens=max_turn_tokens, seed=seed)


def episodes(
    engine: Any, sandbox: SandboxClient | None = None, config: EpisodeConfig | None = None, max_context: int = 512
) -> Episodes:
    return Episodes(
        engine=engine,
        sandbox=sandbox or LocalSandbox(PoolConfig()),
        chat=chat(),
        parser=parser(),
        config=config or EpisodeConfig(),
        specs=tool_specs,
        max_context=max_context,
    )


def step(action_ids: Sequence[int] = (4, 5), **changes: Any) -> Step:
    fields: dict[str, Any] = {
        "prompt_ids": (1, 2, 3),
        "action_ids": tuple(action_ids),
        "logprobs": (-0.5,) * len(action_ids),
        "versions": (VersionSpan(0, 0, len(action_ids)),),
        "action": Answer("7"),
        "result": None,
        "progress": None,
    }
    return Step(**(fields | changes))


def trajectory(*steps: Step, id: str = "t-1") -> Trajectory:
    return Trajectory(id, "g-1", TASK, steps, StopReason.ANSWERED)


def scored(played: Trajectory, *rewards: float | None) -> ScoredTrajectory:
    """The trajectory with these step rewards, zeros where none are given."""
    values = rewards or (0.0,) * len(played.steps)
    steps = tuple(StepReward(value, {"success": value}) for value in values)
    return ScoredTrajectory(played, TrajectoryReward(played.id, steps, 1.0, "v1"))
