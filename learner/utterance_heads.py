"""What an utterance-level critic is made of: twin networks for Q and V, their temporal-difference loss, their targets.

Owns `Transitions`, `UtteranceHeads`, `td_loss` and `follow`. Pure but for `follow`; `learner.utterance_critic` keeps
what changes. Source: ArCHer (Zhou et al. 2024, arXiv 2402.19446), and its published code for the twins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor, nn

TWINS = 2


@dataclass(frozen=True, slots=True)
class Transitions:
    """N steps and what came of each."""

    states: Tensor
    """[N, d] features at the last token before the action."""
    actions: Tensor
    """[N, d] features at the last token of the action, which has seen the state."""
    next_states: Tensor
    """[N, d] features of the state before the next step; anything where the episode ended."""
    rewards: Tensor
    """[N] step rewards."""
    ends: Tensor
    """[N] bool: nothing followed."""

    def __len__(self) -> int:
        return len(self.rewards)

    @classmethod
    def none(cls, width: int) -> Transitions:
        """No step yet; features of `width` in half precision."""
        features = torch.empty(0, width, dtype=torch.float16)
        return cls(features, features, features, torch.empty(0), torch.empty(0, dtype=torch.bool))

    def columns(self) -> dict[str, Tensor]:
        """The tensors by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def take(self, rows: Tensor | slice) -> Transitions:
        """Some of them."""
        return Transitions(**{name: column[rows] for name, column in self.columns().items()})

    def in_float(self) -> Transitions:
        """The same with features in single precision, which is what is computed with."""
        features = self.states.float(), self.actions.float(), self.next_states.float()
        return Transitions(*features, self.rewards, self.ends)

    @classmethod
    def joined(cls, parts: Sequence[Transitions]) -> Transitions:
        """All of them, in order."""
        return cls(**{name: torch.cat([part.columns()[name] for part in parts]) for name in parts[0].columns()})


class HeadValues(NamedTuple):
    """What both twins say of N steps, in units of reward."""

    q: Tensor
    """[2, N] of the action in its state."""
    v: Tensor
    """[2, N] of the state."""


class Twins(nn.Module):
    """Two networks of one hidden layer, side by side: w₂·relu(W₁x + b₁) + b₂. [N, d] → [2, N]."""

    def __init__(self, width: int, hidden: int, dice: torch.Generator) -> None:
        super().__init__()
        spread = 1.0 / math.sqrt(width)
        first = torch.empty(TWINS, width, hidden).uniform_(-spread, spread, generator=dice)
        self.first = nn.Parameter(first)
        self.first_bias = nn.Parameter(torch.zeros(TWINS, 1, hidden))
        # Zero at the output: before anything is learned, every state and every action is worth nothing.
        self.second = nn.Parameter(torch.zeros(TWINS, hidden, 1))
        self.second_bias = nn.Parameter(torch.zeros(TWINS, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        kept = torch.relu(features @ self.first + self.first_bias)
        return (kept @ self.second + self.second_bias).squeeze(-1)


class UtteranceHeads(nn.Module):
    """Twin Q over features of actions, twin V over features of states."""

    def __init__(self, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        dice = torch.Generator().manual_seed(seed)
        self.q = Twins(width, hidden, dice)
        self.v = Twins(width, hidden, dice)

    def forward(self, states: Tensor, actions: Tensor) -> HeadValues:
        return HeadValues(self.q(actions), self.v(states))


def td_targets(rewards: Tensor, ends: Tensor, next_values: Tensor, gamma: float) -> Tensor:
    """r + γ·V̄(s') while the episode goes on, r where it ended. `rewards`, `ends` [N], `next_values` [2, N] → [2, N]."""
    return rewards + gamma * torch.where(ends, 0.0, next_values)


def td_loss(heads: UtteranceHeads, targets: UtteranceHeads, steps: Transitions, gamma: float) -> Tensor:
    """Σ over twins i of mean (Q_i(s, a) − r − γ·V̄_i(s'))² + mean (V_i(s) − Q̄_i(s, a))². A scalar, reward².

    Each twin learns from its own target network. `a` is the action that was taken.
    """
    now = heads(steps.states, steps.actions)
    with torch.no_grad():
        wanted_q = td_targets(steps.rewards, steps.ends, targets.v(steps.next_states), gamma)
        wanted_v = targets.q(steps.actions)
    return (now.q - wanted_q).square().mean(1).sum() + (now.v - wanted_v).square().mean(1).sum()


@torch.no_grad()
def follow(targets: nn.Module, heads: nn.Module, tau: float) -> None:
    """θ̄ ← θ̄ + τ·(θ − θ̄) for every parameter of the target network (Polyak averaging)."""
    for slow, fast in zip(targets.parameters(), heads.parameters(), strict=True):
        slow.lerp_(fast, tau)
