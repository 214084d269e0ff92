"""A batch whose trajectories did better and worse, and what plain PyTorch makes of it; for tests of preferences."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from learner.credit import CreditedTrajectory, assign_credit
from learner.credit.config import EtoConfig
from learner.preference import preference_loss
from tests.learner.batches import batch
from tests.learner.builders import scored

BETA = 0.5
ETO = EtoConfig(beta=BETA)
OUTCOMES = (0.0, 1.0, 0.5, 1.0, 0.0, 1.0)
PAIRS = ((1, 0), (1, 2), (3, 4))
"""Of two groups of three: the best with each that is worse, the best in turn."""


def compared(outcomes: Sequence[float | None] = OUTCOMES) -> list[CreditedTrajectory]:
    """The trajectories of `batch` with other outcomes; the second step of the third one of each group abstained."""
    made = []
    for k, (one, outcome) in enumerate(zip(batch(), outcomes, strict=True)):
        trajectory = one.scored.trajectory
        rewards = [0.0, None if k % 3 == 2 else 0.0]
        made.append(scored(rewards, id=trajectory.id, group=trajectory.group, solved=outcome, steps=trajectory.steps))
    return assign_credit(made, None, ETO)


def plain_loss(parameters: dict[str, Tensor], reference: dict[str, Tensor], path: str) -> tuple[float, Tensor]:
    """Loss of `compared()` and its whole gradient, each trajectory run alone by Transformers; [all parameters]."""
    policy, frozen = _model(parameters, path), _model(reference, path)
    now = [_log_probability(policy, one) for one in compared()]
    with torch.no_grad():
        before = [_log_probability(frozen, one) for one in compared()]
    sides = [torch.stack([of[pair[side]] for pair in PAIRS]) for of in (now, before) for side in (0, 1)]
    loss = preference_loss(sides[0], sides[1], sides[2], sides[3], BETA)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])


def _model(parameters: dict[str, Tensor], path: str) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    own = dict(model.named_parameters())
    for name, tensor in parameters.items():
        own[name].data.copy_(tensor)
    return model


def _log_probability(model: torch.nn.Module, credited: CreditedTrajectory) -> Tensor:
    trajectory = credited.scored.trajectory
    ids = torch.tensor([list(trajectory.token_ids())])
    logprobs = model(ids).logits[0].log_softmax(-1)
    total, position = logprobs.new_zeros(()), 0
    for one, reward in zip(trajectory.steps, credited.scored.reward.steps, strict=True):
        position += len(one.prompt_ids)
        for token in one.action_ids:
            if reward.value is not None:
                total = total + logprobs[position - 1, token]
            position += 1
    return total
