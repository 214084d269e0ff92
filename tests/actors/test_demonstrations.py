"""Demonstrations as tokens: what is learned and what is only read."""

from __future__ import annotations

from dataclasses import replace

from actors.config import EpisodeConfig
from actors.demonstrations import EncodedDemonstration, encode
from actors.recipes import tool_specs
from tests.actors.fakes import LEDGER, chat, tokenizer
from tool_sandbox.demonstrations import Demonstration, demonstrate
from tool_sandbox.tasks import Split

TASK = LEDGER.sample_task(Split.TRAIN, "L0", 0)
PLAYED = demonstrate(LEDGER, TASK, LEDGER.demonstrator(0.0, 0), 6)


def encoded(demonstration: Demonstration, observation_tokens: int = 48) -> EncodedDemonstration:
    config = EpisodeConfig(observation_tokens=observation_tokens)
    return encode(demonstration, chat(), tool_specs("ledger"), config)


def learned_runs(one: EncodedDemonstration) -> list[str]:
    """The texts of the unbroken runs of tokens that are learned."""
    runs: list[list[int]] = [[]]
    for token, learned in zip(one.token_ids, one.action_mask, strict=True):
        if learned:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [tokenizer().decode(run) for run in runs if run]


def test_exactly_the_actions_are_learned_with_their_end_of_turn() -> None:
    (call,) = PLAYED.actions
    values = ", ".join(f'"{key}": "{value}"' for key, value in call.arguments.items())
    assert learned_runs(encoded(PLAYED)) == [
        f'<tool_call>{{"name": "{call.name}", "arguments": {{{values}}}}}</tool_call><|im_end|>',
        f"{PLAYED.answer}<|im_end|>",
    ]


def test_a_demonstration_that_ran_out_of_steps_ends_with_its_last_call() -> None:
    whole, unanswered = encoded(PLAYED), encoded(replace(PLAYED, answer=None))
    length = len(unanswered.token_ids)
    assert unanswered.token_ids == whole.token_ids[:length]
    assert learned_runs(unanswered) == learned_runs(whole)[:1]
    assert unanswered.action_mask[-1]


def test_a_long_observation_is_capped_as_in_an_episode() -> None:
    (outcome,) = PLAYED.outcomes
    long = replace(outcome, result=replace(outcome.result, content="word " * 300))
    capped = encoded(replace(PLAYED, outcomes=(long,)), observation_tokens=10)
    assert "word …[cut]<|im_end|>" in tokenizer().decode(capped.token_ids)
    assert len(capped.token_ids) <= len(encoded(PLAYED).token_ids) + 10
