"""How far two policies are apart, estimated from samples, and what that costs. Owns the estimators and the controller.

Pure. Sources: the estimators are those of Schulman, "Approximating KL divergence" (2020).
"""

from __future__ import annotations

from torch import Tensor

from learner.objective.config import AdaptiveControl, FixedControl, KlEstimator

_LARGEST_ERROR = 0.2


def k1(logprobs: Tensor, other: Tensor) -> Tensor:
    """l − o: an unbiased estimate of KL(l ‖ o) for samples of l, of either sign. Elementwise, nats."""
    return logprobs - other


def k2(logprobs: Tensor, other: Tensor) -> Tensor:
    """½(l − o)²: biased and never negative; on samples of l its gradient is that of KL(l ‖ o). Elementwise, nats²."""
    return 0.5 * (logprobs - other).square()


def k3(logprobs: Tensor, other: Tensor) -> Tensor:
    """exp(o − l) − (o − l) − 1: an unbiased, non-negative estimate of KL(l ‖ o) for samples of l. Elementwise, nats."""
    gap = other - logprobs
    return gap.exp() - gap - 1.0


def estimate(logprobs: Tensor, other: Tensor, estimator: KlEstimator) -> Tensor:
    """The chosen estimate of KL(l ‖ o) for each token."""
    return {"k1": k1, "k2": k2, "k3": k3}[estimator](logprobs, other)


def next_coefficient(coef: float, kl: float, trajectories: int, control: FixedControl | AdaptiveControl) -> float:
    """coef·(1 + clip(KL / target − 1, ±0.2)·min(1, n / horizon)) after n trajectories (Ziegler et al. 2019, §2.2).

    `kl` is the measured mean in nats a token. A fixed coefficient stays. The paper's horizon is longer than any batch;
    with a short one the coefficient would change its sign, and pay for leaving the reference.
    """
    if isinstance(control, FixedControl):
        return coef
    error = min(max(kl / control.target - 1.0, -_LARGEST_ERROR), _LARGEST_ERROR)
    return coef * (1.0 + error * min(1.0, trajectories / control.horizon))
