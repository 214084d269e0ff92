"""Small values that travel to an actor, which builds the heavy object from them where it is used."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from reward_service.client import RewardClient
from tool_sandbox.client import SandboxClient
from tool_sandbox.config import PoolConfig
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


@dataclass(frozen=True, slots=True)
class SandboxRecipe:
    """How to reach the sandboxes: by name, for Ray may fail to restart an actor whose arguments hold handles."""

    actors: int
    config: PoolConfig
    namespace: str | None
    """None for that of the job."""
    owner: str = ""
    """The run, for which sessions are opened: sandboxes are fair between runs, and logs say whose a call was."""

    def connect(self) -> SandboxClient:
        """Call it in a Ray worker or driver. Raises `SandboxUnavailable` where a sandbox actor is missing."""
        from tool_sandbox.pool import RaySandboxPool

        return RaySandboxPool.connect(self.actors, self.config, self.namespace, self.owner)


@functools.cache
def tool_specs(toolset: str) -> Mapping[str, ToolSpec]:
    """Specs of a registered toolset by name."""
    return {spec.name: spec for spec in load_toolset(toolset).specs()}
