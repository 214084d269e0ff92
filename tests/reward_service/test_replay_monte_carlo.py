"""Monte-Carlo on real sessions: values of states under a policy, and what each call added to them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reward_service.errors import UnscorableTrajectory
from tests.reward_service.replays import (
    contributions,
    dialogue,
    of_demonstration,
    oracle,
    played,
    recipe,
    scored,
    shown,
    task,
)
from tool_sandbox.registry import load_toolset
from tool_sandbox.tasks import Split
from tool_sandbox.tools import ToolCall

ROOT = Path(__file__).resolve().parents[2]
NOTHING = ToolCall("c", "nothing", {})


def monte_carlo(continuations: int = 4, noise: float = 0.0, max_steps: int = 8) -> dict[str, Any]:
    policy = {"kind": "noisy_oracle", "noise": noise}
    return {"kind": "monte_carlo", "continuations": continuations, "policy": policy, "max_steps": max_steps}


RANDOM = {"kind": "monte_carlo", "continuations": 8, "policy": {"kind": "random"}}


@pytest.mark.parametrize(("turns", "worth"), [(1, [0.0, 1.0]), (2, [1.0, 0.0]), (3, [0.0, 0.0])])
def test_a_call_is_worth_what_it_adds_to_the_share_that_is_solved(turns, worth):
    # The way has two calls and an answer. Whoever has `turns` turns left and makes no error solves it from a state that
    # is at most turns − 1 calls away: V is [0, 0, 1], [0, 1, 1] and [1, 1, 1].
    assert contributions(monte_carlo(max_steps=turns), of_demonstration(oracle(task("L1")))) == [*worth, None]


def test_a_call_that_changes_nothing_is_worth_nothing():
    way = oracle(task("L1"))
    first, second = way.actions
    trajectory = played(task("L1"), [first, NOTHING, second], way.answer)
    assert contributions(monte_carlo(max_steps=1), trajectory) == [0.0, 0.0, 1.0, None]


def test_along_the_shortest_way_the_value_rises_to_1_under_a_policy_that_errs():
    way = oracle(task("L2"))
    found = scored(monte_carlo(continuations=32, noise=0.5), of_demonstration(way))
    told = [step.why.removeprefix("continuations that solve the task: ") for step in found.steps if step.why]
    assert told[-1].endswith(" 32 after")
    before = int(told[0].split()[0])
    assert before < 32
    gains = [step.signals["contribution"] for step in found.steps[:-1]]
    assert sum(gain or 0.0 for gain in gains) == 1 - before / 32


def test_the_same_beginning_has_the_same_value_in_another_trajectory():
    way = oracle(task("L2"))
    method = monte_carlo(continuations=16, noise=0.7)
    whole = contributions(method, of_demonstration(way))
    begun = contributions(method, played(task("L2"), [way.actions[0], NOTHING], "nobody"))
    assert begun[0] == whole[0]


def test_the_dice_are_the_same_in_every_process_and_others_for_another_task():
    first, second = (of_demonstration(oracle(task("L1", index))) for index in (0, 1))
    found = contributions(RANDOM, first)
    program = (
        "import json, sys; from tests.reward_service.replays import contributions;"
        "print(json.dumps(contributions(*json.load(sys.stdin))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps([RANDOM, first]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == found
    assert recipe(RANDOM).version == recipe(RANDOM).version
    assert contributions(RANDOM, second) == contributions(RANDOM, second)


def test_a_dialogue_goes_on_where_the_model_was():
    pytest.importorskip("bfcl_eval", reason="the extra `bfcl` is not installed")
    # Three calls, and an answer between them that lets the user speak on; the verdict wants no last answer. In
    # three turns the task is solved from after the first call, and not from before it.
    found = contributions(monte_carlo(continuations=1, max_steps=3), of_demonstration(dialogue()))
    assert found == [1.0, 0.0, None, 0.0, None]


def test_a_toolset_without_such_a_policy_is_named():
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")
    toolset = load_toolset("reasoning")
    way = shown(toolset, toolset.sample_task(Split.TRAIN, "gcd", 0))
    with pytest.raises(UnscorableTrajectory, match="toolset 'reasoning' has no policy of the kind 'random'"):
        contributions(RANDOM, of_demonstration(way))
