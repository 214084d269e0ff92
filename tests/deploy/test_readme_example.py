"""What the documents show is what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from reward_service.config import LinearShaping, RewardConfig
from reward_service.wire import ScoreRequest, TrajectoryItem
from tests.reward_service.builders import score

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REWARDS = (ROOT / "docs" / "rewards.md").read_text()


def test_the_curl_example_scores_as_the_readme_says() -> None:
    body = re.search(r"-d '\n(\{.*?\n\})'", README, re.DOTALL)
    assert body is not None
    (trajectory,) = ScoreRequest.model_validate_json(body[1]).trajectories
    assert isinstance(trajectory, TrajectoryItem)
    rewards = [step.value for step in score(trajectory, LinearShaping()).steps]
    assert rewards == pytest.approx([0.5, -0.1, 0.5, 1.0])
    assert "the rewards are 0.5, −0.1, 0.5 and 1" in README


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", REWARDS, re.DOTALL)


def test_every_request_in_the_guide_to_rewards_fits_the_contract() -> None:
    requests = [ScoreRequest.model_validate(json.loads(block)) for block in blocks("json")]
    assert [trajectory.id for request in requests for trajectory in request.trajectories] == ["chat-1"]


@pytest.mark.parametrize("block", blocks("yaml"))
def test_every_recipe_in_the_guide_to_rewards_is_a_configuration(block: str) -> None:
    RewardConfig.model_validate(yaml.safe_load(block))
