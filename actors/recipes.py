"""Small values that travel to an actor, which builds the heavy object from them where it is used."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from reward_service.client import RewardClient
from tool_sandbox.registry import load_toolset
from tool_sandbox.tools import ToolSpec


@dataclass(frozen=True, slots=True)
class RewardRecipe:
    """How to reach the reward service."""

    url: str
    key: str
    timeout_seconds: float

    def connect(self) -> RewardClient:
        return RewardClient(self.url, self.key, timeout_seconds=self.timeout_seconds)


@functools.cache
def tool_specs(toolset: str) -> Mapping[str, ToolSpec]:
    """Specs of a registered toolset by name."""
    return {spec.name: spec for spec in load_toolset(toolset).specs()}
