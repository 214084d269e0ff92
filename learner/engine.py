"""How DeepSpeed is set up: the process group, its settings, the optimiser under it.

Owns `join`, `own_device`, `build_engine`, `GuardedAdamW`, `Rates` and `take_step`. Consumes the learner's settings and
a policy, produces a DeepSpeed engine and its steps. On a CPU the collectives are gloo's, on a GPU NCCL's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from deepspeed.accelerator import get_accelerator
from torch import nn

from learner.config import LearnerConfig, NoOffload, OffloadOptimiser, OffloadOptimiserAndParameters
from learner.policy import PolicyWithCritic

_BUCKET_NUMBERS = 500_000_000
"""Gradients that are reduced at once at most: DeepSpeed's own choice."""


def join(rank: int, ranks: int, config: LearnerConfig) -> None:
    """Meet the other ranks at `MASTER_ADDR:MASTER_PORT`; every collective has the learner's deadline."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=os.environ.get("LOCAL_RANK", "0"))
    # Were it the number of ranks, even of one, DeepSpeed would leave 69 MB of shared memory behind for each of them.
    os.environ["LOCAL_SIZE"] = str(ranks + 1)
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "gloo":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(config.threads)
    deepspeed.init_distributed(backend, timeout=timedelta(seconds=config.deadline_seconds), verbose=False)


def own_device() -> torch.device:
    """Where this rank computes: its GPU, or the CPU."""
    accelerator = get_accelerator()
    assert accelerator is not None, "DeepSpeed takes the CPU where it finds nothing else"
    return torch.device(accelerator.current_device_name())


def build_engine(policy: PolicyWithCritic, config: LearnerConfig) -> Any:
    """The engine; its `basic_optimizer` is a `GuardedAdamW` that knows where the gradient's norm comes from."""
    optimiser = _adamw(policy, config)
    settings = engine_settings(config, sum(parameter.numel() for parameter in policy.parameters()))
    made = deepspeed.initialize(model=policy, optimizer=optimiser, config=settings, dist_init_required=False)
    engine: Any = made[0]
    if _is_plain(config):
        optimiser.guard(lambda: _clip(optimiser, config.optimiser.max_grad_norm))
    else:
        optimiser.guard(lambda: float(engine.optimizer._global_grad_norm))
    return engine


@dataclass(frozen=True, slots=True)
class StepTaken:
    """What became of one optimiser step."""

    norm: float
    """Global L2 norm of the gradient before clipping; infinite or NaN where it overflowed."""
    applied: bool
    """False: neither weights nor moments changed."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Learning rates of one step; a field for each parameter group."""

    policy: float
    value_head: float
    critic_body: float
    """Of layers that the critic has to itself."""


def take_step(engine: Any, rates: Rates, bound: float | None) -> StepTaken:
    """Apply the accumulated gradient at a rate for each parameter group, unless its norm is above `bound`."""
    optimiser: GuardedAdamW = engine.basic_optimizer
    for group in optimiser.param_groups:
        group["lr"] = getattr(rates, group["trains"])
    optimiser.bound = math.inf if bound is None else bound
    engine.step()
    # Where DeepSpeed finds the overflow itself, it does not call the optimiser, whose own norm would be an old one.
    reported = engine.get_global_grad_norm()
    norm = optimiser.norm if reported is None else float(reported)
    return StepTaken(norm, math.isfinite(norm) and norm <= optimiser.bound)


def _is_plain(config: LearnerConfig) -> bool:
    """DeepSpeed leaves the optimiser as it is: no partition and no master weights."""
    return config.zero_stage == 0 and config.dtype == "float32"


def engine_settings(config: LearnerConfig, parameters: int) -> dict[str, Any]:
    """DeepSpeed's settings for a policy of so many parameters: the caller owns the accumulation boundary, gradients
    accumulate in float32 where it can.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if _is_plain(config) else config.optimiser.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            # ZeRO 3 allocates the whole bucket, however small the model, and keeps it.
            "reduce_bucket_size": min(_BUCKET_NUMBERS, parameters),
            **_offload(config),
        },
        "zero_allow_untested_optimizer": True,
        # DeepSpeed's own optimiser on the host would step on a gradient that is not finite.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    if config.dtype == "bfloat16":
        settings["bf16"] = {"enabled": True}
        if config.zero_stage > 0:
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def _offload(config: LearnerConfig) -> dict[str, Any]:
    """What waits in host memory, page-locked where a GPU copies from it."""
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    match config.offload:
        case NoOffload():
            return {}
        case OffloadOptimiser():
            return {"offload_optimizer": host}
        case OffloadOptimiserAndParameters():
            return {"offload_optimizer": host, "offload_param": host}


def _adamw(policy: PolicyWithCritic, config: LearnerConfig) -> GuardedAdamW:
    groups: dict[str, list[nn.Parameter]] = {"policy": [], "value_head": [], "critic_body": []}
    for name, parameter in policy.named_parameters():
        owner = name.split(".")[0]
        if parameter.requires_grad:
            groups[owner if owner in groups else "policy"].append(parameter)
    chosen = config.optimiser
    return GuardedAdamW(
        [{"params": members, "trains": name} for name, members in groups.items() if members],
        lr=chosen.lr,
        betas=chosen.betas,
        eps=chosen.eps,
        weight_decay=chosen.weight_decay,
        fused=True,
    )


class GuardedAdamW(torch.optim.AdamW):
    """AdamW that leaves a step out whose gradient is not finite or too large.

    DeepSpeed knows the norm when it calls the optimiser and steps whatever it is. Left out here, the weights are copied
    from masters that have not changed, at every ZeRO stage.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        self.norm = math.nan
        self.bound = math.inf
        self._measure: Callable[[], float] | None = None
        super().__init__(groups, **settings)

    def guard(self, measure: Callable[[], float]) -> None:
        """From now on `measure` gives the gradient's norm before each step; DeepSpeed's own first step has none."""
        self._measure = measure

    def step(self, closure: Any = None) -> Any:
        """One step, or none."""
        if self._measure is not None:
            self.norm = self._measure()
            if not (math.isfinite(self.norm) and self.norm <= self.bound):
                self._make_moments()
                return None
        return super().step(closure)

    def _make_moments(self) -> None:
        """ZeRO links the moments to its partitions once, after the first step, even one that was left out."""
        for group in self.param_groups:
            self._init_group(group, [], [], [], [], [], [])


def _clip(optimiser: torch.optim.Optimizer, max_norm: float) -> float:
    """Clip gradients that DeepSpeed leaves alone, and give their norm, which it does not report there."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    return float(nn.utils.clip_grad_norm_(parameters, max_norm))
