"""Leave-one-out: what becomes of the outcome when one call, and what was learned from it, is left out.

    contribution of call t = outcome(all calls) − outcome(without t), in [−1, 1]

Without t, the calls whose arguments were learned from it cannot be made either (`dependence`). The outcome is whether
the task is solved (1 or 0): by the state, or by the recorded answer, if all that it was read from is still there and no
more calls are needed than in the whole replay. Where nobody knows that, contribution is calls needed at the end without
t, less those needed with it, clipped. A repeated call is worth 0 each time, since the other one is still there.
"""

from __future__ import annotations

from dataclasses import dataclass

from reward_service.answers import AnswerMatch
from reward_service.replay.dependence import Dependence, dependence
from reward_service.replay.errors import NothingToMeasure
from reward_service.replay.recorded import Recorded
from reward_service.replay.world import End, Pace, World, reproduce
from reward_service.replay.worth import Contributions, Worth
from tool_sandbox.tools import ToolCall


@dataclass(frozen=True, slots=True)
class LeaveOneOut:
    """Costs T forks and at most T(T + 3)/2 calls, where sessions are copied by value."""

    match: AnswerMatch

    def measure(self, recorded: Recorded, pace: Pace) -> Contributions:
        """The contribution of every call that was made.

        Raises:
            Diverged: the calls do not give what was recorded.
            NothingToMeasure: nobody knows whether the task is solved, nor how far it is from that.
        """
        with World.open(recorded.task, pace) as world:
            deeds = reproduce(world, recorded)
            whole = self._end(world, recorded, recorded.answer)
        learned = dependence(recorded.task.prompt, deeds, _essential_answer(recorded))
        return self._without_each(recorded, learned, whole, pace)

    def _without_each(self, recorded: Recorded, learned: Dependence, whole: End, pace: Pace) -> Contributions:
        found: Contributions = {}
        with World.open(recorded.task, pace) as world:
            for position, act in enumerate(recorded.acts):
                if isinstance(act.action, ToolCall):
                    gone = learned.gone_without(position)
                    with world.fork() as other:
                        _do_the_rest(other, recorded, position, gone)
                        knows = learned.knows_answer(gone) and not _further(other.remaining, whole.remaining)
                        part = self._end(other, recorded, recorded.answer if knows else None)
                    found[act.step] = _worth(whole, part, gone.bit_count() - 1)
                world.do(act.action)
        return found

    def _end(self, world: World, recorded: Recorded, answer: str | None) -> End:
        end = world.end(answer, self.match)
        return End(None, end.remaining) if recorded.cut_short else end


def _do_the_rest(world: World, recorded: Recorded, position: int, gone: int) -> None:
    for later, act in enumerate(recorded.acts[position + 1 :], start=position + 1):
        if not gone >> later & 1:
            world.do(act.action)


def _essential_answer(recorded: Recorded) -> str:
    """Of a right answer what makes it right: the words around that were learned from nobody."""
    expected = recorded.task.ground_truth.answer
    return expected if expected is not None else recorded.answer or ""


def _further(part: int | None, whole: int | None) -> bool:
    return part is not None and whole is not None and part > whole


def _worth(whole: End, part: End, others: int) -> Worth:
    without = f"without it and {others} more that rest on it" if others else "without it"
    if whole.solved is not None:
        value = float(whole.solved) - float(part.solved or False)
        return Worth(value, f"{without}: {_told(part.solved)}; with it: {_told(whole.solved)}")
    if whole.remaining is None or part.remaining is None:
        raise NothingToMeasure("nobody tells whether its task is solved, nor how far it is from that")
    value = float(max(-1, min(1, part.remaining - whole.remaining)))
    return Worth(value, f"calls still needed {without}: {part.remaining}; with it: {whole.remaining}")


def _told(solved: bool | None) -> str:
    return "solved" if solved else "not solved"
