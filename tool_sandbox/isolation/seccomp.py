"""The system-call filter of the sandbox, assembled by hand as classic BPF (seccomp(2), bpf(4)).

Produces bytes for `bwrap --seccomp FD`. Refuses what widens the attack surface of the kernel or leaves the sandbox:
namespaces, mounts, tracing, keys, io_uring, modules, every socket but a local one. A number that is newer than this
table gets ENOSYS, so that a new kernel does not open a new door.
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from tool_sandbox.errors import IsolationUnavailable

_LOAD_WORD = 0x20
_JUMP_EQUAL = 0x15
_JUMP_GREATER_EQUAL = 0x35
_JUMP_ANY_BIT = 0x45
_RETURN = 0x06

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_OFFSET_NUMBER = 0
_OFFSET_ARCH = 4
_OFFSET_ARGUMENT_0 = 16

X32_BIT = 0x40000000
_AF_UNIX = 1
_CLONE_NEW = 0x7E020000 | 0x00000080
"""CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """System-call numbers of one machine type."""

    audit: int
    """AUDIT_ARCH_* of linux/audit.h."""
    newest: int
    """Largest number that this table was checked against (Linux 6.1: set_mempolicy_home_node)."""
    socket: int
    clone: int
    clone3: int
    denied: tuple[int, ...]
    has_x32: bool


_DENIED_EVERYWHERE = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 443, 447)
"""pidfd_send_signal, three of io_uring, open_tree, move_mount, fsopen, fsconfig, fsmount, fspick, pidfd_getfd,
process_madvise, mount_setattr, quotactl_fd, memfd_secret: numbers from 424 on are the same on every machine."""

# In the order of the two tables: ptrace process_vm_readv process_vm_writev mount umount2 pivot_root chroot unshare
# setns bpf perf_event_open keyctl add_key request_key userfaultfd kexec_load kexec_file_load init_module finit_module
# delete_module reboot swapon swapoff syslog acct quotactl settimeofday clock_settime adjtimex clock_adjtime
# open_by_handle_at name_to_handle_at kcmp lookup_dcookie fanotify_init nfsservctl vhangup sethostname setdomainname
# personality
_DENIED_X86_64 = (
    *(101, 310, 311, 165, 166, 155, 161, 272, 308, 321, 298, 250),
    *(248, 249, 323, 246, 320, 175, 313, 176, 169, 167, 168),
    *(103, 163, 179, 164, 227, 159, 305, 304, 303, 312),
    *(212, 300, 180, 153, 170, 171, 135),
)
_DENIED_AARCH64 = (
    *(117, 270, 271, 40, 39, 41, 51, 97, 268, 280, 241, 219),
    *(217, 218, 282, 104, 294, 105, 273, 106, 142, 224, 225),
    *(116, 89, 60, 170, 112, 171, 266, 265, 264, 272),
    *(18, 262, 42, 58, 161, 162, 92),
)

ARCHITECTURES: dict[str, Architecture] = {
    "x86_64": Architecture(
        audit=0xC000003E,
        newest=450,
        socket=41,
        clone=56,
        clone3=435,
        denied=_DENIED_X86_64 + _DENIED_EVERYWHERE,
        has_x32=True,
    ),
    "aarch64": Architecture(
        audit=0xC00000B7,
        newest=450,
        socket=198,
        clone=220,
        clone3=435,
        denied=_DENIED_AARCH64 + _DENIED_EVERYWHERE,
        has_x32=False,
    ),
}


def sandbox_filter(machine: str | None = None) -> bytes:
    """The filter for a machine type as `platform.machine()` names it; None means this machine.

    Raises:
        IsolationUnavailable: no table for the machine type.
    """
    name = machine or platform.machine()
    if name not in ARCHITECTURES:
        raise IsolationUnavailable(
            f"seccomp: no system-call table for machine {name!r}; there are tables for {', '.join(ARCHITECTURES)}"
        )
    return b"".join(_program(ARCHITECTURES[name]))


def _program(arch: Architecture) -> list[bytes]:
    return [
        *_load(_OFFSET_ARCH),
        *_when(_JUMP_EQUAL, arch.audit, otherwise=_KILL_PROCESS),
        *_load(_OFFSET_NUMBER),
        *(_return_when(_JUMP_GREATER_EQUAL, X32_BIT, _KILL_PROCESS) if arch.has_x32 else ()),
        *_return_when(_JUMP_GREATER_EQUAL, arch.newest + 1, _ERRNO | errno.ENOSYS),
        # clone3 hides its flags behind a pointer; ENOSYS makes glibc fall back to clone, whose flags can be read.
        *_return_when(_JUMP_EQUAL, arch.clone3, _ERRNO | errno.ENOSYS),
        *(part for number in arch.denied for part in _return_when(_JUMP_EQUAL, number, _ERRNO | errno.EPERM)),
        *_check_argument(arch.clone, _JUMP_ANY_BIT, _CLONE_NEW, hit=_ERRNO | errno.EPERM, miss=_ALLOW),
        *_check_argument(arch.socket, _JUMP_EQUAL, _AF_UNIX, hit=_ALLOW, miss=_ERRNO | errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]


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


def _check_argument(number: int, test: int, value: int, *, hit: int, miss: int) -> Sequence[bytes]:
    """For one call, decide by the low half of its first argument; others pass with the number still loaded."""
    return (
        _instruction(_JUMP_EQUAL, number, 0, 4),
        _instruction(_LOAD_WORD, _OFFSET_ARGUMENT_0),
        _instruction(test, value, 0, 1),
        _instruction(_RETURN, hit),
        _instruction(_RETURN, miss),
    )
