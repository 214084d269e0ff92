"""Signals of the kind `learned`: what the model reads, what becomes of its outputs, what a configuration may say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from reward_service.assembly import assembled
from reward_service.config import RewardConfig
from reward_service.errors import SignalBroken, StepModelUnusable
from reward_service.learned.batching import batches, padded_tokens
from reward_service.learned.config import StepModelConfig
from reward_service.learned.model import ModelFacts, Row
from reward_service.learned.rendering import step_text
from reward_service.learned.signals import StepModelSignals
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import call_step, item, trajectory
from tests.reward_service.step_models import save_classifier

ANSWER = {"index": 1, "answer": "42"}


class FakeStepModel:
    """Gives the rows that a function says; keeps what it was asked."""

    def __init__(self, row: Callable[[str], Row], labels: int = 1, digest: str = "d" * 64) -> None:
        self.facts = ModelFacts(digest, labels)
        self.asked: list[str] = []
        self._row = row

    async def scores(self, texts: Sequence[str]) -> Sequence[Row]:
        self.asked += texts
        return [self._row(text) for text in texts]


def settings(signals: dict[str, Any], step_model: dict[str, Any] | None = None, **others: Any) -> RewardConfig:
    plain = {"signals": signals, "step_model": {"model": "/models/step"} | (step_model or {})}
    return RewardConfig.model_validate(plain | others)


def recipe(model: FakeStepModel, config: RewardConfig) -> Recipe:
    assert config.step_model is not None
    return Recipe(config, step_model=StepModelSignals(config.step_model, model))


def rewards(scorer: Recipe, **changes: Any) -> list[float | None]:
    return [step.value for step in asyncio.run(scorer.score(item(**changes))).steps]


def signals_of(scorer: Recipe, **changes: Any) -> list[dict[str, float | None]]:
    return [dict(step.signals) for step in asyncio.run(scorer.score(item(**changes))).steps]


@pytest.mark.parametrize(
    ("output", "row", "value"),
    [
        ({"kind": "sigmoid"}, [0.0], 0.5),
        # 1 / (1 + 1/3).
        ({"kind": "sigmoid"}, [math.log(3)], 0.75),
        ({"kind": "sigmoid"}, [-1e5], 0.0),
        ({"kind": "sigmoid"}, [1e5], 1.0),
        # 1 / (1 + 3), and the same where e^x overflows.
        ({"kind": "softmax"}, [0.0, math.log(3)], 0.25),
        ({"kind": "softmax"}, [1e4, 1e4 + math.log(3)], 0.25),
        ({"kind": "clipped", "low": -1, "high": 0.5}, [0.25], 0.25),
        ({"kind": "clipped", "low": -1, "high": 0.5}, [7.0], 0.5),
        ({"kind": "clipped", "low": -1, "high": 0.5}, [-7.0], -1.0),
    ],
)
def test_an_output_becomes_a_signal(output, row, value):
    model = FakeStepModel(lambda _: row, labels=len(row))
    scorer = recipe(model, settings({"contribution": {"kind": "learned", "output": output}}))
    assert signals_of(scorer)[0]["contribution"] == pytest.approx(value, abs=1e-9)
    # 0.6 of it less the price of a step; then the right answer.
    assert rewards(scorer) == pytest.approx([0.6 * value - 0.1, 1.0])


def test_one_model_may_fill_all_places_and_others_with_an_output_each():
    signals = {
        "success": {"kind": "learned", "label": 0},
        "contribution": {"kind": "learned", "label": 1},
        "solved": {"kind": "learned", "label": 2},
        "extra": {"polite": {"kind": "learned", "label": 3, "output": {"kind": "clipped", "low": -9, "high": 9}}},
    }
    shaping = {"kind": "linear", "success": 0.5, "contribution": 1, "step_cost": 0, "extra": {"polite": 0.1}}
    model = FakeStepModel(lambda _: [0.0, math.log(3), -math.log(3), 5.0], labels=4)
    scorer = recipe(model, settings(signals, shaping=shaping))
    # Success and contribution say nothing of the answer, IsSolved says nothing before the end.
    assert signals_of(scorer) == [
        {"success": 0.5, "contribution": pytest.approx(0.75), "solved": None, "polite": 5.0},
        {"success": None, "contribution": None, "solved": pytest.approx(0.25), "polite": 5.0},
    ]
    # 0.5·0.5 + 0.75 + 0.1·5, and 0.25 + 0.1·5.
    assert rewards(scorer) == pytest.approx([1.5, 0.75])
    assert scorer.description.ranges["polite"] == (-9.0, 9.0)


def test_a_lost_call_is_not_shown_and_abstains_and_a_turn_that_ran_nothing_has_nothing():
    steps = [
        {"index": 0, "parse_error": "no JSON"},
        call_step(1, status="infra_error") | {"progress": None},
        call_step(2),
        {"index": 3, "answer": "42"},
    ]
    model = FakeStepModel(lambda _: [0.0])
    scorer = recipe(model, settings({"contribution": {"kind": "learned"}}))
    # 0.6·0 − 0.1; abstained; 0.6·0.5 − 0.1; the right answer.
    assert rewards(scorer, steps=steps) == [pytest.approx(-0.1), None, pytest.approx(0.2), 1.0]
    assert [text.splitlines()[-1] for text in dict.fromkeys(model.asked)] == ['Result 2, ok: "42"']


def test_whether_an_episode_that_infrastructure_ended_was_solved_nobody_asks():
    model = FakeStepModel(lambda _: [0.0])
    scorer = recipe(model, settings({"solved": {"kind": "learned"}}))
    assert rewards(scorer, steps=[call_step(0)], stop="infrastructure") == [None]
    assert model.asked == []


def test_a_model_reads_the_task_and_the_steps_up_to_the_one_that_it_scores():
    prompt = {"id": "q", "prompt": "What does a lamp\ncost?"}
    steps = [
        {"index": 0, "parse_error": "no JSON"},
        call_step(1) | {"observation": 'Result 1, ok: "fine"\nAnswer 2: "yes"'},
        {"index": 2, "answer": "42 €"},
    ]
    told = item(steps=steps, task=prompt)
    config = StepModelConfig(model="m")
    whole = """\
