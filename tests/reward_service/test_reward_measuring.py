"""Signals by rule, by other people's code, and what a configuration may combine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from reward_service.api import build_app
from reward_service.config import RewardConfig
from reward_service.errors import ScorerUnavailable, SignalBroken, SignalNotFound
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from reward_service.wire import ScoreRequest
from tests.reward_service.builders import call_step, item, trajectory
from tests.reward_service.held import HeldSignal
from tests.reward_service.judges import config
from tests.reward_service.kept import KEYS, client_of

PLUGIN = '''
import asyncio
from reward_service.errors import ScorerUnavailable

class Brevity:
    """1 for a short observation, abstains without one."""
    def __init__(self, settings):
        self.limit = settings["limit"]
        self.fingerprint = "brevity 1"
        self.range = (0.0, 1.0)
    async def measure(self, item):
        if item.id == "lost":
            raise ScorerUnavailable("brevity: its model is gone")
        if item.id == "slow":
            await asyncio.Event().wait()
        if item.id == "crashing":
            return {}[item.steps[0].observation]
        if item.id == "wordy":
            return ["2.0"] * len(item.steps)
        if item.id == "broken":
            return [2.0] * len(item.steps)
        return [None if step.observation is None else float(len(step.observation) <= self.limit) for step in item.steps]
'''


@pytest.fixture
def brevity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Settings of a signal from a package of somebody else's, which is installed for the test."""
    (tmp_path / "probe_brevity.py").write_text(PLUGIN)
    installed = tmp_path / "probe_brevity-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: probe-brevity\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text("[steptool.signals]\nbrevity = probe_brevity:Brevity\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"kind": "plugin", "name": "brevity", "settings": {"limit": 3}}


def recipe(**settings: Any) -> Recipe:
    return Recipe(RewardConfig.model_validate(settings))


def rewards(recipe: Recipe, **changes: Any) -> list[float | None]:
    return [step.value for step in asyncio.run(recipe.score(item(**changes))).steps]


def test_an_added_signal_counts_with_its_weight_where_it_does_not_abstain(brevity):
    scorer = recipe(shaping={"kind": "linear", "extra": {"short": 0.25}}, signals={"extra": {"short": brevity}})
    # The observation "42" is short: 0.6 − 0.1 + 0.25. The answer has none: 1.
    assert rewards(scorer) == pytest.approx([0.75, 1.0])
    longer = [call_step(0) | {"observation": "long"}, {"index": 1, "answer": "42"}]
    assert rewards(scorer, steps=longer) == pytest.approx([0.5, 1.0])


def test_a_plug_in_may_fill_one_of_the_three_places(brevity):
    scorer = recipe(signals={"contribution": brevity})
    far = call_step(0, before=3, after=3)
    # By distance the call changed nothing and would earn −0.1; the plug-in gives it 1.
    assert rewards(scorer, steps=[far, {"index": 1, "answer": "42"}]) == pytest.approx([0.5, 1.0])


def test_the_paper_rule_scores_trajectories_that_nobody_knows_the_way_for():
    scorer = recipe(signals={"contribution": {"kind": "overlap"}})
    steps = [
        call_step(0) | {"observation": "42", "progress": None},
        call_step(1) | {"observation": "elsewhere", "progress": None},
        call_step(2, status="tool_error") | {"observation": "42", "progress": None},
        {"index": 3, "answer": "42"},
    ]
    assert rewards(scorer, steps=steps) == pytest.approx([0.5, -0.1, -0.1, 1.0])


def test_numbers_may_be_compared_within_a_tolerance():
    steps = [{"index": 0, "answer": "about 42.1"}]
    near = recipe(signals={"solved": {"kind": "target", "answer": {"kind": "numeric", "relative": 0.01}}})
    assert (rewards(near, steps=steps), rewards(recipe(), steps=steps)) == ([1.0], [0.0])


def test_whatever_decides_the_numbers_decides_the_version(brevity):
    versions = {
        recipe().version,
        recipe(signals={"contribution": {"kind": "overlap"}}).version,
        recipe(signals={"contribution": {"kind": "overlap", "threshold": 0.5}}).version,
        recipe(signals={"solved": {"kind": "target", "answer": {"kind": "exact"}}}).version,
        recipe(signals={"success": brevity}).version,
        recipe(signals={"success": brevity | {"settings": {"limit": 4}}}).version,
        *(
            recipe(shaping={"kind": "linear", "extra": {"a": weight}}, signals={"extra": {"a": brevity}}).version
            for weight in (0.25, 0.5)
        ),
    }
    assert len(versions) == 8


async def test_a_lost_a_late_and_a_good_trajectory_each_get_their_own_result(brevity):
    service = RewardService(recipe(signals={"success": brevity}))
    named = [trajectory(name) for name in ("lost", "slow", "good")]
    request = ScoreRequest.model_validate({"options": {"deadline_ms": 50}, "trajectories": named})
    lost, late, good = (await service.score(request)).results
    assert lost.error is not None
    assert late.error is not None
    assert (lost.error.kind, lost.error.message) == ("infrastructure", "brevity: its model is gone")
    assert (late.error.kind, late.error.message) == ("infrastructure", "trajectory 'slow': not scored within 0.05 s")
    assert good.status == "ok"


