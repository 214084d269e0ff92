"""Attacks by the arguments themselves: values that break whoever checks, encodes, compiles or logs them.

The status that counts as held is one that blames the call; an exception on our side would be the escape.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Mapping
from typing import Any

from tool_sandbox.attacks.attack import Attack, NoControl, Theme
from tool_sandbox.tools import CallStatus

_INVALID = frozenset({CallStatus.INVALID_ARGUMENTS})
_REFUSED = _INVALID | {CallStatus.TOOL_ERROR, CallStatus.OUT_OF_MEMORY, CallStatus.TIMEOUT}
_FROM_HERE = NoControl("it is aimed at the host's side of the call, not at the machine")


def _attack(
    name: str, aim: str, make: Callable[[], Mapping[str, Any]], held_by: frozenset[CallStatus], canary: bool = False
) -> Attack:
    return Attack(
        name,
        Theme.ARGUMENTS,
        aim,
        "",
        canary=canary,
        control=_FROM_HERE,
        held_by=held_by,
        silent=True,
        make_arguments=make,
    )


def _nested() -> Mapping[str, Any]:
    value: Any = "print(1)"
    for _ in range(100_000):
        value = [value]
    return {"code": value}


def _zip_bomb() -> Mapping[str, Any]:
    """64 MiB of zeros, compressed three times: 200 characters that expand to a program of 2 GiB, were they allowed."""
    packed = zlib.compress(bytes(1 << 26), 9)
    for _ in range(2):
        packed = zlib.compress(packed, 9)
    text = base64.b64encode(packed).decode()
    unpack = "for _ in range(3): data = zlib.decompress(data)"
    return {"code": f"import base64, zlib\ndata = base64.b64decode('{text}')\n{unpack}\nexec('x = ' + repr(data * 32))"}


ATTACKS: tuple[Attack, ...] = (
    _attack("nest_an_argument", "A list within a list, 100,000 deep, where text is expected.", _nested, _INVALID, True),
    _attack("send_a_long_argument", "A program of 64 MiB.", lambda: {"code": "#" * (1 << 26)}, _INVALID, True),
    _attack(
        "send_many_arguments",
        "100,000 arguments that the tool does not have.",
        lambda: {"code": "print(1)", **{f"x{number}": 0 for number in range(100_000)}},
        _INVALID,
    ),
    _attack("send_the_wrong_type", "A number where a program is expected.", lambda: {"code": 7}, _INVALID),
    _attack(
        "send_half_a_surrogate",
        "Text that no encoding can carry, as JSON's \\ud800 gives it.",
        lambda: {"code": "print('\ud800')"},
        _REFUSED | {CallStatus.OK},
    ),
    _attack(
        "send_a_null_character",
        "A program with a character that ends strings in C.",
        lambda: {"code": "print(1)\0print(2)"},
        _REFUSED,
    ),
    _attack("send_a_zip_bomb", "A short program that is a compressed, much longer one.", _zip_bomb, _REFUSED),
    _attack(
        "nest_a_program",
        "Parentheses nested deeper than the parser's stack.",
        lambda: {"code": "(" * 9_000 + ")" * 9_000},
        _REFUSED,
    ),
    _attack(
        "chain_a_program",
        "A sum so long that its compiler recurses to death.",
        lambda: {"code": "x = " + "-" * 19_000 + "1"},
        _REFUSED,
    ),
    _attack(
        "fold_a_constant",
        "Expressions that the compiler itself computes.",
        lambda: {"code": "x = ((((9 ** 999) ** 999) ** 99) ** 99) ** 9"},
        _REFUSED,
    ),
)
