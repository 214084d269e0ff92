"""Whether every loss of an optimiser step is a number, on whichever rank.

Owns `LossWatch`. A rank that stopped alone would leave the others in a collective until their deadline, whose error
does not name the cause. So each goes through all its rows, and before the step they tell each other what they saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from learner.errors import NonFinite

STEPS_STAND = "the step was not made, those before it stand"
"""What errors say of the weights, which an update may have moved several times before."""


class LossWatch:
    """What a rank has seen since the step before."""

    def __init__(self, rank: int, ranks: int) -> None:
        self._rank = rank
        self._ranks = ranks
        self._odd: list[str] = []

    def see(self, loss: Tensor, trajectories: Sequence[str]) -> None:
        """Remember the loss of a row if it is no finite number."""
        found = float(loss.detach())
        if not math.isfinite(found):
            self._odd.append(f"rank {self._rank}: loss {found} of the row with trajectories {list(trajectories)}")

    def expect_finite(self, device: torch.device) -> None:
        """Collective.

        Raises:
            NonFinite: on every rank, with the first such row of each that saw one.
        """
        odd, self._odd = self._odd[:1], []
        if self._ranks > 1:
            odd = self._of_all(odd, device)
        if odd:
            raise NonFinite(f"{'; '.join(odd)}; expected finite numbers; {STEPS_STAND}")

    def _of_all(self, odd: list[str], device: torch.device) -> list[str]:
        """One number goes round before each step; words only where there is something to tell."""
        any_odd = torch.tensor(len(odd), device=device)
        torch.distributed.all_reduce(any_odd)
        told: list[list[str]] = [[] for _ in range(self._ranks)]
        if any_odd:
            torch.distributed.all_gather_object(told, odd)
        return [words for one in told for words in one]
