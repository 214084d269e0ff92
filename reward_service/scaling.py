"""How many replicas a deployment has, and how it ends: settings shared by every deployment of the service.

Owns `Scaled`. Produces options of a Serve deployment, without loading Ray.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, model_validator

_DRAIN_POLL_SECONDS = 0.2
"""Serve's default of two seconds is what every stop would take at least."""


class Autoscaling(BaseModel):
    """Follow the load: more replicas while requests wait, fewer while there are few."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    max_replicas: PositiveInt
    target_ongoing_requests: PositiveFloat = 16.0
    """Requests at work in each replica, waiting ones among them, that the number of replicas is chosen for."""


class Scaled(BaseModel):
    """Settings of a deployment with replicas."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    replicas: PositiveInt = 1
    """How many there are; with `autoscaling`, how many there are at least."""
    autoscaling: Autoscaling | None = None
    """None: the number of replicas is fixed."""

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.autoscaling is not None and self.autoscaling.max_replicas < self.replicas:
            raise ValueError(
                f"autoscaling.max_replicas: found {self.autoscaling.max_replicas} with replicas: {self.replicas}; "
                "`replicas` is the least number, give a most that is not below it"
            )
        return self

    @property
    def replica_options(self) -> dict[str, Any]:
        """Options of a Serve deployment."""
        if self.autoscaling is None:
            return {"num_replicas": self.replicas}
        return {"autoscaling_config": {"min_replicas": self.replicas, **self.autoscaling.model_dump()}}


def shutdown_options(seconds: float) -> dict[str, Any]:
    """Options of a Serve deployment whose replicas may take `seconds` to answer what they accepted before they end."""
    return {"graceful_shutdown_timeout_s": seconds, "graceful_shutdown_wait_loop_s": _DRAIN_POLL_SECONDS}
