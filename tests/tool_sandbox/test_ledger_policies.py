"""Scripted policies: what the noisy oracle does wrong, and that chance does not solve tasks."""

from __future__ import annotations

import pytest

from tool_sandbox.demonstrations import Demonstration, Policy, demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.policies import NoiseMix, NoisyOraclePolicy, OraclePolicy, RandomPolicy
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus

LEDGER = LedgerToolset()


def runs(policy: Policy, level: str, count: int = 150, max_steps: int = 14) -> list[Demonstration]:
    tasks = (LEDGER.sample_task(Split.TRAIN, level, index) for index in range(count))
    return [demonstrate(LEDGER, task, policy, max_steps) for task in tasks]


def solved_share(demonstrations: list[Demonstration]) -> float:
    return sum(run.solved is True for run in demonstrations) / len(demonstrations)


def useless_calls(run: Demonstration) -> int:
    return sum(outcome.progress.after >= outcome.progress.before for outcome in run.outcomes if outcome.progress)


@pytest.mark.parametrize(("level", "bound"), [("L0", 0.35), ("L1", 0.15), ("L2", 0.1), ("L3", 0.1)])
def test_the_random_policy_rarely_solves(level: str, bound: float) -> None:
    assert solved_share(runs(RandomPolicy(), level)) < bound


def test_an_oracle_without_noise_is_the_oracle() -> None:
    assert runs(NoisyOraclePolicy(noise=0.0), "L2", 20) == runs_without_seconds(runs(OraclePolicy(), "L2", 20))


def runs_without_seconds(demonstrations: list[Demonstration]) -> list[object]:
    """Equal to any demonstration with the same actions and answer: seconds differ from run to run."""
    return [_SameActions(run) for run in demonstrations]


class _SameActions:
    def __init__(self, run: Demonstration) -> None:
        self._run = run

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Demonstration) and (other.actions, other.answer) == (
            self._run.actions,
            self._run.answer,
        )


def test_noise_precedes_about_its_share_of_right_steps() -> None:
    mix = NoiseMix(wrong_tool=1, wrong_argument=1, repeat=0, premature=0)
    demonstrations = runs(NoisyOraclePolicy(noise=0.4, mix=mix), "L1", 300)
    errors = sum(useless_calls(run) for run in demonstrations)
    # 3 turns a task (two calls and the answer); 0.4 of them are preceded by an error, a few of which help by chance.
    assert 0.3 * 3 * 300 < errors < 0.45 * 3 * 300
    assert solved_share(demonstrations) == 1.0


def test_a_repeat_makes_an_earlier_call_again() -> None:
    demonstrations = runs(NoisyOraclePolicy(noise=1.0, mix=NoiseMix(0, 0, 1, 0)), "L2", 30)
    for run in demonstrations:
        assert run.actions[2].arguments in [call.arguments for call in run.actions[:2]]
        assert run.solved is True


def test_a_wrong_argument_keeps_the_tool_and_helps_nothing() -> None:
    demonstrations = runs(NoisyOraclePolicy(noise=1.0, mix=NoiseMix(0, 1, 0, 0)), "L0", 60)
    for run in demonstrations:
        wrong, right = run.actions[:2]
        assert wrong.name == right.name
        assert wrong.arguments != right.arguments
        assert run.solved is True
    assert any(run.outcomes[0].result.status is CallStatus.OK for run in demonstrations)


def test_a_premature_answer_is_the_last_observation_or_a_plausible_guess() -> None:
    demonstrations = runs(NoisyOraclePolicy(noise=0.5, mix=NoiseMix(0, 0, 0, 1)), "L2", 120)
    cut = [run for run in demonstrations if run.solved is False]
    assert 0.5 < len(cut) / len(demonstrations) < 1.0
    assert all(run.answer == run.outcomes[-1].result.content for run in cut if run.outcomes)
    assert all(run.answer for run in cut)


def test_half_noise_gives_demonstrations_that_are_worth_repairing() -> None:
    demonstrations = [run for level in LEDGER.levels() for run in runs(NoisyOraclePolicy(noise=0.4), level, 100)]
    assert 0.4 < solved_share(demonstrations) < 0.9
    assert sum(useless_calls(run) for run in demonstrations) > 100


def test_the_same_seed_errs_in_the_same_way_and_another_does_not() -> None:
    first, again, other = (runs(NoisyOraclePolicy(noise=0.5, seed=seed), "L2", 20) for seed in (1, 1, 2))
    assert first == runs_without_seconds(again)
    assert first != runs_without_seconds(other)


def test_a_policy_that_runs_out_of_steps_has_no_answer() -> None:
    run = demonstrate(LEDGER, LEDGER.sample_task(Split.TRAIN, "L2", 0), OraclePolicy(), max_steps=2)
    assert (len(run.actions), run.answer, run.solved) == (2, None, False)


def test_impossible_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise 1\.5; expected a probability"):
        NoisyOraclePolicy(noise=1.5)
    with pytest.raises(ValueError, match="at least one above 0"):
        NoiseMix(0, 0, 0, 0)
