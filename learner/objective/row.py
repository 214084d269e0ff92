"""What the objective knows of one row. Owns `RowCredit`; consumed by every other module of the package."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowCredit:
    """N action tokens of whole trajectories and S states. Log-probabilities are in nats."""

    behaviour: Tensor
    """[N] as the engine sampled them."""
    old: Tensor
    """[N] under the policy that ratios compare with: `behaviour` itself, or recomputed before the first step."""
    reference: Tensor | None
    """[N] under the frozen reference; None where the loss has no KL term."""
    advantages: Tensor
    """[N]."""
    step: Tensor
    """[N] int64: tokens of one step share a number that no other step of the row has."""
    trajectory: Tensor
    """[N] int64, the same for trajectories."""
    step_tokens: Tensor
    """[N] float32: action tokens of the token's step."""
    trajectory_tokens: Tensor
    """[N] float32: action tokens with credit of the token's trajectory, whether in the row or not."""
    value_targets: Tensor
    """[S] units of reward."""
    old_values: Tensor | None
    """[S] V before the first step; None where the value loss is not clipped."""
