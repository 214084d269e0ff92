"""What tool calls cost, by tool and status. Owns `CallCosts`; consumes results; produces `ToolCosts` values."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace

from tool_sandbox.tasks import Task
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult


@dataclass(frozen=True, slots=True)
class ToolCosts:
    """Sums over the calls of one tool that ended with one status."""

    calls: int = 0
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    queue_seconds: float = 0.0
    """Waiting for a free sandbox, before the call began."""

    def plus(self, result: ToolResult) -> ToolCosts:
        return replace(
            self,
            calls=self.calls + 1,
            cpu_seconds=self.cpu_seconds + result.cpu_seconds,
            wall_seconds=self.wall_seconds + result.wall_seconds,
            queue_seconds=self.queue_seconds + result.queue_seconds,
        )


class CallCosts:
    """Adds up results. Safe to use from many threads."""

    def __init__(self) -> None:
        self._costs: dict[tuple[str, CallStatus], ToolCosts] = {}
        self._lock = threading.Lock()

    def record(self, lease: str, task: Task, call: ToolCall, result: ToolResult) -> None:
        """One more call. A tool that does not exist counts under no name: the model invents as many as it likes."""
        name = "" if result.status is CallStatus.UNKNOWN_TOOL else call.name
        with self._lock:
            key = (name, result.status)
            self._costs[key] = self._costs.get(key, ToolCosts()).plus(result)

    def snapshot(self) -> Mapping[tuple[str, CallStatus], ToolCosts]:
        """Costs by tool and status, since the beginning."""
        with self._lock:
            return dict(self._costs)
