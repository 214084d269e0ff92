"""The judge against the real thing: a small model behind vLLM's own OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.judge_server import MODEL, judge_server
from cluster.models import find_model
from reward_service.judge.config import Defence, JudgeConfig
from reward_service.judge.judge import Judge
from tests.reward_service.builders import item

SAYING_BACK = {Defence.ECHO, Defence.CONTROL}
"""What these ask of a model is too much for one of this size: its votes would be lost, as they should be."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    model = find_model(".models/smollm2-135m")
    assert isinstance(model, Path), "set-up puts the embedded model there"
    with judge_server(model) as url:
        yield url


@pytest.mark.timeout(600)
async def test_a_real_model_answers_in_the_asked_form_and_every_token_is_counted(url: str) -> None:
    config = JudgeConfig(url=url, model=MODEL, votes=2, max_tokens=256, defences=frozenset(Defence) - SAYING_BACK)
    judge = Judge(config)
    try:
        judgement = await judge.judge(item())
    finally:
        await judge.aclose()
    assert [vote.misfits for vote in judgement.votes] == [(), ()]
    graded, answered = judgement.steps
    assert graded.success is not None
    assert graded.contribution is not None
    assert graded.success.votes == graded.contribution.votes == 2
    assert 0 <= graded.success.mean <= 1
    assert 0 <= graded.contribution.mean <= 1
    assert (answered.success, answered.contribution) == (None, None)
    assert judgement.solved is not None
    assert judgement.solved.mean in (0, 0.25, 0.5, 0.75, 1)
    assert judgement.usage.requests == 2
    assert judgement.usage.unreported == 0
    assert judgement.usage.prompt_tokens > 200
    assert 0 < judgement.usage.completion_tokens <= 2 * 256
