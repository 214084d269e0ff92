"""The update as anybody would write it in PyTorch: one process, one trajectory at a time, no packing, no DeepSpeed."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from learner.config import LearnerConfig, ValueHeadConfig
from learner.credit import CreditedTrajectory
from learner.objective.loss import Predictions, ValueTerm, Weights, reinforcement_loss
from learner.packing import Keep, PackItem, items_to_read, items_to_train, pack
from learner.policy import load_model
from learner.training_rows import batch_scale, training_row


@dataclass(frozen=True)
class Trained:
    """What came of it; arrays, so that it goes from one process to another."""

    norms: list[float]
    """Of the gradient before clipping, at every step."""
    weights: dict[str, np.ndarray]
    """Of the language model, by Hugging Face name."""
    values: dict[int, tuple[float, ...]]
    """V of every step after the last update, by trajectory."""


class Plain:
    """Model, read-out and, for a separate critic, a body of its own, in float32."""

    def __init__(self, config: LearnerConfig, critic: ValueHeadConfig) -> None:
        self.model: Any = load_model(config.model_path, torch.float32)
        self.body: Any = copy.deepcopy(self.model.model) if critic.backbone == "separate" else self.model.model
        self.head = nn.Linear(self.model.config.hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        groups: list[dict[str, Any]] = [
            {"params": list(self.model.parameters()), "lr": config.optimiser.lr},
            {"params": list(self.head.parameters()), "lr": critic.lr},
        ]
        if critic.backbone == "separate":
            groups.append({"params": list(self.body.parameters()), "lr": critic.backbone_lr})
        chosen = config.optimiser
        self.optimiser = torch.optim.AdamW(groups, betas=chosen.betas, eps=chosen.eps, weight_decay=chosen.weight_decay)

    def predict(self, item: PackItem) -> Predictions:
        ids = torch.tensor([item.token_ids])
        at = torch.tensor(item.action_at)
        log_p = torch.log_softmax(self.model(ids).logits[0], -1)[at - 1]
        logprobs, entropies = log_p[torch.arange(len(at)), ids[0, at]], -(log_p.exp() * log_p).sum(-1)
        return Predictions(logprobs, entropies, self.values(ids, item.value_at))

    def values(self, ids: Tensor, at: Sequence[int]) -> Tensor:
        return self.head(self.body(ids).last_hidden_state[0][torch.tensor(at)]).squeeze(-1)


def train(
    config: LearnerConfig, critic: ValueHeadConfig, credited: Sequence[CreditedTrajectory], updates: int
) -> Trained:
    """`updates` steps on the same batch; the critic learns alone in the first `critic.warmup_steps` of them."""
    plain, scale = Plain(config, critic), batch_scale(credited)
    items = items_to_train(credited, Keep.ALL)
    norms: list[float] = []
    for update in range(updates):
        alone = update < critic.warmup_steps
        weights = Weights(0.0 if alone else 1.0, 0.0, ValueTerm(critic.coef, None))
        plain.optimiser.param_groups[0]["lr"] = 0.0 if alone else config.optimiser.lr
        plain.optimiser.zero_grad()
        for item in items:
            row = training_row(pack([item], 10**6, 1)[0][0], credited, old=None, old_values=None, reference=None)
            reinforcement_loss(plain.predict(item), row.credit, scale, config.loss, weights).loss.backward()
        parameters = [p for group in plain.optimiser.param_groups for p in group["params"]]
        norms.append(float(nn.utils.clip_grad_norm_(parameters, config.optimiser.max_grad_norm)))
        plain.optimiser.step()
    named = {name: parameter.detach().numpy() for name, parameter in plain.model.named_parameters()}
    return Trained(norms, named, _values(plain, credited))


def _values(plain: Plain, credited: Sequence[CreditedTrajectory]) -> dict[int, tuple[float, ...]]:
    items = items_to_read([one.scored.trajectory for one in credited])
    read = {item.index: plain.values(torch.tensor([item.token_ids]), item.value_at) for item in items}
    return {index: tuple(numbers.tolist()) for index, numbers in read.items()}
