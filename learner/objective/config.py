"""Settings of the objective: surrogate, importance correction, aggregation, KL and entropy.

Owns pydantic models only; every variant is a discriminated union by `kind`. Loads no torch. Equations, sources and
when to use what: docs/objective.md.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Level = Literal["token", "step", "trajectory"]
"""Over what a ratio is taken: a token, all action tokens of a step, all credited action tokens of a trajectory."""
Aggregation = Literal["token_mean", "step_mean", "trajectory_mean"]
KlEstimator = Literal["k1", "k2", "k3"]

_FINENESS: dict[Level, int] = {"token": 0, "step": 1, "trajectory": 2}


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PpoClipConfig(_Settings):
    """min(ρÂ, clip(ρ)Â) (Schulman et al. 2017). A negative advantage with a large ratio is not bounded."""

    kind: Literal["ppo_clip"] = "ppo_clip"
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.28, gt=0)
    level: Level = "token"


class DualClipConfig(_Settings):
    """PPO clip whose loss at a negative advantage is bounded too (Ye et al. 2020)."""

    kind: Literal["dual_clip"] = "dual_clip"
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: float = Field(default=0.28, gt=0)
    cap: float = Field(default=5.0, gt=1)
    """Largest ratio that still has a gradient."""
    level: Level = "token"

    @model_validator(mode="after")
    def _cap_above_the_clip(self) -> Self:
        if self.cap <= 1.0 + self.clip_high:
            raise ValueError(
                f"cap is {self.cap:g}, expected more than 1 + clip_high, which is {1.0 + self.clip_high:g}: below it "
                "the upper clip never acts; raise cap or lower clip_high"
            )
        return self


class CispoConfig(_Settings):
    """The clipped ratio is a weight without gradient, so that no token is left out (MiniMax 2025)."""

    kind: Literal["cispo"] = "cispo"
    clip_low: float = Field(default=1.0, gt=0, le=1)
    """1 is no lower bound."""
    clip_high: float = Field(default=4.0, gt=0)
    level: Level = "token"


class GspoConfig(_Settings):
    """PPO clip of the geometric mean of the ratios (Zheng et al. 2025). Its bounds are far tighter."""

    kind: Literal["gspo"] = "gspo"
    clip_low: float = Field(default=3e-4, gt=0, lt=1)
    clip_high: float = Field(default=4e-4, gt=0)
    level: Literal["step", "trajectory"] = "trajectory"


SurrogateConfig = Annotated[PpoClipConfig | DualClipConfig | CispoConfig | GspoConfig, Field(discriminator="kind")]


class NoCorrection(_Settings):
    """Ratios compare with the behaviour log-probabilities that the engine recorded; no further weight."""

    kind: Literal["none"] = "none"


class TruncatedConfig(_Settings):
    """min(w, cap), with w = π_old / π_behaviour (TIS; Yao et al. 2025). Ratios compare with the recomputed π_old."""

    kind: Literal["tis"] = "tis"
    cap: float = Field(default=2.0, gt=1)
    level: Level = "token"


class MaskedConfig(_Settings):
    """w where w ≤ cap, else 0 (Liu, Li et al. 2025). Ratios compare with the recomputed π_old."""

    kind: Literal["masked"] = "masked"
    cap: float = Field(default=2.0, gt=1)
    level: Level = "token"


class IcePopConfig(_Settings):
    """w where low ≤ w ≤ high, else 0 (Ring team, Ant Group 2025). Ratios compare with the recomputed π_old."""

    kind: Literal["icepop"] = "icepop"
    low: float = Field(default=0.5, gt=0, lt=1)
    high: float = Field(default=5.0, gt=1)
    level: Level = "token"


CorrectionConfig = Annotated[NoCorrection | TruncatedConfig | MaskedConfig | IcePopConfig, Field(discriminator="kind")]


class FixedControl(_Settings):
    """The coefficient stays as it is."""

    kind: Literal["fixed"] = "fixed"


class AdaptiveControl(_Settings):
    """The coefficient follows the measured KL (Ziegler et al. 2019, §2.2)."""

    kind: Literal["adaptive"] = "adaptive"
    target: float = Field(gt=0)
    """Nats a token."""
    horizon: int = Field(default=10_000, ge=1)
    """Trajectories over which a KL that is a fifth too high raises the coefficient by a fifth, the most that an update
    moves it."""


class NoKl(_Settings):
    """No reference policy: no second copy, no extra forward pass."""

    kind: Literal["none"] = "none"


class ReferenceKl(_Settings):
    """KL to the frozen policy from which reinforcement learning started; costs a second copy and a forward pass."""

    kind: Literal["reference"] = "reference"
    coef: float = Field(default=0.01, gt=0)
    """Where control is adaptive, the coefficient at the start."""
    estimator: KlEstimator = "k3"
    place: Literal["loss", "reward"] = "loss"
    """`reward` takes the KL of a step's tokens off its step reward, before credit."""
    control: Annotated[FixedControl | AdaptiveControl, Field(discriminator="kind")] = FixedControl()

    @model_validator(mode="after")
    def _has_a_gradient(self) -> Self:
        if self.place == "loss" and self.estimator == "k1":
            raise ValueError(
                "estimator is k1 with place loss: its gradient is zero in expectation, so it would control nothing; "
                "use k2 or k3, or place reward"
            )
        return self


KlConfig = Annotated[NoKl | ReferenceKl, Field(discriminator="kind")]


class NoEntropy(_Settings):
    """Entropy is measured and has no gradient."""

    kind: Literal["none"] = "none"


class EntropyBonus(_Settings):
    """The objective gains coef · entropy of the distribution from which each action token came."""

    kind: Literal["bonus"] = "bonus"
    coef: float = Field(gt=0)
    """Units of advantage for each nat."""


EntropyConfig = Annotated[NoEntropy | EntropyBonus, Field(discriminator="kind")]


class LossConfig(_Settings):
    """The objective of reinforcement learning. What concerns a value head stands with the value head."""

    surrogate: SurrogateConfig = DualClipConfig()
    correction: CorrectionConfig = NoCorrection()
    aggregation: Aggregation = "token_mean"
    kl: KlConfig = NoKl()
    entropy: EntropyConfig = NoEntropy()

    @model_validator(mode="after")
    def _no_correction_within_a_ratio(self) -> Self:
        if isinstance(self.correction, NoCorrection):
            return self
        ratio, weight = self.surrogate.level, self.correction.level
        if _FINENESS[weight] < _FINENESS[ratio]:
            raise ValueError(
                f"correction.level is {weight} and surrogate.level is {ratio}: tokens that share one ratio would have "
                f"different weights; set correction.level to {ratio} or coarser"
            )
        return self
