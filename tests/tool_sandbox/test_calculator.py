"""The calculator: exact, bounded, and not a way to run anything."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tool_sandbox.reasoning.calculator import MAX_CHARACTERS, NotArithmetic, calculate, evaluate, written
from tool_sandbox.tools import CallStatus, ToolCall


def said(expression: str) -> tuple[CallStatus, str]:
    result = calculate(ToolCall("c", "calculator", {"expression": expression}))
    return result.status, result.content


@pytest.mark.parametrize(
    ("expression", "result"),
    [
        ("2 + 3 * 4", "14"),
        (" (2 + 3) * 4 ", "20"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("0.1 + 0.2", "0.3"),
        ("859.6 + 467.8685 + 914.41 + 807.7 - 961.79 - 857.2", "1230.5885"),
        ("1/8", "0.125"),
        ("-1/8", "-0.125"),
        ("1/3", "0.333333333333333"),
        ("10/4*2", "5"),
        ("2**10", "1024"),
        ("2**-2", "0.25"),
        ("2**0.5", "1.4142135623730951454746218587388284504413604736328125"),
        ("sqrt(1/4)", "0.5"),
        ("(0x86c >> 0x3) * (0xa723 - 0xe46)", "10526777"),
        ("~5 & 0xff ^ 1 | 2", "251"),
        ("gcd(760, 368) + lcm(4, 6)", "20"),
        ("round(2.675, 2) + floor(-1.5) + ceil(1.2) + abs(-3) + min(4, 5) + max(1, 2)", "11.68"),
        ("1e3", "1000"),
    ],
)
def test_arithmetic_is_exact(expression: str, result: str) -> None:
    assert said(expression) == (CallStatus.OK, result)


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("1 / 0", "division by zero"),
        ("5 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("2 ** 100000", "number too large"),
        ("9**999 * 9**999", "number too large"),
        ("1 << 10**9", "shift by more than 4096 places, or by less than none"),
        ("1 << -1", "shift by more than 4096 places, or by less than none"),
        ("1.5 << 2", "whole numbers only"),
        ("sqrt(-1)", "no such square root"),
        ("(-8) ** 0.5", "no such power"),
        ("round(1, 10**9)", "round to more than 1024 places"),
        ("gcd()", "gcd takes 1 to 500 numbers, found 0"),
        ("sin(1)", "no function sin"),
        ("True + 1", "not an arithmetic expression"),
        ("1 if 2 else 3", "not an arithmetic expression"),
        ("x + 1", "not an arithmetic expression"),
        ("'a' * 3", "not an arithmetic expression"),
        ("1e999", "not an arithmetic expression"),
        ("2 +", "not an arithmetic expression"),
        ("(" * 240 + "1" + ")" * 240, "not an arithmetic expression"),
        ("__import__('os').getcwd()", "not an arithmetic expression"),
        ("abs(*[1])", "not an arithmetic expression"),
        ("().__class__", "not an arithmetic expression"),
    ],
)
def test_everything_else_is_the_models_error_in_a_few_words(expression: str, complaint: str) -> None:
    assert said(expression) == (CallStatus.TOOL_ERROR, f"error: {complaint}")


@pytest.mark.parametrize("arguments", [{}, {"expression": 5}, {"expression": "1" * (MAX_CHARACTERS + 1)}])
def test_arguments_that_do_not_fit_never_reach_the_parser(arguments: dict) -> None:
    assert calculate(ToolCall("c", "calculator", arguments)).status is CallStatus.INVALID_ARGUMENTS


@pytest.mark.parametrize(
    "expression",
    [
        "-" * 499 + "1",
        "**".join(["9"] * 160),
        "*".join(["9**99"] * 80),
        "lcm(" + ",".join(f"{n}**{n}" for n in range(301, 345, 2)) + ")",
        "sqrt(" * 80 + "2" + ")" * 80,
    ],
)
def test_no_expression_takes_long(expression: str) -> None:
    began = time.process_time()
    said(expression)
    assert time.process_time() - began < 0.5


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**4))
@settings(max_examples=60, deadline=None)
def test_a_finite_decimal_is_written_without_loss(numerator: int, denominator: int) -> None:
    value = evaluate(f"{numerator} / {denominator}")
    text = written(value)
    if denominator in (1, 2, 4, 5, 8, 10, 16, 20, 25, 100, 1000):
        assert evaluate(text) == value
    assert float(text) == pytest.approx(numerator / denominator)


def test_a_number_that_no_text_can_give_is_refused() -> None:
    with pytest.raises(NotArithmetic, match="number too large"):
        written(evaluate("2**4000 / 3"))
