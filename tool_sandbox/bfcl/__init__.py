"""BFCL multi-turn: eight tool classes and 4 × 200 dialogues of the Berkeley Function-Calling Leaderboard.

The registry reaches it through `toolset`. Tasks, tools and ground truth come from the installed package `bfcl-eval`
(extra `bfcl`); sessions, calls and verdicts are ours. A public benchmark: call a score on it trained-on where it is.
"""

from __future__ import annotations

from tool_sandbox.bfcl.toolset import BfclToolset

__all__ = ["BfclToolset", "toolset"]


def toolset() -> BfclToolset:
    """The factory behind the entry point `bfcl`. Raises `InvalidToolset` where `bfcl-eval` is not installed."""
    return BfclToolset()
