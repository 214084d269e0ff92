"""One rank or two, at any ZeRO stage: the same gradient for every objective, to float32 precision.

Read from what a rank itself saves: Adam's first moment is the running mean of the gradients, and unlike the weights it
has not been divided by their size. A large ε keeps that division out of the weights as well: where a gradient is nearly
zero its last bits would turn a step of a whole rate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner.config import OptimiserConfig, ValueHeadConfig
from learner.objective.config import LossConfig
from learner.rank import LearnerRank
from learner.saving import PendingSave
from learner.shards import Shards
from tests.learner.batches import batch, save_tiny_model, settings
from tests.learner.builders import scored
from tests.learner.gang import run_gang

pytestmark = pytest.mark.timeout(500)

CRITIC = ValueHeadConfig(backbone="shared")
UPDATES = 2
"""At the second, policy and reference differ, and ratios are no longer one."""
SMOOTH = OptimiserConfig(lr=0.05, eps=1.0, max_grad_norm=1e6)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "token mean, dual clip": {"aggregation": "token_mean", "surrogate": {"kind": "dual_clip"}},
    "step mean, CISPO, KL, entropy": {
        "aggregation": "step_mean",
        "surrogate": {"kind": "cispo"},
        "kl": {"kind": "reference", "estimator": "k2", "coef": 0.5},
        "entropy": {"kind": "bonus", "coef": 0.1},
    },
    "trajectory mean, GSPO, truncated": {
        "aggregation": "trajectory_mean",
        "surrogate": {"kind": "gspo", "clip_low": 0.2, "clip_high": 0.2},
        "correction": {"kind": "tis", "level": "trajectory", "cap": 2.0},
    },
    "step mean, ratios of steps, masked": {
        "aggregation": "step_mean",
        "surrogate": {"kind": "ppo_clip", "level": "step"},
        "correction": {"kind": "masked", "level": "step"},
    },
}


def learn(rank: int, path: str, ranks: int, stages: list[int], directory: str) -> dict[str, int]:
    """Two updates by every objective at every stage, and what came of them saved; gives the parameters' sizes."""
    sizes: dict[str, int] = {}
    for stage in stages:
        for name, objective in OBJECTIVES.items():
            config = settings(
                path, ranks=ranks, zero_stage=stage, loss=LossConfig.model_validate(objective), optimiser=SMOOTH
            )
            learner = LearnerRank(config, CRITIC, rank, ranks)
            learner.begin_reinforcement()
            for _ in range(UPDATES):
                learner.update(batch())
            learner.save(str(Path(directory, f"{ranks}-{stage}-{name}")))
            PendingSave(lambda saving=learner: [saving.saved()], 60.0).wait()
            sizes = {f"model.{key}": tensor.numel() for key, tensor in learner.state_dict_iter()}
    return sizes


def penalise_on(rank: int, path: str, ranks: int) -> dict[int, tuple[float, ...]]:
    """Penalties of a lost episode and one that was played: there is less to read than there are ranks."""
    loss = LossConfig.model_validate({"kl": {"kind": "reference", "place": "reward"}})
    learner = LearnerRank(settings(path, ranks=ranks, loss=loss), None, rank, ranks)
    learner.begin_reinforcement()
    return learner.step_penalties([scored([], steps=[]).trajectory, batch()[0].scored.trajectory])


def test_a_lost_episode_keeps_no_rank_from_reading_the_others(tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    save_tiny_model(path)
    [alone], both = run_gang(penalise_on, 1, path, 1), run_gang(penalise_on, 2, path, 2)
    assert sorted(both, key=len) == [{}, {1: pytest.approx(alone[1])}]


def gradients(directory: Path, ranks: int, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    shards = Shards(directory, ranks)
    return {name: shards.read("exp_avg", name, 0, size).numpy() for name, size in sizes.items()}


def test_one_rank_and_two_have_the_same_gradient_for_every_objective(tmp_path: Path) -> None:
    path = str(tmp_path / "model")
    save_tiny_model(path)
    [sizes] = run_gang(learn, 1, path, 1, [0], str(tmp_path))
    stages = [0, 2, 3]
    run_gang(learn, 2, path, 2, stages, str(tmp_path))
    for name in OBJECTIVES:
        expected = gradients(tmp_path / f"1-0-{name}", 1, sizes)
        assert all(float(np.abs(one).max()) > 0.0 for one in expected.values()), name
        for stage in stages:
            found = gradients(tmp_path / f"2-{stage}-{name}", 2, sizes)
            for parameter, wanted in expected.items():
                error = np.abs(found[parameter] - wanted).max() / np.abs(wanted).max()
                assert error < 3e-6, f"{name}, ZeRO {stage}, {parameter}: {error:.1e} of the largest"
