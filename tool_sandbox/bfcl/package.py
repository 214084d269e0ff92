"""The installed package `bfcl-eval`: its tasks, function documents and tool classes, read where it keeps them.

Owns all that depends on the package's layout. Reads its data files directly, since its own loaders want a dozen
packages that tasks and tools do not need, and takes from its code nothing but the tool classes and two tables.
"""

from __future__ import annotations

import copy
import importlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any

from tool_sandbox.errors import InvalidToolset

DISTRIBUTION = "bfcl-eval"
REQUIRED = ("bfcl-eval==2026.3.23", "mpmath==1.3.0")
"""The extra; whatever else the package asks for is for other benchmarks and for asking models."""
LEVELS = ("base", "miss_func", "miss_param", "long_context")
"""Plain dialogues; functions that the user adds later; values that the user gives later; worlds full of clutter."""
CLASSES = (
    "GorillaFileSystem",
    "MathAPI",
    "MessageAPI",
    "TicketAPI",
    "TradingBot",
    "TravelAPI",
    "TwitterAPI",
    "VehicleControlAPI",
)
_PREFIX = "BFCL_v4_multi_turn_"


@dataclass(frozen=True, slots=True)
class Entry:
    """One dialogue of the benchmark."""

    id: str
    """The package's own."""
    level: str
    turns: tuple[str | None, ...]
    """What the user says, turn by turn; None where all that happens is that functions are added."""
    ground_truth: tuple[tuple[str, ...], ...]
    """Calls of each turn as Python text; none where the user's request cannot be fulfilled yet."""
    classes: tuple[str, ...]
    initial_config: Mapping[str, Any]
    added: Mapping[int, tuple[str, ...]]
    """Functions that are held out until a turn, by the turn's index."""
    excluded: tuple[str, ...]
    """Functions of the classes that are never offered."""

    @property
    def number(self) -> int:
        """The four levels vary the same 200 dialogues; those of one number are variants of each other."""
        return int(self.id.rpartition("_")[2])


@cache
def installed_version() -> str:
    """The package's version. Raises `InvalidToolset` where it is not installed."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError as error:
        raise InvalidToolset(
            f"toolset 'bfcl': the package {DISTRIBUTION} is not installed; install what the extra steptool[bfcl] "
            f"names, with --no-deps: {' '.join(REQUIRED)}"
        ) from error


@cache
def entries(level: str) -> Mapping[str, Entry]:
    """The 200 dialogues of a level, by id."""
    name = f"{_PREFIX}{level}.json"
    truths = {line["id"]: line["ground_truth"] for line in _lines("possible_answer", name)}
    return {line["id"]: _entry(line, level, truths[line["id"]]) for line in _lines(name)}


def entry(id: str) -> Entry:
    """The dialogue of that id. Raises `KeyError`."""
    level = id.removeprefix("multi_turn_").rpartition("_")[0]
    if level not in LEVELS:
        raise KeyError(id)
    return entries(level)[id]


def function_documents(class_name: str) -> list[dict[str, Any]]:
    """The package's descriptions of one class's functions."""
    table = _module("constants.executable_backend_config").MULTI_TURN_FUNC_DOC_FILE_MAPPING
    return list(_lines("multi_turn_func_doc", table[class_name]))


def tool_class(name: str) -> Any:
    """One of the package's tool classes."""
    paths = _module("constants.executable_backend_config").CLASS_FILE_PATH_MAPPING
    return getattr(importlib.import_module(paths[name]), name)


def open_instance(class_name: str, entry: Entry) -> Any:
    """A fresh instance of a tool class in the dialogue's initial state, which shares nothing with any other."""
    instance = tool_class(class_name)()
    if class_name not in _module("constants.executable_backend_config").STATELESS_CLASSES:
        config = entry.initial_config.get(class_name, {})
        instance._load_scenario(config, long_context=entry.level == "long_context")
    # The classes keep what they are given, and in the long context parts of their modules' own tables.
    return copy.deepcopy(instance)


def words_for_added_functions(documents: str) -> str:
    """What the benchmark's user says when functions are added."""
    return _module("constants.default_prompts").DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_PROMPTING.format(
        functions=documents
    )


def _entry(line: Mapping[str, Any], level: str, ground_truth: list[list[str]]) -> Entry:
    return Entry(
        id=line["id"],
        level=level,
        turns=tuple("\n".join(message["content"] for message in turn) or None for turn in line["question"]),
        ground_truth=tuple(tuple(turn) for turn in ground_truth),
        classes=tuple(line["involved_classes"]),
        initial_config=line["initial_config"],
        added={int(turn): tuple(names) for turn, names in line.get("missed_function", {}).items()},
        excluded=tuple(line.get("excluded_function", ())),
    )


def _module(name: str) -> Any:
    installed_version()
    return importlib.import_module(f"bfcl_eval.{name}")


def _lines(*path: str) -> Iterator[dict[str, Any]]:
    installed_version()
    for line in files("bfcl_eval").joinpath("data", *path).read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)
