"""The system-call filter of the sandbox, assembled by hand as classic BPF (seccomp(2), bpf(4)).

Consumes a `Policy`; produces bytes for `bwrap --seccomp FD` and for seccomp(2). A call that the policy does not allow
gets EPERM, so that code sees a permission error; a number that is newer than the tables gets ENOSYS, so that a new
kernel does not open a new door; a foreign instruction set kills the process.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.syscalls import NEWEST, Policy

_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_ANY_BIT = 0x45
_AND = 0x54
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_OFFSET_NUMBER = 0
_OFFSET_ARCH = 4
_OFFSET_ARGUMENTS = (16, 24)
"""Low halves of the first two arguments; both machines are little-endian."""

X32_BIT = 0x40000000
_CLONE3 = 435


@dataclass(frozen=True, slots=True)
class Architecture:
    """One machine type."""

    audit: int
    """AUDIT_ARCH_* of linux/audit.h."""
    column: int
    """Which of the numbers in `syscalls` are this machine's."""
    has_x32: bool


ARCHITECTURES: dict[str, Architecture] = {
    "x86_64": Architecture(audit=0xC000003E, column=0, has_x32=True),
    "aarch64": Architecture(audit=0xC00000B7, column=1, has_x32=False),
}


def assemble(policy: Policy, machine: str | None = None) -> bytes:
    """The filter of a policy for a machine type as `platform.machine()` names it; None means this machine.

    Raises:
        IsolationUnavailable: no table for the machine type.
    """
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise IsolationUnavailable(
            f"seccomp: no system-call table for machine {name!r}; there are tables for {', '.join(ARCHITECTURES)}"
        )
    return b"".join(_program(policy, ARCHITECTURES[name]))


def _program(policy: Policy, arch: Architecture) -> list[bytes]:
    numbers = {name: row[arch.column] for name, row in policy.allowed.items()}
    checked = {name: numbers.pop(name, None) for name in ("clone", "prctl", "prlimit64", "ioctl")}
    return [
        *_load(_OFFSET_ARCH),
        *_when(_JUMP_EQUAL, arch.audit, otherwise=_KILL_PROCESS),
        *_load(_OFFSET_NUMBER),
        *(_return_when(_JUMP_GREATER_EQUAL, X32_BIT, _KILL_PROCESS) if arch.has_x32 else ()),
        *_return_when(_JUMP_GREATER_EQUAL, NEWEST + 1, _ERRNO | errno.ENOSYS),
        # clone3 hides its flags behind a pointer; ENOSYS makes glibc fall back to clone, whose flags can be read.
        *_return_when(_JUMP_EQUAL, _CLONE3, _ERRNO | errno.ENOSYS),
        *_only_for(checked["clone"], _clone(policy)),
        *_only_for(checked["prctl"], _one_of(0, policy.prctl)),
        *_only_for(checked["prlimit64"], _one_of(0, policy.prlimit)),
        *_only_for(checked["ioctl"], _one_of(1, policy.ioctl)),
        *(part for number in numbers.values() for part in _allow(number)),
        _instruction(_RETURN, _ERRNO | errno.EPERM),
    ]


def _clone(policy: Policy) -> list[bytes]:
    """Allow `clone` when its flags carry what the policy needs and nothing that it forbids."""
    needs = policy.clone_needs
    return [
        *_load(_OFFSET_ARGUMENTS[0]),
        *_return_when(_JUMP_ANY_BIT, policy.clone_forbids, _ERRNO | errno.EPERM),
        *((_instruction(_AND, needs), *_when(_JUMP_EQUAL, needs, otherwise=_ERRNO | errno.EPERM)) if needs else ()),
        _instruction(_RETURN, _ALLOW),
    ]


def _one_of(argument: int, values: Iterable[int] | None) -> list[bytes]:
    if values is None:
        return [_instruction(_RETURN, _ALLOW)]
    return [
        *_load(_OFFSET_ARGUMENTS[argument]),
        *(part for value in values for part in _return_when(_JUMP_EQUAL, value, _ALLOW)),
        _instruction(_RETURN, _ERRNO | errno.EPERM),
    ]


def _only_for(number: int | None, body: Sequence[bytes]) -> Sequence[bytes]:
    """The body decides one call; every other one passes it with the number still loaded."""
    return () if number is None else (_instruction(_JUMP_EQUAL, number, 0, len(body)), *body)


def _allow(number: int | None) -> Sequence[bytes]:
    return () if number is None else _return_when(_JUMP_EQUAL, number, _ALLOW)


def _instruction(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    """One `struct sock_filter`: code, the two jumps, the operand."""
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _load(offset: int) -> Sequence[bytes]:
    return (_instruction(_LOAD_WORD, offset),)


def _when(test: int, value: int, *, otherwise: int) -> Sequence[bytes]:
    """Go on if the test holds, else return."""
    return (_instruction(test, value, 1, 0), _instruction(_RETURN, otherwise))


def _return_when(test: int, value: int, verdict: int) -> Sequence[bytes]:
    return (_instruction(test, value, 0, 1), _instruction(_RETURN, verdict))
