"""What is wrong with tasks whose form is right: tools that are not there, states and gold calls that do not fit.

Consumes the lines of a file and their sources; adds to its `Complaints`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tool_sandbox.arguments import check_arguments
from tool_sandbox.errors import InvalidTool
from tool_sandbox.jsonl.lines import Complaints, GoldCall, TaskLine
from tool_sandbox.jsonl.sources import ToolSources, resolve
from tool_sandbox.tools import ToolCall, ToolSpec


def check_lines(lines: Mapping[int, TaskLine], sources: ToolSources, folder: Path, complaints: Complaints) -> None:
    """Check every line by its number. Finds and lists the sources on the way."""
    first: dict[str, ToolSpec] = {}
    for number, line in lines.items():
        for complaint in _of_line(line, sources, folder, first):
            complaints.add(number, complaint)


def final_state(line: TaskLine) -> dict[str, object] | None:
    """Fields of the state to be reached; None where the task asks for none."""
    return None if line.state is None else {**(line.initial_state or {}), **line.state}


def checker(line: TaskLine, folder: Path) -> Callable[..., object] | None:
    """The line's checker; None where it has none. Raises `InvalidTool`."""
    if line.checker is None:
        return None
    found = resolve(line.checker, folder)
    if not callable(found):
        raise InvalidTool(f"{line.checker!r} is a {type(found).__name__}; expected a function of state and answer")
    return found


def _of_line(line: TaskLine, sources: ToolSources, folder: Path, first: dict[str, ToolSpec]) -> Iterator[str]:
    try:
        tools = sources.tools(line.toolset)
    except InvalidTool as error:
        yield f"toolset: {error}"
        return
    yield from _clashes(tools.specs, first)
    unknown = [name for name in line.tools or () if name not in tools.specs]
    if unknown:
        yield f"tools: {unknown} are not in the toolset, which has {', '.join(tools.specs)}"
    offered = {name: spec for name, spec in tools.specs.items() if line.tools is None or name in line.tools}
    yield from _call_complaints(line.calls or (), offered)
    yield from _raised("initial_state", lambda: tools.source.check_state(line.initial_state))
    wanted = final_state(line)
    if wanted is not None:
        yield from _raised("state", lambda: tools.source.state_hash(wanted))
    yield from _raised("checker", lambda: checker(line, folder))


def _clashes(specs: Mapping[str, ToolSpec], first: dict[str, ToolSpec]) -> Iterator[str]:
    """Tools of another source with the name of this one's: specs go by name alone."""
    for name, spec in specs.items():
        if first.setdefault(name, spec) != spec:
            yield f"toolset: its tool {name!r} differs from that of an earlier line; rename one"


def _call_complaints(calls: tuple[GoldCall, ...], offered: Mapping[str, ToolSpec]) -> Iterator[str]:
    for position, call in enumerate(calls):
        if call.name not in offered:
            yield f"calls.{position}: {call.name!r} is not offered; the task offers {', '.join(offered)}"
            continue
        complaint = check_arguments(offered[call.name], ToolCall("gold", call.name, call.arguments))
        if complaint is not None:
            yield f"calls.{position}: {complaint}"


def _raised(field: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except InvalidTool as error:
        yield f"{field}: {error}"