Task: "What does a lamp\\ncost?"
Unreadable 0: "no JSON"
Call 1: "price" {"item": "lamp"}
Result 1, ok: "Result 1, ok: \\"fine\\"\\nAnswer 2: \\"yes\\""
Answer 2: "42 €"\
"""
    # What a tool wrote stays one line of its own.
    assert [step_text(told, i, config) for i in range(3)] == [
        "\n".join(whole.splitlines()[:2]),
        "\n".join(whole.splitlines()[:4]),
        whole,
    ]


def test_the_oldest_steps_are_left_out_and_the_middle_of_a_long_part():
    steps = [call_step(i) | {"observation": "o" * 60} for i in range(9)]
    told = item(steps=[*steps, {"index": 9, "answer": "a" * 164}], stop="answered")
    config = StepModelConfig(model="m", part_characters=64, text_characters=256)
    text = step_text(told, 9, config)
    # Of 164 letters 64 stay, three quarters of them at the beginning.
    answer = f'Answer 9: "{"a" * 48} [100 characters left out] {"a" * 16}"'
    # The task and the answer take 8 + 103 characters, a call with its result 32 + 1 + 76 and a line break.
    call = f'Call 8: "price" {{"item": "lamp"}}\nResult 8, ok: "{"o" * 60}"'
    assert text == f'Task: ""\n[8 earlier steps left out]\n{call}\n{answer}'
    assert (len(answer), len(call)) == (103, 109)


def test_a_batch_costs_what_it_is_padded_to():
    assert padded_tokens([[1], [1, 2, 3]]) == 6
    assert padded_tokens([]) == 0
    # In order of length 1, 3, 3, 5: 2·3 fits 6, 3·3 does not, nor does 2·5.
    assert batches([5, 1, 3, 3], 6) == [[1, 2], [3], [0]]
    assert batches([9, 2], 6) == [[1], [0]]
    assert batches([], 6) == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"step_model": None}, r"found signals \['contribution'\] of the kind learned, and no step model"),
        ({"signals": {}}, r"found signals \[\] of the kind learned, and a step model"),
        ({"step_model": {"model": "m", "text_tokens": 64, "batch_tokens": 63}}, "a batch must hold one text at least"),
        ({"step_model": {"model": "m", "replicas": 2, "autoscaling": {"max_replicas": 1}}}, "`replicas` is the least"),
        ({"replicas": 3, "autoscaling": {"max_replicas": 2}}, "autoscaling.max_replicas: found 2 with replicas: 3"),
        (
            {"signals": {"success": {"kind": "learned", "output": {"kind": "clipped", "low": -1, "high": 1}}}},
            r"signals.success: its output has the range \[-1.0, 1.0\], and the shapings expect one within \[0.0, 1.0\]",
        ),
        (
            {"signals": {"success": {"kind": "learned", "output": {"kind": "clipped", "low": 1, "high": 1}}}},
            "low must be below high",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(changes, reason):
    plain = {"signals": {"contribution": {"kind": "learned"}}, "step_model": {"model": "m"}}
    with pytest.raises(ValidationError, match=reason):
        RewardConfig.model_validate(plain | changes)


def test_an_output_that_the_model_does_not_have_is_named():
    with pytest.raises(StepModelUnusable, match="signal 'success' wants output 2, and it has 2, from 0"):
        recipe(FakeStepModel(lambda _: [0.0, 0.0], labels=2), settings({"success": {"kind": "learned", "label": 2}}))


def test_outputs_that_are_no_numbers_are_the_models_bug_and_shown():
    scorer = recipe(FakeStepModel(lambda _: [math.nan]), settings({"contribution": {"kind": "learned"}}))
    with pytest.raises(SignalBroken, match=r"step model: gave \[nan\]; expected finite numbers"):
        rewards(scorer)


async def test_a_model_that_is_too_slow_is_infrastructure():
    class Stuck(FakeStepModel):
        async def scores(self, texts):
            await asyncio.Event().wait()

    scorer = recipe(Stuck(lambda _: [0.0]), settings({"contribution": {"kind": "learned"}}, {"seconds": 0.05}))
    request = ScoreRequest.model_validate({"trajectories": [trajectory()]})
    (late,) = (await RewardService(scorer).score(request)).results
    assert late.error is not None
    assert late.error.kind == "infrastructure"
    assert late.error.message.startswith("step model: no scores for trajectory 't-1' within 0.05 s")


def test_what_decides_the_numbers_decides_the_version_and_nothing_else_does():
    learned = {"contribution": {"kind": "learned"}}

    def version(fake: FakeStepModel, signals: dict[str, Any] = learned, **step_model: Any) -> str:
        return recipe(fake, settings(signals, step_model)).version

    one = FakeStepModel(lambda _: [0.0], labels=2)
    other = FakeStepModel(lambda _: [0.0], labels=2, digest="e" * 64)
    versions = {
        version(one),
        version(other),
        version(one, {"contribution": {"kind": "learned", "label": 1}}),
        version(one, {"contribution": {"kind": "learned", "output": {"kind": "softmax"}}}),
        version(one, text_tokens=64),
        version(one, text_characters=256),
        version(one, part_characters=64),
    }
    assert len(versions) == 7
    assert version(one, model="/elsewhere", batch_tokens=4096, replicas=2, seconds=1) == version(one)


async def test_a_service_in_one_process_loads_the_model_and_has_the_version_that_its_files_say(tmp_path):
    directory = save_classifier(tmp_path / "model")
    signals = {"contribution": {"kind": "learned", "label": 1}}
    config = settings(signals, {"model": str(directory), "text_tokens": 256})
    async with assembled(config) as assembly:
        assert assembly.service.reward_version == Recipe(config).version
        (result,) = (
            await assembly.service.score(ScoreRequest.model_validate({"trajectories": [trajectory()]}))
        ).results
        # Whoever changes the recipe keeps the model.
        assembly.use(config.model_copy(update={"signals": settings({"success": {"kind": "learned"}}).signals}))
        assert assembly.service.reward_version != Recipe(config).version
    assert result.status == "ok"
    value = result.steps[0].signals["contribution"]
    assert value is not None
    assert 0 < value < 1


async def test_a_service_does_not_start_without_its_model():
    config = settings({"contribution": {"kind": "learned"}}, {"model": "/models/gone"})
    with pytest.raises(StepModelUnusable, match="step model '/models/gone': no such directory"):
        async with assembled(config):
            pass
    with pytest.raises(StepModelUnusable, match="'/models/gone'"):
        _ = Recipe(config).version
