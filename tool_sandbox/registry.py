"""Toolsets by name.

A toolset is a zero-argument factory. Installed distributions offer theirs through the entry-point group
`steptool.toolsets`; code without a distribution calls `register`. The built-in ones are always there, so that a source
tree works without installation; `bfcl` and `reasoning` say so where their extra is missing. A name with a prefix makes
a toolset of what follows: `jsonl:tasks.jsonl`.
"""

from __future__ import annotations

import difflib
import importlib
import threading
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from tool_sandbox.errors import InvalidToolset, UnknownToolset
from tool_sandbox.session import Toolset

ENTRY_POINT_GROUP = "steptool.toolsets"

ToolsetFactory = Callable[[], Toolset]


def _ledger() -> Toolset:
    # Imported on first use: importing the registry must not pull every toolset in.
    return importlib.import_module("tool_sandbox.ledger").toolset()


def _bfcl() -> Toolset:
    return importlib.import_module("tool_sandbox.bfcl").toolset()


def _reasoning() -> Toolset:
    return importlib.import_module("tool_sandbox.reasoning").toolset()


def _jsonl(path: str) -> Toolset:
    return importlib.import_module("tool_sandbox.jsonl").JsonlToolset(Path(path))


JSONL_PREFIX = "jsonl:"
_BUILT_IN: dict[str, ToolsetFactory] = {"ledger": _ledger, "bfcl": _bfcl, "reasoning": _reasoning}
_registered: dict[str, ToolsetFactory] = {}
_loading = threading.RLock()
"""Sessions open in many threads at once; a toolset is made once all the same. A factory may load another toolset."""


def register(name: str, factory: ToolsetFactory) -> None:
    """Offer a toolset in this process. Registering the same factory again is allowed, another one is not.

    Raises:
        InvalidToolset: the name belongs to another toolset.
    """
    taken = _factories().get(name)
    if taken is not None and taken is not factory:
        raise InvalidToolset(f"toolset {name!r}: the name is taken by {taken!r}; choose another name")
    _registered[name] = factory
    _load.cache_clear()


def toolset_names() -> tuple[str, ...]:
    """Every name that `load_toolset` accepts, sorted."""
    return tuple(sorted({*_factories(), *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}))


def load_toolset(name: str) -> Toolset:
    """The toolset of that name; one object per process, and one for each file, however its path is written.

    A toolset from a file calls itself by the absolute path, so that its tasks find it from every working directory.

    Raises:
        UnknownToolset: nobody offers the name.
        InvalidToolset: the factory gave something that calls itself otherwise, or the file of tasks has errors.
    """
    with _loading:
        return _load(_canonical(name))


def _canonical(name: str) -> str:
    if not name.startswith(JSONL_PREFIX):
        return name
    return f"{JSONL_PREFIX}{Path(name.removeprefix(JSONL_PREFIX)).expanduser().resolve()}"


@cache
def _load(name: str) -> Toolset:
    if name.startswith(JSONL_PREFIX):
        return _jsonl(name.removeprefix(JSONL_PREFIX))
    factory = _factories().get(name) or _entry_point(name)
    if factory is None:
        raise UnknownToolset(_unknown(name))
    toolset = factory()
    if getattr(toolset, "name", None) != name:
        raise InvalidToolset(
            f"toolset {name!r}: its factory gave {toolset!r}; expected an object whose `name` is {name!r}"
        )
    return toolset


def _factories() -> dict[str, ToolsetFactory]:
    return _BUILT_IN | _registered


def _entry_point(name: str) -> ToolsetFactory | None:
    found = tuple(entry_points(group=ENTRY_POINT_GROUP, name=name))
    return found[0].load() if found else None


def _unknown(name: str) -> str:
    names = toolset_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return (
        f"toolset {name!r} is not registered; {hint}registered are {', '.join(names)}. Install the package that "
        f"offers it (entry-point group {ENTRY_POINT_GROUP!r}), call tool_sandbox.registry.register, or name a file of "
        f"tasks as {JSONL_PREFIX}PATH"
    )
