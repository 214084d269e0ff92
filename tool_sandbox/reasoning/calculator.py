"""The `calculator` tool: exact arithmetic on one expression, within bounds.

Owns the spec, the grammar and its evaluation. The expression is parsed as Python and walked; nothing in it is ever
executed. Numbers are exact fractions, so that `0.1 + 0.2` is `0.3`. Operands are bounded, and what could grow fast is
refused before it is computed, so that no expression takes longer than some milliseconds.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from tool_sandbox.arguments import check_arguments, invalid_arguments
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult, ToolSpec

MAX_CHARACTERS = 500
MAX_BITS = 4096
"""Of a numerator or a denominator; about 1,200 decimal digits."""
_NO_PLACES = Fraction(0)
SIGNIFICANT_DIGITS = 15
"""Of a result that no decimal number gives exactly."""

CALCULATOR_SPEC = ToolSpec(
    name="calculator",
    description=(
        "Evaluate one arithmetic expression, exactly: + - * / // % **, << >> & | ^ ~ on whole numbers, "
        "abs, round, floor, ceil, min, max, gcd, lcm, sqrt."
    ),
    parameters={
        "type": "object",
        "properties": {"expression": {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}},
        "required": ["expression"],
        "additionalProperties": False,
    },
    family="arithmetic",
)


class NotArithmetic(ValueError):
    """The expression cannot be evaluated; the message is for the model."""


def calculate(call: ToolCall) -> ToolResult:
    """Run one call of the calculator."""
    complaint = check_arguments(CALCULATOR_SPEC, call)
    if complaint is not None:
        return invalid_arguments(call, complaint)
    try:
        return ToolResult(call.id, CallStatus.OK, written(evaluate(call.arguments["expression"])))
    except NotArithmetic as error:
        return ToolResult(call.id, CallStatus.TOOL_ERROR, f"error: {error}")


def evaluate(expression: str) -> Fraction:
    """The exact value of an expression; of a square root, the nearest double.

    Raises:
        NotArithmetic: it is no arithmetic, divides by zero, or grows beyond the bounds.
    """
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except ZeroDivisionError as error:
        raise NotArithmetic("division by zero") from error
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, NotArithmetic):
            raise
        raise NotArithmetic("not an arithmetic expression") from error


def written(number: Fraction) -> str:
    """A whole number or a finite decimal exactly, any other number to 15 significant digits.

    Raises:
        NotArithmetic: it has no end and lies beyond the range of a double.
    """
    if number.denominator == 1:
        return str(number.numerator)
    places = _decimal_places(number.denominator)
    if places is None:
        if not _fits_double(number):
            raise NotArithmetic("number too large")
        return f"{float(number):.{SIGNIFICANT_DIGITS}g}"
    digits = f"{abs(number.numerator) * 10**places // number.denominator:0{places + 1}d}"
    return f"{'-' if number < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=bool()):
            raise NotArithmetic("not an arithmetic expression")
        case ast.Constant(value=int(number)):
            return _bounded(Fraction(number))
        case ast.Constant(value=float(number)) if math.isfinite(number):
            # The shortest text that gives this double is what was written, up to 17 digits.
            return _bounded(Fraction(repr(number)))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _UNARY:
            return _UNARY[type(op)](_value(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _bounded(_BINARY[type(op)](_value(left), _value(right)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _bounded(_applied(name, [_value(argument) for argument in arguments]))
        case ast.Call(func=ast.Name(id=name)):
            raise NotArithmetic(f"no function {name[:20]}")
        case _:
            raise NotArithmetic("not an arithmetic expression")


def _applied(name: str, values: list[Fraction]) -> Fraction:
    function, least, most = _FUNCTIONS[name]
    if not least <= len(values) <= most:
        raise NotArithmetic(f"{name} takes {least} to {most} numbers, found {len(values)}")
    return Fraction(function(*values))


def _bounded(number: Fraction) -> Fraction:
    if max(_bits(number.numerator), _bits(number.denominator)) > MAX_BITS:
        raise NotArithmetic("number too large")
    return number


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1:
        if base < 0 or not _fits_double(base):
            raise NotArithmetic("no such power")
        try:
            return Fraction(float(base) ** float(exponent))
        except OverflowError as error:
            raise NotArithmetic("number too large") from error
    if max(_bits(base.numerator), _bits(base.denominator)) * abs(exponent.numerator) > 2 * MAX_BITS:
        raise NotArithmetic("number too large")
    return Fraction(base**exponent.numerator)


def _shift(function: Callable[[int, int], int]) -> Callable[[Fraction, Fraction], Fraction]:
    def shifted(number: Fraction, places: Fraction) -> Fraction:
        if not 0 <= places <= MAX_BITS:
            raise NotArithmetic(f"shift by more than {MAX_BITS} places, or by less than none")
        return Fraction(function(_whole(number), _whole(places)))

    return shifted


def _square_root(number: Fraction) -> Fraction:
    if number < 0 or not _fits_double(number):
        raise NotArithmetic("no such square root")
    roots = math.isqrt(number.numerator), math.isqrt(number.denominator)
    if (roots[0] ** 2, roots[1] ** 2) == (number.numerator, number.denominator):
        return Fraction(*roots)
    return Fraction(math.sqrt(number))


def _rounded(number: Fraction, places: Fraction = _NO_PLACES) -> Fraction:
    if abs(places) > MAX_BITS // 4:
        raise NotArithmetic(f"round to more than {MAX_BITS // 4} places")
    return Fraction(round(number, _whole(places)))


def _whole(number: Fraction) -> int:
    if number.denominator != 1:
        raise NotArithmetic("whole numbers only")
    return number.numerator


def _on_whole(function: Callable[..., int]) -> Callable[..., Fraction]:
    return lambda *values: Fraction(function(*map(_whole, values)))


def _bits(number: int) -> int:
    return abs(number).bit_length()


def _fits_double(number: Fraction) -> bool:
    return abs(_bits(number.numerator) - _bits(number.denominator)) < 1000


def _decimal_places(denominator: int) -> int | None:
    """Digits after the point of a fraction in lowest terms; None where they never end."""
    counts = []
    for prime in (2, 5):
        count = 0
        while denominator % prime == 0:
            denominator //= prime
            count += 1
        counts.append(count)
    return max(counts) if denominator == 1 else None


_UNARY: dict[type[ast.unaryop], Callable[[Fraction], Fraction]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Invert: _on_whole(int.__invert__),
}
_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: lambda left, right: Fraction(left // right),
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.LShift: _shift(operator.lshift),
    ast.RShift: _shift(operator.rshift),
    ast.BitAnd: _on_whole(operator.and_),
    ast.BitOr: _on_whole(operator.or_),
    ast.BitXor: _on_whole(operator.xor),
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "abs": (abs, 1, 1),
    "round": (_rounded, 1, 2),
    "floor": (math.floor, 1, 1),
    "ceil": (math.ceil, 1, 1),
    "min": (min, 2, MAX_CHARACTERS),
    "max": (max, 2, MAX_CHARACTERS),
    "gcd": (_on_whole(math.gcd), 1, MAX_CHARACTERS),
    "lcm": (_on_whole(math.lcm), 1, MAX_CHARACTERS),
    "sqrt": (_square_root, 1, 1),
}
"""By name: the function, and how many numbers it takes at least and at most."""
