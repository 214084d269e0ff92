"""Which split a task belongs to: decided by its call graph, so that no task of one split can occur in another.

Structure comes first: a tool of the reserved family, a reserved pair of tools, a graph deeper than in training. What is
left goes to train, val or test_iid by a hash of the signature (graph, tools and constants), which makes these three
alike in distribution and disjoint in questions.
"""

from __future__ import annotations

import hashlib
from functools import cache

from tool_sandbox.ledger.plans import Plan
from tool_sandbox.ledger.tools import RESERVED_FAMILY, family_of
from tool_sandbox.tasks import Split

GENERATOR = "ledger/1"
"""Version of the generator: any change to the tasks it makes, or to the split of one, needs a new one."""

CALLS: dict[str, tuple[int, ...]] = {"L0": (1,), "L1": (2,), "L2": (3, 4), "L3": (2, 3, 4)}
"""Calls of a task by level, outside `TEST_DEPTH`."""
DEEP_CALLS: dict[str, tuple[int, ...]] = {"L2": (5, 6), "L3": (5, 6)}
"""Calls of a task in `TEST_DEPTH`."""

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
    if len(plan.calls) >= min(min(calls) for calls in DEEP_CALLS.values()):
        return Split.TEST_DEPTH
    bucket = stable_hash(plan.signature()) % BUCKETS
    return Split.TRAIN if bucket < TRAIN_BUCKETS else Split.VAL if bucket < VAL_BUCKETS else Split.TEST_IID


@cache
def is_reserved_pair(outer: str, inner: str) -> bool:
    """Whether `outer` is never called on the result of `inner` in training."""
    return stable_hash(f"pair {outer} {inner}") % RESERVED_PAIR_SHARE == 0


def stable_hash(text: str) -> int:
    """64 bits of sha-256 over the generator version, the salt and the text: the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{GENERATOR} {SALT} {text}".encode()).digest()[:8], "big")
