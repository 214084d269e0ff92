"""Drawing tasks: from (split, level, index) to a question or a goal with exact ground truth.

Draws a call graph, keeps it if it belongs to the split, draws a world around its constants, and rejects it where the
prompt gives the answer away or anything else solves it in as few calls. Pure: the same arguments give the same task.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tool_sandbox.arguments import check_arguments
from tool_sandbox.errors import CorruptTask, NoSuchTask
from tool_sandbox.ledger.goals import draw_goal
from tool_sandbox.ledger.grammar import Dice, draw_expression, plan_of, question
from tool_sandbox.ledger.plans import Constant, Draft, EvaluatedCall, Plan, evaluate
from tool_sandbox.ledger.progress import Tracker, planned_call
from tool_sandbox.ledger.search import FactFinder, has_rival
from tool_sandbox.ledger.splits import CALLS, DEEP_CALLS, GENERATOR, HASHED_SPLITS, has_tasks, split_of, stable_hash
from tool_sandbox.ledger.tools import RESERVED_FAMILY, TOOLS, Refusal, Value, family_of
from tool_sandbox.ledger.world import Row, World, build_world
from tool_sandbox.tasks import GroundTruth, Split, Task

TOOLSET = "ledger"
LEVELS = tuple(CALLS)
WRITE_LEVEL = "L3"
DONE = "done"
"""The final answer to a task whose ground truth is a state."""
PROMPT_WORDS = 25
ATTEMPTS = 5000
NAMINGS = 60
"""Times that new names are put into one graph in search of the right split."""

Patch = dict[str, dict[str, Row]]


@dataclass(frozen=True, slots=True)
class Setting:
    """A draft in a world: what a session starts from and what it is measured against."""

    world: World
    """Initial state. Take a snapshot before changing it."""
    calls: tuple[EvaluatedCall, ...]
    target: World | None
    """State to reach; None for a question."""


def sample_task(split: Split, level: str, index: int) -> Task:
    """The `index`-th task of a split and level.

    Raises:
        NoSuchTask: the level does not exist, or the split has no tasks there.
    """
    if not has_tasks(split, level):
        offered = ", ".join(name for name in LEVELS if has_tasks(split, name))
        raise NoSuchTask(f"ledger: split {split.value!r} has no level {level!r}; it has {offered}")
    rng = random.Random(stable_hash(f"{split.value}/{level}/{index}"))
    for _ in range(ATTEMPTS):
        draft = _draw(rng, split, level)
        task = None if draft is None else _settle(rng, draft, split, level, index)
        if task is not None:
            return task
    raise NoSuchTask(f"ledger: no task {index} of {split.value}/{level} in {ATTEMPTS} attempts; use another index")


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
        return _setting(payload["seed"], Plan.from_json(payload["plan"]), payload["patch"])
    except (KeyError, TypeError, Refusal) as error:
        raise CorruptTask(f"ledger task: the payload does not describe a world ({error!r}); sample it again") from error


def _draw(rng: random.Random, split: Split, level: str) -> Draft | None:
    """A draft that belongs to the split, or None.

    One graph is tried with many names before it is given up: otherwise the splits, each with its own share of the
    names, would differ in how often a graph occurs.
    """
    shape, names = rng.getrandbits(48), random.Random(rng.getrandbits(48))
    for _ in range(NAMINGS):
        draft = _compose(Dice(random.Random(shape), names), split, level)
        if draft is None:
            return None
        found = split_of(draft.plan)
        if found is split:
            return draft
        if found not in HASHED_SPLITS or split not in HASHED_SPLITS:
            return None
    return None


def _compose(dice: Dice, split: Split, level: str) -> Draft | None:
    calls = dice.shape.choice((DEEP_CALLS if split is Split.TEST_DEPTH else CALLS)[level])
    text = split is Split.TEST_TOOLS
    if level == WRITE_LEVEL:
        draft = draw_goal(dice, calls, text=text)
    else:
        expression = draw_expression(dice, calls, text=text)
        draft = Draft(question(expression, dice.shape), plan_of(expression))
    # Equal branches of an expression merge into one call, which makes the graph smaller than asked for.
    if draft is None or len(draft.plan.calls) != calls or len(draft.prompt.split()) > PROMPT_WORDS:
        return None
    return draft


def _settle(rng: random.Random, draft: Draft, split: Split, level: str, index: int) -> Task | None:
    """The draft as a task in a fresh world; None where that world does not make it a good one."""
    seed = rng.getrandbits(48)
    try:
        patch = _patch(seed, draft)
        setting = _setting(seed, draft.plan, patch)
    except Refusal:
        return None
    tools = _offer(rng, draft.plan, split)
    if not _is_sound(draft, setting, tools):
        return None
    answer = None if setting.target else str(setting.calls[-1].result)
    target = setting.target.hash() if setting.target else None
    payload = {"generator": GENERATOR, "seed": seed, "plan": draft.plan.to_json(), "patch": patch}
    truth = GroundTruth(answer=answer, state_hash=target, minimum_calls=len(setting.calls))
    return Task(
        id=f"{TOOLSET}/{level}/{split.value}/{index}",
        toolset=TOOLSET,
        prompt=draft.prompt,
        tools=tools,
        ground_truth=truth,
        level=level,
        split=split,
        payload=payload,
    )


def _constants(plan: Plan) -> list[tuple[str, str]]:
    return [(constant.kind, str(constant.value)) for constant in plan.constants]


def _patch(seed: int, draft: Draft) -> Patch:
    """The initial fields of the row that the goal is about, which only the reads of the plan can name."""
    if not draft.kind:
        return {}
    reads = Plan(tuple(call for call in draft.plan.calls if TOOLS[call.tool].spec.read_only))
    world = build_world(seed, _constants(draft.plan), {})
    last = draft.plan.calls[-1].arguments[0]
    results = evaluate(reads, world)
    row = last.value if isinstance(last, Constant) else results[last.index].result
    return {draft.kind: {str(row): dict(draft.initial)}}


def _setting(seed: int, plan: Plan, patch: Patch) -> Setting:
    world = build_world(seed, _constants(plan), patch)
    state = world.snapshot() if any(not TOOLS[tool].spec.read_only for tool in plan.tools) else world
    calls = evaluate(plan, state)
    return Setting(world, calls, None if state is world else state)


def _offer(rng: random.Random, plan: Plan, split: Split) -> tuple[str, ...]:
    """The needed tools and two or three others, in random order. Questions are never offered a write."""
    writing = any(family_of(tool) == "write" for tool in plan.tools)
    others = [
        name
        for name in TOOLS
        if name not in plan.tools
        and (writing or family_of(name) != "write")
        and (split is Split.TEST_TOOLS or family_of(name) != RESERVED_FAMILY)
    ]
    tools = [*plan.tools, *rng.sample(others, rng.choice((2, 3)))]
    rng.shuffle(tools)
    return tuple(tools)


def _is_sound(draft: Draft, setting: Setting, tools: tuple[str, ...]) -> bool:
    """Whether the task cannot be had for less than its plan."""
    told = frozenset[Value](constant.value for constant in draft.plan.constants)
    reads = [call for call in setting.calls if TOOLS[call.tool].spec.read_only]
    if setting.target is None:
        answer = setting.calls[-1].result
        if (isinstance(answer, int) and answer <= 0) or str(answer).casefold() in _words(draft.prompt):
            return False
        goals = frozenset([answer])
    else:
        if not _is_writable(setting.calls):
            return False
        if Tracker(setting.calls, setting.target, setting.world, tools).remaining != len(setting.calls):
            return False
        goals = frozenset(value for call in setting.calls if call not in reads for value in call.values)
    if not reads:
        return True
    finder = FactFinder(setting.world, tools)
    return not has_rival(finder, told, goals, frozenset(call.fact for call in reads))


def _is_writable(calls: tuple[EvaluatedCall, ...]) -> bool:
    """Whether the model may make every call: a difference may be negative, a joined word too long."""
    return all(check_arguments(TOOLS[call.tool].spec, planned_call(call.tool, call.values)) is None for call in calls)


def _words(prompt: str) -> set[str]:
    return set(re.findall(r"[a-z0-9-]+", prompt.casefold()))
