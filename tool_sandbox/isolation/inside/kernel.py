"""Locks the calling process down for good: Landlock, no new privileges, a system-call filter (landlock(7), seccomp(2)).

Owns the few system calls that Python has no function for. What is done here cannot be undone by any code that runs
later.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RULE_PATH_BENEATH = 1
_CREATE_RULESET_VERSION = 1

_PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS = 4, 22, 36, 38
_PR_SET_PDEATHSIG = 1
_SECCOMP_MODE_FILTER = 2

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE = 1 << 14
_ON_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
READ = _EXECUTE | _READ_FILE | _READ_DIR
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
"""Every right on files that an ABI knows; later ABIs add none."""
_ALL_NETWORK = 0b11
_ALL_SCOPES = 0b11
"""Abstract unix sockets and signals stay inside the domain (ABI 6)."""


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def landlock_abi() -> int:
    """The kernel's Landlock ABI; 0 where it has none."""
    return max(0, _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_CREATE_RULESET_VERSION)))


def restrict_files(readable: Sequence[str], writable: Sequence[str], devices: Sequence[str]) -> None:
    """From now on only these trees can be read or written; no TCP, and no signal to a process outside.

    Paths that do not exist are left out. Raises `OSError` where the kernel refuses, or has no Landlock.
    """
    abi = landlock_abi()
    every = _RIGHTS_BY_ABI[max(1, min(abi, 5))]
    ruleset = _create(abi, every)
    try:
        for paths, rights in ((readable, READ), (writable, every), (devices, _WRITE_FILE | _READ_FILE)):
            for path in paths:
                _allow(ruleset, path, rights & every)
        set_no_new_privileges()
        _checked(_LIBC.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def install_filter(program: bytes) -> None:
    """Apply a system-call filter to this process and all that it starts."""
    set_no_new_privileges()
    arguments = ctypes.byref(_Program(len(program) // 8, program))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, arguments)


def set_no_new_privileges() -> None:
    """No program that this process starts gains rights, setuid or not."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0)


def hide_memory() -> None:
    """Close /proc/self/mem and environ of this process and of those it forks to others of the same user."""
    _prctl(_PR_SET_DUMPABLE, 0, 0)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent died, so that none is lost and its CPU seconds count."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0)


def die_with_parent(signal_number: int) -> None:
    """Get this signal when the parent's thread ends."""
    _prctl(_PR_SET_PDEATHSIG, signal_number, 0)


def give_back_memory() -> None:
    """Return what the allocator keeps but nobody uses: every idle session is a copy of this process."""
    _LIBC.malloc_trim(ctypes.c_size_t(0))


def _create(abi: int, every: int) -> int:
    attributes = _Ruleset(every, _ALL_NETWORK if abi >= 4 else 0, _ALL_SCOPES if abi >= 6 else 0)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    return _checked(_LIBC.syscall(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0)))


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        on_this = rights if os.path.isdir(path) else rights & _ON_FILES
        rule = _PathBeneath(on_this, descriptor)
        _checked(
            _LIBC.syscall(
                _ADD_RULE,
                ctypes.c_int(ruleset),
                ctypes.c_int(_RULE_PATH_BENEATH),
                ctypes.byref(rule),
                ctypes.c_uint32(0),
            )
        )
    finally:
        os.close(descriptor)


def _prctl(operation: int, first: int, second: object) -> None:
    # A variadic function: the kernel reads whole registers, so every argument must fill one.
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in (first, second, 0, 0)]
    _checked(_LIBC.prctl(ctypes.c_int(operation), *words))


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