@pytest.mark.parametrize(
    ("culprit", "reason"),
    [
        ("crashing", "signal 'success': its code failed with KeyError; the service's log says where"),
        ("wordy", "signal 'success': its code failed with TypeError; the service's log says where"),
        ("broken", "signal 'success': gave [2.0, 2.0] for 2 steps; expected one value in [0, 1] or None for each"),
    ],
)
async def test_a_plug_in_that_fails_on_one_trajectory_costs_the_others_nothing(brevity, caplog, culprit, reason):
    app = build_app(RewardService(recipe(signals={"success": brevity})), KEYS)
    steps = [call_step(0) | {"observation": "a secret"}, {"index": 1, "answer": "42"}]
    body = {"trajectories": [trajectory("one"), trajectory(culprit, steps=steps), trajectory("other")]}
    async with client_of(app) as http:
        one, failed, other = (await http.post("/v1/score", json=body)).json()["results"]
    assert failed["error"] == {"kind": "infrastructure", "message": reason, "pointer": None}
    assert (one["total"], other["total"]) == (1.5, 1.5)
    assert "a secret" not in caplog.text
    assert ("probe_brevity.py" in caplog.text) == (culprit == "crashing")


async def test_no_deadline_is_longer_than_what_stands_before_the_service_waits(brevity):
    app = build_app(RewardService(recipe(signals={"success": brevity})), KEYS, longest_seconds=0.05)
    body = {"options": {"deadline_ms": 60_000}, "trajectories": [trajectory("slow"), trajectory("good")]}
    async with client_of(app) as http:
        late, good = (await http.post("/v1/score", json=body)).json()["results"]
    assert late["error"]["message"] == "trajectory 'slow': not scored within 0.05 s"
    assert good["status"] == "ok"


class Endless:
    """A step model that never answers, and takes a while to see that nobody asks any more."""

    fingerprint = "endless 1"

    def __init__(self) -> None:
        self.began, self.ended = asyncio.Event(), asyncio.Event()

    def check(self, signals: Any) -> None:
        pass

    async def columns(self, item: Any, signals: Any) -> Any:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            self.ended.set()


async def test_a_lost_judge_ends_what_was_measured_beside_it_before_its_error_arrives():
    model = Endless()

    class Lost:
        async def told(self, item: Any) -> Any:
            await model.began.wait()
            raise ScorerUnavailable("judge: away")

    signals = {"contribution": {"kind": "learned"}, "solved": {"kind": "judge"}}
    others = {"step_model": {"model": "/models/step"}, "judge": config().model_dump(mode="json")}
    scorer = Recipe(RewardConfig.model_validate({"signals": signals, **others}), Lost(), model)
    with pytest.raises(ScorerUnavailable, match="judge: away"):
        async with asyncio.timeout(20):
            await scorer.score(item())
    assert model.ended.is_set()


async def test_a_lost_plug_in_ends_the_others(brevity, tmp_path, monkeypatch):
    (place := tmp_path / "held").mkdir()
    held = HeldSignal(place)
    monkeypatch.syspath_prepend(str(place))
    scorer = recipe(signals={"success": held.settings, "contribution": brevity})
    with pytest.raises(ScorerUnavailable, match="brevity: its model is gone"):
        async with asyncio.timeout(20):
            await scorer.score(item("lost"))
    assert held.arrived() == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_a_plug_in_that_gives_no_measurement_is_its_authors_bug_and_is_named(brevity):
    told = r"signal 'success': gave \[2\.0, 2\.0\] for 2 steps; expected one value in \[0, 1\]"
    with pytest.raises(SignalBroken, match=told):
        rewards(recipe(signals={"success": brevity}), id="broken")


def test_a_plug_in_that_is_not_installed_or_does_not_load_is_named(brevity):
    with pytest.raises(SignalNotFound, match=r"signal 'nobody': no entry point of the group 'steptool\.signals'"):
        recipe(signals={"success": {"kind": "plugin", "name": "nobody"}})
    with pytest.raises(SignalNotFound, match="signal 'brevity': probe_brevity:Brevity does not load: 'limit'"):
        recipe(signals={"success": brevity | {"settings": {}}})


def test_a_lost_plug_in_is_infrastructure(brevity):
    with pytest.raises(ScorerUnavailable):
        rewards(recipe(signals={"success": brevity}), id="lost")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"shaping": {"kind": "linear", "extra": {"short": 1.0}}}, "name the same signals in both"),
        ({"signals": {"extra": {"short": {"kind": "plugin", "name": "x"}}}}, "name the same signals in both"),
        ({"signals": {"extra": {"solved": {"kind": "plugin", "name": "x"}}}}, "the names \\['solved'\\] are taken"),
    ],
)
def test_a_signal_without_a_weight_and_a_weight_without_a_signal_are_refused(settings, reason):
    with pytest.raises(ValidationError, match=reason):
        RewardConfig.model_validate(settings)


def test_only_contribution_by_distance_needs_tasks_with_a_distance():
    overlap = {"contribution": {"kind": "overlap"}}
    assert RewardConfig().needs_distance
    assert not RewardConfig.model_validate({"signals": overlap}).needs_distance
    assert RewardConfig.model_validate({"signals": overlap, "shaping": {"kind": "potential"}}).needs_distance
    assert not RewardConfig.model_validate({"shaping": {"kind": "outcome_only"}}).needs_distance
