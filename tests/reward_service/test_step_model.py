"""The step model, loaded into this process and behind Ray Serve: one behaviour."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import serve

from reward_service.errors import ScorerUnavailable, StepModelUnusable
from reward_service.learned.config import StepModelConfig
from reward_service.learned.deployment import RemoteStepModel, StepModelReplica, step_model_application
from reward_service.learned.local import LocalStepModel
from reward_service.learned.model import StepModel
from tests.reward_service.step_models import CONTEXT, LABELS, Family, outputs_alone, save_classifier, save_headless

ROUNDING = 2e-5
TEXTS = ["b" * 40, "a", "middle-sized", "c" * 200, "a", "d" * 41, "ee", "f" * 39, "g" * 120, "h" * 7]
APPLICATION = "step-model-tests"


def config(directory: Path, **changes: Any) -> StepModelConfig:
    plain = {"model": str(directory), "text_tokens": CONTEXT, "batch_tokens": 512, "cpus_per_replica": 0.1}
    return StepModelConfig.model_validate(plain | changes)


@pytest.fixture(scope="module")
def directories(tmp_path_factory) -> dict[Family, Path]:
    place = tmp_path_factory.mktemp("step-models")
    return {"encoder": save_classifier(place / "encoder"), "decoder": save_classifier(place / "decoder", "decoder")}


@contextmanager
def deployed(settings: StepModelConfig, name: str = APPLICATION) -> Iterator[Any]:
    """A handle to the deployment."""
    try:
        yield serve.run(step_model_application(settings), name=name, route_prefix=None)
    finally:
        serve.delete(name)


@pytest.fixture(scope="module")
def handle(served, directories) -> Iterator[Any]:
    with deployed(config(directories["encoder"])) as found:
        yield found


@pytest.fixture(params=["encoder", "decoder", "encoder on ray serve"])
def family(request) -> Family:
    return request.param.split()[0]


@pytest.fixture
async def model(request, directories, family) -> StepModel:
    if request.node.callspec.params["family"].endswith("ray serve"):
        return await RemoteStepModel.connected(request.getfixturevalue("handle"), 60)
    return LocalStepModel(config(directories[family]))


async def test_every_text_gets_the_outputs_that_it_gets_alone_whatever_it_is_batched_with(model, directories, family):
    # 512 padded tokens hold only some of these texts at once, and 40 of the second kind among longer ones.
    texts = TEXTS * 3
    rows = await model.scores(texts)
    expected = outputs_alone(directories[family], TEXTS) * 3
    assert rows == [pytest.approx(row, abs=ROUNDING) for row in expected]
    assert len({round(row[0], 4) for row in expected}) == len(set(TEXTS))


async def test_calls_at_the_same_time_each_get_their_own_rows(model, directories, family):
    expected = outputs_alone(directories[family], TEXTS)
    found = await asyncio.gather(*(model.scores([text]) for text in TEXTS))
    assert [one for (one,) in found] == [pytest.approx(row, abs=ROUNDING) for row in expected]


async def test_a_text_that_is_too_long_loses_its_beginning(model, directories, family):
    end = "e" * 100 + "f" * (CONTEXT - 100)
    (row,) = await model.scores(["not read: " * 50 + end])
    assert row == pytest.approx(outputs_alone(directories[family], [end])[0], abs=ROUNDING)


async def test_nothing_asked_is_nothing_answered(model):
    assert list(await model.scores([])) == []


async def test_a_model_knows_its_outputs_and_what_its_files_hash_to(model, directories, family):
    assert model.facts.labels == LABELS
    assert model.facts == LocalStepModel(config(directories[family], batch_tokens=256)).facts


def test_another_model_in_the_directory_has_another_digest(tmp_path, directories):
    save_classifier(tmp_path / "other", seed=1)
    digests = {LocalStepModel(config(one)).facts.digest for one in (tmp_path / "other", *directories.values())}
    assert len(digests) == 3


@pytest.mark.parametrize("load", [LocalStepModel, StepModelReplica.func_or_class], ids=["in process", "replica"])
def test_a_directory_that_is_not_there_is_named(load, tmp_path):
    settings = config(tmp_path / "nowhere")
    with pytest.raises(StepModelUnusable, match=r"step model '.*nowhere': no such directory"):
        _started(load, settings)


def _started(load: Any, settings: StepModelConfig) -> Any:
    if load is LocalStepModel:
        return load(settings)
    replica = object.__new__(load)
    asyncio.run(replica.__init__(settings.model_dump(mode="json")))
    return replica


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(StepModelUnusable, match=r"no config\.json"):
        LocalStepModel(config(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StepModelUnusable, match="no weights in safetensors"):
        LocalStepModel(config(tmp_path))


def test_a_model_that_was_never_trained_to_classify_is_refused(tmp_path):
    with pytest.raises(StepModelUnusable, match=r"no weights for \['classifier\.bias', 'classifier\.weight'\]"):
        LocalStepModel(config(save_headless(tmp_path)))


def test_a_model_that_cannot_read_so_much_is_refused(directories):
    with pytest.raises(StepModelUnusable, match=r"reads at most 256 tokens, and step_model\.text_tokens is 257"):
        LocalStepModel(config(directories["encoder"], text_tokens=257))


def test_a_replica_whose_known_text_scores_otherwise_is_not_healthy(directories, monkeypatch):
    replica = _started(StepModelReplica.func_or_class, config(directories["encoder"]))
    asyncio.run(replica.check_health())
    rows = replica._classifier.rows
    monkeypatch.setattr(replica._classifier, "rows", lambda batch: [[2 * one for one in row] for row in rows(batch)])
    with pytest.raises(RuntimeError, match="scores a known text as"):
        asyncio.run(replica.check_health())


async def _under_way(model: RemoteStepModel) -> Sequence[asyncio.Future[Any]]:
    """Calls of which the replica has answered the first, so that it is at work on the others."""
    calls = [asyncio.ensure_future(model.scores(["x" * CONTEXT] * 128)) for _ in range(16)]
    _, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=60)
    assert len(pending) > 8
    return calls


@pytest.mark.usefixtures("served")
async def test_a_deployment_that_is_killed_while_it_scores_is_infrastructure(directories):
    with deployed(config(directories["encoder"]), "step-model-killed") as handle:
        model = await RemoteStepModel.connected(handle, 60)
        calls = await _under_way(model)
        ray.kill(_replica("step-model-killed"), no_restart=True)
        ends = await asyncio.gather(*calls, return_exceptions=True)
        lost = [one for one in ends if isinstance(one, BaseException)]
        assert {type(one) for one in lost} == {ScorerUnavailable}
        assert "step model: its deployment gave no scores" in str(lost[0])
        # Serve brings another one up, and the same connection reaches it.
        async with asyncio.timeout(120):
            (row,) = await model.scores(["a"])
    assert row == pytest.approx(outputs_alone(directories["encoder"], ["a"])[0], abs=ROUNDING)


def _replica(application: str) -> Any:
    actors: Any = ray.util.list_named_actors(all_namespaces=True)
    named = [one["name"] for one in actors]
    (name,) = [one for one in named if f"::{application}#" in one]
    return ray.get_actor(name, namespace="serve")


@pytest.mark.usefixtures("served")
async def test_scores_in_flight_are_finished_when_the_deployment_is_taken_down(directories):
    with deployed(config(directories["encoder"]), "step-model-deleted") as handle:
        model = await RemoteStepModel.connected(handle, 60)
        calls = await _under_way(model)
        await asyncio.to_thread(serve.delete, "step-model-deleted")
        assert [len(await one) for one in calls] == [128] * 16


async def test_a_model_that_was_exchanged_behind_the_service_does_not_score_for_it(handle, directories):
    model = await RemoteStepModel.connected(handle, 60)
    stale = RemoteStepModel(handle, LocalStepModel(config(directories["decoder"])).facts)
    assert len(await model.scores(["a"])) == 1
    with pytest.raises(ScorerUnavailable, match=r"its files changed .* deploy the service again"):
        await stale.scores(["a"])
