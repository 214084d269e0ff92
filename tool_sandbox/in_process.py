"""Tier T0: `@tool` functions in the session's own process, with state that is copied by value.

Owns `InProcessSandbox` and its sessions. For trusted, deterministic functions: nothing stands between them and the
machine. A snapshot is a pickle, and loading a pickle can run code: snapshots are trusted data, which this floor makes
and takes back, and which must never come from a model or from a user.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence

from tool_sandbox.errors import ForkDiverged, InvalidTool, LeaseLost, SandboxUnavailable
from tool_sandbox.functions import FunctionTool, SessionState
from tool_sandbox.rendering import OUTPUT_CHARACTERS, digest
from tool_sandbox.sandbox import Snapshot
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

StateFactory = Callable[[], SessionState]


class InProcessSandbox:
    """Functions by name, and a factory of the state that they share. Holds no process; safe for many threads."""

    trust = Trust.IN_PROCESS
    level = IsolationLevel.NONE

    def __init__(
        self,
        tools: Sequence[FunctionTool],
        state: StateFactory | None = None,
        output_characters: int = OUTPUT_CHARACTERS,
    ) -> None:
        """`state` makes the state of a new session; None calls the class that the tools ask for, where they ask.

        Raises:
            InvalidTool: two tools of one name, a tool of another tier, or tools that ask for different states.
        """
        self._tools = _by_name(tools)
        self._state_type = state_type(tools)
        self._state = state or self._state_type or _nothing
        self._output_characters = output_characters
        self._closed = False

    def specs(self) -> tuple[ToolSpec, ...]:
        return tuple(each.spec for each in self._tools.values())

    def open(self) -> InProcessSession:
        """A session with fresh state.

        Raises:
            InvalidTool: the factory gave another state than the tools ask for.
            SandboxUnavailable: the sandbox was closed.
        """
        return self._session(self._state())

    def fork(self, snapshot: Snapshot) -> InProcessSession:
        """A session that continues from a copy of the state.

        Raises:
            ForkDiverged: the copy does not hash like the original.
        """
        session = self._session(pickle.loads(snapshot.data))
        if session.state_hash() != snapshot.state_hash:
            raise ForkDiverged(
                f"in-process session: the copied state hashes to {session.state_hash()}, its snapshot says "
                f"{snapshot.state_hash}; a field of the state is lost or changed by pickling"
            )
        return session

    def close(self) -> None:
        self._closed = True

    def _session(self, state: SessionState | None) -> InProcessSession:
        if self._closed:
            raise SandboxUnavailable("in-process sandbox: was closed; make another one")
        if self._state_type is not None and not isinstance(state, self._state_type):
            raise InvalidTool(
                f"in-process sandbox: the state is a {type(state).__name__}, its tools ask for "
                f"{self._state_type.__name__}; give a factory of that"
            )
        return InProcessSession(self._tools, state, self._output_characters, lambda: self._closed)


class InProcessSession:
    """One trajectory's state, and the functions that work on it."""

    def __init__(
        self,
        tools: Mapping[str, FunctionTool],
        state: SessionState | None,
        output_characters: int,
        tier_closed: Callable[[], bool],
    ) -> None:
        """`tier_closed`: whether the sandbox was closed, which closes its sessions."""
        self._tools = tools
        self._state = state
        self._output_characters = output_characters
        self._tier_closed = tier_closed
        self._closed = False

    @property
    def state(self) -> SessionState | None:
        """The live state; None where the tools have none."""
        return self._state

    def call(self, call: ToolCall) -> ToolResult:
        if self._closed or self._tier_closed():
            raise LeaseLost("in-process session: was closed; open another one")
        if call.name not in self._tools:
            return ToolResult(call.id, CallStatus.UNKNOWN_TOOL, f"error: no tool {call.name[:40]}")
        return self._tools[call.name].run(call, self._state, self._output_characters)

    def state_hash(self) -> str:
        return state_digest(self._state)

    def snapshot(self) -> Snapshot:
        """The state by value. Raises `InvalidTool` where it cannot be pickled."""
        try:
            return Snapshot(pickle.dumps(self._state), self.state_hash())
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise InvalidTool(
                f"state {type(self._state).__qualname__}: cannot be copied ({error}); keep plain data in it, in a "
                "class at the top of a module"
            ) from error

    def close(self) -> None:
        self._closed = True


def state_type(tools: Sequence[FunctionTool]) -> type[SessionState] | None:
    """The one class of state that the tools ask for; None where none asks.

    Raises:
        InvalidTool: they ask for different ones.
    """
    asked = {each.state_type: each.spec.name for each in tools if each.state_type is not None}
    if len(asked) > 1:
        wanted = ", ".join(f"{name!r} for {kind.__name__}" for kind, name in asked.items())
        raise InvalidTool(f"tools of one session share one state; found {wanted}")
    return next(iter(asked), None)


def state_digest(state: SessionState | None) -> str:
    """Canonical hash of a state. Raises `InvalidTool` where it holds what JSON cannot."""
    try:
        return digest(state)
    except (TypeError, ValueError) as error:
        raise InvalidTool(
            f"state {type(state).__qualname__}: {error}; keep plain data in a dataclass or a pydantic model"
        ) from error


def _by_name(tools: Sequence[FunctionTool]) -> dict[str, FunctionTool]:
    by_name: dict[str, FunctionTool] = {}
    for each in tools:
        spec = each.spec
        if spec.name in by_name:
            raise InvalidTool(f"tool {spec.name!r}: there are two of this name; rename one")
        if spec.trust is not Trust.IN_PROCESS:
            raise InvalidTool(
                f"tool {spec.name!r}: asks for trust {spec.trust.value!r}, this tier runs {Trust.IN_PROCESS.value!r}"
            )
        by_name[spec.name] = each
    return by_name


def _nothing() -> None:
    return None
