from __future__ import annotations

from dataclasses import replace

import pytest

from cluster.evaluation import Evaluation, evaluation_requests, heldout_tasks, summarise, wilson_interval
from cluster.presets import load_config
from tests.cluster.builders import answer_step, call_step, episode, task
from tool_sandbox.tools import CallStatus, ToolResult


def test_eight_of_ten_is_between_49_and_94_percent() -> None:
    assert wilson_interval(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)


@pytest.mark.parametrize(("wins", "expected"), [(0, (0.0, 0.278)), (10, (0.722, 1.0))])
def test_an_interval_stays_a_proportion_at_both_ends(wins: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(wins, 10) == pytest.approx(expected, abs=5e-4)


def test_more_tasks_make_a_narrower_interval() -> None:
    (low, high), (lower, higher) = wilson_interval(96, 192), wilson_interval(24, 48)
    assert lower < low < 0.5 < high < higher


def test_a_call_that_did_not_shorten_the_way_is_useless() -> None:
    stalled = [call_step(2, 1), call_step(1, 1), call_step(1, 2), call_step(2, 1), answer_step()]
    straight = [call_step(1, 0), answer_step()]
    evaluation = summarise([episode(stalled, 0.0), episode(straight, 1.0)])
    assert evaluation.calls == (4 + 1) / 2
    assert evaluation.useless_calls == (2 + 0) / 2


def test_where_the_distance_is_unknown_only_calls_that_failed_are_useless() -> None:
    ran = replace(call_step(), progress=None)
    unparsed = replace(ran, result=ToolResult("c-0", CallStatus.INVALID_ARGUMENTS, "error: no call was found"))
    evaluation = summarise([episode([ran, unparsed, ran, answer_step()], 0.0)])
    assert (evaluation.calls, evaluation.useless_calls) == (3.0, 1.0)


def test_rates_and_calls_are_told_by_level() -> None:
    easy, hard = task("L0"), task("L2", minimum_calls=3)
    evaluation = summarise(
        [
            episode([call_step(), answer_step()], 1.0, about=easy),
            episode([answer_step()], 0.0, about=easy),
            episode([call_step(3, 2), call_step(2, 1), answer_step()], 0.0, about=hard),
        ]
    )
    assert evaluation.by_level == {"L0": 0.5, "L2": 0.0}
    assert evaluation.calls_by_level == {"L0": 0.5, "L2": 2.0}
    assert (evaluation.tasks, evaluation.solved) == (3, pytest.approx(1 / 3))


def test_an_episode_without_a_verdict_is_left_out_of_every_number() -> None:
    lost = episode([call_step(), call_step(), answer_step()], None)
    evaluation = summarise([episode([call_step(), answer_step()], 1.0), lost])
    assert (evaluation.tasks, evaluation.solved, evaluation.calls) == (1, 1.0, 1.0)


def test_no_verdict_at_all_is_an_error_and_not_a_rate_of_zero() -> None:
    with pytest.raises(ValueError, match="0 episodes with a verdict"):
        summarise([episode([answer_step()], None)])


def test_an_evaluation_survives_the_way_to_disk_and_back() -> None:
    evaluation = summarise([episode([call_step(), answer_step()], 1.0)])
    assert Evaluation.from_dict(evaluation.as_dict()) == evaluation


def test_held_out_tasks_are_the_same_for_every_seed_and_spread_over_the_levels() -> None:
    size = ["task.levels=[L0, L1, L2]", "evaluation.tasks=192"]
    one, other = load_config("quickstart", size), load_config("quickstart", [*size, "seed=2"])
    tasks = heldout_tasks(one.task, one.evaluation)
    assert tasks == heldout_tasks(other.task, other.evaluation)
    assert len({task.id for task in tasks}) == 192
    assert [sum(task.level == level for task in tasks) for level in ("L0", "L1", "L2")] == [64, 64, 64]


def test_every_held_out_task_is_played_once_with_a_seed_of_its_own() -> None:
    config = load_config("quickstart", ["evaluation.tasks=6"])
    tasks = heldout_tasks(config.task, config.evaluation)
    requests = evaluation_requests(tasks, config.rollout, 0.0, "before", config.seed)
    assert [request.task for request in requests] == tasks
    assert len({request.id for request in requests}) == len({request.group for request in requests}) == 6
    turns = {request.sampling(step).seed for request in requests for step in range(config.rollout.episode.max_steps)}
    assert len(turns) == 6 * config.rollout.episode.max_steps
