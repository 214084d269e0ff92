"""The real engine: vLLM's `AsyncLLM` behind the `GenerationEngine` protocol, and weights taken in while it runs.

Consumes token ids and `WeightManifest`s, produces `Generation`s. Many episodes share one engine; vLLM batches them.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs import TokensPrompt
from vllm.logprobs import Logprob
from vllm.outputs import RequestOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.engine.output_processor import RequestOutputCollector

from actors.config import GIB, EngineConfig
from actors.engine import Generation, Sampling
from actors.errors import EngineFailure
from actors.lock_step import Request
from actors.trajectory import VersionSpan
from actors.weight_transfer import BACKEND, register, update_info
from actors.weights import WeightManifest

PREFILL_TOKENS = 2048
"""Prefilled at once on a CPU, at least; more is slower there, and profiled at the start."""
SHARED_MEMORY = Path("/dev/shm")


class VllmEngine:
    """One vLLM engine. Create with `start`, end with `stop`."""

    def __init__(self, llm: AsyncLLM, stop_ids: Sequence[int], config: EngineConfig, version: int) -> None:
        self._llm = llm
        self._stop_ids = list(stop_ids)
        self._config = config
        self._version = version

    @classmethod
    async def start(cls, model: str, config: EngineConfig, stop_ids: Sequence[int], version: int = 0) -> VllmEngine:
        """Load the model and make the engine ready; policy `version` labels the weights on disk."""
        register()
        llm = AsyncLLM.from_engine_args(_engine_args(model, config))
        engine = cls(llm, stop_ids, config, version)
        await llm.init_weight_transfer_engine(WeightTransferInitRequest())
        await llm.update_weight_version(str(version))
        return engine

    @property
    def version(self) -> int:
        """Policy version of the weights now loaded."""
        return self._version

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> Generation:
        return await self._finish(await self._submit(prompt_ids, sampling, request_id), request_id)

    async def generate_in_lock_step(self, requests: Sequence[Request]) -> list[Generation]:
        """Sample several turns as one batch whose composition does not depend on arrival times.

        The scheduler is held until the last request is queued, so that the same requests meet the same kernels in the
        same order: what `--deterministic` rests on.
        """
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        try:
            queues = [await self._submit(*request) for request in requests]
        finally:
            await self._llm.resume_generation()
        finished = (self._finish(queue, request[2]) for queue, request in zip(queues, requests, strict=True))
        return list(await asyncio.gather(*finished))

    async def token_logprobs(self, token_ids: Sequence[int], request_id: str) -> tuple[float, ...]:
        parameters = SamplingParams(
            temperature=1.0, max_tokens=1, prompt_logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        output = await self._await_output(await self._add(token_ids, parameters, request_id), request_id)
        return _chosen((output.prompt_logprobs or [])[1:], token_ids[1:])

    async def load_weights(self, manifest: WeightManifest, buffer: np.ndarray, version: int) -> None:
        """Replace the weights in flight: freeze requests, reload layer by layer, drop the old ones' KV cache, go on."""
        await self._llm.pause_generation(mode="keep", clear_cache=False)
        try:
            with tempfile.NamedTemporaryFile(dir=SHARED_MEMORY, prefix="steptool-weights-") as file:
                await asyncio.to_thread(buffer.tofile, file.name)
                await self._llm.start_weight_update()
                await self._llm.update_weights(WeightTransferUpdateRequest(update_info(file.name, manifest)))
                await self._llm.finish_weight_update(weight_version=str(version))
            # Requests in flight are prefilled anew: while they hold blocks vLLM would keep every stale prefix, and
            # their own next tokens would come from a mixture of two policies.
            await self._llm.reset_prefix_cache(reset_running_requests=True)
        finally:
            await self._llm.resume_generation()
        self._version = version

    async def stop(self) -> None:
        """Shut the engine's processes down."""
        await asyncio.to_thread(self._llm.shutdown)

    async def _submit(self, prompt_ids: Sequence[int], sampling: Sampling, request_id: str) -> RequestOutputCollector:
        return await self._add(prompt_ids, self._parameters(sampling), request_id)

    async def _add(
        self, prompt_ids: Sequence[int], parameters: SamplingParams, request_id: str
    ) -> RequestOutputCollector:
        try:
            return await self._llm.add_request(request_id, TokensPrompt(prompt_token_ids=list(prompt_ids)), parameters)
        except EngineDeadError as error:
            raise EngineFailure(_dead(request_id)) from error

    def _parameters(self, sampling: Sampling) -> SamplingParams:
        return SamplingParams(
            temperature=sampling.temperature,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed,
            logprobs=0,
            stop_token_ids=self._stop_ids,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    async def _finish(self, queue: RequestOutputCollector, request_id: str) -> Generation:
        return _generation(await self._await_output(queue, request_id))

    async def _await_output(self, queue: RequestOutputCollector, request_id: str) -> RequestOutput:
        try:
            async with asyncio.timeout(self._config.turn_seconds):
                output = await queue.get()
        except TimeoutError as error:
            await self._llm.abort(request_id)
            raise EngineFailure(
                f"engine: no answer to request {request_id!r} within {self._config.turn_seconds:g} s; "
                "raise rollout.engine.turn_seconds if the machine is merely slow"
            ) from error
        except EngineDeadError as error:
            raise EngineFailure(_dead(request_id)) from error
        assert isinstance(output, RequestOutput)
        return output


def _engine_args(model: str, config: EngineConfig) -> AsyncEngineArgs:
    return AsyncEngineArgs(
        model=model,
        dtype=config.dtype,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        block_size=config.block_size,
        enforce_eager=config.enforce_eager,
        tensor_parallel_size=config.tensor_parallel_size,
        distributed_executor_backend="uni" if config.tensor_parallel_size == 1 else None,
        gpu_memory_utilization=config.gpu_memory_utilization,
        kv_cache_memory_bytes=config.kv_cache_gib * GIB,
        enable_prefix_caching=True,
        **_whole_prompts(config),
        skip_tokenizer_init=True,
        generation_config="vllm",
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        disable_log_stats=True,
        seed=0,
    )


def _whole_prompts(config: EngineConfig) -> dict[str, Any]:
    """On a CPU, never cut a prompt in two.

    For the part that is not the last, vLLM samples a token, throws it away and turns the request's generator back,
    which the CPU's generators cannot do: one seeded request among many would end the engine.
    """
    if not current_platform.is_cpu():
        return {}
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(PREFILL_TOKENS, config.max_model_len),
    }


def _generation(output: RequestOutput) -> Generation:
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    logprobs = _chosen(completion.logprobs or [], token_ids)
    spans = completion.weight_versions or []
    versions = tuple(VersionSpan(int(span.version), span.start, span.end) for span in spans)
    return Generation(token_ids, logprobs, versions, ended=completion.finish_reason == "stop")


def _chosen(rows: Iterable[Mapping[int, Logprob] | None], token_ids: Sequence[int]) -> tuple[float, ...]:
    """Of each position's log-probabilities the one of the token that stands there."""
    chosen: list[float] = []
    for row, token in zip(rows, token_ids, strict=True):
        assert row is not None, "vLLM returned no log-probability although it was requested"
        chosen.append(row[token].logprob)
    return tuple(chosen)


def _dead(request_id: str) -> str:
    return f"engine: it died before it answered request {request_id!r}; see the rollout actor's log for the cause"
