"""Long chains (L4): no shorter way exists, and the distance is a shortest path wherever a session stands."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tool_sandbox.ledger_brute_force import fewest_calls, open_player
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.names import LONG_POOLS, POOLS
from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.policies import NoiseMix, NoisyOraclePolicy, OraclePolicy, RandomPolicy
from tool_sandbox.ledger.setting import restore
from tool_sandbox.ledger.tools import TOOLS, Refusal, Value, accepts
from tool_sandbox.ledger.variants import VARIANTS
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus

LEDGER = LedgerToolset()
SPLITS = st.sampled_from(list(Split))


def steps_between(task: Task) -> dict[Value, set[Value]]:
    """Value → what one call makes of it, over everything within eleven calls of the world's names and the prompt's."""
    world = restore(task.payload).world
    tools = [VARIANTS[name].tool for name in task.tools]
    names = [name for table in world.tables().values() for name in table]
    frontier: set[Value] = {*names, *world.cities(), *(c.value for c in Plan.from_json(task.payload["plan"]).constants)}
    graph: dict[Value, set[Value]] = {}
    for _ in range(11):
        for value in frontier - set(graph):
            graph[value] = set()
            for tool in tools:
                if accepts(tool.domains[0], world.kind_of(value)):
                    try:
                        graph[value].add(tool.run(world, value))
                    except Refusal:
                        continue
        frontier = {result for results in graph.values() for result in results}
    return graph


def hops(graph: dict[Value, set[Value]], known: set[Value], answer: str) -> int:
    """Fewest steps from any known value to the answer, by widening the known set a step at a time."""
    for depth in range(12):
        if answer in map(str, known):
            return depth
        known = known | {result for value in known for result in graph.get(value, ())}
    raise AssertionError("the answer is not within eleven steps")


@settings(max_examples=60, deadline=None)
@given(SPLITS, st.integers(0, 10**6), st.integers(0, 10**6))
def test_the_distance_of_a_chain_is_a_shortest_path_after_any_calls(split: Split, index: int, seed: int) -> None:
    task = LEDGER.sample_task(split, "L4", index)
    graph, answer = steps_between(task), task.ground_truth.answer
    assert answer is not None
    known: set[Value] = {constant.value for constant in Plan.from_json(task.payload["plan"]).constants}
    assert hops(graph, known, answer) == task.ground_truth.minimum_calls
    run = demonstrate(LEDGER, task, RandomPolicy(seed, answer_probability=0.0), 8)
    for call, outcome in zip(run.actions, run.outcomes, strict=True):
        if outcome.result.status is CallStatus.OK:
            content = outcome.result.content
            known |= {*call.arguments.values(), int(content) if content.isdigit() else content}
        assert outcome.progress is not None
        assert outcome.progress.after == hops(graph, known, answer)


def test_no_sequence_of_calls_ends_a_short_chain_sooner() -> None:
    # Sequences of six calls are too many to try; a chain of L2F behind its fault is the same search, three calls long.
    compared = 0
    for index in range(30):
        task = LEDGER.sample_task(Split.TRAIN, "L2F", index)
        if task.ground_truth.minimum_calls == 4:
            assert fewest_calls(open_player(task, LEDGER.open(task)), 4) == 4
            compared += 1
    assert compared > 10


@settings(max_examples=40, deadline=None)
@given(SPLITS, st.integers(0, 10**9))
def test_the_oracle_walks_the_whole_chain_and_each_call_needs_the_one_before(split: Split, index: int) -> None:
    task = LEDGER.sample_task(split, "L4", index)
    run = demonstrate(LEDGER, task, OraclePolicy(), 12)
    assert run.solved is True
    assert len(run.actions) in ((9, 10) if split is Split.TEST_DEPTH else (6, 7, 8))
    for before, after in pairwise(zip(run.actions, run.outcomes, strict=True)):
        assert [str(value) for value in after[0].arguments.values()] == [before[1].result.content]


def test_an_oracle_that_errs_still_ends_every_chain() -> None:
    policy = NoisyOraclePolicy(0.4, seed=2, mix=NoiseMix(premature=0))
    for index in range(25):
        run = demonstrate(LEDGER, LEDGER.sample_task(Split.TRAIN, "L4", index), policy, 30)
        assert run.solved is True


def test_chains_start_from_names_that_no_other_level_asks_about() -> None:
    for kind, names in LONG_POOLS.items():
        assert not set(names) & set(POOLS[kind])
    for split in Split:
        for index in range(15):
            task = LEDGER.sample_task(split, "L4", index)
            [start] = Plan.from_json(task.payload["plan"]).constants
            assert start.value in LONG_POOLS[start.kind]


def test_no_name_of_a_chain_belongs_to_two_kinds_or_is_a_tool() -> None:
    names = [name for pools in (POOLS, LONG_POOLS) for pool in pools.values() for name in pool]
    assert len(names) == len(set(names))
    assert not set(names) & set(VARIANTS)


@pytest.mark.parametrize("level", ["L2F", "L3F", "L4"])
def test_unseen_tools_come_under_names_and_parameters_that_training_never_shows(level: str) -> None:
    def words(task: Task) -> set[str]:
        specs = [VARIANTS[name].spec for name in task.tools]
        return {spec.name for spec in specs} | {name for spec in specs for name in spec.parameters["properties"]}

    trained = {word for other in LEDGER.levels() for i in range(60) for word in words(_train(other, i))}
    for index in range(60):
        task = LEDGER.sample_task(Split.TEST_TOOLS, level, index)
        assert not words(task) & trained
        assert not set(task.tools) & set(TOOLS)


def _train(level: str, index: int) -> Task:
    return LEDGER.sample_task(Split.TRAIN, level, index)


def test_the_distance_of_a_chain_costs_a_call_little() -> None:
    """Measured below a millisecond; the bound only catches a search that has become another order of magnitude."""
    cpu = calls = 0.0
    for index in range(20):
        task = LEDGER.sample_task(Split.TRAIN, "L4", index)
        session, oracle = LEDGER.open(task), LEDGER.open(task)
        while (call := oracle.next_call()) is not None:
            oracle.call(call)
            began = time.thread_time()
            session.call(call)
            cpu, calls = cpu + time.thread_time() - began, calls + 1
    assert cpu / calls < 0.02
