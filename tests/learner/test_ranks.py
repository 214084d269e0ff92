"""Any number of ranks at any ZeRO stage makes the steps of a plain PyTorch loop, recomputed and offloaded or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from learner.config import OptimiserConfig, ValueHeadConfig
from learner.errors import NonFinite
from learner.objective.config import LossConfig, PpoClipConfig
from learner.rank import LearnerRank
from tests.learner.batches import batch, batch_with_a_loss_that_is_no_number, save_tiny_model, settings
from tests.learner.gang import run_gang
from tests.learner.plain_loop import Trained, train

pytestmark = pytest.mark.timeout(500)

UPDATES = 2
OPTIMISER = OptimiserConfig(lr=1e-3, weight_decay=0.01, max_grad_norm=1.0)
SHARED = ValueHeadConfig(backbone="shared", lr=1e-2)
SEPARATE = ValueHeadConfig(backbone="separate", lr=1e-2, backbone_lr=2e-3)
WARMED = SEPARATE.model_copy(update={"warmup_steps": 1})
RECOMPUTE: dict[str, Any] = {"activations": {"kind": "recompute"}}
OFFLOAD: dict[str, Any] = {"offload": {"kind": "optimiser"}}
OFFLOAD_ALL: dict[str, Any] = {"offload": {"kind": "optimiser_and_parameters"}}

UNBOUNDED = LossConfig(surrogate=PpoClipConfig())

Case = tuple[ValueHeadConfig, dict[str, Any]]

STAGES: list[Case] = [(SHARED, {"zero_stage": stage}) for stage in range(4)]
MEMORY: list[Case] = [
    *[(SHARED, {"zero_stage": stage, **RECOMPUTE}) for stage in (0, 2, 3)],
    *[(SHARED, {"zero_stage": stage, **OFFLOAD}) for stage in (1, 2, 3)],
    (SHARED, {"zero_stage": 3, **OFFLOAD_ALL}),
]
CRITIC: list[Case] = [
    *[(SEPARATE, {"zero_stage": stage}) for stage in (0, 2, 3)],
    (WARMED, {"zero_stage": 1}),
    (WARMED, {"zero_stage": 3, **RECOMPUTE, **OFFLOAD_ALL}),
]
IN_BFLOAT16: list[Case] = [
    (SHARED, {"zero_stage": 0, "dtype": "bfloat16"}),
    (SHARED, {"zero_stage": 1, "dtype": "bfloat16"}),
    (SHARED, {"zero_stage": 3, "dtype": "bfloat16", **RECOMPUTE, **OFFLOAD_ALL}),
]
GANGS = {
    "every stage on one": (1, STAGES),
    "every stage on two": (2, STAGES),
    "every stage on four": (4, STAGES),
    "recomputed and offloaded on two": (2, MEMORY),
    "a separate critic on two": (2, CRITIC),
    "bfloat16 on two": (2, IN_BFLOAT16),
    "bfloat16 on four": (4, IN_BFLOAT16[1:2]),
}
"""Name → number of ranks, and what they do one after the other. Each of four ranks has a row of the batch or two."""


def train_cases(rank: int, path: str, ranks: int, cases: list[Case]) -> list[Trained]:
    """What a rank has to say of every case; the weights are with the first rank."""
    found: list[Trained] = []
    for critic, changes in cases:
        learner = LearnerRank(settings(path, ranks=ranks, optimiser=OPTIMISER, **changes), critic, rank, ranks)
        learner.begin_reinforcement()
        norms = [learner.update(batch()).grad_norm for _ in range(UPDATES)]
        weights = {name: tensor.float().numpy() for name, tensor in learner.full_parameters().items()}
        found.append(Trained(norms, weights, learner.values([one.scored.trajectory for one in batch()])))
    return found


def made_and_gone(rank: int, path: str, ranks: int) -> set[str]:
    """What shared memory there is of DeepSpeed's, while a rank is there."""
    LearnerRank(settings(path, ranks=ranks), None, rank, ranks).update(batch())
    return {one.name for one in Path("/dev/shm").glob("deepspeed_*")}


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_leave_no_shared_memory_behind(path: str, ranks: int) -> None:
    """DeepSpeed makes 69 MB for each rank where LOCAL_SIZE is their number, and never removes them."""
    before = {one.name for one in Path("/dev/shm").glob("deepspeed_*")}
    for found in run_gang(made_and_gone, ranks, path, ranks):
        assert found <= before


def refusals(rank: int, path: str, ranks: int) -> list[tuple[str, bool]]:
    """What a rank says of such a batch at every stage, and whether the weights are the same afterwards."""
    found: list[tuple[str, bool]] = []
    for stage in range(4):
        config = settings(path, ranks=ranks, zero_stage=stage, pack_tokens=3, loss=UNBOUNDED)
        learner = LearnerRank(config, None, rank, ranks)
        before = learner.full_parameters()
        with pytest.raises(NonFinite) as raised:
            learner.update(batch_with_a_loss_that_is_no_number())
        after = learner.full_parameters()
        found.append((str(raised.value), all(torch.equal(after[name], before[name]) for name in before)))
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


def test_a_loss_that_is_no_number_on_one_rank_stops_all_of_them_with_its_name(path: str) -> None:
    """Of four rows each rank has two: the other one is at its second when the odd row is met."""
    told = (
        "rank 1: loss inf of the row with trajectories ['odd']; expected finite numbers; "
        "the step was not made, those before it stand"
    )
    for found in run_gang(refusals, 2, path, 2, seconds=100.0):
        assert found == [(told, True)] * 4


def change(weights: dict[str, np.ndarray], start: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([(weights[name] - start[name]).ravel() for name in sorted(start)])


@pytest.mark.parametrize("name", GANGS)
def test_ranks_make_the_steps_of_a_plain_loop(path: str, name: str) -> None:
    ranks, cases = GANGS[name]
    start = train(settings(path, optimiser=OPTIMISER), SHARED, batch(), 0)
    for (critic, changes), *found in zip(cases, *run_gang(train_cases, ranks, path, ranks, cases), strict=True):
        case = f"{ranks} ranks, {changes}, {critic.backbone} critic"
        expected = train(settings(path, optimiser=OPTIMISER), critic, batch(), UPDATES)
        precise = changes.get("dtype") != "bfloat16"
        for one in found:
            assert one.norms == pytest.approx(expected.norms, rel=1e-6 if precise else 1e-2), case
        assert found[0].weights.keys() == expected.weights.keys(), case
        moved, wanted = change(found[0].weights, start.weights), change(expected.weights, start.weights)
        error = np.linalg.norm(moved - wanted) / np.linalg.norm(wanted)
        # Adam divides by the size of the gradient: where that is near zero, its last bits turn a step of a whole rate.
        assert error < (1e-4 if precise else 0.2), case
        values = {index: numbers for one in found for index, numbers in one.values.items()}
        for index, numbers in expected.values.items():
            assert values[index] == pytest.approx(numbers, abs=1e-6 if precise else 2e-2), case
