"""Drawing tasks: from (split, level, index) to a question or a goal with exact ground truth.

Draws a call graph, keeps it if it belongs to the split, draws a world around its constants, and rejects it where the
prompt gives the answer away or anything else solves it in as few calls. Pure: the same arguments give the same task.
The draws of levels L0 to L3 are pinned by a test: models that were trained on them ship with the project.
"""

from __future__ import annotations

import random
import re
from typing import Any

from tool_sandbox.arguments import check_arguments
from tool_sandbox.errors import NoSuchTask
from tool_sandbox.ledger.faults import Fault, FaultKind, draw_fault, extra_tools
from tool_sandbox.ledger.goals import draw_goal
from tool_sandbox.ledger.grammar import Dice, draw_expression, plan_of, question
from tool_sandbox.ledger.names import LONG_POOLS, POOLS
from tool_sandbox.ledger.plans import Constant, Draft, EvaluatedCall, Fact, Plan, evaluate
from tool_sandbox.ledger.progress import planned_call
from tool_sandbox.ledger.search import FAULTY_SEARCH_STATES, FactFinder, has_rival
from tool_sandbox.ledger.setting import Setting, build_setting
from tool_sandbox.ledger.splits import (
    CALLS,
    CHAIN_LEVELS,
    DEEP_CALLS,
    FAULTY_LEVELS,
    GENERATOR,
    HASHED_SPLITS,
    LONG_LEVEL,
    has_tasks,
    split_of,
    stable_hash,
)
from tool_sandbox.ledger.tools import RESERVED_FAMILY, TOOLS, Refusal, family_of
from tool_sandbox.ledger.variants import variant_name
from tool_sandbox.ledger.world import Row, build_world
from tool_sandbox.tasks import GroundTruth, Split, Task

TOOLSET = "ledger"
LEVELS = tuple(CALLS)
WRITE_LEVEL = "L3"
RENAMING_LEVELS = (LONG_LEVEL, *FAULTY_LEVELS)
"""Levels whose `TEST_TOOLS` also gives every tool and parameter a name that training never shows."""
DONE = "done"
"""The final answer to a task whose ground truth is a state."""
PROMPT_WORDS = 25
LONG_PROMPT_WORDS = 40
"""On the long level, where each call takes three words."""
ATTEMPTS = 5000
NAMINGS = 60
"""Times that new names are put into one graph in search of the right split."""

Patch = dict[str, dict[str, Row]]
_ID = re.compile(rf"{TOOLSET}/(\w+)/({'|'.join(Split)})/(0|[1-9]\d{{0,17}})", re.ASCII)


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


def find_task(task_id: str) -> Task:
    """The task of an id that `sample_task` gave.

    Raises:
        NoSuchTask: it is no such id.
    """
    found = _ID.fullmatch(task_id)
    if found is None:
        raise NoSuchTask(f"ledger: {task_id[:80]!r} is the id of no task; expected {TOOLSET}/LEVEL/SPLIT/INDEX")
    level, split, index = found.groups()
    return sample_task(Split(split), level, int(index))


def _draw(rng: random.Random, split: Split, level: str) -> Draft | None:
    """A draft that belongs to the split, or None.

    One graph is tried with many names before it is given up: otherwise the splits, each with its own share of the
    names, would differ in how often a graph occurs.
    """
    shape, names = rng.getrandbits(48), random.Random(rng.getrandbits(48))
    pools = LONG_POOLS if level == LONG_LEVEL else POOLS
    for _ in range(NAMINGS):
        draft = _compose(Dice(random.Random(shape), names, pools), split, level)
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
    if FAULTY_LEVELS.get(level, level) == WRITE_LEVEL:
        draft = draw_goal(dice, calls, text=text)
    else:
        expression = draw_expression(dice, calls, text=text)
        draft = Draft(question(expression, dice.shape), plan_of(expression))
    # Equal branches of an expression merge into one call, which makes the graph smaller than asked for.
    if draft is None or len(draft.plan.calls) != calls:
        return None
    if level in CHAIN_LEVELS and any(len(call.arguments) > 1 for call in draft.plan.calls):
        return None
    words = LONG_PROMPT_WORDS if level == LONG_LEVEL else PROMPT_WORDS
    return draft if len(draft.prompt.split()) <= words else None


