"""verl's custom reward function, loaded and called as verl 0.10.0.dev does, against a service on a socket.

`verl/trainer/ppo/reward.py` loads the function by path and binds `reward_kwargs`; `reward_manager/naive.py` calls it
with four arguments by name, more where a reward model runs; `agent_loop.py` makes one array of each key of the first
sample.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

from reward_service.adapters import verl
from reward_service.config import RewardConfig
from reward_service.errors import RewardAbstained, RewardVersionMismatch, UnscorableTrajectory
from reward_service.scoring import Recipe
from tests.reward_service.live import BY_OVERLAP, UNMARKED, LostScorer, running
from tool_sandbox.http.keys import ApiKeys

NAMES = ["compute_score", "compute_score_sync"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running() as address:
        yield f"http://{address}"


@pytest.fixture(autouse=True)
async def no_open_connections() -> AsyncIterator[None]:
    yield
    await verl.close_clients()


def loaded(name: str, **reward_kwargs: Any) -> Callable[..., Any]:
    """The function with its settings, as a config's `path`, `name` and `reward_kwargs` give it."""
    module = importlib.import_module("pkg://reward_service.adapters.verl".removeprefix("pkg://"))
    return partial(getattr(module, name), **reward_kwargs)


async def run_single(function: Callable[..., Any], text: str, truth: Any, **more: Any) -> dict[str, Any]:
    """One sample: awaited where the function is a coroutine function, in a thread of the pool where it is none."""
    extra_info = {"question": "How much is the lamp?", "index": 7, "num_turns": 2, "rollout_reward_scores": {}}
    sample = {"data_source": "shop", "solution_str": text, "ground_truth": truth, "extra_info": extra_info}
    call = partial(function, **sample, **more)
    if inspect.iscoroutinefunction(function):
        return await call()
    return await asyncio.get_running_loop().run_in_executor(None, call)


@pytest.mark.parametrize("name", NAMES)
async def test_a_sample_is_worth_the_sum_of_its_steps(url, name):
    result = await run_single(loaded(name, url=url), UNMARKED, "42")
    assert result["score"] == pytest.approx(1.5)
    assert (result["acc"], result["abstained"], result["steps"], result["abstained_steps"]) == (1.0, 0.0, 2, 0)
    assert result["step_rewards"] == "[0.5, 1.0]"


@pytest.mark.parametrize("name", NAMES)
async def test_the_results_of_a_batch_stack_whatever_the_samples_are(url, name):
    function = loaded(name, url=url)
    samples = [(UNMARKED, "42"), ("no idea", "42"), (UNMARKED, {"answer": "41"})]
    results = await asyncio.gather(*(run_single(function, text, truth) for text, truth in samples))
    stacked = {key: np.array([result[key] for result in results]) for key in results[0]}
    assert {array.shape for array in stacked.values()} == {(3,)}
    assert object not in {array.dtype.type for array in stacked.values()}
    assert stacked["score"].tolist() == pytest.approx([1.5, 0.0, 0.5])
    assert stacked["acc"].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("name", NAMES)
async def test_a_pinned_version_is_insisted_on_beside_one_that_is_not(url, name):
    version = Recipe(BY_OVERLAP).version
    for pinned in (None, version):
        result = await run_single(loaded(name, url=url, reward_version=pinned), UNMARKED, "42")
        assert result["score"] == pytest.approx(1.5)
    with pytest.raises(RewardVersionMismatch) as refused:
        await run_single(loaded(name, url=url, reward_version="another"), UNMARKED, "42")
    assert (refused.value.expected, refused.value.found) == ("another", version)


@pytest.mark.parametrize("name", NAMES)
async def test_a_sample_whose_answer_nobody_knows_has_no_accuracy(url, name):
    result = await run_single(loaded(name, url=url), UNMARKED, "")
    assert result["score"] == pytest.approx(0.5)
    assert np.isnan(result["acc"])
    assert result["step_rewards"] == "[0.5, null]"


@pytest.mark.parametrize("name", NAMES)
async def test_arguments_of_a_reward_model_that_runs_beside_are_let_pass(url, name):
    more = {"reward_router_address": "127.0.0.1:1", "reward_model_tokenizer": object()}
    assert (await run_single(loaded(name, url=url), "42", "42", **more))["score"] == 1.0


@pytest.mark.parametrize("name", NAMES)
async def test_an_abstention_is_an_error_until_somebody_says_what_it_counts(name):
    with running(LostScorer(BY_OVERLAP)) as lost:
        with pytest.raises(RewardAbstained, match="say with `abstained_score` what such a sample counts"):
            await run_single(loaded(name, url=f"http://{lost}"), UNMARKED, "42")
        result = await run_single(loaded(name, url=f"http://{lost}", abstained_score=0.25), UNMARKED, "42")
    assert (result["score"], result["abstained"], result["steps"]) == (0.25, 1.0, 0)


@pytest.mark.parametrize("name", NAMES)
async def test_the_key_comes_from_the_environment(monkeypatch, name):
    keys, secret = ApiKeys.issue("verl")
    with running(keys=keys) as guarded:
        monkeypatch.setenv("REWARD_KEY", secret)
        function = loaded(name, url=f"http://{guarded}", key_variable="REWARD_KEY")
        assert (await run_single(function, "42", "42"))["score"] == 1.0
        monkeypatch.delenv("REWARD_KEY")
        with pytest.raises(ValueError, match="REWARD_KEY is empty or not set"):
            await run_single(loaded(name, url=f"http://{guarded}/", key_variable="REWARD_KEY"), "42", "42")


async def test_ground_truth_that_is_none_stops_the_run(url):
    with pytest.raises(ValueError, match="ground truth: found a list"):
        await run_single(loaded("compute_score", url=url), "42", ["42"])


async def test_samples_of_one_loop_share_one_client(url):
    function = loaded("compute_score", url=url)
    await asyncio.gather(*(run_single(function, "42", "42") for _ in range(3)))
    address = verl._Address(url, None, 60.0, None)
    first, second = verl._async_client(address), verl._async_client(address)
    assert first is second
    assert first.reward_version is not None


async def test_a_sample_that_the_recipe_cannot_score_stops_the_run():
    with running(Recipe(RewardConfig())) as exact, pytest.raises(UnscorableTrajectory, match="no progress record"):
        await run_single(loaded("compute_score", url=f"http://{exact}"), UNMARKED, "42")
