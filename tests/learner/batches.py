"""A tiny model and batches for it; shared by the tests that run real ranks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.trajectory import Step
from learner.config import LearnerConfig, OptimiserConfig, SftConfig
from learner.credit import CreditedTrajectory, TokenCredit
from learner.packing import Demonstration
from tests.learner.builders import credited, step


def save_tiny_model(path: str) -> None:
    """A random Llama of 20 thousand parameters, always the same one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=64,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(path)


def settings(path: str, **changes: Any) -> LearnerConfig:
    """One rank in float32, with rows so short that every batch takes several."""
    chosen: dict[str, Any] = {
        "model_path": path,
        "dtype": "float32",
        "zero_stage": 0,
        "pack_tokens": 60,
        "threads": 1,
        "deadline_seconds": 120.0,
        "optimiser": OptimiserConfig(lr=1e-3),
        "sft": SftConfig(lr=1e-2, batch_trajectories=4),
    }
    return LearnerConfig(**{**chosen, **changes})


def batch() -> list[CreditedTrajectory]:
    """Two groups of three; behaviour log-probabilities are −ln 64, those of a model that knows nothing."""
    rng = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(64) for _ in range(count))

    out: list[CreditedTrajectory] = []
    for g in range(2):
        prompt = tokens(12)
        for k in range(3):
            steps = [step(prompt, tokens(6), -4.16), step(tokens(5), tokens(4), -4.16)]
            advantages = (rng.gauss(0, 1), None if k == 2 else rng.gauss(0, 1))
            out.append(credited(advantages, steps, id=f"{g}-{k}", group=str(g)))
    return out


def batch_with_a_loss_that_is_no_number() -> list[CreditedTrajectory]:
    """Four trajectories of three tokens, one a row where rows have three. The token of the second is e^1e9 times as
    probable as when it was sampled, and should not have been: the clip of PPO does not bound that loss."""
    behaviour = {"a": -4.16, "odd": -1e9, "b": -4.16, "c": -4.16}
    return [credited([-1.0], [step((k, k), (7,), behaviour[id])], id=id) for k, id in enumerate(behaviour)]


def spread(credited_batch: Sequence[CreditedTrajectory]) -> list[CreditedTrajectory]:
    """The same credit, told token by token."""
    found: list[CreditedTrajectory] = []
    for one in credited_batch:
        lengths = [len(s.action_ids) for s in one.scored.trajectory.steps]
        advantages, returns = (_repeated(numbers, lengths) for numbers in (one.advantages, one.returns))
        found.append(replace(one, tokens=TokenCredit(advantages, returns)))
    return found


def _repeated(numbers: Sequence[float | None], lengths: Sequence[int]) -> tuple[tuple[float, ...] | None, ...]:
    return tuple(None if x is None else (x,) * n for x, n in zip(numbers, lengths, strict=True))


def demonstrations() -> list[Demonstration]:
    """Every token after the prompt of each trajectory of `batch`."""
    sequences = [tuple(one.scored.trajectory.token_ids()) for one in batch()]
    return [Demonstration(ids, tuple(i >= 12 for i in range(len(ids)))) for ids in sequences]


def actions_of(credited_batch: Sequence[CreditedTrajectory]) -> list[Demonstration]:
    """The action tokens of each trajectory, to ask for their log-probabilities."""
    return [
        Demonstration(tuple(one.scored.trajectory.token_ids()), _action_mask(one.scored.trajectory.steps))
        for one in credited_batch
    ]


def with_behaviour(
    credited_batch: Sequence[CreditedTrajectory], logprobs: Sequence[Sequence[float]]
) -> list[CreditedTrajectory]:
    """The same batch as if it had been sampled with these log-probabilities."""
    found: list[CreditedTrajectory] = []
    for one, numbers in zip(credited_batch, logprobs, strict=True):
        queue = iter(numbers)
        steps = [
            Step(s.prompt_ids, s.action_ids, tuple(next(queue) for _ in s.action_ids), s.versions, s.action, None, None)
            for s in one.scored.trajectory.steps
        ]
        found.append(credited(one.advantages, steps, id=one.scored.trajectory.id, group=one.scored.trajectory.group))
    return found


def _action_mask(steps: tuple[Step, ...]) -> tuple[bool, ...]:
    return tuple(flag for s in steps for flag in (False,) * len(s.prompt_ids) + (True,) * len(s.action_ids))
