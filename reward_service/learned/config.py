"""Settings of the step model: where it is, what it reads of a step, how its output becomes a signal, what it may cost.

Imports nothing that is heavy, so that the settings of the service can hold these.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from reward_service.scaling import Scaled


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sigmoid(_Settings):
    """1 / (1 + e^-x) of one output."""

    kind: Literal["sigmoid"] = "sigmoid"

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return 0.0, 1.0


class Softmax(_Settings):
    """The probability of one output among all of them: for a classifier that chooses between classes."""

    kind: Literal["softmax"] = "softmax"

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return 0.0, 1.0


class Clipped(_Settings):
    """One output as it is, between two bounds."""

    kind: Literal["clipped"] = "clipped"
    low: Annotated[float, Field(ge=-1000, le=1000)]
    high: Annotated[float, Field(ge=-1000, le=1000)]

    @property
    def range(self) -> tuple[float, float]:
        """Smallest and largest value."""
        return self.low, self.high

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low: found {self.low:g} with high: {self.high:g}; low must be below high")
        return self


Output = Annotated[Sigmoid | Softmax | Clipped, Field(discriminator="kind")]


class LearnedSignal(_Settings):
    """Measured by the step model that `rewards.step_model` describes."""

    kind: Literal["learned"] = "learned"
    label: NonNegativeInt = 0
    """Which of the model's outputs."""
    output: Output = Sigmoid()
    """How that number becomes the signal."""


class StepModelConfig(Scaled):
    """One step model. What `learned.files.fingerprint` takes of it decides the numbers and is in the reward version."""

    model: Annotated[str, Field(min_length=1, max_length=4096)]
    """Directory of a sequence classifier as Transformers saves it: configuration, tokenizer, weights in safetensors."""
    part_characters: Annotated[int, Field(ge=64)] = 512
    """Of the task, of a call's arguments, of a result, of an answer; the middle of a longer one is left out."""
    text_characters: Annotated[int, Field(ge=256)] = 2048
    """Of all that the model reads about one step; the oldest steps are left out of more."""
    text_tokens: Annotated[int, Field(ge=16)] = 512
    """Of the same; a longer one loses its beginning."""
    batch_tokens: PositiveInt = 8192
    """Of all texts that go through the model at once, each counted as long as the longest of them."""
    seconds: PositiveFloat = 30.0
    """Deadline for the scores of one trajectory, waiting for its turn included."""
    cpus_per_replica: PositiveFloat = 1.0
    gpus_per_replica: NonNegativeFloat = 0.0
    """Without one the model runs on CPUs."""

    @model_validator(mode="after")
    def _a_text_fits_a_batch(self) -> Self:
        if self.batch_tokens < self.text_tokens:
            raise ValueError(
                f"batch_tokens: found {self.batch_tokens} with text_tokens: {self.text_tokens}; "
                "a batch must hold one text at least"
            )
        return self
