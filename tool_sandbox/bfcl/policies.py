"""A demonstrator for the dialogues: it replays the ground truth, with errors where they are asked for."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from tool_sandbox.bfcl.documents import tool_specs
from tool_sandbox.bfcl.obligations import ground_truth
from tool_sandbox.demonstrations import TURN, Exchange, check_noise
from tool_sandbox.tasks import Task
from tool_sandbox.tools import ToolCall

DONE = "Done."
NOT_YET = "I cannot do that yet: a function or a value is missing."
"""Answer to a request that the ground truth leaves alone until a later turn."""


@dataclass(frozen=True, slots=True)
class ReplayPolicy:
    """Makes the calls of the ground truth in order, each preceded by an error with probability `noise`.

    An error is the right call without one of the arguments that it needs. The function refuses it, so that nothing is
    spoiled and every demonstration solves its task; a call that needs no argument is made without an error.
    """

    noise: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise("BFCL replay", self.noise)

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        turn = task.payload.get(TURN, 0)
        owed = ground_truth(task.payload["entry"])[turn]
        made, has_erred = 0, False
        for exchange in history:
            if made == len(owed):
                # What came after the last call that was owed is somebody else's error, and changes no duty.
                break
            has_erred = not owed[made].is_made_by(exchange.call)
            made += not has_erred
        if made == len(owed):
            return DONE if owed else NOT_YET
        right = replace(owed[made].call, id=f"{turn}/{len(history)}")
        dice = random.Random(f"{self.seed}/{task.id}/{turn}/{made}")
        wrong = _incomplete(right, dice)
        return wrong if wrong is not None and not has_erred and dice.random() < self.noise else right


def _incomplete(call: ToolCall, dice: random.Random) -> ToolCall | None:
    needed = [name for name in tool_specs()[call.name].parameters["required"] if name in call.arguments]
    if not needed:
        return None
    left_out = dice.choice(needed)
    return replace(call, arguments={name: value for name, value in call.arguments.items() if name != left_out})
