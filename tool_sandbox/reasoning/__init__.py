"""Reasoning with a calculator: questions of `reasoning-gym`, its scorers, a calculator and the `python` tool.

The registry reaches it through `toolset`. Generators and scorers come from the installed package (extra `reasoning`).
"""

from __future__ import annotations

from tool_sandbox.reasoning.toolset import ReasoningToolset

__all__ = ["ReasoningToolset", "toolset"]


def toolset() -> ReasoningToolset:
    """The factory behind the entry point `reasoning`. Raises `InvalidToolset` where the package is not installed."""
    return ReasoningToolset()
