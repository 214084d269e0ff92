"""Episodes that begin in the middle of another, against the real ledger; only the model is scripted."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from actors.config import EpisodeConfig
from actors.demonstrations import render_call
from actors.prefix import Prefix, prefix_before
from actors.trajectory import Answer, Trajectory
from tests.actors.fakes import (
    LEDGER,
    ForgetfulSandbox,
    ScriptedEngine,
    chat,
    conversation,
    episodes,
    request,
    said,
    spelled,
)
from tool_sandbox.client import LocalSandbox, SandboxClient
from tool_sandbox.config import PoolConfig
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.tasks import Split, StopReason
from tool_sandbox.tools import Progress, ToolResult

CHAIN = LEDGER.sample_task(Split.TRAIN, "L1", 0)
"""A task of two calls."""
PLAYED = demonstrate(LEDGER, CHAIN, LEDGER.demonstrator(0.0, 0), 6)
FIRST, SECOND = [render_call(call.name, call.arguments) for call in PLAYED.actions]
ANSWER = PLAYED.answer or ""
NONSENSE = "<tool_call>price(lamp)</tool_call>"


async def recorded(*texts: str, sandbox: SandboxClient | None = None) -> Trajectory:
    """A trajectory whose tokens no tokenizer would choose for its text."""
    engine = ScriptedEngine({"t-1": [spelled(text) for text in texts]})
    return await episodes(engine, sandbox).play(request(CHAIN))


async def go_on(
    prefix: Prefix,
    *texts: str,
    engine: ScriptedEngine | None = None,
    sandbox: SandboxClient | None = None,
    max_steps: int = 6,
) -> Trajectory:
    done = [said("never asked")] * len(prefix.steps)
    engine = engine or ScriptedEngine({"t-2": [*done, *map(said, texts)]})
    parts = episodes(engine, sandbox, EpisodeConfig(max_steps=max_steps))
    return await parts.play(replace(request(CHAIN, id="t-2", seed=40), prefix=prefix))


async def test_a_continuation_begins_with_exactly_the_tokens_of_what_was_recorded() -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    ids, before = list(whole.token_ids()), 0
    for step in range(3):
        before += len(whole.steps[step].prompt_ids)
        engine = ScriptedEngine({"t-2": [said("never asked")] * step + [said(ANSWER)]})
        played = await go_on(prefix_before(whole, step), engine=engine)
        assert engine.prompts == [tuple(ids[:before])]
        assert played.steps[:step] == whole.steps[:step]
        assert played.steps[step].prompt_ids == whole.steps[step].prompt_ids
        assert list(played.token_ids())[:before] == ids[:before]
        before += len(whole.steps[step].action_ids)


async def test_the_session_of_a_continuation_is_where_the_recorded_one_was() -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    played = await go_on(prefix_before(whole, 1), SECOND, ANSWER)
    assert [step.progress for step in played.steps] == [Progress(2, 1), Progress(1, 0), None]
    assert (played.stop, played.answer) == (StopReason.ANSWERED, CHAIN.ground_truth.answer)
    assert played.final_state_hash == whole.final_state_hash


async def test_a_failed_turn_in_a_prefix_calls_nothing_again() -> None:
    whole = await recorded(NONSENSE, FIRST, SECOND, ANSWER)
    played = await go_on(prefix_before(whole, 2), SECOND, ANSWER)
    assert [step.progress for step in played.steps] == [Progress(2, 2), Progress(2, 1), Progress(1, 0), None]


async def test_the_steps_of_a_prefix_count_for_the_budget() -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    played = await go_on(prefix_before(whole, 1), FIRST, ANSWER, max_steps=2)
    assert (played.stop, len(played.steps)) == (StopReason.STEP_BUDGET, 2)


async def test_a_turn_after_a_prefix_has_the_seed_of_its_own_index() -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    engine = ScriptedEngine({"t-2": [said("never asked")] * 2 + [said(ANSWER)]})
    await go_on(prefix_before(whole, 2), engine=engine)
    assert [sampling.seed for sampling in engine.samplings] == [42]


async def test_in_a_dialogue_the_user_is_heard_again() -> None:
    whole = await recorded(FIRST, "and now?", SECOND, "bye", sandbox=conversation("go on"))
    played = await go_on(prefix_before(whole, 2), SECOND, "bye", sandbox=conversation("go on"))
    assert (played.stop, played.answer, played.checked) == (StopReason.ANSWERED, "bye", True)
    assert played.steps[2].prompt_ids == chat().user_ids("go on")


async def expect_lost(prefix: Prefix, sandbox: SandboxClient | None = None) -> None:
    engine = ScriptedEngine({})
    played = await go_on(prefix, engine=engine, sandbox=sandbox)
    assert (played.stop, played.steps, played.final_state_hash) == (StopReason.INFRASTRUCTURE, prefix.steps, None)
    assert engine.prompts == []


async def test_a_call_that_gives_something_else_again_is_infrastructure_and_never_the_models_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    first = whole.steps[0]
    assert first.result is not None
    for changed in (
        replace(first, result=ToolResult("c", first.result.status, "something else")),
        replace(first, progress=Progress(2, 0)),
    ):
        with caplog.at_level(logging.WARNING):
            await expect_lost(Prefix((changed,), whole.steps[1].prompt_ids))
        assert "episode t-2 cannot begin where it should: step 0" in caplog.text
        caplog.clear()


async def test_a_user_who_says_something_else_again_is_infrastructure() -> None:
    whole = await recorded(FIRST, "and now?", SECOND, "bye", sandbox=conversation("go on"))
    await expect_lost(prefix_before(whole, 2), conversation("something else"))
    await expect_lost(prefix_before(whole, 2), conversation())
    assert isinstance(whole.steps[1].action, Answer)


async def test_a_sandbox_that_is_lost_or_full_while_it_is_brought_back_is_infrastructure() -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    await expect_lost(prefix_before(whole, 2), ForgetfulSandbox(lost_at=2))
    full = LocalSandbox(PoolConfig(max_sessions=1, queue_seconds=0.1))
    await full.open(CHAIN)
    await expect_lost(prefix_before(whole, 1), full)


async def test_a_session_that_could_not_be_brought_back_is_given_back_all_the_same() -> None:
    whole = await recorded(FIRST, SECOND, ANSWER)
    wrong = replace(whole.steps[0], progress=Progress(9, 9))
    narrow = LocalSandbox(PoolConfig(max_sessions=1))
    await expect_lost(Prefix((wrong,), whole.steps[1].prompt_ids), narrow)
    assert (await go_on(prefix_before(whole, 2), ANSWER, sandbox=narrow)).stop is StopReason.ANSWERED
