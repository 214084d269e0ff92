"""The order in which parts start and stop, over parts that only note it down."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import cluster.parts
from cluster.parts import start_parts
from learner.errors import LearnerLost
from reward_service.errors import ServiceNotStarted
from reward_service.serve_app import RewardAddress, RewardEndpoint
from tests.cluster.builders import small_config
from tool_sandbox.client import Occupancy
from tool_sandbox.pool import Health
from tool_sandbox.tools import IsolationLevel

URL = "http://127.0.0.1:1234/rewards-tiny"


class House:
    """Stands in for everything that `start_parts` starts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.recipe_url = ""
        self.failing: dict[str, Exception] = {}
        placement = SimpleNamespace(options=lambda role: [{"name": f"{role}-0"}], release=self.note("release"))
        replaced: dict[str, Callable[..., Any]] = {
            "place": lambda *arguments: placement,
            "LearnerGroup": self.part("learner", shutdown="stop learner"),
            "create_sandboxes": lambda count, *_: self.begin("sandboxes") or ["handle"] * count,
            "await_sandboxes": self._await_sandboxes,
            "stop_sandboxes": self.note("stop sandboxes"),
            "choose_address": lambda application: RewardAddress(1234, URL),
            "start_rewards": self._start_rewards,
            "stop_rewards": self.note("stop rewards"),
        }
        for name, replacement in replaced.items():
            monkeypatch.setattr(cluster.parts, name, replacement)
        monkeypatch.setattr(cluster.parts.RolloutPool, "create", self._create_rollouts)

    def note(self, line: str) -> Callable[..., None]:
        return lambda *_: self.log.append(line)

    def begin(self, name: str) -> None:
        self.log.append(f"start {name}")
        if name in self.failing:
            raise self.failing[name]

    def part(self, name: str, **methods: str) -> Callable[..., Any]:
        def start(*_: Any) -> Any:
            self.begin(name)
            return SimpleNamespace(**{method: self.note(line) for method, line in methods.items()})

        return start

    def _create_rollouts(self, config: Any, sandbox: Any, rewards: Any, options: Any) -> Any:
        self.recipe_url = rewards.url
        return self.part("engines", stop="stop engines", wait="engines are up")()

    def _await_sandboxes(self, handles: list[str]) -> list[Health]:
        self.begin("sandboxes are up")
        return [Health(IsolationLevel.NAMESPACES, 29, Occupancy({}, 0)) for _ in handles]

    def _start_rewards(self, config: Any, keys: Any, *, port: int, application: str) -> RewardEndpoint:
        self.begin("rewards")
        assert port == 1234
        return RewardEndpoint(URL, application, "v1", started_serve=True)


@pytest.fixture
def house(monkeypatch: pytest.MonkeyPatch) -> House:
    return House(monkeypatch)


def silent(_: str) -> None: ...


def test_engines_load_while_the_reward_service_starts_and_know_where_it_will_be(house: House) -> None:
    with start_parts(small_config(), silent) as parts:
        assert parts.acting.rewards.url == house.recipe_url == URL
        started = [line for line in house.log if line != "start learner"]
    assert started == ["start sandboxes", "start engines", "start rewards", "start sandboxes are up", "engines are up"]
    assert house.log[-5:] == ["stop rewards", "stop engines", "stop sandboxes", "stop learner", "release"]


def test_what_was_started_is_stopped_when_a_later_part_fails(house: House) -> None:
    house.failing["rewards"] = ServiceNotStarted("no room")
    with pytest.raises(ServiceNotStarted, match="no room"), start_parts(small_config(), silent):
        pass
    assert house.log[-4:] == ["stop engines", "stop sandboxes", "stop learner", "release"]


def test_a_learner_that_does_not_come_up_ends_the_start_and_leaves_nothing_behind(house: House) -> None:
    house.failing["learner"] = LearnerLost("a rank died")
    with pytest.raises(LearnerLost, match="a rank died"), start_parts(small_config(), silent):
        pass
    assert "stop learner" not in house.log
    assert house.log[-4:] == ["stop rewards", "stop engines", "stop sandboxes", "release"]
