"""Episodes that begin where another one was: first steps of a recorded trajectory, and a session brought there.

Owns `Prefix` and `reopen`. Consumes steps as they were recorded, and never encodes them again. A session is brought
back by making the recorded calls in a fresh one: every toolset can, and one that comes out otherwise is found out.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.errors import PrefixDiverged
from actors.prompt import ChatFormat
from actors.trajectory import Answer, Step, Trajectory
from tool_sandbox.client import SandboxClient
from tool_sandbox.errors import LeaseLost
from tool_sandbox.tools import CallOutcome, ToolCall


@dataclass(frozen=True, slots=True)
class Prefix:
    """The state before a step."""

    steps: tuple[Step, ...]
    """What was done until then."""
    fed: tuple[int, ...]
    """Tokens between the last of these actions and the next one: an observation, or the prompt where there is none."""

    @property
    def token_ids(self) -> tuple[int, ...]:
        """All tokens of the state, exactly as the engine saw them."""
        done = (token for step in self.steps for token in (*step.prompt_ids, *step.action_ids))
        return (*done, *self.fed)

    @property
    def action_tokens(self) -> int:
        """Tokens of its actions, which nobody has to sample again."""
        return sum(len(step.action_ids) for step in self.steps)


def prefix_before(trajectory: Trajectory, step: int) -> Prefix:
    """The state before a step of `trajectory`, counted from 0."""
    return Prefix(trajectory.steps[:step], trajectory.steps[step].prompt_ids)


async def reopen(sandbox: SandboxClient, lease: str, prefix: Prefix, chat: ChatFormat) -> None:
    """Do in the fresh session of `lease` what was done in `prefix`.

    Raises:
        PrefixDiverged: something else comes back than was recorded, or the session was lost.
    """
    following = [step.prompt_ids for step in prefix.steps[1:]] + [prefix.fed] * bool(prefix.steps)
    for index, (step, fed) in enumerate(zip(prefix.steps, following, strict=True)):
        if isinstance(step.action, ToolCall):
            _expect_same(index, step, await sandbox.call(lease, step.action))
        elif isinstance(step.action, Answer):
            await _expect_said(index, fed, sandbox, lease, chat)


def _expect_same(index: int, step: Step, outcome: CallOutcome) -> None:
    assert step.result is not None, "a call has a result"
    recorded = (step.result.status, step.result.content, step.progress)
    found = (outcome.result.status, outcome.result.content, outcome.progress)
    if found != recorded:
        raise PrefixDiverged(
            f"step {index}: {step.action} gave {found} when it was made again, expected {recorded}; "
            "the sandbox lost it, or a tool of this toolset is not deterministic"
        )


async def _expect_said(index: int, fed: tuple[int, ...], sandbox: SandboxClient, lease: str, chat: ChatFormat) -> None:
    try:
        said = await sandbox.user_turn(lease)
    except LeaseLost as error:
        raise PrefixDiverged(f"step {index}: {error}") from error
    if said is None or chat.user_ids(said) != fed:
        raise PrefixDiverged(
            f"step {index}: the user says {said!r} to the recorded answer, expected what was recorded; "
            "this toolset's users are not deterministic"
        )
