"""The vocabulary of tool use: what a tool is, what a call is, and how a call ended.

Owns the types that cross every floor above. Knows nothing of models, tokens, sessions or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CallStatus(StrEnum):
    """How a tool call ended. Every status but `INFRA_ERROR` is the model's doing and may be scored."""

    OK = "ok"
    TOOL_ERROR = "tool_error"
    """The tool ran and refused: a missing row, a failed precondition, an exception in submitted code."""
    INVALID_ARGUMENTS = "invalid_arguments"
    """The arguments do not fit the tool's JSON Schema, or the call could not be parsed at all."""
    UNKNOWN_TOOL = "unknown_tool"
    TIMEOUT = "timeout"
    """The call used up its CPU seconds, or its wall-clock backstop."""
    OUT_OF_MEMORY = "out_of_memory"
    DENIED = "denied"
    """The sandbox refused an operation: a file, a socket, a system call."""
    INFRA_ERROR = "infra_error"
    """Ours, not the model's: a lost worker, a full queue. Never rewarded, never punished."""

    @property
    def is_infrastructure(self) -> bool:
        return self is CallStatus.INFRA_ERROR


class Trust(StrEnum):
    """Where a tool runs: the less it is trusted, the further away. Each has its `Sandbox` (see `sandbox`)."""

    IN_PROCESS = "in_process"
    """Deterministic code of ours or of a toolset's author: runs in the session's own process (T0)."""
    LANGUAGE = "language"
    """Expressions and short programs in an interpreter that has no way out; it may call host tools (T1)."""
    ISOLATED = "isolated"
    """Executes text that the model wrote: a fresh CPython process for each call, without memory (T2)."""
    STATEFUL = "stateful"
    """As `ISOLATED`, but one interpreter and one folder for the whole trajectory (T3)."""
    REMOTE = "remote"
    """Runs at a service that speaks SandboxFusion's HTTP (T4)."""


class IsolationLevel(StrEnum):
    """What stands between a call and the machine, as the canaries verified it; strongest first."""

    NAMESPACES = "namespaces"
    """Own users, processes, network and files, and everything of `LANDLOCK` besides."""
    LANDLOCK = "landlock"
    """Landlock, a system-call allow-list and resource limits, where namespaces are forbidden."""
    LANGUAGE = "language"
    """Only the interpreter's language stands between: no system call is reachable by it."""
    NONE = "none"
    """Trusted code in the actor's own process."""

    def at_least(self, other: IsolationLevel) -> bool:
        order = tuple(IsolationLevel)
        return order.index(self) <= order.index(other)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool as the model sees it."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema (2020-12) of the arguments; always of type `object`."""
    family: str = ""
    trust: Trust = Trust.IN_PROCESS
    read_only: bool = True

    def openai_function(self) -> dict[str, Any]:
        """The spec in the form that chat templates and OpenAI-compatible servers take."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}

    def signature(self) -> str:
        """The spec on one line, for models whose context is short: `price(item)`."""
        return f"{self.name}({', '.join(self.parameters.get('properties', {}))})"


Specs = Callable[[str], Mapping[str, ToolSpec]]
"""Tool specs by name, of a toolset by name."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A parsed request to run one tool."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What one call gave back: the text for the model and the facts for us."""

    call_id: str
    status: CallStatus
    content: str
    """The observation as the tool wrote it; `actors` caps it in tokens."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    isolation: IsolationLevel = IsolationLevel.NONE
    """What the call ran behind."""
    queue_seconds: float = 0.0
    """Waiting for a free sandbox, before the call began; in no other figure."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Calls still needed, before and after one call: the exact minimum, or what the toolset says that it counts."""

    before: int
    after: int


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """A result together with what the task's ground truth says of it."""

    result: ToolResult
    progress: Progress | None = None
    """None where the task has no exact distance."""
