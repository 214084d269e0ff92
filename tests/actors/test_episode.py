"""Episodes against the real ledger, parser and tokenizer; only the model is scripted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from actors.config import EpisodeConfig
from actors.demonstrations import encode, render_call
from actors.engine import Generation
from actors.errors import BadInput, PromptTooLong
from actors.recipes import tool_specs
from actors.trajectory import Answer, ParseFailure, Trajectory
from tests.actors.fakes import (
    LEDGER,
    VERSION,
    ForgetfulSandbox,
    ScriptedEngine,
    chat,
    conversation,
    cut_off,
    episodes,
    request,
    said,
    spelled,
    tokenizer,
)
from tool_sandbox.client import LocalSandbox
from tool_sandbox.config import PoolConfig
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.errors import UnknownToolset
from tool_sandbox.tasks import Split, StopReason
from tool_sandbox.tools import CallStatus, Progress, ToolCall

CHAIN = LEDGER.sample_task(Split.TRAIN, "L1", 0)
"""A task of two calls."""
PLAYED = demonstrate(LEDGER, CHAIN, LEDGER.demonstrator(0.0, 0), 6)
FIRST, SECOND = [render_call(call.name, call.arguments) for call in PLAYED.actions]
ANSWER = PLAYED.answer or ""
WRONG = render_call(PLAYED.actions[0].name, dict.fromkeys(PLAYED.actions[0].arguments, "nobody"))
NONSENSE = "<tool_call>price(lamp)</tool_call>"


async def play(*turns: Generation, engine: ScriptedEngine | None = None, sandbox=None, config=None) -> Trajectory:
    engine = engine or ScriptedEngine({"t-1": turns})
    return await episodes(engine, sandbox, config).play(request(CHAIN))


async def test_an_episode_that_calls_twice_and_answers_is_solved() -> None:
    played = await play(said(FIRST), said(SECOND), said(ANSWER))
    assert played.stop is StopReason.ANSWERED
    assert played.answer == CHAIN.ground_truth.answer
    assert [step.progress for step in played.steps] == [Progress(2, 1), Progress(1, 0), None]
    first, second, last = played.steps
    assert first.action == ToolCall("t-1/0", PLAYED.actions[0].name, PLAYED.actions[0].arguments)
    assert second.result is not None
    assert (second.result.call_id, second.result.content) == ("t-1/1", ANSWER)
    assert (last.action, last.result) == (Answer(ANSWER), None)
    assert (played.id, played.group, played.task) == ("t-1", "g-1", CHAIN)
    assert played.final_state_hash is not None


async def test_the_ids_that_train_are_exactly_the_ids_that_the_engine_saw() -> None:
    """The published code encodes the segments of a conversation separately, after decoding them: other ids train."""
    turns = [spelled(FIRST), spelled(SECOND), spelled(ANSWER)]
    engine = ScriptedEngine({"t-1": turns})
    played = await play(engine=engine)
    ids = list(played.token_ids())
    fed = 0
    for step, turn, prompt in zip(played.steps, turns, engine.prompts, strict=True):
        fed += len(step.prompt_ids)
        assert prompt == tuple(ids[:fed])
        assert (step.action_ids, step.logprobs, step.versions) == (turn.token_ids, turn.logprobs, turn.versions)
        fed += len(step.action_ids)
    assert fed == len(ids) == played.token_count
    assert played.answer == ANSWER
    again = tokenizer()(tokenizer().decode(ids), add_special_tokens=False)["input_ids"]
    assert again != ids, "the scripted tokens are canonical, so that this test could not fail"


async def test_a_demonstration_has_the_ids_of_an_episode_that_says_the_same() -> None:
    played = await play(said(FIRST), said(SECOND), said(ANSWER))
    encoded = encode(PLAYED, chat(), tool_specs("ledger"), EpisodeConfig())
    assert encoded.token_ids == tuple(played.token_ids())
    acted = [token for token, action in zip(encoded.token_ids, encoded.action_mask, strict=True) if action]
    assert acted == [token for step in played.steps for token in step.action_ids]


async def test_a_tool_error_is_an_observation_and_the_episode_goes_on() -> None:
    engine = ScriptedEngine({"t-1": [said(WRONG), said(ANSWER)]})
    played = await play(engine=engine)
    result = played.steps[0].result
    assert result is not None
    assert result.status is CallStatus.TOOL_ERROR
    assert played.steps[0].progress == Progress(2, 2)
    assert result.content in tokenizer().decode(played.steps[1].prompt_ids)
    assert played.stop is StopReason.ANSWERED


async def test_a_call_that_cannot_be_parsed_is_an_observation_and_leaves_the_distance_where_it_was() -> None:
    played = await play(said(NONSENSE), said(FIRST), said(NONSENSE), said(ANSWER))
    failed = played.steps[0]
    assert failed.action == ParseFailure(NONSENSE, "malformed tool call")
    assert failed.result is not None
    assert (failed.result.status, failed.result.content) == (
        CallStatus.INVALID_ARGUMENTS,
        "error: malformed tool call",
    )
    assert "error: malformed tool call" in tokenizer().decode(played.steps[1].prompt_ids)
    assert [step.progress for step in played.steps] == [Progress(2, 2), Progress(2, 1), Progress(1, 1), None]


async def test_a_tool_name_that_no_tokenizer_can_carry_does_not_end_the_run() -> None:
    unspeakable = said('<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>')
    played = await play(unspeakable, said(ANSWER))
    assert played.steps[0].result is not None
    assert played.steps[0].result.status is CallStatus.UNKNOWN_TOOL
    assert "no tool ?" in tokenizer().decode(played.steps[1].prompt_ids)


async def test_an_episode_ends_with_its_step_budget() -> None:
    played = await play(said(FIRST), said(SECOND), said(ANSWER), config=EpisodeConfig(max_steps=2))
    assert (played.stop, len(played.steps), played.answer) == (StopReason.STEP_BUDGET, 2, None)
    assert played.steps[-1].progress == Progress(1, 0)


async def test_a_turn_that_does_not_fit_the_context_any_more_ends_the_episode_and_nothing_is_cut() -> None:
    turns = [spelled(FIRST), spelled(SECOND), said(ANSWER)]
    whole = await play(*turns)
    before_last = whole.token_count - len(whole.steps[-1].action_ids)
    parts = episodes(ScriptedEngine({"t-1": turns}), max_context=before_last + 47)
    short = await parts.play(request(CHAIN, max_turn_tokens=48))
    assert short.stop is StopReason.CONTEXT_OVERFLOW
    kept = [(step.prompt_ids, step.action_ids) for step in whole.steps[:-1]]
    assert [(step.prompt_ids, step.action_ids) for step in short.steps] == kept
    fits = replace(parts, engine=ScriptedEngine({"t-1": turns}), max_context=before_last + 48)
    assert (await fits.play(request(CHAIN, max_turn_tokens=48))).stop is StopReason.ANSWERED


async def test_a_turn_that_does_not_end_is_a_failed_step_and_the_last() -> None:
    played = await play(said(FIRST), cut_off(f"so I think that {ANSWER}"))
    assert (played.stop, len(played.steps), played.answer) == (StopReason.TURN_TOO_LONG, 2, None)
    rambling = played.steps[1]
    assert rambling.action == ParseFailure(f"so I think that {ANSWER}", "turn ran out of tokens")
    assert rambling.progress == Progress(1, 1)
    assert rambling.action_ids[-1] != chat().end_of_turn_id


async def test_a_prompt_that_leaves_no_room_for_an_action_is_bad_input() -> None:
    needed = len(chat().prompt_ids(CHAIN.prompt, [tool_specs("ledger")[name] for name in CHAIN.tools]))
    parts = episodes(ScriptedEngine({}), max_context=needed + 47)
    with pytest.raises(PromptTooLong, match=rf"{CHAIN.id!r}: its prompt has {needed} tokens.*max_model_len") as refused:
        await parts.play(request(CHAIN, max_turn_tokens=48))
    assert isinstance(refused.value, BadInput)


async def test_a_lost_sandbox_ends_the_episode_and_keeps_the_good_prefix() -> None:
    played = await play(said(FIRST), said(SECOND), said(ANSWER), sandbox=ForgetfulSandbox(lost_at=2))
    assert (played.stop, len(played.steps), played.final_state_hash) == (StopReason.INFRASTRUCTURE, 2, None)
    good, lost = played.steps
    assert good.progress == Progress(2, 1)
    assert lost.result is not None
    assert (lost.result.status, lost.progress) == (CallStatus.INFRA_ERROR, None)


async def test_a_sandbox_without_room_is_infrastructure_and_not_the_models_failure() -> None:
    full = LocalSandbox(PoolConfig(max_sessions=1, queue_seconds=0.1))
    await full.open(CHAIN)
    played = await play(said(ANSWER), sandbox=full)
    assert (played.stop, played.steps) == (StopReason.INFRASTRUCTURE, ())


async def test_a_session_is_given_back_whatever_happens() -> None:
    narrow = LocalSandbox(PoolConfig(max_sessions=1))
    with pytest.raises(IndexError):
        await play(said(FIRST), sandbox=narrow)
    assert (await play(said(ANSWER), sandbox=narrow)).stop is StopReason.ANSWERED


async def test_a_task_of_an_unknown_toolset_is_refused_before_anything_is_sampled() -> None:
    engine = ScriptedEngine({})
    with pytest.raises(UnknownToolset, match="ledgr"):
        await episodes(engine).play(request(replace(CHAIN, toolset="ledgr")))
    assert engine.prompts == []


async def test_every_turn_of_a_seeded_episode_has_a_seed_of_its_own() -> None:
    engine = ScriptedEngine({"t-1": [said(FIRST), said(ANSWER)]})
    await episodes(engine).play(request(CHAIN, seed=40))
    assert [sampling.seed for sampling in engine.samplings] == [40, 41]
    assert {(sampling.temperature, sampling.max_tokens) for sampling in engine.samplings} == {(1.0, 48)}


async def test_a_step_carries_the_version_that_sampled_it() -> None:
    played = await play(said(ANSWER))
    assert [span.version for step in played.steps for span in step.versions] == [VERSION]


async def test_in_a_dialogue_an_answer_is_followed_by_what_the_user_says_next() -> None:
    turns = [said(FIRST), said("and now?"), said(SECOND), said("bye")]
    played = await play(*turns, sandbox=conversation("go on"))
    assert (played.stop, played.answer, played.checked) == (StopReason.ANSWERED, "bye", True)
    assert [step.action for step in played.steps[1::2]] == [Answer("and now?"), Answer("bye")]
    assert [(step.result, step.progress) for step in played.steps[1::2]] == [(None, None)] * 2
    assert played.steps[2].prompt_ids == chat().user_ids("go on")
    assert played.steps[2].progress == Progress(1, 0)


async def test_the_ids_of_a_dialogue_that_train_are_exactly_those_that_the_engine_saw() -> None:
    turns = [spelled(FIRST), spelled("and now?"), spelled(SECOND), spelled("bye")]
    engine = ScriptedEngine({"t-1": turns})
    played = await play(engine=engine, sandbox=conversation("go on"))
    ids, fed = list(played.token_ids()), 0
    for step, turn, prompt in zip(played.steps, turns, engine.prompts, strict=True):
        fed += len(step.prompt_ids)
        assert prompt == tuple(ids[:fed])
        assert step.action_ids == turn.token_ids
        fed += len(step.action_ids)
    assert fed == len(ids)


async def test_the_toolset_judges_an_episode_that_did_not_end_with_an_answer_too() -> None:
    config = EpisodeConfig(max_steps=2)
    played = await play(said(FIRST), said("bye"), config=config, sandbox=conversation("go on"))
    assert (played.stop, len(played.steps)) == (StopReason.STEP_BUDGET, 2)
    assert (played.answer, played.checked) == (None, False)


async def test_what_the_user_says_counts_towards_the_context() -> None:
    config = EpisodeConfig(max_steps=6)
    played = await play(said("hm"), said("bye"), config=config, sandbox=conversation("please " * 600))
    assert (played.stop, len(played.steps), played.answer) == (StopReason.CONTEXT_OVERFLOW, 1, None)


async def test_a_world_that_does_not_judge_leaves_the_verdict_to_the_ground_truth() -> None:
    assert (await play(said(ANSWER))).checked is None


class Deserted(LocalSandbox):
    """The real sandbox, which loses its session as soon as the model has answered."""

    async def user_turn(self, lease: str) -> str | None:
        await self.close(lease)
        return await super().user_turn(lease)


async def test_a_sandbox_that_is_lost_before_the_user_could_reply_is_infrastructure() -> None:
    played = await play(said(FIRST), said(ANSWER), sandbox=Deserted(PoolConfig()))
    assert (played.stop, len(played.steps)) == (StopReason.INFRASTRUCTURE, 2)
    assert (played.final_state_hash, played.checked, played.answer) == (None, None, None)
