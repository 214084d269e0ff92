"""What the tests of JSONL tasks share: a module of tools beside a file of tasks, both in a folder of their own."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOOLS = '''
"""A shop with a state."""
from dataclasses import dataclass, field

from tool_sandbox.functions import SessionState, tool


@dataclass
class Shop(SessionState):
    stock: dict[str, int] = field(default_factory=lambda: {"pear": 2})
    open: bool = True


@tool
def stock(shop: Shop, fruit: str) -> int:
    """How much of a fruit there is."""
    return shop.stock[fruit]


@tool(read_only=False)
def sell(shop: Shop, fruit: str, count: int = 1) -> int:
    """Sell fruit; gives what is left."""
    shop.stock[fruit] -= count
    return shop.stock[fruit]


@dataclass
class Bank(SessionState):
    vault: int


@tool
def rob(bank: Bank) -> int:
    """Empty the vault."""
    return bank.vault


@tool
def twice(number: int) -> int:
    """Twice a number."""
    return 2 * number


TOOLS = [stock, sell, twice]
PURE = [twice]
BANK = [rob]
NOTHING = []


@tool
def twice(number: float) -> float:
    """Twice any number."""
    return 2 * number


OTHER = [twice]


def polite(state, answer):
    return "please" in (answer or "") and (state is None or state.open)


def vague(state, answer):
    return "perhaps"
'''


@contextmanager
def shop_folder(folder: Path) -> Iterator[str]:
    """Write the module into a folder and give its name; forget module and path at the end."""
    name = f"shop_{uuid.uuid4().hex[:8]}"
    (folder / f"{name}.py").write_text(TOOLS)
    try:
        yield name
    finally:
        sys.modules.pop(name, None)
        sys.path[:] = [entry for entry in sys.path if entry != str(folder)]


def write_tasks(folder: Path, *tasks: dict[str, Any] | str, name: str = "tasks.jsonl") -> Path:
    """A file of tasks; a task that is text is written as it is."""
    path = folder / name
    path.write_text("".join((task if isinstance(task, str) else json.dumps(task)) + "\n" for task in tasks))
    return path
