"""TRL's reward functions, called as `GRPOTrainer._calculate_rewards` of 1.10.0.dev calls them, against a real service.

TRL hands out prompts, completions, token ids and columns of the data set by name, with a few objects of its own; a
coroutine function it runs on an event loop of another thread. Its tool messages have names and no ids.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest

from reward_service.adapters.trl import async_reward_function, reward_function
from reward_service.client import RewardClient, SyncRewardClient
from reward_service.config import RewardConfig
from reward_service.errors import RewardVersionMismatch, UnscorableTrajectory
from reward_service.scoring import Recipe
from tests.reward_service.live import BY_OVERLAP, UNMARKED, LostScorer, running

PROMPT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How much is the lamp?"}]
CALLS = {"role": "assistant", "content": "", "tool_calls": [
    {"type": "function", "function": {"name": "price", "arguments": {"item": "lamp"}}}]}  # fmt: skip
RESULT = {"role": "tool", "name": "price", "content": "42"}
ANSWER = {"role": "assistant", "content": "42"}


class Loop:
    """An event loop in a thread of its own, as TRL starts one."""

    def __enter__(self) -> Loop:
        self.loop = asyncio.new_event_loop()
        self.thread = Thread(target=self.loop.run_forever)
        self.thread.start()
        return self

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(timeout=60)

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(timeout=60)
        self.loop.close()


def calculate(
    function: Callable[..., Any], loop: Loop, prompts: list, completions: list, **columns: list
) -> list[float]:
    """The column of rewards that the trainer makes, with NaN for None."""
    of_trl = {"trainer_state": object(), "log_extra": print, "log_metric": print}
    ids = [[1, 2]] * len(prompts)
    arguments = {"prompts": prompts, "completions": completions, "completion_ids": ids, **columns, **of_trl}
    rewards = function(**arguments)
    if inspect.iscoroutinefunction(function):
        rewards = loop.run(rewards)
    return [math.nan if reward is None else reward for reward in rewards]


Calculate = Callable[..., list[float]]


@pytest.fixture(params=["sync", "async"])
def trainer(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Calculate]]:
    """How a trainer calculates rewards with the service at an address."""
    with Loop() as loop:
        closing: list[Callable[[], Any]] = []

        def at(host: str) -> Calculate:
            if request.param == "sync":
                client = SyncRewardClient(f"http://{host}", None)
                closing.append(client.close)
                function = reward_function(client)
            else:
                async_client = RewardClient(f"http://{host}", None)
                closing.append(lambda: loop.run(async_client.aclose()))
                function = async_reward_function(async_client)
                assert inspect.iscoroutinefunction(function)
            assert function.__name__ == "steptool_reward"
            return lambda *rows, **columns: calculate(function, loop, *rows, **columns)

        yield at
        for close in closing:
            close()


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with running() as address:
        yield address


def test_every_completion_is_worth_the_sum_of_its_steps(trainer, host):
    completions = [[CALLS, RESULT, ANSWER], [ANSWER], [CALLS, RESULT, ANSWER | {"content": "41"}]]
    rewards = trainer(host)([PROMPT] * 3, completions, answer=["42"] * 3)
    # The overlap of result and answer is 1/2 where the answer is 41.
    assert rewards == pytest.approx([1.5, 1.0, 0.5])


def test_a_client_with_a_version_insists_on_it(host):
    for version in (Recipe(BY_OVERLAP).version, "another"):
        with SyncRewardClient(f"http://{host}", None, reward_version=version) as client:
            pinned = reward_function(client)
            if version == "another":
                with pytest.raises(RewardVersionMismatch):
                    pinned(prompts=[PROMPT], completions=[[ANSWER]], answer=["42"])
            else:
                assert pinned(prompts=[PROMPT], completions=[[ANSWER]], answer=["42"]) == [1.0]


def test_completions_that_are_text_are_read_as_text(trainer, host):
    assert trainer(host)(["How much?"] * 2, [UNMARKED, "41"], answer=["42", "42"]) == pytest.approx([1.5, 0.0])


def test_a_tool_that_raised_failed_although_its_result_is_no_json(trainer, host):
    failed = RESULT | {"content": "{'error': '42'}"}
    (reward,) = trainer(host)([PROMPT], [[CALLS, failed, ANSWER]], answer=["42"])
    # The result covers nothing that counts: only the price of the step, and the answer.
    assert reward == pytest.approx(0.9)


def test_results_find_their_calls_by_name_when_async_tools_end_last(trainer, host):
    calls = CALLS | {"tool_calls": [
        {"type": "function", "function": {"name": "slow", "arguments": {}}},
        {"type": "function", "function": {"name": "price", "arguments": {"item": "lamp"}}},
    ]}  # fmt: skip
    slow = {"role": "tool", "name": "slow", "content": "{'error': 'gone'}"}
    (reward,) = trainer(host)([PROMPT], [[calls, RESULT, slow, ANSWER]], answer=["42"])
    assert reward == pytest.approx(-0.1 + 0.5 + 1.0)


def test_what_is_no_call_of_a_function_is_an_unread_turn(trainer, host):
    calls = CALLS | {"tool_calls": [{"type": "mcp", "name": "price"}]}
    result = {"role": "tool", "name": "price", "content": "{'error': 'Unsupported tool call type: mcp'}"}
    (reward,) = trainer(host)([PROMPT], [[calls, result, ANSWER]], answer=["42"])
    assert reward == pytest.approx(-0.1 + 1.0)


def test_examples_in_the_prompt_are_not_the_models_steps(trainer, host):
    shots = [PROMPT[0], {"role": "user", "content": "?"}, CALLS, RESULT, ANSWER, PROMPT[1]]
    assert trainer(host)([shots], [[ANSWER]], answer=["42"]) == [1.0]


def test_a_completion_that_abstains_is_none_and_no_zero(trainer, host):
    # Nobody knows the answer to the second.
    rewards = trainer(host)([PROMPT] * 2, [[ANSWER], [ANSWER]], answer=["41", None])
    assert rewards[0] == 0.0
    assert math.isnan(rewards[1])
    with running(LostScorer(BY_OVERLAP)) as lost:
        assert math.isnan(trainer(lost)([PROMPT], [[ANSWER]], answer=["42"])[0])


def test_more_completions_than_one_request_takes_are_all_scored_in_order(trainer, host):
    answers = ["42" if row % 2 else "41" for row in range(300)]
    rewards = trainer(host)([PROMPT] * 300, [[ANSWER]] * 300, answer=answers)
    assert rewards == [float(row % 2) for row in range(300)]


def test_nothing_to_score_asks_nobody(trainer):
    assert trainer("127.0.0.1:1")([], [], answer=[]) == []


def test_a_completion_that_the_recipe_cannot_score_stops_the_run(trainer):
    with running(Recipe(RewardConfig())) as exact, pytest.raises(UnscorableTrajectory, match="no progress record"):
        trainer(exact)([PROMPT], [[CALLS, RESULT, ANSWER]], answer=["42"])
