"""Everything that can go wrong with rewards. Each error pickles, so it survives the way between Ray processes.

RewardError
├── ServiceNotStarted      Ray Serve did not bring the service up
├── UnchangeableSetting    a running service was given a setting that only a new one can have
├── SignalNotFound         a configuration names a signal that is not installed
├── JudgeKeyMissing        the environment does not hold the key of the judge's endpoint
├── StepModelUnusable      a configuration names a step model that is not there, or is none
├── UnscorableTrajectory   the trajectory lacks what the shaping needs: the caller's bug
├── RequestRefused         a strict request held a trajectory that cannot be scored
├── ScorerUnavailable      a scorer was lost: infrastructure; the trajectory abstains
│   ├── JudgeUnavailable       the judge's endpoint gave no answer, or refused the request
│   └── SignalBroken           a signal of somebody else failed, or gave what is no measurement: its author's bug
├── RewardAbstained        a trainer that must have a number asked for a trajectory that has none
└── RewardRequestError     what a client meets
    ├── RewardUnavailable      no answer before the deadline, or after all retries
    │   └── RewardCircuitOpen  nobody was asked, since the last calls had no answer
    ├── RewardUnauthorized     the key is missing, unknown or not allowed
    ├── RewardVersionMismatch  the service shapes rewards differently than at the first answer
    ├── RewardRejected         the service refused the request
    └── RewardProtocolError    the answer does not fit the contract
"""

from __future__ import annotations

from collections.abc import Mapping


class RewardError(Exception):
    """Root of all errors of this package."""


class ServiceNotStarted(RewardError):
    """Ray Serve did not bring the service up, or brought it up where it was not asked for."""


class SignalNotFound(RewardError):
    """A configuration names a signal that is not installed, or that does not load."""


class RequestRefused(RewardError):
    """A strict request held trajectories that cannot be scored; nothing was."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        super().__init__(reasons)
        self.reasons = reasons
        """By trajectory."""

    def __str__(self) -> str:
        first = "; ".join(list(self.reasons.values())[:3])
        return f"{len(self.reasons)} trajectories cannot be scored, and the request is strict: {first}"


class UnchangeableSetting(RewardError):
    """A running service was given a setting that only a new one can have."""


class JudgeKeyMissing(RewardError):
    """The environment does not hold the API key that the settings of a judge name."""


class StepModelUnusable(RewardError):
    """A configuration names a step model that is not there, is none, or does not fit what is asked of it."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(model, reason)
        self.model = model
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"step model {self.model!r}: {self.reason}; expected a directory with a trained sequence classifier as "
            "Transformers saves it, and its tokenizer, on every machine that loads it"
        )


class UnscorableTrajectory(RewardError):
    """The trajectory lacks what the shaping needs; scoring it again changes nothing."""

    def __init__(self, trajectory_id: str, reason: str) -> None:
        super().__init__(trajectory_id, reason)
        self.trajectory_id = trajectory_id
        self.reason = reason

    def __str__(self) -> str:
        return f"trajectory {self.trajectory_id!r}: {self.reason}"


class ScorerUnavailable(RewardError):
    """A scorer behind the service was lost or took too long. Not the trajectory's fault."""


class SignalBroken(ScorerUnavailable):
    """A signal of somebody else failed on a trajectory, or gave what is no measurement."""


class RewardAbstained(RewardError):
    """The trajectory abstains, and the trainer that asked has no way to leave it out. Never answered by a fake zero."""

    def __init__(self, trajectory_id: str, remedy: str) -> None:
        super().__init__(trajectory_id, remedy)
        self.trajectory_id = trajectory_id
        self.remedy = remedy

    def __str__(self) -> str:
        return f"trajectory {self.trajectory_id!r}: no step has a reward, all abstain; {self.remedy}"


class JudgeUnavailable(ScorerUnavailable):
    """The endpoint of the judge gave no answer in time, or refused the request. The trajectory abstains."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"judge {self.url}: no judgement ({self.reason}); see whether the endpoint is up, has the model and takes "
            "such requests, or allow more time"
        )


class RewardRequestError(RewardError):
    """A request for rewards failed."""


class RewardUnavailable(RewardRequestError):
    """The service gave no answer before the deadline, or after all retries."""

    def __init__(self, url: str, attempts: int, reason: str) -> None:
        super().__init__(url, attempts, reason)
        self.url = url
        self.attempts = attempts
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"reward service {self.url}: no answer after {self.attempts} attempts ({self.reason}); "
            f"see whether {self.url}/readyz answers, or allow more time"
        )


class RewardCircuitOpen(RewardUnavailable):
    """Nobody was asked: the last calls had no answer, and the circuit breaker waits before it tries again."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(url, 0, f"the last calls had none either; the next trial is due in {seconds:.3g} s")
        # What the error is made from again after pickling.
        self.args = (url, seconds)
        self.seconds = seconds


class RewardUnauthorized(RewardRequestError):
    """The API key is missing, unknown or not allowed."""


class RewardVersionMismatch(RewardRequestError):
    """The service shapes rewards differently than at this client's first answer. A run never mixes two."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(expected, found)
        self.expected = expected
        self.found = found

    def __str__(self) -> str:
        return (
            f"reward version: service has {self.found!r}, this run began with {self.expected!r}; "
            "restore the service's shaping, or start a new run"
        )


class RewardRejected(RewardRequestError):
    """The service refused the request; sending it again changes nothing."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail

    def __str__(self) -> str:
        return f"reward service refused the request with {self.status}: {self.detail}"


class RewardProtocolError(RewardRequestError):
    """The answer does not fit the contract: another service, or another version of it, listens there."""
