"""Where the tools of a task come from: functions and programs, a toolset, or an MCP server; one interface over all.

Owns `ToolSource`, the `ToolSources` of a file, and the resolution of `module:object`. Consumes the `toolset` of a line;
produces specs and sessions.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from tool_sandbox.errors import InvalidTool
from tool_sandbox.functions import FunctionTool, SessionState
from tool_sandbox.in_process import InProcessSandbox, InProcessSession, state_digest, state_type
from tool_sandbox.sandbox import CodeTool, Sandbox, SandboxSession
from tool_sandbox.session import Session, Toolset
from tool_sandbox.tasks import Task
from tool_sandbox.tiers import process_tiers
from tool_sandbox.tools import CallOutcome, ToolCall, ToolSpec, Trust

Values = Mapping[str, Any]
"""Fields of a state, as JSON."""


class ToolSource(Protocol):
    """Tools, and sessions in which they run."""

    def specs(self) -> tuple[ToolSpec, ...]: ...

    def check_state(self, initial: Values | None) -> None:
        """Raise `InvalidTool` where a session cannot begin like that; what only `open` can tell passes."""
        ...

    def state_hash(self, values: Values) -> str:
        """Hash of the state with these fields, as a session that is in it gives it. Raises `InvalidTool`."""
        ...

    def open(self, task: Task, initial: Values | None) -> Session:
        """A session in the initial state; None is the state that the tools begin with by themselves."""
        ...


class FunctionSession:
    """A session over `@tool` functions, and over programs that run in the tier of their trust.

    Functions are forked by value, programs by what their tier does. The state, and its hash, are the functions'.
    """

    def __init__(
        self,
        sandbox: InProcessSandbox,
        inner: InProcessSession,
        programs: Mapping[str, Sandbox],
        opened: Mapping[Sandbox, SandboxSession],
    ) -> None:
        """`programs`: the tier of each program, by the name of its tool; `opened`: sessions in tiers that it has."""
        self._sandbox = sandbox
        self._inner = inner
        self._programs = programs
        self._opened = dict(opened)

    @property
    def state(self) -> SessionState | None:
        """The live state, for a checker; None where the tools have none."""
        return self._inner.state

    def call(self, call: ToolCall) -> CallOutcome:
        tier = self._programs.get(call.name)
        return CallOutcome(self._inner.call(call) if tier is None else self._session(tier).call(call))

    def state_hash(self) -> str | None:
        return None if self._inner.state is None else self._inner.state_hash()

    def fork(self) -> FunctionSession:
        inner = self._sandbox.fork(self._inner.snapshot())
        forks = {tier: tier.fork(session.snapshot()) for tier, session in self._opened.items()}
        return FunctionSession(self._sandbox, inner, self._programs, forks)

    def close(self) -> None:
        for session in (self._inner, *self._opened.values()):
            session.close()

    def _session(self, tier: Sandbox) -> SandboxSession:
        # Opened at the first call: most trajectories need only some of the tiers, and a stateful one holds processes.
        if tier not in self._opened:
            self._opened[tier] = tier.open()
        return self._opened[tier]


class FunctionSource:
    """A list of `@tool` functions that share one class of state, or have none, and of programs."""

    def __init__(self, tools: tuple[FunctionTool | CodeTool, ...]) -> None:
        """Raises `InvalidTool` where the tools cannot stand in one session."""
        self._tools = tuple(each for each in tools if isinstance(each, FunctionTool))
        self._programs = tuple(each for each in tools if isinstance(each, CodeTool))
        own = InProcessSandbox(self._tools).specs()
        self._specs = (*own, *(each.spec for each in self._programs))
        self._type = state_type(self._tools)
        twice = sorted({one.name for one in self._specs if sum(spec.name == one.name for spec in self._specs) > 1})
        if twice:
            raise InvalidTool(f"tools {', '.join(twice)}: there are two of this name; rename one")

    def specs(self) -> tuple[ToolSpec, ...]:
        return self._specs

    def check_state(self, initial: Values | None) -> None:
        if initial is not None or self._type is not None:
            self._state(initial or {})

    def state_hash(self, values: Values) -> str:
        return state_digest(self._state(values))

    def open(self, task: Task, initial: Values | None) -> FunctionSession:
        stateless = self._type is None and initial is None
        sandbox = InProcessSandbox(self._tools, None if stateless else partial(self._state, initial or {}))
        return FunctionSession(sandbox, sandbox.open(), self._tiers(), {})

    def _tiers(self) -> Mapping[str, Sandbox]:
        """The sandbox of each program of this process, by the name of its tool."""
        by_trust: dict[Trust, list[CodeTool]] = {}
        for each in self._programs:
            by_trust.setdefault(each.spec.trust, []).append(each)
        sandboxes = {trust: process_tiers().sandbox(programs) for trust, programs in by_trust.items()}
        return {each.spec.name: sandboxes[each.spec.trust] for each in self._programs}

    @cached_property
    def _adapter(self) -> TypeAdapter[SessionState]:
        # Costs more to build than a session: once for all tasks.
        assert self._type is not None
        return TypeAdapter(self._type)

    def _state(self, values: Values) -> SessionState:
        if self._type is None:
            raise InvalidTool("its tools have no state; leave it out, or let them take one as first parameter")
        unknown = sorted(set(values) - _field_names(self._type))
        if unknown:
            raise InvalidTool(f"does not fit {self._type.__name__}: it has no field {', '.join(unknown)}")
        try:
            return self._adapter.validate_python(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or self._type.__name__
            raise InvalidTool(f"does not fit {self._type.__name__}: {where}: {first['msg']}") from error
        except PydanticUserError as error:
            raise InvalidTool(
                f"{self._type.__name__} cannot be made of JSON ({error}); give its fields types"
            ) from error


@dataclass(frozen=True, slots=True)
class ToolsetSource:
    """Another toolset, whose sessions get the initial state as the payload of their task."""

    toolset: Toolset

    def specs(self) -> tuple[ToolSpec, ...]:
        return self.toolset.specs()

    def check_state(self, initial: Values | None) -> None:
        return

    def state_hash(self, values: Values) -> str:
        raise InvalidTool(f"the toolset {self.toolset.name!r} does not say its states; use `calls` or `checker`")

    def open(self, task: Task, initial: Values | None) -> Session:
        return self.toolset.open(replace(task, toolset=self.toolset.name, payload=dict(initial or {})))


@dataclass(frozen=True, slots=True)
class ListedTools:
    """A source and what it offers, by name."""

    source: ToolSource
    specs: Mapping[str, ToolSpec]


class ToolSources:
    """The sources that a file names, each found and listed once. Mutable: grows as lines are looked up."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where modules and relative paths are looked up too."""
        self._folder = folder
        self._found: dict[str, ListedTools | InvalidTool] = {}

    def tools(self, named: str | BaseModel) -> ListedTools:
        """The tools of a line's `toolset`. Raises `InvalidTool`, for every line that names it."""
        key = named.model_dump_json() if isinstance(named, BaseModel) else named
        if key not in self._found:
            self._found[key] = self._listed(named)
        found = self._found[key]
        if isinstance(found, InvalidTool):
            raise found
        return found

    def specs(self) -> tuple[ToolSpec, ...]:
        """The tools of all sources; those of one name are alike (see `checks`)."""
        listed = (found.specs for found in self._found.values() if isinstance(found, ListedTools))
        return tuple({name: spec for specs in listed for name, spec in specs.items()}.values())

    def _listed(self, named: str | BaseModel) -> ListedTools | InvalidTool:
        try:
            source = tool_source(named, self._folder)
            return ListedTools(source, {spec.name: spec for spec in source.specs()})
        except InvalidTool as error:
            return error


