"""`steptool replay` over real DeepSpeed ranks: whatever the settings, an update comes out again to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest

from actors.trajectory import Trajectory
from cluster.config import RunConfig
from cluster.errors import Stopped
from cluster.replay import replay
from learner.config import ValueHeadConfig
from learner.credit import CreditedTrajectory, StateAt
from learner.credit.config import EtoConfig
from learner.preference_rank import PreferenceRank
from learner.rank import LearnerRank
from learner.reports import UpdateReport
from learner.saving import PendingSave
from learner.utterance_features import UtteranceFeatures
from tests.cluster.builders import FakeLearner, FakeRun, small_config, stop_in_iteration
from tests.learner.batches import save_tiny_model

pytestmark = [pytest.mark.usefixtures("alone"), pytest.mark.timeout(240)]

VALUE_HEAD = ("credit.critic.kind=value_head",)
REFERENCE = ("learner.loss.kl.kind=reference", "learner.loss.kl.coef=0.1")
SETTINGS = {
    "table": (),
    "two minibatches, two passes": ("learner.minibatches=2", "learner.passes=2"),
    "value head": VALUE_HEAD,
    "value head on layers of its own": (*VALUE_HEAD, "credit.critic.backbone=separate"),
    "clipped value head before every token": (
        "credit.kind=token_gae_masked",
        *VALUE_HEAD,
        "credit.critic.clip=0.2",
        "learner.passes=2",
        "credit.critic.backbone=shared",
    ),
    "utterance critic": ("credit.kind=archer",),
    "preferences": ("credit.kind=eto",),
    "groups": ("credit.kind=gigpo",),
    "adapters": ("learner.trained.kind=lora", *REFERENCE),
    "recomputed activations": ("learner.activations.kind=recompute",),
    "KL in the loss, adaptive": (
        *REFERENCE,
        "learner.loss.kl.control.kind=adaptive",
        "learner.loss.kl.control.target=0.1",
    ),
    "KL in the reward": (*REFERENCE, "learner.loss.kl.place=reward"),
    "CISPO and truncated importance": ("learner.loss.surrogate.kind=cispo", "learner.loss.correction.kind=tis"),
    "ZeRO 2": ("learner.zero_stage=2",),
    "ZeRO 3, offloaded": ("learner.zero_stage=3", "learner.offload.kind=optimiser_and_parameters"),
}


class OneRank(FakeLearner):
    """A real rank where a replay sees it; what goes to the engine stays made up."""

    def __init__(self, config: RunConfig) -> None:
        super().__init__([])
        critic = getattr(config.credit, "critic", None)
        self._rank = (
            PreferenceRank(config.learner, config.credit, 0, 1)
            if isinstance(config.credit, EtoConfig)
            else LearnerRank(config.learner, critic if isinstance(critic, ValueHeadConfig) else None, 0, 1)
        )

    def begin_reinforcement(self) -> None:
        self._rank.begin_reinforcement()

    def update(self, credited: Sequence[CreditedTrajectory]) -> UpdateReport:
        self.weights += 1
        return self._rank.update(credited)

    def values(self, trajectories: Sequence[Trajectory], at: StateAt = StateAt.STEPS) -> list[tuple[float, ...]]:
        found = self._rank.values(trajectories, at)
        return [found[index] for index in range(len(trajectories))]

    def features(self, trajectories: Sequence[Trajectory]) -> list[UtteranceFeatures]:
        found = self._rank.features(trajectories)
        return [UtteranceFeatures.of(found[index]) for index in range(len(trajectories))]

    def step_penalties(self, trajectories: Sequence[Trajectory]) -> list[tuple[float, ...]]:
        found = self._rank.step_penalties(trajectories)
        return [found[index] for index in range(len(trajectories))]

    def save(self, path: str) -> Any:
        self._rank.save(path)
        return PendingSave(lambda: [self._rank.saved()], 120.0)

    def load(self, path: str) -> None:
        self._rank.load(path)


@contextmanager
def started(config: RunConfig) -> Iterator[Any]:
    yield OneRank(config)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


def three_iterations(model: str) -> tuple[str, ...]:
    """On one rank, with a checkpoint after each and the last three of them kept."""
    rank = (f"learner.model_path={model}", "learner.dtype=float32", "learner.zero_stage=0", "learner.ranks=1")
    return (*rank, "loop.iterations=3", "checkpoint.every=1", "checkpoint.keep.count=3", "learner.optimiser.lr=0.001")


@pytest.mark.filterwarnings("ignore:`torch.distributed.all_gather_into_tensor` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.distributed.reduce_scatter_tensor` is deprecated:FutureWarning")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_two_updates_in_a_row_come_out_again_to_the_last_bit(
    model: str, tmp_path: Path, settings: Sequence[str]
) -> None:
    config = small_config(*three_iterations(model), *settings)
    made = FakeRun(config, tmp_path / "run", learner=OneRank(config))
    made.trainer.run()
    (made.directory.checkpoints / "00002").rename(tmp_path / "set aside")
    done = list(replay(made.directory.path, 3, pytest.fail, started))
    assert [(one.iteration, one.checkpoint) for one in done] == [(2, 1), (3, 1)]
    assert [one.exact for one in done] == [True, True], done
    assert all(one.grad_norm > 0 for one in done)


def test_updates_of_a_run_that_went_on_in_another_layout_come_out_again_to_the_last_bit(
    model: str, tmp_path: Path
) -> None:
    """Four trajectories of eight tokens: in one row at first, and each in a row to itself from the third update on."""

    def run(*rows: str, stop: int) -> FakeRun:
        config = small_config(*three_iterations(model), "checkpoint.keep.count=4", *rows)
        return FakeRun(config, tmp_path / "run", learner=OneRank(config), before_each=stop_in_iteration(stop))

    with pytest.raises(Stopped):
        run("learner.pack_tokens=1024", stop=3).trainer.run()
    made = run("learner.pack_tokens=8", stop=4)
    made.trainer.run()
    for name in ("00001", "00002"):
        rmtree(made.directory.checkpoints / name)
    done = list(replay(made.directory.path, 3, pytest.fail, started))
    assert [(one.iteration, one.checkpoint) for one in done] == [(1, 0), (2, 0), (3, 0)]
    assert [one.exact for one in done] == [True, True, True], done
