"""The record of one episode, token by token and step by step.

Owns `Step` and `Trajectory`. Token in, token out: ids are kept as they were sampled or as they were fed to the engine,
so that what trains is what was seen. Loads neither torch nor vLLM nor Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tool_sandbox.tasks import StopReason, Task
from tool_sandbox.tools import Progress, ToolCall, ToolResult


@dataclass(frozen=True, slots=True)
class VersionSpan:
    """Tokens `start` (inclusive) to `end` (exclusive) of an action were sampled by policy `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A turn without a tool call: the final answer, or in a dialogue what the user replies to."""

    text: str


@dataclass(frozen=True, slots=True)
class ParseFailure:
    """A turn that tried to call a tool and could not be parsed."""

    text: str
    reason: str


Action = ToolCall | Answer | ParseFailure


@dataclass(frozen=True, slots=True)
class Step:
    """One model turn and the tool result that it caused."""

    prompt_ids: tuple[int, ...]
    """Tokens fed since the previous action: the whole prompt at the first step, the observation later. No loss."""
    action_ids: tuple[int, ...]
    """Tokens as sampled, the end-of-turn token included. Never empty."""
    logprobs: tuple[float, ...]
    """Behaviour log-probability of each action token, in nats, under the sampling distribution."""
    versions: tuple[VersionSpan, ...]
    """Policy versions that sampled the action; the spans cover it without gaps."""
    action: Action
    result: ToolResult | None
    """None for an answer; a turn that could not be parsed has an error result of our making."""
    progress: Progress | None
    """None for an answer, and where the task has no exact distance."""

    def __post_init__(self) -> None:
        if not self.action_ids:
            raise ValueError("step: 0 action tokens; expected at least the end-of-turn token")
        if len(self.logprobs) != len(self.action_ids):
            raise ValueError(
                f"step: {len(self.logprobs)} log-probabilities for {len(self.action_ids)} action tokens; "
                "record exactly one per sampled token"
            )
        position = 0
        for span in self.versions:
            if span.start != position or span.end <= span.start:
                raise ValueError(f"step: version spans {self.versions} leave a gap at token {position}")
            position = span.end
        if position != len(self.action_ids):
            raise ValueError(f"step: version spans cover {position} of {len(self.action_ids)} action tokens")


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One finished episode."""

    id: str
    group: str
    """Trajectories of one task in one iteration share it."""
    task: Task
    steps: tuple[Step, ...]
    stop: StopReason
    final_state_hash: str | None = None
    """Hash of the session's state at the end; None where the toolset has no state."""
    checked: bool | None = None
    """The toolset's own verdict on the episode; None where it has none, and the ground truth decides."""

    @property
    def answer(self) -> str | None:
        """The final answer; None when the episode ended without one."""
        return final_answer(self.steps, self.stop)

    @property
    def token_count(self) -> int:
        return sum(len(step.prompt_ids) + len(step.action_ids) for step in self.steps)

    def token_ids(self) -> Iterator[int]:
        """Every token in order, exactly as the engine saw it."""
        for step in self.steps:
            yield from step.prompt_ids
            yield from step.action_ids


def final_answer(steps: tuple[Step, ...], stop: StopReason) -> str | None:
    """What the model answered last; None where the episode ended otherwise, or before the user had said everything."""
    if stop is not StopReason.ANSWERED:
        return None
    last = steps[-1].action if steps else None
    return last.text if isinstance(last, Answer) else None
