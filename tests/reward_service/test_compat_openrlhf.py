"""OpenRLHF's protocol of a remote reward model, over a socket and through aiohttp, as its executor speaks it.

`RemoteRewardModel` does what OpenRLHF 0.11.0 does (`openrlhf/utils/agent.py`): it posts lists to a bare URL, retries
whatever fails, and makes a tensor of every number that comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from reward_service.compat.openrlhf import LOGGED_STEPS
from reward_service.config import RewardConfig
from reward_service.scoring import Recipe
from tests.reward_service.live import BY_OVERLAP, CALL, MARKED, PROMPT, LostScorer, running
from tool_sandbox.http.keys import ApiKeys

PATH = "/compat/openrlhf/get_reward"
TRIES = 5


class RemoteRewardModel:
    """Its client: no headers, no reading of bodies that came with an error."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.refusals: list[int] = []

    async def fetch(self, query: list[str], prompts: list[str], labels: list[Any]) -> dict[str, Any]:
        body = {"query": query, "prompts": prompts, "labels": labels}
        for _ in range(TRIES):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=180)) as session,
                session.post(self.url, json=body) as response,
            ):
                if response.status < 400:
                    return await response.json()
                self.refusals.append(response.status)
        raise RuntimeError("no reward")


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with running() as address:
        yield address


async def test_a_text_is_rewarded_by_the_steps_that_it_shows(host):
    reply = await RemoteRewardModel(f"http://{host}{PATH}").fetch([PROMPT + MARKED], [PROMPT], ["42"])
    assert reply["rewards"] == pytest.approx([1.5])
    assert reply["scores"] == [1.0]
    logs = reply["extra_logs"]
    assert (logs["steps"], logs["abstained_steps"]) == ([2.0], [0.0])
    assert [logs[f"step_reward_{index:02}"][0] for index in range(3)] == pytest.approx([0.5, 1.0, 0.0])
    assert len(logs) == 2 + LOGGED_STEPS


async def test_every_value_is_a_list_of_one_number_for_each_text_under_the_same_keys(host):
    model = RemoteRewardModel(f"http://{host}{PATH}")
    one = await model.fetch([PROMPT + MARKED], [PROMPT], ["42"])
    long = MARKED.removesuffix("42<|im_end|>") * (LOGGED_STEPS + 4)
    texts = [PROMPT + long, PROMPT + "41<|im_end|>", PROMPT + CALL]
    two = await model.fetch(texts, [PROMPT] * 3, ["42", {"answer": "41"}, 42])
    assert one["extra_logs"].keys() == two["extra_logs"].keys()
    values = [two["rewards"], two["scores"], *two["extra_logs"].values()]
    assert {len(value) for value in values} == {3}
    assert {type(number) for value in values for number in value} == {float}
    # Many steps and no answer; the answer of its own label; a call that never ran.
    assert two["scores"] == [0.0, 1.0, 0.0]
    assert two["extra_logs"]["steps"] == [LOGGED_STEPS + 4, 1.0, 1.0]
    assert two["rewards"] == pytest.approx([-0.1 * (LOGGED_STEPS + 4), 1.0, -0.1])


async def test_a_long_prompt_that_was_cut_at_its_beginning_is_still_the_prompt(host):
    model = RemoteRewardModel(f"http://{host}{PATH}")
    reply = await model.fetch([PROMPT[20:] + MARKED], [PROMPT], ["42"])
    assert reply["rewards"] == pytest.approx([1.5])


async def test_the_key_stands_in_the_url(host):
    keys, secret = ApiKeys.issue("openrlhf")
    with running(keys=keys) as guarded:
        model = RemoteRewardModel(f"http://openrlhf:{secret}@{guarded}{PATH}")
        assert (await model.fetch([PROMPT + MARKED], [PROMPT], ["42"]))["scores"] == [1.0]
        for address in (f"http://openrlhf:wrong@{guarded}{PATH}", f"http://{guarded}{PATH}"):
            model = RemoteRewardModel(address)
            with pytest.raises(RuntimeError):
                await model.fetch([PROMPT + MARKED], [PROMPT], ["42"])
            assert model.refusals == [401] * TRIES


async def test_a_trajectory_that_abstains_is_never_a_zero():
    with running(LostScorer(BY_OVERLAP)) as lost:
        model = RemoteRewardModel(f"http://{lost}{PATH}")
        with pytest.raises(RuntimeError):
            await model.fetch([PROMPT + MARKED], [PROMPT], ["42"])
        assert model.refusals == [503] * TRIES


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"query": ["42"], "prompts": [PROMPT], "labels": ["42"]}, "begins neither with its prompt nor"),
        ({"query": ["42"], "prompts": [""], "labels": [["42"]]}, "ground truth: found a list"),
        ({"query": ["42", "41"], "prompts": [""], "labels": ["42"]}, "found [2, 1, 1] entries"),
        ({"query": [], "prompts": [], "labels": []}, "at least 1 item"),
    ],
)
async def test_a_body_that_is_no_batch_is_unprocessable_and_says_why(host, body, detail):
    async with aiohttp.ClientSession() as session, session.post(f"http://{host}{PATH}", json=body) as response:
        problem = await response.json(content_type="application/problem+json")
    assert problem["status"] == 422
    assert detail in problem["detail"]


async def test_a_recipe_that_wants_more_than_a_text_shows_says_so():
    body = {"query": [PROMPT + MARKED], "prompts": [PROMPT], "labels": ["42"]}
    async with aiohttp.ClientSession() as session:
        with running(Recipe(RewardConfig())) as exact:
            async with session.post(f"http://{exact}{PATH}", json=body) as response:
                problem = await response.json(content_type="application/problem+json")
    assert problem["status"] == 422
    assert "step 0: no progress record" in problem["detail"]
