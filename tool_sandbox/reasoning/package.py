"""The installed package `reasoning-gym`: questions by seed and their scores.

Owns the choice of its datasets and everything that depends on the package's interface.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from typing import Any

from tool_sandbox.errors import InvalidToolset

DISTRIBUTION = "reasoning-gym"
DATASETS = (
    "chain_sum",
    "products",
    "gcd",
    "lcm",
    "simple_equations",
    "simple_geometry",
    "leg_counting",
    "basic_arithmetic",
    "decimal_chain_sum",
    "count_bits",
    "base_conversion",
    "bitwise_arithmetic",
    "prime_factorization",
    "gsm_symbolic",
    "decimal_arithmetic",
    "calendar_arithmetic",
    "time_intervals",
    "dice",
    "count_primes",
)
"""Numbers, dates and short expressions, roughly from easy to hard. Left out are datasets whose answers are grids, texts
or proofs, and those whose scorer evaluates the answer or can be kept busy by it: an answer is text of a model."""
SOLVED_SCORE = 1.0
"""The scorers give part of this to answers that are near, or that hold the right one among other words."""
MAX_ANSWER_CHARACTERS = 200
"""No right answer is nearly as long."""


@cache
def library() -> Any:
    """The package. Raises `InvalidToolset` where it, or what it imports, is not installed."""
    try:
        with warnings.catch_warnings():
            # Of packages that it imports for datasets which we do not use.
            warnings.simplefilter("ignore")
            return importlib.import_module("reasoning_gym")
    except ImportError as error:
        raise InvalidToolset(
            f"toolset 'reasoning': {DISTRIBUTION} cannot be imported ({error}); install the extra, steptool[reasoning]"
        ) from error


def installed_version() -> str:
    """The package's version."""
    library()
    return version(DISTRIBUTION)


def question(dataset: str, seed: int) -> Mapping[str, Any]:
    """The entry of that seed: `question`, `answer` and what the scorer needs besides."""
    return library().create_dataset(dataset, seed=seed, size=1)[0]


def is_solved(dataset: str, entry: Mapping[str, Any], answer: str | None) -> bool:
    """Whether the package's own scorer gives the answer the full score."""
    if answer is None or len(answer) > MAX_ANSWER_CHARACTERS:
        return False
    scorer = library().create_dataset(dataset, seed=0, size=1)
    try:
        return float(scorer.score_answer(answer.strip(), entry)) >= SOLVED_SCORE
    except Exception:  # noqa: BLE001 - some scorers raise on text that they cannot read, whatever type it comes to
        return False
