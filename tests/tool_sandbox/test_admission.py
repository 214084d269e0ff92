"""The waiting room: bounded, fair between owners, and nothing is lost when somebody stops waiting."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tool_sandbox.admission import WaitingRoom


def test_free_places_are_granted_at_once_and_the_rest_waits() -> None:
    room = WaitingRoom(2)
    first, second, third = (room.ask("a") for _ in range(3))
    assert (first.done(), second.done(), third.done()) == (True, True, False)
    assert (room.held(), room.waiting()) == ({"a": 2}, 1)
    room.release("a")
    assert third.done()


def test_a_run_that_asks_for_much_does_not_keep_out_one_that_asks_for_little() -> None:
    room = WaitingRoom(4)
    greedy = [room.ask("greedy") for _ in range(100)]
    modest = [room.ask("modest") for _ in range(2)]
    assert [one.done() for one in modest] == [False, False]
    room.release("greedy")
    room.release("greedy")
    # Both freed places go to the owner that holds fewer: 0 against 3, then 1 against 2.
    assert [one.done() for one in modest] == [True, True]
    assert room.held() == {"greedy": 2, "modest": 2}
    assert sum(one.done() for one in greedy) == 4


def test_among_equals_whoever_waits_longest_comes_first() -> None:
    room = WaitingRoom(1)
    room.ask("a")
    b, c = room.ask("b"), room.ask("c")
    room.release("a")
    assert (b.done(), c.done()) == (True, False)


def test_who_gives_up_frees_the_place_that_was_granted_meanwhile() -> None:
    room = WaitingRoom(1)
    room.ask("a")
    late, later = room.ask("b"), room.ask("c")
    room.release("a")
    assert late.done()
    room.give_up("b", late)
    assert later.done()
    waiting = room.ask("d")
    room.give_up("d", waiting)
    assert (room.held(), room.waiting()) == ({"c": 1}, 0)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60))
def test_never_more_places_than_there_are_and_none_idle_while_somebody_waits(moves: list[tuple[str, bool]]) -> None:
    room = WaitingRoom(3)
    for owner, leaves in moves:
        if leaves and room.held().get(owner):
            room.release(owner)
        else:
            room.ask(owner)
        held = sum(room.held().values())
        assert held <= 3
        assert held == 3 or room.waiting() == 0
