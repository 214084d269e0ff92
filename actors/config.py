"""Settings of the rollouts: the engine, the prompt, the sampling and the episode. Owns no behaviour."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

GIB = 1024**3


class Settings(BaseModel):
    """Frozen settings that refuse unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EngineConfig(Settings):
    """One vLLM engine."""

    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    max_model_len: PositiveInt = 512
    """Context of one trajectory, in tokens."""
    max_num_seqs: PositiveInt = 64
    """Trajectories decoded together."""
    kv_cache_gib: PositiveInt = 1
    block_size: PositiveInt = 32
    """Tokens in a KV block; small blocks let short shared prefixes hit the prefix cache. On a CPU a multiple of 32."""
    threads: PositiveInt = 2
    enforce_eager: bool = True
    """On two CPU cores compilation costs over a minute at start; on a GPU set it to false."""
    tensor_parallel_size: PositiveInt = 1
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    start_seconds: PositiveFloat = 300.0
    """Deadline for the engine to come up."""
    turn_seconds: PositiveFloat = 300.0
    """Deadline for one model turn."""


class SamplingConfig(Settings):
    """How actions are sampled in training; evaluation is greedy unless it says otherwise."""

    temperature: Annotated[float, Field(ge=0)] = 1.0
    max_turn_tokens: PositiveInt = 48


class CompactPrompt(Settings):
    """ChatML with one line of tool signatures: for small models with a short context."""

    kind: Literal["compact"] = "compact"
    tool_lines: Literal["signatures", "names", "none"] = "signatures"


class TemplatePrompt(Settings):
    """The model's own chat template, with the tools as OpenAI functions."""

    kind: Literal["template"] = "template"


PromptConfig = Annotated[CompactPrompt | TemplatePrompt, Field(discriminator="kind")]


class EpisodeConfig(Settings):
    """Budgets of one episode; every estimator and every baseline gets the same."""

    max_steps: PositiveInt = 6
    """Model turns, the final answer included."""
    observation_tokens: PositiveInt = 48
    """Longer observations are capped with a visible marker."""


class RolloutConfig(Settings):
    """Everything a rollout actor is built from."""

    model: str
    """Directory of a Hugging Face causal language model."""
    tool_parser: str = "hermes"
    """Name of one of vLLM's tool parsers."""
    prompt: PromptConfig = CompactPrompt()
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    episode: EpisodeConfig = EpisodeConfig()
    actors: PositiveInt = 1
    """Rollout actors, one engine each."""
    concurrent_episodes: PositiveInt = 64
    """Episodes under way at once in one actor."""