def tool_source(named: str | BaseModel, folder: Path) -> ToolSource:
    """The source that a line names; modules and relative paths are looked up in `folder` too.

    Raises:
        InvalidTool: there is no such object, or it is no source of tools.
    """
    if not isinstance(named, str):
        return ToolsetSource(_mcp_toolset(named, folder))
    found = resolve(named, folder)
    if isinstance(found, list | tuple) and found and all(isinstance(each, FunctionTool | CodeTool) for each in found):
        return FunctionSource(tuple(found))
    if callable(getattr(found, "specs", None)) and callable(getattr(found, "open", None)):
        return ToolsetSource(cast("Toolset", found))
    raise InvalidTool(
        f"{named!r} is a {type(found).__name__}; expected a list of @tool functions and programs, or a toolset"
    )


def _mcp_toolset(server: BaseModel, folder: Path) -> Toolset:
    # Imported on first use: only tasks with an MCP server need the package `mcp`, which is an extra.
    try:
        return importlib.import_module("tool_sandbox.mcp.toolset").McpToolset(server, folder)
    except ModuleNotFoundError as error:
        raise InvalidTool(f"an MCP server needs the package `mcp` ({error}); install steptool[mcp]") from error


def resolve(reference: str, folder: Path) -> Any:
    """The object that `module:object` names, where the module may lie in `folder`.

    Raises:
        InvalidTool: it cannot be imported, or another module of that name is loaded already.
    """
    # Last, so that a file beside the tasks never takes the place of an installed module.
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        found = pkgutil.resolve_name(reference)
    except (ImportError, AttributeError, ValueError, SyntaxError) as error:
        raise InvalidTool(
            f"{reference!r} cannot be imported ({error}); install its package, or put the module beside the tasks"
        ) from error
    _check_module(reference.partition(":")[0], folder)
    return found


def _field_names(kind: type[SessionState]) -> set[str]:
    """Pydantic would let a misspelt field of a dataclass pass, and the task would start in another state."""
    if dataclasses.is_dataclass(kind):
        return {field.name for field in dataclasses.fields(kind) if field.init}
    if issubclass(kind, BaseModel):
        return {field.alias or name for name, field in kind.model_fields.items()}
    raise InvalidTool(f"{kind.__name__} cannot be made of fields; make it a dataclass or a pydantic model")


def _check_module(name: str, folder: Path) -> None:
    beside = folder / f"{name}.py"
    loaded = getattr(sys.modules[name], "__file__", None)
    if beside.exists() and loaded is not None and Path(loaded).resolve() != beside.resolve():
        raise InvalidTool(f"module {name!r} is loaded from {loaded}, not from {beside}; rename the latter")
