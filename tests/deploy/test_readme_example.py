from __future__ import annotations

import re
from pathlib import Path

import pytest

from reward_service.config import LinearShaping
from reward_service.scoring import score
from reward_service.wire import ScoreRequest

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_curl_example_scores_as_the_readme_says() -> None:
    body = re.search(r"-d '\n(\{.*?\n\})'", README, re.DOTALL)
    assert body is not None
    (trajectory,) = ScoreRequest.model_validate_json(body[1]).trajectories
    rewards = [step.value for step in score(trajectory, LinearShaping()).steps]
    assert rewards == pytest.approx([0.5, -0.1, 0.5, 1.0])
    assert "the rewards are 0.5, −0.1, 0.5 and 1" in README
