"""The system-call filter, run by a small interpreter of classic BPF: no kernel needed, so both machines are checked."""

from __future__ import annotations

import errno
import struct

import pytest

from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.seccomp import ARCHITECTURES, assemble
from tool_sandbox.isolation.syscalls import CODE, LONE_CODE, NEWEST, SUPERVISOR, Policy

ALLOW = 0x7FFF0000
KILL = 0x80000000
CLONE_THREAD, CLONE_NEWUSER = 0x00010000, 0x10000000
PR_SET_NAME, PR_SET_DUMPABLE, TIOCSTI, TCGETS = 15, 4, 0x5412, 0x5401
MACHINES = ("x86_64", "aarch64")

NUMBERS = {
    "x86_64": {"read": 0, "clone": 56, "execve": 59, "socket": 41, "ptrace": 101, "mount": 165, "unshare": 272}
    | {"prctl": 157, "ioctl": 16, "prlimit64": 302, "memfd_create": 319, "process_vm_readv": 310, "keyctl": 250}
    | {"wait4": 61, "seccomp": 317, "socketpair": 53},
    "aarch64": {"read": 63, "clone": 220, "execve": 221, "socket": 198, "ptrace": 117, "mount": 40, "unshare": 97}
    | {"prctl": 167, "ioctl": 29, "prlimit64": 261, "memfd_create": 279, "process_vm_readv": 270, "keyctl": 219}
    | {"wait4": 260, "seccomp": 277, "socketpair": 199},
}
SHARED = {"clone3": 435, "io_uring_setup": 425, "pidfd_getfd": 438, "landlock_restrict_self": 446}


def verdict(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """Run the filter on `struct seccomp_data`; the tests and instructions that it uses."""
    data = struct.pack("=IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    position, word = 0, 0
    while True:
        operation, on_true, on_false, value = code[position]
        position += 1
        if operation == 0x20:
            (word,) = struct.unpack_from("=I", data, value)
        elif operation == 0x54:
            word &= value
        elif operation == 0x06:
            return value
        else:
            holds = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[operation]
            position += on_true if holds else on_false


def refused(code: int) -> int:
    return 0x00050000 | code


def decide(policy: Policy, machine: str, name: str, *arguments: int) -> int:
    number = (NUMBERS[machine] | SHARED)[name]
    return verdict(assemble(policy, machine), ARCHITECTURES[machine].audit, number, *arguments)


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("policy", [SUPERVISOR, CODE, LONE_CODE], ids=lambda policy: policy.name)
def test_ordinary_calls_pass_and_escapes_do_not(policy: Policy, machine: str) -> None:
    for name in ("read", "socketpair"):
        assert decide(policy, machine, name) == ALLOW, name
    for name in ("ptrace", "mount", "unshare", "io_uring_setup", "pidfd_getfd", "socket", "memfd_create", "keyctl"):
        assert decide(policy, machine, name) == refused(errno.EPERM), name


@pytest.mark.parametrize("machine", MACHINES)
def test_only_the_supervisor_may_lock_down_and_only_namespaces_may_fork(machine: str) -> None:
    may = {"landlock_restrict_self": ["supervisor"], "seccomp": ["supervisor"], "execve": ["supervisor", "code"]}
    for name, allowed in may.items():
        for policy in (SUPERVISOR, CODE, LONE_CODE):
            expected = ALLOW if policy.name in allowed else refused(errno.EPERM)
            assert decide(policy, machine, name) == expected, (policy.name, name)


@pytest.mark.parametrize("machine", MACHINES)
def test_clone_makes_threads_but_no_namespaces(machine: str) -> None:
    for policy in (SUPERVISOR, CODE, LONE_CODE):
        assert decide(policy, machine, "clone", CLONE_THREAD) == ALLOW
        assert decide(policy, machine, "clone", CLONE_THREAD | CLONE_NEWUSER) == refused(errno.EPERM)
        assert decide(policy, machine, "clone3") == refused(errno.ENOSYS)
    assert decide(CODE, machine, "clone", 17) == ALLOW
    assert decide(LONE_CODE, machine, "clone", 17) == refused(errno.EPERM)


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide_about_three_calls(machine: str) -> None:
    assert decide(CODE, machine, "prctl", PR_SET_NAME) == ALLOW
    assert decide(CODE, machine, "prctl", PR_SET_DUMPABLE) == refused(errno.EPERM)
    assert decide(SUPERVISOR, machine, "prctl", PR_SET_DUMPABLE) == ALLOW
    assert decide(CODE, machine, "ioctl", 0, TCGETS) == ALLOW
    assert decide(CODE, machine, "ioctl", 0, TIOCSTI) == refused(errno.EPERM)
    assert decide(CODE, machine, "prlimit64", 0) == ALLOW
    assert decide(CODE, machine, "prlimit64", 1) == refused(errno.EPERM)


def test_a_foreign_machine_and_x32_numbers_kill_the_process() -> None:
    program = assemble(CODE, "x86_64")
    assert verdict(program, ARCHITECTURES["aarch64"].audit, 0) == KILL
    assert verdict(program, 0x40000003, 11) == KILL  # execve by int 0x80
    assert verdict(program, ARCHITECTURES["x86_64"].audit, 0x40000000) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_what_is_not_named_is_refused_and_what_is_newer_is_unknown(machine: str) -> None:
    program, arch = assemble(CODE, machine), ARCHITECTURES[machine]
    allowed = {row[arch.column] for row in CODE.allowed.values()}
    refusals = {number for number in range(NEWEST + 1) if verdict(program, arch.audit, number) != ALLOW}
    # The four that look at their arguments refuse zeros or not; clone3 never passes.
    looked_at = {CODE.allowed[name][arch.column] for name in ("clone", "prctl", "ioctl", "prlimit64")}
    assert refusals - looked_at == set(range(NEWEST + 1)) - allowed
    assert verdict(program, arch.audit, NEWEST + 1) == refused(errno.ENOSYS)


def test_a_machine_without_a_table_is_refused() -> None:
    with pytest.raises(IsolationUnavailable, match="no system-call table for machine 'riscv64'"):
        assemble(CODE, "riscv64")
