"""What each step of an episode is worth, signal by signal, before any weight.

Consumes an `Episode`: the facts of one trajectory that may count, without tokens or texts of the prompt. Produces one
`Signals` for each turn. Pure; knows nothing of shaping, HTTP or Ray. The signals are those of StepTool (arXiv
2410.07745, section 4.1), measured by exact rules where the paper asks a judge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reward_service.answers import NORMALISED, AnswerMatch
from reward_service.answers import solved as is_solved
from tool_sandbox.tasks import GroundTruth, StopReason
from tool_sandbox.tools import CallStatus, Progress

SIGNALS_VERSION = 3
"""Part of every reward version. Raise it with any change of this file, or of `answers`, that changes a number."""


@dataclass(frozen=True, slots=True)
class Called:
    """A turn that called a tool."""

    status: CallStatus
    progress: Progress | None
    """None where the task has no exact distance, or the call was lost."""

    @property
    def lost(self) -> bool:
        """Whether infrastructure, not the model, ended the call."""
        return self.status.is_infrastructure


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A turn that tried to call a tool and could not be read, or that never ended. Nothing ran."""

    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """A turn without a call: the final answer, or in a dialogue one that the user replied to."""

    text: str


Turn = Called | Unparsed | Answered


@dataclass(frozen=True, slots=True)
class Episode:
    """One trajectory as the rules see it."""

    turns: tuple[Turn, ...]
    ground_truth: GroundTruth
    stop: StopReason
    state_hash: str | None
    """Canonical hash of the final state; None where the toolset has no state."""
    checked: bool | None = None
    """The toolset's own verdict; None where it has none, and the ground truth decides."""

    @property
    def answer(self) -> str | None:
        """The final answer; None when the episode ended without one, or before the user had said everything."""
        last = self.turns[-1] if self.turns and self.stop is StopReason.ANSWERED else None
        return last.text if isinstance(last, Answered) else None


@dataclass(frozen=True, slots=True)
class Signals:
    """The raw signals of one step; None where a signal abstains or does not apply."""

    success: float | None
    """SuccCalling: 1 or 0."""
    contribution: float | None
    """In [-1, 1]."""
    solved: float | None
    """IsSolved: 1 or 0; only at the last step."""
    extra: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Signals that a configuration added, by name."""

    abstains: bool = False
    """Whether somebody who was asked for a signal of this step had none to give. It abstains where it is needed."""

    def by_name(self) -> dict[str, float | None]:
        """All of them."""
        return {"success": self.success, "contribution": self.contribution, "solved": self.solved, **self.extra}


def success(turn: Turn) -> float | None:
    """SuccCalling: 1 where the call ran, 0 where the model made it fail; None for an answer and for a lost call."""
    match turn:
        case Answered():
            return None
        case Unparsed():
            return 0.0
        case Called():
            return None if turn.lost else float(turn.status is CallStatus.OK)


def contribution(turn: Turn) -> float | None:
    """Contribution: calls by which the turn brought the task nearer to its end, clipped to [-1, 1].

    A turn that ran nothing contributed nothing. None for an answer, a lost call, and a call without a progress record.
    """
    match turn:
        case Answered():
            return None
        case Unparsed():
            return 0.0
        case Called():
            if turn.lost or turn.progress is None:
                return None
            return float(max(-1, min(1, turn.progress.before - turn.progress.after)))


def solved(episode: Episode, match: AnswerMatch = NORMALISED) -> float | None:
    """IsSolved: 1 or 0; None without ground truth, and where infrastructure ended the episode before the model could.

    A spent step budget, a full context and an endless turn are the model's doing: unsolved, unless the target is a
    state that was reached.
    """
    if episode.stop is StopReason.INFRASTRUCTURE:
        return None
    verdict = is_solved(episode.ground_truth, episode.answer, episode.state_hash, episode.checked, match)
    return None if verdict is None else float(verdict)


def measure(episode: Episode) -> tuple[Signals, ...]:
    """The signals of every turn by the default rules, in order; IsSolved stands at the last one."""
    last = len(episode.turns) - 1
    verdict = solved(episode)
    return tuple(
        Signals(success(turn), contribution(turn), verdict if position == last else None)
        for position, turn in enumerate(episode.turns)
    )


def distances(episode: Episode) -> Iterator[Progress | None]:
    """Remaining calls around each turn; a turn that ran nothing leaves them where they were.

    Before the first record the distance is the task's `minimum_calls`. None where it is unknown.
    """
    here = episode.ground_truth.minimum_calls
    for turn in episode.turns:
        record = turn.progress if isinstance(turn, Called) else _unmoved(here)
        yield record
        here = here if record is None else record.after


def _unmoved(here: int | None) -> Progress | None:
    return None if here is None else Progress(before=here, after=here)
