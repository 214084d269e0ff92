"""All attacks. A new one is an entry in the module of its theme."""

from __future__ import annotations

from tool_sandbox.attacks import (
    arguments,
    environment,
    files,
    kernel,
    network,
    output,
    persistence,
    processes,
    resources,
)
from tool_sandbox.attacks.attack import Attack

_MODULES = (files, environment, network, processes, kernel, resources, persistence, output, arguments)


def all_attacks() -> tuple[Attack, ...]:
    """The corpus, ordered by theme."""
    return tuple(attack for module in _MODULES for attack in module.ATTACKS)
