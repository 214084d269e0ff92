"""A scripted agent for questions that one expression answers: it has the calculator work it out and repeats the result.

Owns which datasets can be demonstrated. For the others the package knows answers and no ways to them, so that nobody
demonstrates.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tool_sandbox.demonstrations import Exchange, check_noise
from tool_sandbox.errors import NoDemonstration
from tool_sandbox.reasoning.calculator import CALCULATOR_SPEC
from tool_sandbox.reasoning.package import question
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus, ToolCall


def _written(metadata: Mapping[str, Any]) -> str:
    return metadata["expression"]


def _of_numbers(function: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda metadata: f"{function}({', '.join(str(number) for number in metadata['numbers'])})"


EXPRESSIONS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "chain_sum": _written,
    "products": _written,
    "basic_arithmetic": _written,
    "decimal_chain_sum": _written,
    "gcd": _of_numbers("gcd"),
    "lcm": _of_numbers("lcm"),
}
"""How the expression of a question is found, for each dataset that can be demonstrated."""


@dataclass(frozen=True, slots=True)
class CalculatorPolicy:
    """Calls the calculator once and answers with its result; an error precedes the call with probability `noise`.

    The error is an expression that breaks off. The calculator refuses it, so that every demonstration still solves its
    task and the useless step is all that step rewards have to find.
    """

    noise: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_noise("reasoning demonstrations", self.noise)

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        """Raises `NoDemonstration` for a dataset whose questions no expression answers."""
        if history and history[-1].outcome.result.status is CallStatus.OK:
            return history[-1].outcome.result.content
        dice = random.Random(f"{self.seed}/{task.id}")
        broken_off = " +" if not history and dice.random() < self.noise else ""
        expression = _expression(task) + broken_off
        return ToolCall(str(len(history)), CALCULATOR_SPEC.name, {"expression": expression})


def _expression(task: Task) -> str:
    dataset = task.payload["dataset"]
    if dataset not in EXPRESSIONS:
        raise NoDemonstration(
            f"toolset 'reasoning': level {dataset!r} has no demonstrations; {', '.join(EXPRESSIONS)} have some"
        )
    return EXPRESSIONS[dataset](question(dataset, task.payload["seed"])["metadata"])
