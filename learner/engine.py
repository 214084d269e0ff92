"""How DeepSpeed is set up: the process group, its settings, the optimiser under it.

Owns `join`, `build_engine` and `PlainClip`. Consumes the learner's settings and a policy, produces a DeepSpeed engine.
On a CPU the collectives are gloo's, on a GPU NCCL's.
"""

from __future__ import annotations

import math
import os
from datetime import timedelta
from typing import Any

import deepspeed
import torch
from torch import nn

from learner.config import LearnerConfig
from learner.policy import PolicyWithCritic


def join(rank: int, ranks: int, config: LearnerConfig) -> None:
    """Meet the other ranks at `MASTER_ADDR:MASTER_PORT`; every collective has the learner's deadline."""
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK=os.environ.get("LOCAL_RANK", "0"))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    if backend == "gloo":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    torch.set_num_threads(config.threads)
    deepspeed.init_distributed(backend, timeout=timedelta(seconds=config.deadline_seconds), verbose=False)


def build_engine(policy: PolicyWithCritic, config: LearnerConfig) -> tuple[Any, PlainClip | None]:
    """The engine, and the clip where DeepSpeed leaves clipping to us."""
    optimiser = _adamw(policy, config)
    clip = PlainClip(optimiser, config.optimiser.max_grad_norm) if _is_plain(config) else None
    settings = engine_settings(config)
    engine, *_ = deepspeed.initialize(model=policy, optimizer=optimiser, config=settings, dist_init_required=False)
    return engine, clip


def _is_plain(config: LearnerConfig) -> bool:
    """DeepSpeed leaves the optimiser as it is: no partition and no master weights."""
    return config.zero_stage == 0 and config.dtype == "float32"


def engine_settings(config: LearnerConfig) -> dict[str, Any]:
    """DeepSpeed's settings: the caller owns the accumulation boundary, gradients accumulate in float32 where it can."""
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0 if _is_plain(config) else config.optimiser.max_grad_norm,
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    if config.dtype == "bfloat16":
        settings["bf16"] = {"enabled": True}
        if config.zero_stage > 0:
            settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings


def _adamw(policy: PolicyWithCritic, config: LearnerConfig) -> torch.optim.Optimizer:
    critic = list(policy.value_head.parameters())
    mine = {id(parameter) for parameter in critic}
    body = [parameter for parameter in policy.parameters() if id(parameter) not in mine]
    chosen = config.optimiser
    return torch.optim.AdamW(
        [{"params": body}, {"params": critic}],
        lr=chosen.lr,
        betas=chosen.betas,
        eps=chosen.eps,
        weight_decay=chosen.weight_decay,
        fused=True,
    )


class PlainClip:
    """Clips an optimiser that DeepSpeed did not wrap, and keeps the norm, which DeepSpeed does not report there."""

    def __init__(self, optimiser: torch.optim.Optimizer, max_norm: float) -> None:
        self.norm = math.nan
        self._max_norm = max_norm
        optimiser.register_step_pre_hook(self._clip)

    def _clip(self, optimiser: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        self.norm = float(nn.utils.clip_grad_norm_(parameters, self._max_norm))
