"""Rows hold each distinct token once, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.credit import CreditedTrajectory, StateAt, TokenCredit
from learner.forest import Layout
from learner.packing import (
    Demonstration,
    Keep,
    PackedRow,
    items_to_imitate,
    items_to_read,
    items_to_train,
    pack,
    pack_share,
)
from tests.learner.builders import credited, scored, step

PROMPT = tuple(range(100, 120))


def path_tokens(row: PackedRow, segment: int) -> list[int]:
    """Tokens that a segment sees, its own included."""
    chain = [*row.segments[segment].ancestors, segment]
    return [int(t) for j in chain for t in row.token_ids[0, row.segments[j].start : row.segments[j].end]]


def test_a_group_stores_its_prompt_once() -> None:
    group = [credited([1.0], [step(PROMPT, (first, 2, 3))], id=f"t-{first}") for first in (7, 8, 9)]
    ((row,),) = pack(items_to_train(group, Keep.ALL), pack_tokens=1000, ranks=1)
    assert row.token_ids.tolist() == [[*PROMPT, 7, 2, 3, 8, 2, 3, 9, 2, 3]]
    assert row.position_ids.tolist() == [[*range(20), 20, 21, 22, 20, 21, 22, 20, 21, 22]]
    assert [(s.start, s.end, s.ancestors) for s in row.segments] == [
        (0, 20, ()),
        (20, 23, (0,)),
        (23, 26, (0,)),
        (26, 29, (0,)),
    ]


def test_the_first_action_tokens_of_a_group_are_predicted_from_the_same_last_prompt_token() -> None:
    group = [credited([1.0], [step(PROMPT, (first, 2))], id=f"t-{first}") for first in (7, 8)]
    ((row,),) = pack(items_to_train(group, Keep.ALL), pack_tokens=1000, ranks=1)
    assert row.predict_at.tolist() == [19, 20, 22]
    predictions = list(zip(row.predict_at[row.prediction_row].tolist(), row.prediction_target.tolist(), strict=True))
    assert [predictions[i] for i in row.action_prediction] == [(19, 7), (20, 2), (19, 8), (22, 2)]


def test_trajectories_that_begin_with_the_same_call_share_it() -> None:
    call, observation = tuple(range(30, 42)), tuple(range(50, 60))
    group = [
        credited([0.5, a], [step(PROMPT, call), step(observation, (answer,))], id=str(answer))
        for answer, a in ((1, 1.0), (2, -1.0))
    ]
    ((row,),) = pack(items_to_train(group, Keep.ALL), pack_tokens=1000, ranks=1)
    assert row.token_count == 20 + 12 + 10 + 2
    assert len(row.predict_at) == 13
    assert len(row.advantages) == 26


def test_only_action_tokens_are_predicted_and_carry_their_steps_advantage() -> None:
    one = credited([2.0, None, -1.0], [step((1, 2), (3, 4)), step((5,), (6,)), step((7, 8), (9,))])
    ((row,),) = pack(items_to_train([one], Keep.ALL), pack_tokens=1000, ranks=1)
    assert row.prediction_target[row.action_prediction].tolist() == [3, 4, 9]
    assert row.advantages.tolist() == [2.0, 2.0, -1.0]
    assert row.value_at.tolist() == [1, 7]


def test_tokens_after_the_last_credit_are_not_computed() -> None:
    one = credited([2.0, 0.0], [step((1, 2), (3, 4)), step((5,) * 50, (6,))])
    ((short,),) = pack(items_to_train([one], Keep.CREDITED), pack_tokens=1000, ranks=1)
    ((whole,),) = pack(items_to_train([one], Keep.ALL), pack_tokens=1000, ranks=1)
    assert (short.token_count, whole.token_count) == (4, 55)


def test_the_state_of_a_step_ends_right_before_its_action() -> None:
    one = scored([0.0, 0.0], steps=[step((1, 2, 3), (4, 5)), step((6, 7), (8,))]).trajectory
    ((row,),) = pack(items_to_read([one]), pack_tokens=1000, ranks=1)
    assert row.token_ids[0, row.value_at].tolist() == [3, 7]
    assert row.value_item.tolist() == [0, 0]


def test_the_state_before_every_action_token_ends_right_before_it() -> None:
    one = scored([0.0, 0.0], steps=[step((1, 2, 3), (4, 5)), step((6, 7), (8,))]).trajectory
    ((row,),) = pack(items_to_read([one], StateAt.TOKENS), pack_tokens=1000, ranks=1)
    assert row.token_ids[0, row.value_at].tolist() == [3, 4, 7]


def test_a_trajectory_without_a_step_has_nothing_to_read() -> None:
    lost, one = scored([], steps=[]).trajectory, scored([0.0], steps=[step((1, 2, 3), (4,))]).trajectory
    for at in (StateAt.STEPS, StateAt.TOKENS):
        assert [item.index for item in items_to_read([lost, one, lost], at)] == [1]
        assert items_to_read([lost], at) == []


def by_token(advantages: list, returns: list) -> CreditedTrajectory:
    """Three steps of two, one and one action tokens."""
    steps = [step((1, 2), (3, 4)), step((5,), (6,)), step((7, 8), (9,))]
    one = scored([0.0] * 3, steps=steps)
    nothing = (None,) * 3
    return CreditedTrajectory(one, nothing, nothing, TokenCredit(tuple(advantages), tuple(returns)))


def test_action_tokens_with_credit_of_their_own_carry_it_and_their_targets() -> None:
    one = by_token([(2.0, 1.0), None, (-1.0,)], [(0.5, 0.25), None, (0.75,)])
    ((row,),) = pack(items_to_train([one], Keep.ALL), pack_tokens=1000, ranks=1)
    assert row.prediction_target[row.action_prediction].tolist() == [3, 4, 9]
    assert row.advantages.tolist() == [2.0, 1.0, -1.0]
    # The token before each action token that is kept, in the sequence 1 2 3 4 5 6 7 8 9.
    assert row.token_ids[0, row.value_at].tolist() == [2, 3, 8]
    assert row.value_targets.tolist() == [0.5, 0.25, 0.75]


def test_a_token_without_credit_in_a_step_that_has_some_is_left_out_of_the_policy_loss_alone() -> None:
    one = by_token([(0.0, 1.0), None, (0.0,)], [(0.5, 0.25), None, (0.75,)])
    ((row,),) = pack(items_to_train([one], Keep.CREDITED), pack_tokens=1000, ranks=1)
    assert row.prediction_target[row.action_prediction].tolist() == [4]
    assert row.token_count == 4


def test_a_critic_is_trained_where_the_policy_is_taught_nothing() -> None:
    """A uniform group has value targets and no advantage."""
    steps = [step((1, 2), (3, 4)), step((5,), (6,))]
    one = CreditedTrajectory(scored([1.0, 1.0], steps=steps), (None, None), (2.0, 1.0))
    ((row,),) = pack(items_to_train([one], Keep.ALL), pack_tokens=1000, ranks=1)
    assert row.value_targets.tolist() == [2.0, 1.0]
    assert row.token_ids.tolist() == [[1, 2, 3, 4, 5]]
    assert len(row.advantages) == 0
    assert items_to_train([one], Keep.CREDITED) == []


def test_rows_keep_to_the_limit_and_ranks_get_as_many_each() -> None:
    demonstrations = [Demonstration((i,) * 30, (False,) * 10 + (True,) * 20) for i in range(10)]
    shares = pack(items_to_imitate(demonstrations), pack_tokens=100, ranks=2)
    assert [len(share) for share in shares] == [2, 2]
    assert all(row.token_count <= 100 for share in shares for row in share)
    assert sum(row.token_count for share in shares for row in share) == 300


def test_a_trajectory_longer_than_a_row_has_one_to_itself() -> None:
    demonstrations = [Demonstration((i,) * n, (False,) + (True,) * (n - 1)) for i, n in enumerate((300, 20, 20))]
    shares = pack(items_to_imitate(demonstrations), pack_tokens=100, ranks=1)
    assert sorted(row.token_count for row in shares[0]) == [40, 300]


def test_a_rank_without_a_trajectory_gets_one_idle_token() -> None:
    shares = pack(items_to_imitate([Demonstration((1, 2, 3), (False, True, True))]), pack_tokens=100, ranks=2)
    assert sorted(share[0].token_count for share in shares) == [1, 3]
    idle = min((share[0] for share in shares), key=lambda row: row.token_count)
    assert (len(idle.advantages), len(idle.predict_at)) == (0, 0)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_rank_lays_out_its_own_rows_and_no_others(ranks: int) -> None:
    demonstrations = [Demonstration((i,) * 30, (False,) * 10 + (True,) * 20) for i in range(10)]
    items = items_to_imitate(demonstrations)
    everyones = pack(items, 60, ranks)
    for rank in range(ranks):
        own = pack_share(items, 60, rank, ranks)
        assert [row.token_ids.tolist() for row in own] == [row.token_ids.tolist() for row in everyones[rank]]
        assert [row.action_item.tolist() for row in own] == [row.action_item.tolist() for row in everyones[rank]]


def test_nothing_to_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 sequences"):
        pack([], 100, 1)


def test_a_sequence_without_a_token_is_refused_by_its_number() -> None:
    whole = items_to_imitate([Demonstration((1, 2, 3), (False, True, True))])
    nothing = [replace(whole[0], index=number, token_ids=(), action_at=(), behaviour=()) for number in (4, 2)]
    with pytest.raises(ValueError, match=r"pack: sequences \[2, 4\] have 0 tokens"):
        pack([*nothing, *whole], 100, 2)


def test_a_demonstration_without_an_action_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one true"):
        Demonstration((1, 2), (False, False))


SEQUENCES = st.lists(st.lists(st.integers(0, 1), min_size=2, max_size=40).map(tuple), min_size=1, max_size=8)


@given(SEQUENCES, st.integers(10, 200), st.integers(1, 3))
def test_every_sequence_can_be_read_back_from_its_row(
    sequences: list[tuple[int, ...]], pack_tokens: int, ranks: int
) -> None:
    demonstrations = [Demonstration(ids, (False,) + (True,) * (len(ids) - 1)) for ids in sequences]
    shares = pack(items_to_imitate(demonstrations), pack_tokens, ranks)
    assert len({len(share) for share in shares}) == 1
    found: dict[int, list[int]] = {}
    for row in (row for share in shares for row in share):
        segment_of = [i for i, s in enumerate(row.segments) for _ in range(s.start, s.end)]
        last = {int(item): n for n, item in enumerate(row.action_item)}
        for item, n in last.items():
            prediction = row.action_prediction[n]
            at = int(row.predict_at[row.prediction_row[prediction]])
            segment = row.segments[segment_of[at]]
            path = path_tokens(row, segment_of[at])[
                : sum(row.segments[j].end - row.segments[j].start for j in segment.ancestors) + at - segment.start + 1
            ]
            assert row.position_ids[0, at] == len(path) - 1
            found[item] = [*path, int(row.prediction_target[prediction])]
    assert found == {i: list(ids) for i, ids in enumerate(sequences)}


def test_a_token_knows_its_step_and_how_many_tokens_step_and_trajectory_have() -> None:
    """The abstained step counts nowhere; the step of advantage zero counts, whether it is computed or not."""
    steps = [step((1, 2), (3, 4)), step((5,), (6,)), step((7,), (8, 9, 10)), step((11,), (12,))]
    pair = [credited([2.0, None, 0.0, -1.0], steps, id="a"), credited([1.0], [step((1, 2), (3,))], id="b")]
    ((row,),) = pack(items_to_train(pair, Keep.ALL), pack_tokens=1000, ranks=1)
    order = row.action_item.tolist()
    a = [i for i, item in enumerate(order) if item == 0]
    assert row.step_tokens[a].tolist() == [2.0, 2.0, 3.0, 3.0, 3.0, 1.0]
    assert row.trajectory_tokens[a].tolist() == [6.0] * 6
    assert [row.action_step[a].tolist().count(s) for s in row.action_step[a].tolist()] == [2, 2, 3, 3, 3, 1]
    assert not set(row.action_step[a].tolist()) & set(row.action_step[[order.index(1)]].tolist())
    ((cut,),) = pack(items_to_train(pair[:1], Keep.CREDITED), pack_tokens=1000, ranks=1)
    assert cut.step_tokens.tolist() == [2.0, 2.0, 1.0]
    assert cut.trajectory_tokens.tolist() == [6.0] * 3


def test_laid_out_apart_every_sequence_is_whole_and_the_limit_counts_all_its_tokens() -> None:
    group = [credited([1.0], [step(PROMPT, (first, 2, 3))], id=f"t-{first}") for first in (7, 8, 9)]
    ((first, second),) = pack(items_to_train(group, Keep.ALL), 50, 1, Layout.APART)
    assert first.token_ids.tolist() == [[*PROMPT, 7, 2, 3, *PROMPT, 8, 2, 3]]
    assert first.position_ids.tolist() == [[*range(23), *range(23)]]
    assert [(s.start, s.end, s.ancestors) for s in first.segments] == [(0, 23, ()), (23, 46, ())]
    assert second.token_ids.tolist() == [[*PROMPT, 9, 2, 3]]
