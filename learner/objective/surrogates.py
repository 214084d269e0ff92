"""The policy objective of each token, to be maximised. Owns `surrogate` and `clipped`. Pure."""

from __future__ import annotations

import torch
from torch import Tensor

from learner.objective.config import CispoConfig, DualClipConfig, GspoConfig, PpoClipConfig, SurrogateConfig


def surrogate(ratio: Tensor, logprobs: Tensor, advantages: Tensor, config: SurrogateConfig) -> Tensor:
    """What each token adds to the objective. All [N].

    - PPO clip: min(ρÂ, clip(ρ, 1−ε_low, 1+ε_high)·Â) (Schulman et al. 2017, eq. 7). GSPO is the same of its own ratio.
    - Dual clip: the same with ρ cut at c first. That bounds the one branch that clipping leaves open, a negative
      advantage with a large ratio (Ye et al. 2020).
    - CISPO: sg[clip(ρ, 1−ε_low, 1+ε_high)]·Â·log π (MiniMax 2025): REINFORCE with a bounded weight.
    """
    bounded = ratio.clamp(1.0 - config.clip_low, 1.0 + config.clip_high)
    match config:
        case PpoClipConfig() | GspoConfig():
            return torch.minimum(ratio * advantages, bounded * advantages)
        case DualClipConfig():
            return torch.minimum(ratio.clamp(max=config.cap) * advantages, bounded * advantages)
        case CispoConfig():
            return bounded.detach() * advantages * logprobs


def clipped(ratio: Tensor, advantages: Tensor, config: SurrogateConfig) -> tuple[Tensor, Tensor]:
    """Which tokens the lower and the upper bound act on. Two boolean [N].

    Under CISPO a bound acts whatever the sign of the advantage, elsewhere only where it takes the gradient away.
    """
    low, high = ratio < 1.0 - config.clip_low, ratio > 1.0 + config.clip_high
    if isinstance(config, CispoConfig):
        return low, high
    return low & (advantages < 0), high & (advantages > 0)
