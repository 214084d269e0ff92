"""Variables that vLLM's processes read at import; they must stand in an actor's environment before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping

from actors.config import EngineConfig


def engine_environment(config: EngineConfig) -> Mapping[str, str]:
    """Variables that vLLM's processes read at import, for the actor's runtime environment.

    OpenMP threads that spin while idle starve the other actors on a small machine; threads that sleep at once are slow
    to wake for the next of many small multiplications (15–35 % at a batch of 48). They spin for some microseconds only.
    """
    return {
        "OMP_NUM_THREADS": str(config.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "GOMP_SPINCOUNT": "20000",
        "KMP_BLOCKTIME": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_KVCACHE_SPACE": str(config.kv_cache_gib),
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
        # The worker then lives in the engine core's process. In its own, the core would spin on shared memory while it
        # waits for each step, on one of the two cores that the step needs.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # Eager mode leaves a compiled helper in the sampler, which compiles again for each new batch size.
        **({"TORCHDYNAMO_DISABLE": "1"} if config.enforce_eager else {}),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
