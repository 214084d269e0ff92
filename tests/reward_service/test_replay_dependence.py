"""Which calls rest on which, by the words of arguments and results. Masks: bit i stands for call i."""

from __future__ import annotations

from reward_service.replay.dependence import Deed, dependence


def called(arguments: object, result: str) -> Deed:
    return Deed(arguments, result, is_call=True)


def replied(said: str) -> Deed:
    return Deed(None, said, is_call=False)


def test_a_call_rests_on_the_only_result_that_showed_its_argument():
    found = dependence(
        "Who is the boss of Amy?", [called({"person": "amy"}, "bo"), called({"person": "bo"}, "cal")], "cal"
    )
    assert [found.gone_without(0), found.gone_without(1)] == [0b11, 0b10]
    assert [found.knows_answer(0b01), found.knows_answer(0b10)] == [True, False]


def test_what_two_results_showed_is_lost_with_both_of_them_only():
    deeds = [called({"x": 1}, "bo"), called({"x": 2}, "Bo!"), called({"person": "bo"}, "7")]
    found = dependence("", deeds, "7")
    assert [found.gone_without(0), found.gone_without(1)] == [0b001, 0b010]
    assert not found.knows_answer(0b111)


def test_loss_goes_on_along_a_chain():
    deeds = [
        called({"x": 1}, "bo"),
        called({"person": "bo"}, "lamp"),
        called({"item": "lamp"}, "34"),
        called({"x": 5}, "9"),
    ]
    assert dependence("", deeds, "34").gone_without(0) == 0b0111


def test_what_the_user_said_and_what_the_model_guessed_is_learned_from_no_call():
    deeds = [
        called({"person": "bo"}, "error: no row bo"),
        called({"person": "bo"}, "amy"),
        replied("Now ask for Cal."),
        called({"person": "cal"}, "x"),
    ]
    found = dependence("Ask for Dan.", deeds, "y")
    assert [found.gone_without(position) for position in (0, 1, 3)] == [0b0001, 0b0010, 0b1000]
    assert found.knows_answer(0b1011)


def test_words_are_found_at_any_depth_and_numbers_are_words():
    deeds = [called({"x": True}, "34 lamps"), called({"rows": [{"n": 34}]}, "")]
    assert dependence("", deeds, "").gone_without(0) == 0b11
