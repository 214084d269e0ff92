"""One batch, however it is cut and whatever abstains: the same gradient of a real model, to float32 precision."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from learner.config import LearnerConfig, ValueHeadConfig
from learner.credit import CreditedTrajectory
from learner.objective.config import LossConfig
from learner.objective.loss import Predictions, ValueTerm, Weights, has_kl_term, reinforcement_loss
from learner.packing import Keep, PackedRow, items_to_train, pack
from learner.policy import PolicyWithCritic, load_model
from learner.training_rows import batch_scale, tokens_to_keep, training_row
from tests.learner.batches import save_tiny_model
from tests.learner.builders import credited, step

EVERYTHING: dict[str, Any] = {
    "kl": {"kind": "reference", "estimator": "k2"},
    "entropy": {"kind": "bonus", "coef": 0.03},
    "correction": {"kind": "tis", "level": "trajectory", "cap": 2.0},
}
OBJECTIVES = [
    pytest.param({"aggregation": "token_mean", "surrogate": {"kind": "dual_clip"}}, id="token-dual_clip"),
    pytest.param({"aggregation": "step_mean", "surrogate": {"kind": "cispo"}, **EVERYTHING}, id="step-cispo"),
    pytest.param(
        {
            "aggregation": "trajectory_mean",
            "surrogate": {"kind": "gspo", "clip_low": 0.2, "clip_high": 0.2},
            **EVERYTHING,
        },
        id="trajectory-gspo",
    ),
    pytest.param(
        {
            "aggregation": "step_mean",
            "surrogate": {"kind": "ppo_clip", "level": "step"},
            "entropy": EVERYTHING["entropy"],
        },
        id="step-ppo_clip",
    ),
]

VALUE = ValueTerm(0.5, None)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory: Path = tmp_path_factory.mktemp("model")
    save_tiny_model(str(directory))
    return str(directory)


def eight() -> list[CreditedTrajectory]:
    """Eight ragged trajectories of one to four steps; one step abstains and one has no advantage."""
    rng = random.Random(3)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.randrange(64) for _ in range(rng.randint(low, high)))

    batch: list[CreditedTrajectory] = []
    for k in range(8):
        steps = [
            step(tokens(10, 12), tokens(1, 5), -4.0),
            *(step(tokens(1, 3), tokens(1, 6), -4.2) for _ in range(k % 4)),
        ]
        advantages: list[float | None] = [rng.gauss(0.0, 1.0) for _ in steps]
        if k == 2:
            advantages[1] = None
        if k == 3:
            advantages[2] = 0.0
        batch.append(credited(advantages, steps, id=f"t-{k}", group=str(k // 4)))
    return batch


def gradient(
    path: str,
    batch: Sequence[CreditedTrajectory],
    objective: dict[str, Any],
    rows: Sequence[PackedRow],
    value: ValueTerm | None = VALUE,
) -> Any:
    """Loss and gradients, accumulated over the rows as a rank does."""
    config, scale = LossConfig.model_validate(objective), batch_scale(batch)
    policy = PolicyWithCritic(load_model(path, torch.float32), "shared")
    torch.nn.init.constant_(policy.value_head.weight, 0.1)
    loss = 0.0
    for packed in rows:
        outputs = policy(packed)
        made = training_row(
            packed,
            batch,
            old=packed.behaviour + 0.1 if config.correction.kind != "none" else None,
            old_values=None,
            reference=packed.behaviour - 0.2 if has_kl_term(config) else None,
        )
        predicted = Predictions(outputs.logprobs, outputs.entropies, outputs.values)
        found = reinforcement_loss(predicted, made.credit, scale, config, Weights(1.0, 0.1, value))
        found.loss.backward()
        loss += found.stats.loss
    return loss, {name: one.grad for name, one in policy.named_parameters() if one.grad is not None}


def expect_equal(mine: Any, theirs: Any) -> None:
    assert mine[0] == pytest.approx(theirs[0], rel=1e-5, abs=1e-6)
    assert mine[1].keys() == theirs[1].keys()
    for name, tensor in theirs[1].items():
        scale = float(tensor.abs().max())
        torch.testing.assert_close(mine[1][name], tensor, atol=2e-6 * scale, rtol=1e-4, msg=name)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_row_of_eight_four_of_two_and_eight_of_one_have_the_same_gradient(
    path: str, objective: dict[str, Any]
) -> None:
    batch = eight()
    items = items_to_train(batch, Keep.ALL)
    whole = pack(items, 10_000, 1)[0]
    pairs = [pack(items[k : k + 2], 10_000, 1)[0][0] for k in range(0, 8, 2)]
    single = [pack([item], 10_000, 1)[0][0] for item in items]
    two_ranks = [row for share in pack(items, 10_000, 2) for row in share]
    assert [len(one) for one in (whole, pairs, single, two_ranks)] == [1, 4, 8, 2]
    expected = gradient(path, batch, objective, whole)
    for rows in (pairs, single, two_ranks):
        expect_equal(gradient(path, batch, objective, rows), expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_tokens_that_are_left_out_would_have_had_no_gradient(path: str, objective: dict[str, Any]) -> None:
    batch = eight()
    config = LearnerConfig(model_path=path, loss=LossConfig.model_validate(objective))
    keep = tokens_to_keep(config, None)
    assert keep is (Keep.CREDITED if objective["surrogate"] == {"kind": "dual_clip"} else Keep.ALL)
    assert tokens_to_keep(config, ValueHeadConfig()) is Keep.ALL
    kept, every = (pack(items_to_train(batch, one), 10_000, 1)[0] for one in (keep, Keep.ALL))
    found, expected = (gradient(path, batch, objective, rows, None) for rows in (kept, every))
    expect_equal(found, expected)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_abstained_step_is_an_observation_and_changes_nobodys_loss(path: str, objective: dict[str, Any]) -> None:
    """The same tokens, once as a step that abstained and once as part of the observation before the next step."""
    call, abstained, answer = step((1, 2, 3), (4, 5), -4.0), step((6,), (7, 8, 9), -4.1), step((10,), (11,), -4.3)
    other = credited([-0.7], [step((1, 2, 3), (20, 21), -4.0)], id="other")
    with_it = [credited([1.0, None, -0.5], [call, abstained, answer]), other]
    without = [credited([1.0, -0.5], [call, step((6, 7, 8, 9, 10), (11,), -4.3)]), other]
    found, expected = (
        gradient(path, batch, objective, pack(items_to_train(batch, Keep.ALL), 10_000, 1)[0])
        for batch in (with_it, without)
    )
    expect_equal(found, expected)
