"""Which isolation this machine can give, found out by trying, and never less than was asked for.

Owns the choice of a level. That the level holds what it promises is what `canaries` verifies.
"""

from __future__ import annotations

from dataclasses import dataclass

from tool_sandbox.config import SandboxConfig
from tool_sandbox.errors import IsolationUnavailable
from tool_sandbox.isolation.worker import Worker
from tool_sandbox.tools import IsolationLevel

SCOPED_SIGNALS_ABI = 6
"""Landlock's ABI of Linux 6.12. Without it, code outside a process namespace could signal processes of its user."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The level, and why no stronger one."""

    level: IsolationLevel
    landlock_abi: int
    reasons: tuple[str, ...]


def reach(config: SandboxConfig) -> Reached:
    """The strongest level that starts here.

    Raises:
        IsolationUnavailable: it is below `config.min_level`; says what was tried and what came of it.
    """
    reasons: list[str] = []
    for level in (IsolationLevel.NAMESPACES, IsolationLevel.LANDLOCK):
        if not level.at_least(config.min_level):
            break
        try:
            return Reached(level, _try(config, level), tuple(reasons))
        except IsolationUnavailable as error:
            reasons.append(f"{level.value}: {error}")
    raise IsolationUnavailable(
        f"sandbox: this machine does not reach the level {config.min_level.value!r} ({'; '.join(reasons)}). Allow user "
        "namespaces (sysctl kernel.unprivileged_userns_clone, the container's seccomp and AppArmor profiles), or "
        "accept less by sandbox.min_level: landlock"
    )


def _try(config: SandboxConfig, level: IsolationLevel) -> int:
    worker = Worker(config, level)
    try:
        abi = int(worker.ready["landlock_abi"])
    finally:
        worker.close()
    if level is IsolationLevel.LANDLOCK and abi < SCOPED_SIGNALS_ABI:
        raise IsolationUnavailable(f"the kernel's Landlock has ABI {abi}; {SCOPED_SIGNALS_ABI} is needed (Linux 6.12)")
    return abi
