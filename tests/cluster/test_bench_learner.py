"""`steptool bench learner` on a model of some kilobytes, and its reference by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rich.console import Console
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cluster.bench_learner import (
    BareRow,
    BareUpdate,
    Group,
    Sizes,
    measure_memory,
    measure_prefixes,
    measure_speed,
    spread,
    tree_mask,
)
from cluster.launch import check_inputs
from cluster.presets import load_config
from learner.config import OptimiserConfig
from learner.forest import Layout
from learner.objective.config import LossConfig
from learner.packing import Keep, items_to_train, pack
from learner.random_batches import EpisodeShape, forked_batch
from learner.rank import LearnerRank
from learner.training_rows import batch_scale
from tests.learner.batches import actions_of, save_tiny_model, settings, with_behaviour
from tests.learner.batches import batch as two_groups
from tests.learner.builders import credited, step

PROMPT = tuple(range(10, 20))
TOY = EpisodeShape(prompt=10, action=5, observation=3, steps=3, group=4)
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, alone: None) -> str:
    found = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(found)
    return found


def test_a_spread_is_the_median_of_ratios_and_their_extremes() -> None:
    assert spread([1.2, 0.8, 1.0]) == {"median": 1.0, "low": 0.8, "high": 1.2, "pairs": 3}


def test_the_mask_of_the_reference_is_the_tree() -> None:
    group = [credited([1.0], [step(PROMPT[:8], (first, 2))], id=f"t-{first}") for first in (7, 9)]
    [[row]] = pack(items_to_train(group, Keep.ALL), 100, 1)
    mask = tree_mask(row).long().tolist()
    # Eight of the prompt, then 7 2 of one trajectory and 9 2 of the other, which do not see each other.
    assert mask[7] == [1] * 8 + [0, 0, 0, 0]
    assert mask[9] == [1] * 8 + [1, 1, 0, 0]
    assert mask[11] == [1] * 8 + [0, 0, 1, 1]


def test_forked_trajectories_part_in_two_at_every_step() -> None:
    batch = forked_batch(TOY, 64)
    [[shared]] = pack(items_to_train(batch, Keep.ALL), 1000, 1)
    # Prompt and call of all, two observations and calls, four of them.
    assert (len(batch), shared.token_count) == (4, 15 + 2 * 8 + 4 * 8)
    [[apart]] = pack(items_to_train(batch, Keep.ALL), 1000, 1, Layout.APART)
    assert apart.token_count == 4 * (15 + 8 + 8)


def test_forks_that_are_no_power_of_two_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 4"):
        forked_batch(EpisodeShape(10, 5, 3, steps=3, group=3), 64)


def test_the_reference_has_the_gradient_of_the_learner(path: str) -> None:
    """To float32 precision, where the policy itself sampled: every ratio is one, and its slope the advantage."""
    objective = LossConfig(aggregation="token_mean")
    config = settings(path, loss=objective, optimiser=OptimiserConfig(lr=1e-3, max_grad_norm=1e6))
    rank, bare = LearnerRank(config, None, 0, 1), BareUpdate(config)
    said = rank.log_probs(actions_of(two_groups()))
    batch = with_behaviour(two_groups(), [said[index] for index in range(len(said))])
    [rows] = pack(items_to_train(batch, Keep.CREDITED), config.pack_tokens, 1)
    mine = gradient_of_step(lambda: rank.update(batch))
    theirs = gradient_of_step(lambda: bare.update([BareRow.of(row) for row in rows]))
    # The reference sums over tokens where the learner takes their mean.
    wanted = theirs / batch_scale(batch).action_tokens
    torch.testing.assert_close(mine, wanted, atol=2e-6 * float(wanted.abs().max()), rtol=1e-4)


def gradient_of_step(work: Callable[[], object]) -> torch.Tensor:
    """The gradient, as long as all parameters together, at the last optimiser step that `work` takes."""
    seen: list[torch.Tensor] = []

    def keep(optimiser: torch.optim.Optimizer, *_: object) -> None:
        gradients = [one.grad for one in optimiser.param_groups[0]["params"] if one.grad is not None]
        seen.append(torch.cat([one.flatten() for one in gradients]).clone())

    hook = register_optimizer_step_pre_hook(keep)
    try:
        work()
    finally:
        hook.remove()
    return seen[-1]


@pytest.mark.parametrize("changes", [(), ("learner.dtype=bfloat16", "learner.zero_stage=1")])
def test_an_update_of_tiny_takes_about_the_memory_that_was_planned(changes: tuple[str, ...]) -> None:
    """In a process of its own; the free blocks of its heap differ from run to run."""
    found = measure_memory(check_inputs(load_config("tiny", changes)))
    assert found["error"] == pytest.approx(abs(found["planned"] / found["measured"] - 1), abs=1e-3)
    assert found["error"] < 0.25


def test_every_number_of_the_table_is_measured(path: str) -> None:
    config = settings(path, pack_tokens=80)
    sizes = Sizes(
        repeats=2, minibatch=TOY, groups=2, main="forks", prefixes={"forks": Group(TOY, True)}, row_tokens=200
    )
    update, shares = measure_speed(config, sizes, QUIET)
    assert update["low"] <= update["median"] <= update["high"]
    assert update["pairs"] == 2
    assert set(shares) == {"packing", "forward", "loss", "backward", "step", "other"}
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert min(shares.values()) > 0.0
    found = measure_prefixes(config, sizes, QUIET)
    # 4 · 31 tokens against 63.
    assert found["forks"]["bound"] == pytest.approx(124 / 63, abs=1e-3)