def _settle(rng: random.Random, draft: Draft, split: Split, level: str, index: int) -> Task | None:
    """The draft as a task in a fresh world; None where that world does not make it a good one."""
    payload: dict[str, Any] = {"generator": GENERATOR, "seed": rng.getrandbits(48), "plan": draft.plan.to_json()}
    try:
        payload["patch"] = _patch(payload["seed"], draft)
        if level in CHAIN_LEVELS:
            payload["chain"] = True
        setting = build_setting(payload)
        if level in FAULTY_LEVELS:
            fault = draw_fault(rng, setting.calls, setting.world)
            if fault is None:
                return None
            payload["fault"] = fault.to_json()
            setting = build_setting(payload)
    except Refusal:
        return None
    tools = _offer(rng, draft.plan, split, level)
    minimum = _minimum(draft, setting, tools)
    if minimum is None:
        return None
    answer = None if setting.target else str(setting.calls[-1].result)
    target = setting.target.hash() if setting.target else None
    renamed = split is Split.TEST_TOOLS and level in RENAMING_LEVELS
    return Task(
        id=f"{TOOLSET}/{level}/{split.value}/{index}",
        toolset=TOOLSET,
        prompt=draft.prompt,
        tools=_names(rng, tools, setting.fault, renamed=renamed),
        ground_truth=GroundTruth(answer=answer, state_hash=target, minimum_calls=minimum),
        level=level,
        split=split,
        payload=payload,
    )


def _patch(seed: int, draft: Draft) -> Patch:
    """The initial fields of the row that the goal is about, which only the reads of the plan can name."""
    if not draft.kind:
        return {}
    reads = Plan(tuple(call for call in draft.plan.calls if TOOLS[call.tool].spec.read_only))
    world = build_world(seed, draft.plan.names, {})
    last = draft.plan.calls[-1].arguments[0]
    results = evaluate(reads, world)
    row = last.value if isinstance(last, Constant) else results[last.index].result
    return {draft.kind: {str(row): dict(draft.initial)}}


def _offer(rng: random.Random, plan: Plan, split: Split, level: str) -> tuple[str, ...]:
    """Plain names of the needed tools and two or three others, in random order.

    Questions are never offered a write, chains no tool with two parameters.
    """
    writing = any(family_of(tool) == "write" for tool in plan.tools)
    others = [
        name
        for name in TOOLS
        if name not in plan.tools
        and (writing or family_of(name) != "write")
        and (split is Split.TEST_TOOLS or family_of(name) != RESERVED_FAMILY)
        and (level not in CHAIN_LEVELS or len(TOOLS[name].domains) == 1)
    ]
    tools = [*plan.tools, *rng.sample(others, rng.choice((2, 3)))]
    rng.shuffle(tools)
    return tuple(tools)


def _names(rng: random.Random, tools: tuple[str, ...], fault: Fault | None, *, renamed: bool) -> tuple[str, ...]:
    """What the model calls the tools, and the tools that only the fault makes necessary."""
    listed = fault.tool if fault is not None and fault.kind is FaultKind.PAGES else None
    names = [variant_name(tool, renamed=renamed, listed=tool == listed) for tool in tools]
    for tool in extra_tools(fault):
        names.insert(rng.randrange(len(names) + 1), variant_name(tool, renamed=renamed, listed=False))
    return tuple(names)


def _minimum(draft: Draft, setting: Setting, tools: tuple[str, ...]) -> int | None:
    """Fewest calls that solve the task; None where that is not its plan, or the prompt gives the answer away."""
    if setting.target is None:
        answer = setting.calls[-1].result
        if (isinstance(answer, int) and answer <= 0) or str(answer).casefold() in _words(draft.prompt):
            return None
    elif not _is_writable(setting.calls):
        return None
    minimum = setting.tracker(setting.world, setting.faults, tools).remaining
    if minimum != _calls_of_plan(setting):
        return None
    # The distance of a chain has looked at every other way already.
    return minimum if setting.is_chain or not _has_rival(setting, tools) else None


def _calls_of_plan(setting: Setting) -> int:
    """Calls that the plan takes, with what its fault adds."""
    facts = [call.fact for call in setting.calls]
    return sum(map(setting.faults.calls_for, facts)) + setting.faults.toll({fact.tool for fact in facts})


def _has_rival(setting: Setting, tools: tuple[str, ...]) -> bool:
    reads = [call for call in setting.calls if TOOLS[call.tool].spec.read_only]
    if not reads:
        return False
    writes = [call for call in setting.calls if call not in reads]
    if setting.target is None:
        goals = frozenset([setting.calls[-1].result])
    else:
        goals = frozenset(value for call in writes for value in call.values)
    written = {call.tool for call in writes}

    def calls(facts: frozenset[Fact]) -> int:
        toll = setting.faults.toll(written | {fact.tool for fact in facts})
        return toll + sum(map(setting.faults.calls_for, facts))

    plan = frozenset(call.fact for call in reads)
    finder, told = FactFinder(setting.world, tools), frozenset(setting.told)
    if setting.fault is None:
        return has_rival(finder, told, goals, plan)
    return has_rival(finder, told, goals, plan, calls, FAULTY_SEARCH_STATES)


def _is_writable(calls: tuple[EvaluatedCall, ...]) -> bool:
    """Whether the model may make every call: a difference may be negative, a joined word too long."""
    return all(check_arguments(TOOLS[call.tool].spec, planned_call(call.tool, call.values)) is None for call in calls)


def _words(prompt: str) -> set[str]:
    return set(re.findall(r"[a-z0-9-]+", prompt.casefold()))
