"""Which split a task belongs to: decided by its call graph, so that no task of one split can occur in another.

Structure comes first: a tool of the reserved family, a reserved pair of tools, a graph deeper than in training. What is
left goes to train, val or test_iid by a hash of the signature (graph, tools and constants), which makes these three
alike in distribution and disjoint in questions.

Six calls are deep for level L2 and the least for L4. The two never meet, because the questions of L4 start from names
(`LONG_POOLS`) that no other level asks about. A faulty level asks the questions of its plain one, split by split.
"""

from __future__ import annotations

import hashlib
from functools import cache

from tool_sandbox.ledger.names import LONG_POOLS
from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.tools import RESERVED_FAMILY, family_of
from tool_sandbox.tasks import Split

GENERATOR = "ledger/1"
"""Version of the generator: any change to the tasks it makes, or to the split of one, needs a new one."""

LONG_LEVEL = "L4"
FAULTY_LEVELS = {"L2F": "L2", "L3F": "L3"}
"""Level in which one needed tool is faulty → the plain level whose call graphs it takes."""
CHAIN_LEVELS = (LONG_LEVEL, "L2F")
"""Levels whose questions are chains of tools with one parameter, where the distance is exact after any call at all."""

CALLS: dict[str, tuple[int, ...]] = {
    "L0": (1,),
    "L1": (2,),
    "L2": (3, 4),
    "L2F": (3, 4),
    "L3": (2, 3, 4),
    "L3F": (2, 3, 4),
    "L4": (6, 7, 8),
}
"""Calls of a task's graph by level, easiest first, outside `TEST_DEPTH`. What a fault adds is not counted."""
DEEP_CALLS: dict[str, tuple[int, ...]] = {"L2": (5, 6), "L2F": (5, 6), "L3": (5, 6), "L3F": (5, 6), "L4": (9, 10)}
"""Calls of a task's graph in `TEST_DEPTH`: up to two more than in training."""

HASHED_SPLITS = (Split.TRAIN, Split.VAL, Split.TEST_IID)
"""Splits of one distribution, told apart by a hash alone."""

RESERVED_PAIR_SHARE = 6
"""One pair of tools in this many is kept out of training."""
SALT = 8
"""Mixed into every hash. Chosen so that each tool that answers a question alone has names in all of train, val and
test_iid, and so that every tool outside the reserved family still occurs in training."""
BUCKETS = 100
TRAIN_BUCKETS = 80
VAL_BUCKETS = 90


def has_tasks(split: Split, level: str) -> bool:
    """Whether the split exists at the level: one call has no pairs, and depth is tested where chains are long."""
    if split is Split.TEST_DEPTH:
        return level in DEEP_CALLS
    return level in CALLS and not (split is Split.TEST_COMP and level == "L0")


def split_of(plan: Plan) -> Split:
    """The one split of a task with this call graph."""
    if any(family_of(tool) == RESERVED_FAMILY for tool in plan.tools):
        return Split.TEST_TOOLS
    if any(is_reserved_pair(outer, inner) for outer, inner in plan.pairs):
        return Split.TEST_COMP
    if len(plan.calls) >= min(DEEP_CALLS[LONG_LEVEL if _is_long(plan) else "L2"]):
        return Split.TEST_DEPTH
    bucket = stable_hash(plan.signature()) % BUCKETS
    return Split.TRAIN if bucket < TRAIN_BUCKETS else Split.VAL if bucket < VAL_BUCKETS else Split.TEST_IID


def _is_long(plan: Plan) -> bool:
    return any(constant.value in LONG_POOLS.get(constant.kind, ()) for constant in plan.constants)


@cache
def is_reserved_pair(outer: str, inner: str) -> bool:
    """Whether `outer` is never called on the result of `inner` in training."""
    return stable_hash(f"pair {outer} {inner}") % RESERVED_PAIR_SHARE == 0


def stable_hash(text: str) -> int:
    """64 bits of sha-256 over the generator version, the salt and the text: the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{GENERATOR} {SALT} {text}".encode()).digest()[:8], "big")
