from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.batch import (
    canary_sequences,
    check_distances,
    check_reopening,
    check_replays,
    request_seed,
    training_requests,
    training_tasks,
    warm_start_demonstrations,
)
from cluster.config import RunConfig
from cluster.errors import BadConfiguration
from cluster.presets import load_config
from tests.cluster.builders import small_config

LEVELS = "task.levels=[L0, L1, L2]"


def ids(seed: int, cursor: int, count: int = 60) -> list[str]:
    config = load_config("quickstart", [LEVELS, f"seed={seed}", f"task.per_iteration={count}"])
    return [task.id for task in training_tasks(config, cursor)]


def test_the_same_cursor_gives_the_same_tasks() -> None:
    assert ids(0, 12) == ids(0, 12)


def test_the_cursor_moves_along_one_sequence_without_gaps_or_repeats() -> None:
    assert ids(0, 0, 6) + ids(0, 6, 6) == ids(0, 0, 12)
    assert len(set(ids(0, 0))) == 60


def test_two_seeds_train_on_different_tasks() -> None:
    assert set(ids(0, 0)) & set(ids(1, 0)) == set()


def test_the_levels_take_turns() -> None:
    config = load_config("quickstart", [LEVELS, "task.per_iteration=5"])
    assert [task.level for task in training_tasks(config, 0)] == ["L0", "L1", "L2", "L0", "L1"]
    assert [task.level for task in training_tasks(config, 5)] == ["L2", "L0", "L1", "L2", "L0"]


def test_every_task_is_played_by_a_group_of_its_own() -> None:
    config = load_config("quickstart", ["task.per_iteration=3", "task.group_size=3"])
    tasks = training_tasks(config, 0)
    requests = training_requests(config, tasks, 7)
    assert [request.id for request in requests[:4]] == [
        *("00007/000/00", "00007/000/01", "00007/000/02"),
        "00007/001/00",
    ]
    assert [request.task for request in requests] == [tasks[0]] * 3 + [tasks[1]] * 3 + [tasks[2]] * 3
    assert {request.group for request in requests} == {"00007/000", "00007/001", "00007/002"}


@pytest.mark.parametrize("kind", ["step_returns", "ppo_outcome", "grpo", "rloo", "reinforce_pp", "rft"])
def test_a_baseline_sees_the_prompts_and_the_budgets_of_the_method(kind: str) -> None:
    """The published comparison gave its baselines other step budgets; here nothing but the credit may differ."""
    method, baseline = load_config("quickstart"), load_config("quickstart", [f"credit.kind={kind}"])
    tasks = training_tasks(method, 0)
    assert training_requests(baseline, training_tasks(baseline, 0), 1) == training_requests(method, tasks, 1)
    assert baseline.credit != method.credit
    assert baseline.model_copy(update={"credit": method.credit}) == method


def test_only_a_deterministic_run_fixes_the_seeds_of_its_requests() -> None:
    size = ["task.per_iteration=6", "task.group_size=8"]
    free, fixed = load_config("quickstart", size), load_config("quickstart", size, deterministic=True)
    tasks = training_tasks(free, 0)
    assert {request.seed for request in training_requests(free, tasks, 1)} == {None}
    seeds = [request.seed for request in training_requests(fixed, tasks, 1)]
    assert len(set(seeds)) == 48
    assert seeds == [request.seed for request in training_requests(fixed, tasks, 1)]
    assert set(seeds).isdisjoint(request.seed for request in training_requests(fixed, tasks, 2))


def test_a_request_seed_is_the_same_in_every_process_and_release() -> None:
    assert request_seed(0, "00001/000", 3) == 46837004


@given(st.integers(), st.text(max_size=8))
def test_a_request_seed_fits_31_bits(number: int, text: str) -> None:
    assert 0 <= request_seed(number, text.encode("utf-8", "replace")) < 2**31


def test_demonstrations_teach_some_tokens_and_not_the_prompt() -> None:
    demonstrations = warm_start_demonstrations(small_config())
    assert len(demonstrations) == 2
    for one in demonstrations:
        assert not one.action_mask[0]
        assert 0 < sum(one.action_mask) < len(one.token_ids)


def test_demonstrations_depend_on_the_seed_and_on_nothing_else() -> None:
    assert warm_start_demonstrations(small_config()) == warm_start_demonstrations(small_config())
    assert warm_start_demonstrations(small_config()) != warm_start_demonstrations(small_config("seed=1"))


REASONING = ("task.suite=reasoning", "evaluation.split=test_iid")


