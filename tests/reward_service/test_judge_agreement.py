"""How far votes agree, counted by hand."""

from __future__ import annotations

import pytest

from reward_service.judge.agreement import Agreement
from reward_service.judge.config import Prices
from reward_service.judge.judgement import FinalVerdict, Outcome, StepVerdict, Usage, Vote
from reward_service.judge.questions import questions
from reward_service.judge.tally import tallied
from tests.reward_service.builders import call_step, item
from tests.reward_service.judges import config

TWO_CALLS = item(steps=[call_step(0), call_step(1), {"index": 2, "answer": "42"}])
PRICES = Prices(prompt_per_million=1, completion_per_million=10)


def vote(first: tuple[int, int] | None, second: tuple[int, int] | None, outcome: Outcome | None) -> Vote:
    """Grades of two calls and the outcome, each of them given or lost; 100 tokens read and 10 written."""
    steps = (*(None if grade is None else StepVerdict(*grade, "so") for grade in (first, second)), None)
    return Vote(steps, None if outcome is None else FinalVerdict(outcome, "so"), (), Usage(1, 0, 100, 10))


def agreement(*votes: Vote, **changes) -> Agreement:
    """Of one trajectory with these votes."""
    settings = config(votes=len(votes), **changes)
    episode = TWO_CALLS.episode()
    found = Agreement()
    found.add(questions(episode, "trajectory"), tallied(episode, votes, (), settings))
    return found


def test_votes_agree_on_a_step_where_both_grades_are_equal():
    votes = [
        vote((1, 5), (1, 3), Outcome.SOLVED),
        vote((1, 5), (1, 4), Outcome.SOLVED),
        vote((1, 5), (0, 3), Outcome.UNSURE),
    ]
    found = agreement(*votes).as_dict()
    assert (found["trajectories"], found["votes"], found["lost_votes"]) == (1, 3, 0)
    # The first step yes, the second no; the outcome no.
    assert (found["step_agreement"], found["outcome_agreement"]) == (0.5, 0.0)
    # success 1 1 1 and 1 1 0: 0 and 2/9. contribution 1 1 1 and .6 .8 .6: 0 and 0.08/9. outcome 1 1 .5: 0.5/9.
    variances = {"success": 1 / 9, "contribution": 0.04 / 9, "solved": 0.5 / 9}
    assert found["mean_variance"] == {name: pytest.approx(value) for name, value in variances.items()}


def test_a_vote_that_lost_an_answer_is_counted_and_the_others_are_compared():
    lost = vote(None, None, None)
    found = agreement(vote((1, 5), (1, 3), Outcome.SOLVED), lost, vote((1, 5), (1, 3), Outcome.SOLVED)).as_dict()
    assert (found["votes"], found["lost_votes"]) == (3, 1)
    assert (found["step_agreement"], found["outcome_agreement"]) == (1.0, 1.0)


def test_one_vote_agrees_with_nobody():
    found = agreement(vote((1, 5), (1, 3), Outcome.SOLVED)).as_dict()
    assert (found["step_agreement"], found["outcome_agreement"]) == (None, None)
    assert found["mean_variance"] == {"success": None, "contribution": None, "solved": None}


def test_tokens_and_money_add_up_over_trajectories():
    found = agreement(vote((1, 5), (1, 3), Outcome.SOLVED), prices=PRICES)
    episode = TWO_CALLS.episode()
    again = tallied(episode, [vote((1, 5), None, None)], (), config(prices=PRICES))
    found.add(questions(episode, "trajectory"), again)
    told = found.as_dict()
    assert (told["requests"], told["prompt_tokens"], told["completion_tokens"]) == (2, 200, 20)
    # Twice 100 tokens at 1 and 10 at 10 a million.
    assert told["cost"] == pytest.approx(0.0004)
    assert (told["trajectories"], told["votes"], told["lost_votes"]) == (2, 2, 1)


def test_without_a_price_there_is_no_cost():
    assert agreement(vote((1, 5), (1, 3), Outcome.SOLVED)).as_dict()["cost"] is None
