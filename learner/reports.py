"""What the learner says of its steps. Owns `StepsTaken`, and `UpdateReport` and `SftReport`, of one rank or of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from learner.credit import CreditedTrajectory
from learner.engine import StepTaken
from learner.objective.stats import LossStats
from learner.phases import Phase, PhaseClock


@dataclass(frozen=True, slots=True)
class StepsTaken:
    """What the passes over a batch came to, on one rank."""

    stats: LossStats
    """Of the last pass."""
    steps: Sequence[StepTaken]
    lr: float
    """Of the policy, in the last step; 0 where there was none."""
    passes: int


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one update did, on one rank or, summed, on all."""

    optimiser_steps: int
    """Those applied; 0 where no step of the batch had a non-zero advantage, or all were skipped: nothing changed."""
    skipped_steps: int
    """Left out because the gradient's norm was above `optimiser.skip_grad_norm`."""
    passes: int
    """Those made; fewer than configured where the policy had moved by `stop_kl`."""
    stats: LossStats
    """Of the last pass."""
    grad_norm: float
    """Global L2 norm before clipping, of the last step, whether it was applied or not."""
    lr: float
    kl_coef: float
    """Of the KL to the reference in this update; 0 without one."""
    batch_tokens: int
    """Tokens of the trajectories, shared prompts counted once for each."""
    computed_tokens: int
    """Tokens that went through the model, all passes together."""
    phase_seconds: Mapping[Phase, float]
    """Of `seconds`, those in each phase. On a GPU, kernels run after they were launched: a phase then holds the time in
    which the host waited, and no more."""
    seconds: float

    @classmethod
    def of(
        cls,
        credited: Sequence[CreditedTrajectory],
        row_tokens: int,
        taken: StepsTaken,
        kl_coef: float,
        clock: PhaseClock,
    ) -> UpdateReport:
        """Of one rank. `row_tokens`: of its rows, each counted once."""
        return cls(
            optimiser_steps=sum(step.applied for step in taken.steps),
            skipped_steps=sum(not step.applied for step in taken.steps),
            passes=taken.passes,
            stats=taken.stats,
            grad_norm=taken.steps[-1].norm if taken.steps else 0.0,
            lr=taken.lr,
            kl_coef=kl_coef,
            batch_tokens=sum(one.scored.trajectory.token_count for one in credited),
            computed_tokens=taken.passes * row_tokens,
            phase_seconds=clock.seconds(),
            seconds=clock.elapsed(),
        )

    def summary(self) -> dict[str, float]:
        """Numbers by the names that metrics use."""
        return {
            **self.stats.summary(),
            "optimiser_steps": float(self.optimiser_steps),
            "skipped_steps": float(self.skipped_steps),
            "passes": float(self.passes),
            "grad_norm": self.grad_norm,
            "lr": self.lr,
            "kl_coef": self.kl_coef,
            "batch_tokens": float(self.batch_tokens),
            "computed_tokens": float(self.computed_tokens),
            **{f"{phase.value}_seconds": seconds for phase, seconds in self.phase_seconds.items()},
            "update_seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class SftReport:
    """One optimiser step of the warm start."""

    step: int
    steps: int
    loss: float
    """Nats per demonstrated token."""
    grad_norm: float
    tokens: int
