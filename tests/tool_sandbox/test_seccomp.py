"""The system-call filter, run by a small interpreter of classic BPF: no kernel needed, so both machines are checked."""

from __future__ import annotations

import errno
import struct

import pytest

from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.seccomp import ARCHITECTURES, sandbox_filter

ALLOW = 0x7FFF0000
KILL = 0x80000000
AF_UNIX, AF_INET, AF_NETLINK = 1, 2, 16
CLONE_THREAD, CLONE_NEWUSER = 0x00010000, 0x10000000

NUMBERS = {
    "x86_64": {"read": 0, "execve": 59, "clone": 56, "socket": 41, "ptrace": 101, "mount": 165, "unshare": 272},
    "aarch64": {"read": 63, "execve": 221, "clone": 220, "socket": 198, "ptrace": 117, "mount": 40, "unshare": 97},
}
SHARED = {"clone3": 435, "io_uring_setup": 425, "pidfd_getfd": 438}


def verdict(program: bytes, arch: int, number: int, argument: int = 0) -> int:
    """Run the filter on `struct seccomp_data`; the three tests and two other instructions it uses."""
    data = struct.pack("=IIQQ", number, arch, 0, argument)
    code = list(struct.iter_unpack("=HBBI", program))
    position, word = 0, 0
    while True:
        operation, on_true, on_false, value = code[position]
        position += 1
        if operation == 0x20:
            (word,) = struct.unpack_from("=I", data, value)
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[operation]
            position += on_true if holds else on_false


def refused(code: int) -> int:
    return 0x00050000 | code


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_ordinary_calls_pass_and_escapes_do_not(machine: str) -> None:
    program, arch, numbers = sandbox_filter(machine), ARCHITECTURES[machine].audit, NUMBERS[machine] | SHARED
    for name in ("read", "execve"):
        assert verdict(program, arch, numbers[name]) == ALLOW
    for name in ("ptrace", "mount", "unshare", "io_uring_setup", "pidfd_getfd"):
        assert verdict(program, arch, numbers[name]) == refused(errno.EPERM), name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_clone_makes_threads_but_no_namespaces(machine: str) -> None:
    program, arch, numbers = sandbox_filter(machine), ARCHITECTURES[machine].audit, NUMBERS[machine]
    assert verdict(program, arch, numbers["clone"], CLONE_THREAD) == ALLOW
    assert verdict(program, arch, numbers["clone"], CLONE_NEWUSER) == refused(errno.EPERM)
    assert verdict(program, arch, SHARED["clone3"]) == refused(errno.ENOSYS)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_local_sockets_exist(machine: str) -> None:
    program, arch, numbers = sandbox_filter(machine), ARCHITECTURES[machine].audit, NUMBERS[machine]
    assert verdict(program, arch, numbers["socket"], AF_UNIX) == ALLOW
    for family in (AF_INET, AF_NETLINK):
        assert verdict(program, arch, numbers["socket"], family) == refused(errno.EPERM)


def test_a_foreign_machine_and_x32_numbers_kill_the_process() -> None:
    program = sandbox_filter("x86_64")
    assert verdict(program, ARCHITECTURES["aarch64"].audit, 0) == KILL
    assert verdict(program, ARCHITECTURES["x86_64"].audit, 0x40000000) == KILL


def test_a_number_newer_than_the_table_is_unknown() -> None:
    program = sandbox_filter("x86_64")
    assert verdict(program, ARCHITECTURES["x86_64"].audit, 450) == ALLOW
    assert verdict(program, ARCHITECTURES["x86_64"].audit, 451) == refused(errno.ENOSYS)


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(IsolationUnavailable, match="no system-call table for machine 'riscv64'"):
        sandbox_filter("riscv64")
