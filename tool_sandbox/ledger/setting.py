"""A task's payload as live objects: the world around its call graph, its fault, and what the distance is measured by.

Owns `Setting` and `restore`. The sampler builds payloads with it; every session and scripted policy starts from it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tool_sandbox.errors import CorruptTask
from tool_sandbox.ledger.chains import ChainTracker
from tool_sandbox.ledger.faults import Fault, Faults
from tool_sandbox.ledger.plans import EvaluatedCall, Plan, evaluate
from tool_sandbox.ledger.progress import Tracker
from tool_sandbox.ledger.splits import GENERATOR
from tool_sandbox.ledger.tools import TOOLS, Refusal, Value
from tool_sandbox.ledger.world import World, build_world


@dataclass(frozen=True, slots=True)
class Setting:
    """A call graph in a world: what a session starts from and what it is measured against."""

    world: World
    """Initial state. Take a snapshot before changing it."""
    calls: tuple[EvaluatedCall, ...]
    target: World | None
    """State to reach; None for a question."""
    told: tuple[Value, ...]
    """Values that stand in the prompt."""
    fault: Fault | None
    faults: Faults
    """Before any call. Fork them before changing them."""
    is_chain: bool
    """Every tool has one parameter and only reads, so that the distance is a cheapest path."""

    def tracker(self, world: World, faults: Faults, tools: Collection[str]) -> Tracker | ChainTracker:
        """The distance of a session whose live state is `world` and `faults`; `tools`: plain names of those on offer."""
        if self.is_chain:
            return ChainTracker(world, self.told, self.calls[-1].result, tools, faults)
        return Tracker(self.calls, self.target, world, tools, faults)


def restore(payload: Mapping[str, Any]) -> Setting:
    """Rebuild the setting of a task from its payload.

    Raises:
        CorruptTask: another generator made it, or it does not describe a world.
    """
    if payload.get("generator") != GENERATOR:
        raise CorruptTask(
            f"ledger task: made by generator {payload.get('generator')!r}, this is {GENERATOR!r}; sample the task again"
        )
    try:
        return build_setting(payload)
    except (KeyError, TypeError, ValueError, Refusal) as error:
        raise CorruptTask(f"ledger task: the payload does not describe a world ({error!r}); sample it again") from error


def build_setting(payload: Mapping[str, Any]) -> Setting:
    """The setting of a payload that this generator made. Raises `Refusal` where the world refuses a call of the graph."""
    seed, plan = payload["seed"], Plan.from_json(payload["plan"])
    fault = Fault.from_json(payload["fault"]) if "fault" in payload else None
    world = build_world(seed, plan.names, payload["patch"])
    state = world.snapshot() if any(not TOOLS[tool].spec.read_only for tool in plan.tools) else world
    return Setting(
        world=world,
        calls=evaluate(plan, state),
        target=None if state is world else state,
        told=tuple(constant.value for constant in plan.constants),
        fault=fault,
        faults=Faults(fault, world, seed),
        is_chain="chain" in payload,
    )
