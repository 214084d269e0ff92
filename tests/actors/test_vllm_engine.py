"""The real engine, in float32, on a Llama of random weights: what it says is what Transformers computes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actors.config import EngineConfig
from actors.engine import Generation, Sampling
from actors.engine_environment import engine_environment
from actors.errors import EngineFailure
from actors.trajectory import VersionSpan
from actors.weights import flatten

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(600),
]

CONFIG = EngineConfig(dtype="float32", max_model_len=192, max_num_seqs=16, threads=1)
STOP = 3
VOCABULARY = 128
EXACT = 1e-4
"""Nats, of any token: the float32 canary's bound."""
PROMPT = tuple(range(10, 50))
"""Longer than a block, so that a prefix of it can be cached."""

ids = itertools.count()


def random_model(seed: int) -> LlamaForCausalLM:
    """Tied embeddings, as small models have; weights large enough for log-probabilities that differ visibly."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONFIG.max_model_len,
        tie_word_embeddings=True,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=STOP,
    )
    return LlamaForCausalLM(config).eval()


def logprobs(model: LlamaForCausalLM, token_ids: tuple[int, ...], temperature: float = 1.0) -> tuple[float, ...]:
    """log p of `token_ids[1:]` by a Transformers forward."""
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0, :-1] / temperature
    chosen = torch.log_softmax(logits, -1).gather(-1, torch.tensor(token_ids[1:]).unsqueeze(-1))
    return tuple(chosen.squeeze(-1).tolist())


def largest_gap(found: tuple[float, ...], expected: tuple[float, ...]) -> float:
    return max(abs(f - e) for f, e in zip(found, expected, strict=True))


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in engine_environment(CONFIG).items():
            patch.setenv(name, value)
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(environment: None, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    from actors.vllm_engine import VllmEngine

    directory: Path = tmp_path_factory.mktemp("llama")
    random_model(0).save_pretrained(directory)
    running = await VllmEngine.start(str(directory), CONFIG, [STOP])
    yield running
    await running.stop()


async def deliver(engine: Any, seed: int) -> LlamaForCausalLM:
    """Have the engine serve the model of that seed, as the policy version of that number."""
    model = random_model(seed)
    # As the learner sends it: what the head shares with the embedding comes once, and not under the head's name.
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    assert "lm_head.weight" not in weights
    manifest, buffer = flatten(weights)
    await engine.load_weights(manifest, buffer, seed)
    return model


async def sample(
    engine: Any, prompt: tuple[int, ...] = PROMPT, seed: int = 0, tokens: int = 12, **how: Any
) -> Generation:
    sampling = Sampling(how.get("temperature", 1.0), tokens, seed)
    return await engine.generate(prompt, sampling, f"request-{next(ids)}")


async def something_was_sampled(engine: Any) -> None:
    """Requests that are under way have gone on by the time that a later one is through."""
    await sample(engine, (90, 91), tokens=2)


async def test_behaviour_log_probabilities_are_those_of_a_transformers_forward(engine: Any) -> None:
    model = await deliver(engine, 1)
    for temperature in (1.0, 0.7):
        turn = await sample(engine, temperature=temperature)
        whole = (*PROMPT, *turn.token_ids)
        expected = logprobs(model, whole, temperature)[-len(turn.token_ids) :]
        assert largest_gap(turn.logprobs, expected) < EXACT


async def test_given_tokens_get_the_log_probabilities_of_a_transformers_forward(engine: Any) -> None:
    model = await deliver(engine, 1)
    found = await engine.token_logprobs(PROMPT, f"canary-{next(ids)}")
    assert len(found) == len(PROMPT) - 1
    assert largest_gap(found, logprobs(model, PROMPT)) < EXACT


async def test_a_turn_ends_with_its_stop_token_or_with_its_budget(engine: Any) -> None:
    await deliver(engine, 1)
    turns = [await sample(engine, seed=seed, tokens=40) for seed in range(12)]
    ended = [turn for turn in turns if turn.ended]
    cut = [turn for turn in turns if not turn.ended]
    assert ended
    assert cut
    assert all(turn.token_ids.index(STOP) == len(turn.token_ids) - 1 for turn in ended)
    assert all(len(turn.token_ids) == 40 and STOP not in turn.token_ids for turn in cut)


async def test_new_weights_are_served_and_labelled_with_their_version(engine: Any) -> None:
    old = await deliver(engine, 1)
    assert {span.version for span in (await sample(engine)).versions} == {1}
    new = await deliver(engine, 2)
    assert engine.version == 2
    turn = await sample(engine)
    whole = (*PROMPT, *turn.token_ids)
    assert turn.versions == (VersionSpan(2, 0, len(turn.token_ids)),)
    # The prompt was cached under the old weights: a stale prefix, or a stale tied head, would show here.
    assert largest_gap(turn.logprobs, logprobs(new, whole)[-len(turn.token_ids) :]) < EXACT
    assert largest_gap(turn.logprobs, logprobs(old, whole)[-len(turn.token_ids) :]) > 0.1
    assert largest_gap(await engine.token_logprobs(whole, f"canary-{next(ids)}"), logprobs(new, whole)) < EXACT


async def test_requests_in_flight_across_a_publish_finish_and_know_which_policy_sampled_what(engine: Any) -> None:
    old = await deliver(engine, 1)
    prompts = [(*PROMPT, 60 + n) for n in range(8)]
    tokens = CONFIG.max_model_len - len(PROMPT) - 1
    flying = [asyncio.create_task(sample(engine, prompt, seed=n, tokens=tokens)) for n, prompt in enumerate(prompts)]
    await something_was_sampled(engine)
    new = await deliver(engine, 2)
    turns = await asyncio.gather(*flying)
    crossed = [(prompt, turn) for prompt, turn in zip(prompts, turns, strict=True) if len(turn.versions) == 2]
    assert crossed
    for prompt, turn in crossed:
        before, after = turn.versions
        assert (before.version, after.version, after.end) == (1, 2, len(turn.token_ids))
        whole = (*prompt, *turn.token_ids)
        by_old, by_new = (logprobs(model, whole)[len(prompt) - 1 :] for model in (old, new))
        assert largest_gap(turn.logprobs[: before.end], by_old[: before.end]) < EXACT
        # Exactly the new policy: nothing that the old one computed for the earlier tokens is left in the KV cache.
        assert largest_gap(turn.logprobs[after.start :], by_new[after.start :]) < EXACT


async def test_a_prefix_that_was_cached_beside_a_request_in_flight_is_not_served_after_a_publish(engine: Any) -> None:
    await deliver(engine, 1)
    flying = asyncio.create_task(sample(engine, seed=3, tokens=CONFIG.max_model_len - len(PROMPT)))
    await something_was_sampled(engine)
    new = await deliver(engine, 2)
    turn = await sample(engine)
    await flying
    assert largest_gap(turn.logprobs, logprobs(new, (*PROMPT, *turn.token_ids))[-len(turn.token_ids) :]) < EXACT


async def test_lock_step_batches_repeat_bit_for_bit(engine: Any) -> None:
    await deliver(engine, 1)

    async def batch() -> list[Generation]:
        label = next(ids)
        requests = [((*PROMPT, 60 + n), Sampling(1.0, 20, seed=n), f"lock-{label}/{n}") for n in range(6)]
        return await engine.generate_in_lock_step(requests)

    first = await batch()
    await deliver(engine, 1)
    second = await batch()
    assert second == first
    assert len({turn.token_ids for turn in first}) == 6


async def test_seeded_requests_repeat_even_where_their_prompts_do_not_fit_one_batch_together(engine: Any) -> None:
    """16 prompts of 180 tokens are more than the 2,048 that vLLM prefills at once; no prompt may be cut in two."""
    prompts = [tuple(5 + (i * 7 + k * k) % 120 for k in range(180)) for i in range(16)]

    async def play() -> list[tuple[int, ...]]:
        turns = [sample(engine, prompt, seed=i, tokens=6) for i, prompt in enumerate(prompts)]
        return [turn.token_ids for turn in await asyncio.gather(*turns)]

    first = await play()
    await engine._llm.reset_prefix_cache()
    assert await play() == first
    assert len(set(first)) == 16


async def test_damaged_weights_are_refused_and_good_ones_taken_afterwards(engine: Any) -> None:
    await deliver(engine, 1)
    manifest, buffer = flatten(dict(random_model(2).state_dict()))
    buffer[1000] ^= 1
    with pytest.raises(Exception, match="digest"):
        await engine.load_weights(manifest, buffer, 2)
    assert engine.version == 1
    new = await deliver(engine, 3)
    found = await engine.token_logprobs(PROMPT, f"canary-{next(ids)}")
    assert largest_gap(found, logprobs(new, PROMPT)) < EXACT


async def test_a_request_that_does_not_fit_leaves_the_scheduler_running(engine: Any) -> None:
    from vllm.exceptions import VLLMValidationError

    too_long = ((10,) * (CONFIG.max_model_len + 1), Sampling(1.0, 4), f"long-{next(ids)}")
    with pytest.raises(VLLMValidationError, match="maximum context length"):
        await engine.generate_in_lock_step([too_long])
    assert (await sample(engine)).token_ids


async def test_an_engine_that_does_not_answer_in_time_is_a_failure_with_a_remedy(engine: Any) -> None:
    from actors.vllm_engine import VllmEngine

    hurried = VllmEngine(engine._llm, [STOP], CONFIG.model_copy(update={"turn_seconds": 1e-6}), 1)
    with pytest.raises(EngineFailure, match=r"no answer to request 'hurried' within 1e-06 s.*turn_seconds"):
        await hurried.generate(PROMPT, Sampling(1.0, 50), "hurried")
