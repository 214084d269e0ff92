"""Settings of the judge: where it is, what is asked of it, what it may cost, and which defences stand.

Imports nothing of the house but `scaling`, so that the settings of the service can hold these.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt

from reward_service.scaling import Scaled


class Defence(StrEnum):
    """One layer between hostile text and the grades. All stand unless somebody measures what one of them is worth."""

    ISOLATION = "isolation"
    """Text of others is quoted as JSON between lines with a random number, without control characters and markers."""
    ECHO = "echo"
    """The judge repeats a random id for every step; a verdict that was written beforehand cannot know it."""
    CONTROL = "control"
    """A made-up step that failed stands among the others; a judge that gives it credit is not believed."""
    RULES = "rules"
    """Text that the scanner finds suspicious is withheld from the judge."""
    CAP = "cap"
    """No grade exceeds what the typed status of a call and the ground truth allow."""


def _address(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"found {url!r}; expected http://host:port or https://host, without /v1")
    if "@" in parts.netloc:
        raise ValueError("the address holds credentials; put the key into an environment variable, see key_variable")
    if parts.path.rstrip("/").endswith("/v1") or parts.query or parts.fragment:
        raise ValueError(f"found {url!r}; give the address before /v1/chat/completions, without a query")
    return url.rstrip("/")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Prices(_Settings):
    """What the endpoint charges, in any one currency."""

    prompt_per_million: NonNegativeFloat
    """For a million tokens that it reads."""
    completion_per_million: NonNegativeFloat
    """For a million tokens that it writes."""


class BreakerConfig(_Settings):
    """When to stop asking an endpoint that fails."""

    failures: PositiveInt = 5
    """Failed requests in a row that open the circuit."""
    open_seconds: PositiveFloat = 30.0
    """Time until one request may try again."""


class JudgeConfig(Scaled):
    """One judge. What `judge.fingerprint` takes of it decides the grades and is part of the reward version."""

    url: Annotated[str, Field(max_length=2048), AfterValidator(_address)]
    """Of an OpenAI-compatible server, without `/v1`."""
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """As the server names it."""
    key_variable: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Environment variable with the server's API key; None sends no key."""
    scope: Literal["trajectory", "step"] = "trajectory"
    """What one request asks about: all steps, or one. The latter costs a request for every step."""
    votes: Annotated[int, Field(ge=1, le=31)] = 3
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    max_tokens: PositiveInt = 2048
    """Of one answer, with what a reasoning model thinks before it."""
    structured: Literal["json_schema", "guided_json", "none"] = "json_schema"
    """How the server is asked to keep to the schema: OpenAI's `response_format`, the field of vLLM before 0.12, or not
    at all. The answer is checked in every case."""
    defences: frozenset[Defence] = frozenset(Defence)
    text_characters: Annotated[int, Field(ge=64)] = 2000
    """Of one text that the judge reads; the middle of a longer one is left out."""
    record_characters: Annotated[int, Field(ge=1024)] = 24_000
    """Of all texts of one trajectory together."""
    answer_retries: Annotated[int, Field(ge=0, le=10)] = 1
    """How often a vote is asked for again because the answer did not fit. After that it is lost."""
    request_retries: Annotated[int, Field(ge=0, le=20)] = 4
    """How often a request that failed is sent again."""
    request_seconds: PositiveFloat = 60.0
    """Deadline of one request."""
    vote_seconds: PositiveFloat = 300.0
    """Deadline of one vote: all its requests, pauses, retries, and waiting for its turn."""
    requests_in_flight: PositiveInt = 16
    """Of one process that asks; on Serve, of each replica of the judge's deployment."""
    breaker: BreakerConfig = BreakerConfig()
    prices: Prices | None = None
    """None: the endpoint has no price, and judgements no cost."""
    cpus_per_replica: PositiveFloat = 0.1
    """Cores that Ray reserves for one replica on Serve, which mostly waits for the endpoint."""
