"""vLLM's `/classify` as verl's client of discriminative reward models speaks it, over a socket.

verl 0.10.0.dev (`verl/experimental/reward_loop/reward_loop.py`): posts one rendered chat to `http://ADDRESS/classify`,
never tries a 4xx again, and takes `data[-1].probs[-1]`.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest

from tests.reward_service.live import BY_OVERLAP, MARKED, PROMPT, LostScorer, running


async def classify(address: str, text: str) -> dict[str, Any]:
    body = {"model": "anything", "input": text, "use_activation": False}
    async with aiohttp.ClientSession() as session, session.post(f"http://{address}/classify", json=body) as response:
        response.raise_for_status()
        return await response.json()


async def test_a_rendered_chat_has_one_number():
    with running() as host:
        reply = await classify(f"{host}/compat/vllm", PROMPT + MARKED)
    # The call; the answer abstains, since a chat comes without ground truth.
    assert reply["data"][-1]["probs"][-1] == pytest.approx(0.5)
    assert (reply["object"], reply["model"]) == ("list", "anything")


async def test_the_examples_in_the_prompt_are_not_the_models_steps():
    with running() as host, pytest.raises(aiohttp.ClientResponseError) as refused:
        await classify(f"{host}/compat/vllm", f"{PROMPT}42<|im_end|>")
    # An answer alone, and nothing to compare it with: it abstains, though the system prompt shows a call.
    assert refused.value.status == 422


async def test_a_lost_scorer_is_worth_another_try():
    with running(LostScorer(BY_OVERLAP)) as host, pytest.raises(aiohttp.ClientResponseError) as refused:
        await classify(f"{host}/compat/vllm", PROMPT + MARKED)
    assert refused.value.status == 503
    assert refused.value.headers is not None
    assert refused.value.headers["retry-after"] == "1"
