"""Ledger world: seeded databases, short tools, tasks sampled as call graphs, and exact distances.

The registry reaches it through `toolset`. Everything here is deterministic and runs in-process.
"""

from __future__ import annotations

from tool_sandbox.ledger.toolset import LedgerToolset

__all__ = ["LedgerToolset", "toolset"]


def toolset() -> LedgerToolset:
    """The factory behind the entry point `ledger`."""
    return LedgerToolset()
