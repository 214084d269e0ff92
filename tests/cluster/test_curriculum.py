"""The curriculum: hand-worked shares, no level starved, and a simulated learner that stays between 30 and 70 %."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.batch import next_curriculum, training_tasks
from cluster.checkpoint import list_checkpoints, load_checkpoint
from cluster.config import CurriculumMix, TaskConfig
from cluster.curriculum import EASIER, HARDER, STILL, Curriculum, LevelRecord, expected_rate
from cluster.errors import BadConfiguration, Stopped
from cluster.metrics import count_solved, level_shares
from cluster.presets import load_config
from tests.cluster.builders import FakeRun, answer_step, episode, small_config, stop_in_iteration, task

MIX = CurriculumMix()
LEVELS = ("L0", "L1", "L2")


def curriculum(course: int = STILL, **levels: tuple[float, float | None]) -> Curriculum:
    """Level=(share, rate), the rate from 100 judged episodes; None for a level that was not judged yet."""
    records = {
        name: LevelRecord(share, recent=() if rate is None else ((100 * rate, 100),))
        for name, (share, rate) in levels.items()
    }
    return Curriculum(records, course)


def shares(state: Curriculum) -> dict[str, float]:
    return {name: round(record.share, 6) for name, record in state.levels.items()}


def test_a_start_gives_each_level_its_turn() -> None:
    drawn, after = Curriculum.start(LEVELS).draw(6)
    assert drawn == [("L0", 0), ("L1", 0), ("L2", 0), ("L0", 1), ("L1", 1), ("L2", 1)]
    assert [record.owed for record in after.levels.values()] == pytest.approx([0.0, 0.0, 0.0])


def test_the_level_that_is_owed_most_comes_next() -> None:
    # Owed 2, 1, 1: L0 first; then all are owed 1, and the easiest comes first.
    drawn, after = curriculum(L0=(0.5, None), L1=(0.25, None), L2=(0.25, None)).draw(4)
    assert drawn == [("L0", 0), ("L0", 1), ("L1", 0), ("L2", 0)]
    # 2 × 0.25 = 0.5 are owed to L1 and L2, and 1 to L0: L0, and then L1, which is overdrawn by a half.
    assert after.draw(2)[0] == [("L0", 2), ("L1", 1)]
    assert after.draw(2)[1].levels["L1"].owed == -0.5


def test_a_level_at_the_floor_still_gets_its_share_and_never_waits_long() -> None:
    state = curriculum(L0=(0.05, None), L1=(0.9, None), L2=(0.05, None))
    counts: Counter[str] = Counter()
    waited = longest = 0
    for _ in range(100):
        drawn, state = state.draw(6)
        counts.update(level for level, _ in drawn)
        waited = 0 if "L2" in dict(drawn) else waited + 1
        longest = max(longest, waited)
    # 600 tasks × 0.05 = 30; 6 × 0.05 = 0.3 a round makes one in 3 or 4 rounds.
    assert counts["L0"] == pytest.approx(30, abs=1)
    assert counts["L2"] == pytest.approx(30, abs=1)
    assert longest <= 4


def test_no_task_of_a_level_is_drawn_twice_and_none_is_left_out() -> None:
    state, seen = Curriculum.start(LEVELS), []
    for number in range(20):
        drawn, state = state.draw(5)
        seen += drawn
        state = state.learn(MIX, {"L0": (number % 3, 2), "L1": (1, 8)})
    for level in LEVELS:
        indices = [index for name, index in seen if name == level]
        assert indices == list(range(len(indices)))


def test_too_easy_a_mix_moves_a_step_from_the_easiest_level_to_the_next_that_is_not_too_easy() -> None:
    # 0.4·1.0 + 0.4·0.8 + 0.2·0.4 = 0.8. L1 is too easy itself, so L0 gives to L2.
    state = curriculum(L0=(0.4, 1.0), L1=(0.4, 0.8), L2=(0.2, 0.4))
    assert expected_rate(state.levels) == pytest.approx(0.8)
    after = state.learn(MIX, {})
    assert (shares(after), after.course) == ({"L0": 0.3, "L1": 0.4, "L2": 0.3}, HARDER)


def test_too_hard_a_mix_moves_a_step_from_the_hardest_level_to_the_next_that_is_not_too_hard() -> None:
    # 0.2·0.5 + 0.4·0.2 + 0.4·0.0 = 0.18. L1 is too hard itself, so L2 gives to L0.
    after = curriculum(L0=(0.2, 0.5), L1=(0.4, 0.2), L2=(0.4, 0.0)).learn(MIX, {})
    assert (shares(after), after.course) == ({"L0": 0.3, "L1": 0.4, "L2": 0.3}, EASIER)


def test_where_every_level_is_too_easy_the_hardest_gets_the_tasks() -> None:
    after = curriculum(L0=(0.4, 1.0), L1=(0.4, 0.9), L2=(0.2, 0.8)).learn(MIX, {})
    assert shares(after) == {"L0": 0.3, "L1": 0.4, "L2": 0.3}


def test_a_level_that_was_never_judged_is_worth_a_try() -> None:
    after = curriculum(L0=(0.4, 1.0), L1=(0.4, None), L2=(0.2, None)).learn(MIX, {})
    assert shares(after) == {"L0": 0.3, "L1": 0.5, "L2": 0.2}


def test_a_level_gives_no_more_than_it_has_above_the_floor_and_then_the_next_one_gives() -> None:
    first = curriculum(L0=(0.07, 1.0), L1=(0.53, 0.9), L2=(0.4, 0.5)).learn(MIX, {})
    assert shares(first) == {"L0": 0.05, "L1": 0.53, "L2": 0.42}
    assert shares(first.learn(MIX, {})) == {"L0": 0.05, "L1": 0.43, "L2": 0.52}


def test_with_nothing_left_to_give_the_shares_stay() -> None:
    state = curriculum(L0=(0.05, 1.0), L1=(0.05, 1.0), L2=(0.9, 1.0))
    assert shares(state.learn(MIX, {})) == shares(state)


def test_a_move_goes_on_to_the_middle_of_the_band() -> None:
    # 0.5·0.9 + 0.5·0.2 = 0.55: no reason to set out, and not yet the middle.
    resting = curriculum(STILL, L0=(0.5, 0.9), L1=(0.5, 0.2)).learn(MIX, {})
    moving = curriculum(HARDER, L0=(0.5, 0.9), L1=(0.5, 0.2)).learn(MIX, {})
    assert (shares(resting), resting.course) == ({"L0": 0.5, "L1": 0.5}, STILL)
    assert (shares(moving), moving.course) == ({"L0": 0.4, "L1": 0.6}, HARDER)
    # 0.4·0.9 + 0.6·0.2 = 0.48 < 0.5.
    assert moving.learn(MIX, {}).course == STILL
    # 0.5·0.7 + 0.5·0.2 = 0.45: a move to easier levels goes on.
    assert curriculum(EASIER, L0=(0.5, 0.7), L1=(0.5, 0.2)).learn(MIX, {}).course == EASIER


def test_a_move_begins_a_margin_before_the_edge() -> None:
    # 0.5·0.9 + 0.5·0.32 = 0.61 > 0.7 − 0.1, and 0.5·0.6 + 0.5·0.18 = 0.39 < 0.3 + 0.1.
    assert curriculum(L0=(0.5, 0.9), L1=(0.5, 0.32)).learn(MIX, {}).course == HARDER
    assert curriculum(L0=(0.5, 0.6), L1=(0.5, 0.18)).learn(MIX, {}).course == EASIER


def test_only_the_newest_iterations_of_a_level_count_and_one_without_a_verdict_is_none() -> None:
    state, mix = Curriculum.start(("L0",)), CurriculumMix(window=2)
    for solved in (0.0, 4.0, 2.0):
        state = state.learn(mix, {"L0": (solved, 4)})
    assert state.learn(mix, {"L0": (0.0, 0)}).levels["L0"].rate == (4 + 2) / 8
    assert Curriculum.start(("L0",)).levels["L0"].rate is None


OUTCOMES = st.lists(
    st.dictionaries(
        st.sampled_from(LEVELS), st.integers(0, 8).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
    ),
    max_size=25,
)


@settings(max_examples=100, deadline=None)
@given(OUTCOMES, st.integers(1, 9))
def test_whatever_is_solved_the_shares_add_up_and_none_falls_below_the_floor(
    outcomes: list[dict[str, tuple[int, int]]], count: int
) -> None:
    state = Curriculum.start(LEVELS)
    for outcome in outcomes:
        _, state = state.draw(count)
        state = state.learn(MIX, outcome)
        assert sum(record.share for record in state.levels.values()) == pytest.approx(1.0)
        assert min(record.share for record in state.levels.values()) >= MIX.floor - 1e-9
        assert abs(sum(record.owed for record in state.levels.values())) < 1e-6


@settings(max_examples=50, deadline=None)
@given(OUTCOMES)
def test_a_state_that_went_through_json_draws_and_learns_as_before(outcomes: list[dict[str, tuple[int, int]]]) -> None:
    state = Curriculum.start(LEVELS)
    for outcome in outcomes:
        copy = Curriculum.restore(json.loads(json.dumps(state.state())), LEVELS)
        assert copy.draw(7)[0] == state.draw(7)[0]
        _, drawn = state.draw(7)
        assert copy.draw(7)[1].learn(MIX, outcome).state() == drawn.learn(MIX, outcome).state()
        state = drawn.learn(MIX, outcome)


@pytest.mark.parametrize("skill", [-0.5, 2.0, 6.0])
def test_a_simulated_learner_comes_into_the_band_and_stays_there_as_it_improves(skill: float) -> None:
    """It solves level d with probability 1 / (1 + exp(2d − skill)), and learns from tasks that it solves by half."""
    dice, levels = random.Random(7), tuple(f"L{d}" for d in range(8))
    state, rates = Curriculum.start(levels), []
    for _ in range(150):
        drawn, state = state.draw(6)
        outcomes: dict[str, tuple[float, int]] = {}
        for level, _ in drawn:
            chance = 1.0 / (1.0 + math.exp(2 * int(level[1]) - skill))
            solved = sum(dice.random() < chance for _ in range(8))
            before = outcomes.get(level, (0.0, 0))
            outcomes[level] = (before[0] + solved, before[1] + 8)
            skill += 0.01 * 4 * chance * (1 - chance)
        rates.append(sum(solved for solved, _ in outcomes.values()) / 48)
        state = state.learn(MIX, outcomes)
    settled = rates[15:]
    assert 0.4 <= sum(settled) / len(settled) <= 0.6
    # Of single iterations of 48 episodes, too, whose rate scatters by 0.07 and more.
    assert sum(0.3 <= rate <= 0.7 for rate in settled) / len(settled) > 0.85


def test_solved_episodes_are_counted_by_level_without_the_abstained() -> None:
    verdicts = [("L1", 1.0), ("L1", 0.0), ("L0", 1.0), ("L1", None)]
    scored = [episode([answer_step()], verdict, about=task(level)) for level, verdict in verdicts]
    assert count_solved(scored) == {"L0": (1.0, 1), "L1": (1.0, 2)}
    assert level_shares(scored) == {"L0": 0.25, "L1": 0.75}


def test_the_tasks_of_a_curriculum_are_those_that_it_draws() -> None:
    config = load_config("quickstart", ["task.levels=[L0, L1]", "task.mix.kind=curriculum", "task.per_iteration=4"])
    assert [one.id for one in training_tasks(config, 0)] == [f"ledger/L{k % 2}/train/{k // 2}" for k in range(4)]
    after = next_curriculum(config.task, {}, {"L0": (16.0, 16), "L1": (16.0, 16)})
    # All solved: a tenth moves from L0 to L1, so 1.6 and 2.4 of 4 are owed.
    assert [one.id for one in training_tasks(config, 99, after)] == [
        *("ledger/L1/train/2", "ledger/L0/train/2", "ledger/L1/train/3", "ledger/L0/train/3")
    ]


def test_levels_that_take_turns_keep_no_state() -> None:
    assert next_curriculum(TaskConfig(), {}, {"L0": (1.0, 1)}) == {}


CURRICULUM = ("task.mix.kind=curriculum", "task.mix.low=0.6", "task.mix.high=0.9", "task.per_iteration=3")


def test_a_resumed_run_draws_the_identical_next_tasks(tmp_path: Path) -> None:
    config = small_config(*CURRICULUM, "loop.iterations=4")
    whole = FakeRun(config, tmp_path / "whole")
    state = whole.trainer.run().state
    # Every other episode is solved, below the band: L2 has given to L0, two steps at least.
    assert state.curriculum["levels"]["L2"]["share"] < 0.2
    assert load_checkpoint(list_checkpoints(whole.directory.checkpoints)[-1]) == state
    first = FakeRun(config, tmp_path / "halves", before_each=stop_in_iteration(3))
    with pytest.raises(Stopped):
        first.trainer.run()
    second = FakeRun(config, tmp_path / "halves")
    assert second.trainer.run().state.curriculum == state.curriculum
    for iteration in (3, 4):
        assert second.tasks_of(iteration) == whole.tasks_of(iteration)
    played = [name for iteration in range(1, 5) for name in dict.fromkeys(whole.tasks_of(iteration))]
    assert len(played) == len(set(played)) == 12


def test_shares_and_rates_by_level_are_in_the_metrics(tmp_path: Path) -> None:
    run = FakeRun(small_config(*CURRICULUM, "loop.iterations=1"), tmp_path / "run")
    run.trainer.run()
    [record] = run.directory.read_metrics()
    assert record["level_solved"] == {"L0": 0.5, "L1": 0.5, "L2": 0.5}
    assert record["level_share"] == {level: pytest.approx(1 / 3) for level in LEVELS}


def test_a_checkpoint_from_before_there_was_a_curriculum_can_be_read(tmp_path: Path) -> None:
    run = FakeRun(small_config("loop.iterations=1"), tmp_path / "run")
    state = run.trainer.run().state
    assert state.curriculum == {}
    newest = list_checkpoints(run.directory.checkpoints)[-1]
    record = json.loads((newest / "state.json").read_text())
    del record["curriculum"]
    assert type(state)(**record) == replace(load_checkpoint(newest), curriculum={})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.mix.low=0.65", "leave no band inside a margin of 0.1"),
        ("task.mix.floor=0.4", "for each of 3 levels, which leaves nothing to move; expected less than 0.33"),
        ("task.mix.step=0", "greater than 0"),
        ("task.mix.kind=random", "task.mix"),
    ],
)
def test_a_curriculum_that_cannot_work_is_refused(setting: str, message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        load_config("quickstart", ["task.levels=[L0, L1, L2]", "task.mix.kind=curriculum", setting])
