"""A dialogue of the benchmark from the sandbox to the reward: only the model is scripted."""

from __future__ import annotations

import pytest

pytest.importorskip("bfcl_eval", reason="the extra `bfcl` is not installed")

from actors.config import EpisodeConfig
from actors.demonstrations import encode, render_call
from actors.recipes import tool_specs
from actors.scoring import score
from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from reward_service.service import RewardService
from tests.actors.fakes import ScriptedEngine, chat, episodes, request, said
from tool_sandbox.bfcl import BfclToolset
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.tasks import Split, StopReason

BFCL = BfclToolset()
TASK = BFCL.sample_task(Split.TRAIN, "miss_func", 0)
PLAYED = demonstrate(BFCL, TASK, BFCL.demonstrator(0.0, 0), max_steps=99)
CONFIG = EpisodeConfig(max_steps=40, observation_tokens=200)


def script() -> list[str]:
    """What the ground truth says, turn by turn."""
    texts = [render_call(call.name, call.arguments) for call in PLAYED.actions]
    for turn in reversed(PLAYED.turns):
        texts.insert(turn.calls, turn.answer)
    return [*texts, PLAYED.answer or ""]


async def play(texts: list[str]):
    engine = ScriptedEngine({"t-1": [said(text) for text in texts]})
    return await episodes(engine, config=CONFIG, max_context=100_000).play(request(TASK))


async def test_the_ground_truth_is_solved_and_every_step_is_rewarded_for_what_it_is() -> None:
    played = await play(script())
    assert (played.stop, played.checked) == (StopReason.ANSWERED, True)
    (scored,) = await score(RewardService(Recipe(RewardConfig())), [played], tool_specs)
    assert scored.reward.solved == 1.0
    *values, last = [step.value for step in scored.reward.steps]
    # 0.6 · 1 − 0.1 for each call of the ground truth, nothing for an answer in the middle, 1 for the end.
    expected = [0.5 if step.result is not None else 0.0 for step in played.steps[:-1]]
    assert values == pytest.approx(expected)
    assert last == 1.0
    assert values.count(0.0) == len(PLAYED.turns)


async def test_a_demonstration_of_a_dialogue_has_the_ids_of_an_episode_that_says_the_same() -> None:
    played = await play(script())
    encoded = encode(PLAYED, chat(), tool_specs("bfcl"), CONFIG)
    assert encoded.token_ids == tuple(played.token_ids())
    acted = [token for token, action in zip(encoded.token_ids, encoded.action_mask, strict=True) if action]
    assert acted == [token for step in played.steps for token in step.action_ids]


async def test_a_model_that_only_talks_gets_through_the_dialogue_and_solves_nothing() -> None:
    played = await play(["Done."] * 40)
    assert (played.stop, played.checked) == (StopReason.ANSWERED, False)
    assert len(played.steps) == len(PLAYED.turns) + 1
    (scored,) = await score(RewardService(Recipe(RewardConfig())), [played], tool_specs)
    assert [step.value for step in scored.reward.steps] == [0.0] * len(played.steps)