def test_tasks_that_nobody_can_demonstrate_are_refused_and_say_what_to_do() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")
    assert len(warm_start_demonstrations(small_config(*REASONING, "task.levels=[gcd]"), at_most=1)) == 1
    with pytest.raises(BadConfiguration, match=r"level 'dice' has no demonstrations.*set it to 0"):
        warm_start_demonstrations(small_config(*REASONING, "task.levels=[dice]"))


@pytest.mark.parametrize(
    ("shaping", "accepted"),
    [("linear", False), ("paper", False), ("potential", False), ("outcome_only", True)],
)
def test_rewards_that_need_a_distance_refuse_tasks_without_one(shaping: str, accepted: bool) -> None:
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")
    config = small_config(*REASONING, "task.levels=[gcd]", f"rewards.shaping.kind={shaping}")
    refusal = pytest.raises(BadConfiguration, match=f"level 'gcd' has no exact distance.*{shaping!r}.*outcome_only")
    with nullcontext() if accepted else refusal:
        check_distances(config)
    check_distances(small_config(*REASONING, "task.levels=[gcd]", "rewards.shaping.contribution=0"))
    check_distances(small_config())


MIXED = """
{"id": "one", "prompt": "Sell.", "toolset": "mixed_shop:TOOLS", "split": "train", "calls": [{"name": "sell"}]}
{"id": "two", "prompt": "Sold?", "toolset": "mixed_shop:TOOLS", "split": "train", "answer": "yes"}
{"id": "three", "prompt": "Sold?", "toolset": "mixed_shop:TOOLS", "split": "val", "answer": "yes"}
"""
SHOP = """
from tool_sandbox.functions import tool

@tool
def sell() -> str:
    \"\"\"Sell.\"\"\"
    return "sold"

TOOLS = [sell]
"""


def test_a_file_in_which_some_tasks_have_no_distance_is_refused_before_the_run_and_names_one(tmp_path) -> None:
    (tmp_path / "mixed_shop.py").write_text(SHOP)
    (tmp_path / "tasks.jsonl").write_text(MIXED.lstrip())
    config = small_config(f"task.suite=jsonl:{tmp_path / 'tasks.jsonl'}", "task.levels=[all]", "evaluation.split=val")
    with pytest.raises(BadConfiguration, match=r"task '[^']*two[^']*' of level 'all' has no exact distance"):
        check_distances(config)


def test_rewards_by_replay_refuse_tasks_that_no_id_finds(tmp_path: Path) -> None:
    replays = "rewards.signals.contribution.kind=leave_one_out"
    check_replays(small_config(replays))
    check_replays(small_config(f"task.suite=jsonl:{tmp_path}/tasks.jsonl"))
    with pytest.raises(BadConfiguration, match=r"'leave_one_out' opens tasks again.*no installed toolset"):
        check_replays(small_config(f"task.suite=jsonl:{tmp_path}/tasks.jsonl", replays))


LOTTERY = """
import itertools
from tool_sandbox.functions import tool

NUMBERS = itertools.count()

@tool
def draw() -> str:
    \"\"\"Draw a number.\"\"\"
    return str(next(NUMBERS))

@tool
def sell() -> str:
    \"\"\"Sell.\"\"\"
    return "sold"

TOOLS = [draw, sell]
"""


def test_episodes_that_begin_in_a_recorded_state_need_tools_that_do_the_same_again(tmp_path: Path) -> None:
    (tmp_path / "lottery.py").write_text(LOTTERY)

    def config(calls: str, *settings: str) -> RunConfig:
        task = {"prompt": "Go.", "toolset": "lottery:TOOLS", "calls": [{"name": calls}]}
        path = tmp_path / f"{calls}.jsonl"
        path.write_text("".join(json.dumps({**task, "id": split, "split": split}) + "\n" for split in ("train", "val")))
        suite = (f"task.suite=jsonl:{path}", "task.levels=[all]", "evaluation.split=val", "task.group_size=4")
        return small_config(*suite, *settings)

    for settings in (("credit.kind=monte_carlo",), ("credit.kind=tree", "task.group.kind=forked")):
        with pytest.raises(BadConfiguration, match=r"draw\.jsonl.*gave something else the second time"):
            check_reopening(config("draw", *settings))
        check_reopening(config("sell", *settings))
    check_reopening(config("draw"))


def test_the_canary_falls_back_to_prompts_where_nobody_can_demonstrate() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")
    sequences = canary_sequences(small_config(*REASONING, "task.levels=[dice]", "canary.sequences=2"))
    assert len(set(sequences)) == 2


def test_the_canary_compares_no_more_tokens_than_it_was_told_to() -> None:
    sequences = canary_sequences(small_config("canary.sequences=3", "canary.tokens=16"))
    assert [len(ids) for ids in sequences] == [16, 16, 16]
    assert len(set(sequences)) == 3
