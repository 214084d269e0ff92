"""Scripted policies for ledger world: oracle, random, and an oracle that errs.

Expert demonstrations are rarely optimal; the noisy oracle makes the useless calls and early answers that step credit is
there to repair. Every policy is pure: its dice are seeded by its own seed, the task and the position.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from dataclasses import fields as dataclass_fields

from tool_sandbox.demonstrations import Exchange, check_noise
from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.sampling import DONE
from tool_sandbox.ledger.session import LedgerSession
from tool_sandbox.ledger.setting import restore
from tool_sandbox.ledger.tools import Value, accepts
from tool_sandbox.ledger.variants import VARIANTS
from tool_sandbox.ledger.world import World
from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus, ToolCall

_NUMBER = re.compile(r"-?\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class OraclePolicy:
    """Makes a call that brings the task nearer, as long as there is one; then answers."""

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        call = _replayed(task, history).next_call()
        if call is not None:
            return _numbered(call, history)
        return DONE if task.ground_truth.answer is None else task.ground_truth.answer


@dataclass(frozen=True, slots=True)
class RandomPolicy:
    """Calls offered tools with values that fit them, and answers at random with something it saw."""

    seed: int = 0
    answer_probability: float = 0.25

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        rng = _dice(self.seed, task, len(history))
        if rng.random() < self.answer_probability:
            return _early_answer(rng, task, history)
        return _numbered(_random_call(rng, task, history, rng.choice(_own_tools(task))), history)


@dataclass(frozen=True, slots=True)
class NoiseMix:
    """How often each kind of error is made, relative to the others. All zero is refused."""

    wrong_tool: float = 1.0
    """Another offered tool, with values that fit it."""
    wrong_argument: float = 1.0
    """The right tool with a wrong value: of another row, or of another kind."""
    repeat: float = 1.0
    """A call that was made before; a wrong tool where there is none."""
    premature: float = 1.0
    """The episode ends here with the last observation as its answer."""

    def __post_init__(self) -> None:
        weights = [getattr(self, item.name) for item in dataclass_fields(self)]
        if min(weights) < 0 or sum(weights) == 0:
            raise ValueError(f"noise mix: weights {weights}; expected no negative one and at least one above 0")

    def draw(self, rng: random.Random) -> str:
        names = [item.name for item in dataclass_fields(self)]
        return rng.choices(names, [getattr(self, name) for name in names])[0]


@dataclass(frozen=True, slots=True)
class NoisyOraclePolicy:
    """The oracle, but each of its steps is preceded by one error with probability `noise`."""

    noise: float
    seed: int = 0
    mix: NoiseMix = field(default_factory=NoiseMix)

    def __post_init__(self) -> None:
        check_noise("noisy oracle", self.noise)

    def act(self, task: Task, history: tuple[Exchange, ...]) -> ToolCall | str:
        right = OraclePolicy().act(task, history)
        if not self._errs(task, len(history)):
            return right
        rng = _dice(self.seed, task, len(history))
        kind = self.mix.draw(rng)
        if kind == "premature":
            return _early_answer(rng, task, history)
        call = self._wrong_call(kind, rng, task, history, right)
        return right if call is None else _numbered(call, history)

    def _errs(self, task: Task, position: int) -> bool:
        # One error at most before each right step, so that `noise` is a share of steps and not of calls.
        drawn = random.Random(f"err/{self.seed}/{task.id}/{position}").random() < self.noise
        return drawn and not (position > 0 and self._errs(task, position - 1))

    def _wrong_call(
        self, kind: str, rng: random.Random, task: Task, history: tuple[Exchange, ...], right: ToolCall | str
    ) -> ToolCall | None:
        if kind == "repeat" and history:
            return rng.choice(history).call
        if kind == "wrong_argument" and isinstance(right, ToolCall):
            return _wrong_argument(rng, task, history, right)
        others = [name for name in _own_tools(task) if isinstance(right, str) or name != right.name]
        return _random_call(rng, task, history, rng.choice(others)) if others else None


def _replayed(task: Task, history: tuple[Exchange, ...]) -> LedgerSession:
    """A session in the state that the history led to; calls of isolated tools change nothing and are left out."""
    session = LedgerSession(task, {})
    for exchange in history:
        if exchange.call.name in VARIANTS:
            session.call(exchange.call)
    return session


def _dice(seed: int, task: Task, position: int) -> random.Random:
    return random.Random(f"{seed}/{task.id}/{position}")


def _numbered(call: ToolCall, history: tuple[Exchange, ...]) -> ToolCall:
    return ToolCall(f"call-{len(history)}", call.name, call.arguments)


def _own_tools(task: Task) -> list[str]:
    return [name for name in task.tools if name in VARIANTS]


def _seen(task: Task, history: tuple[Exchange, ...], world: World) -> list[Value]:
    """Values that stand in the prompt or in observations."""
    constants = [constant.value for constant in Plan.from_json(task.payload["plan"]).constants]
    observed = _observed(history)
    return list(dict.fromkeys([*constants, *(int(text) if _NUMBER.fullmatch(text) else text for text in observed)]))


def _observed(history: tuple[Exchange, ...]) -> list[str]:
    """Results that successful calls told, in order."""
    results = ((exchange.call.name, exchange.outcome.result) for exchange in history)
    told = ((VARIANTS.get(name), result.content) for name, result in results if result.status is CallStatus.OK)
    return [content for variant, content in told if variant is None or variant.tells(content)]


def _random_call(rng: random.Random, task: Task, history: tuple[Exchange, ...], tool: str) -> ToolCall:
    world = restore(task.payload).world
    seen = _seen(task, history, world)
    values = [
        rng.choice([value for value in seen if accepts(domain, world.kind_of(value))] or _values(world, domain))
        for domain in VARIANTS[tool].tool.domains
    ]
    return VARIANTS[tool].call(values)


def _wrong_argument(rng: random.Random, task: Task, history: tuple[Exchange, ...], right: ToolCall) -> ToolCall | None:
    """The right call with one value replaced: by one that was seen, or by another of the same domain."""
    world = restore(task.payload).world
    variant = VARIANTS[right.name]
    domains = variant.tool.domains
    if not domains:
        return None
    index = rng.randrange(len(domains))
    values = list(variant.values(right.arguments))
    numeric = domains[index] in ("number", "amount")
    seen = [value for value in _seen(task, history, world) if isinstance(value, int) is numeric]
    choices = [value for value in [*seen, *_values(world, domains[index])] if value != values[index]]
    values[index] = rng.choice(choices)
    return variant.call(values)


def _values(world: World, domain: str) -> list[Value]:
    """Values of the world that a parameter may take."""
    tables = world.tables()
    if domain in tables:
        return list(tables[domain])
    if domain == "city":
        return list(world.cities())
    if domain == "date":
        return [row["date"] for row in world.orders.values()]
    if domain in ("number", "amount"):
        return [row["price"] for row in world.items.values()]
    return [*world.people, *world.items]


def _early_answer(rng: random.Random, task: Task, history: tuple[Exchange, ...]) -> str:
    """The last observation; a value of the world where there is none."""
    if task.ground_truth.answer is None:
        return DONE
    observed = _observed(history)
    if observed:
        return observed[-1]
    world = restore(task.payload).world
    domain = "number" if task.ground_truth.answer.isdigit() else world.kind_of(task.ground_truth.answer)
    return str(rng.choice(_values(world, domain)))
