"""The figures of the service as Prometheus reads them: its text format, version 0.0.4.

Consumes a `StatsSnapshot`; produces the body of `GET /metrics`. Every sample carries the replica's name, since a scrape
through a load balancer meets another replica each time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from reward_service.stats_wire import JudgeTraffic, StatsSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PREFIX = "steptool_rewards"

_Sample = tuple[str, Mapping[str, str], float]
"""Suffix of the metric's name, labels, value."""


def exposition(snapshot: StatsSnapshot) -> str:
    """The counters since the replica's start, one family after the other."""
    total = snapshot.total
    families = (
        _family(
            "requests_total",
            "counter",
            "Requests to score, by the HTTP status of the answer.",
            (("", {"status": status}, count) for status, count in total.requests.items()),
        ),
        _family(
            "trajectories_total",
            "counter",
            "Trajectories by outcome: scored, or the kind of error.",
            (("", {"outcome": outcome}, count) for outcome, count in total.trajectories.items()),
        ),
        _family("steps_total", "counter", "Steps of scored trajectories.", [("", {}, total.steps)]),
        _family(
            "abstained_steps_total",
            "counter",
            "Steps of scored trajectories that have no reward.",
            [("", {}, total.abstained_steps)],
        ),
        _family("request_seconds", "histogram", "Seconds from a request to score to its answer.", _histogram(snapshot)),
        *_judge_families(total.judge),
        _family("uptime_seconds", "gauge", "Seconds since the replica started.", [("", {}, snapshot.uptime_seconds)]),
    )
    return "".join(_lines(itertools.chain.from_iterable(families), snapshot.replica))


def _judge_families(judge: JudgeTraffic) -> Iterator[Iterator[str | _Sample]]:
    yield _family(
        "judge_votes_total",
        "counter",
        "Votes of the judge by outcome: cast, or lost with an answer.",
        (("", {"outcome": "cast"}, judge.votes - judge.lost_votes), ("", {"outcome": "lost"}, judge.lost_votes)),
    )
    yield _family("judge_requests_total", "counter", "Answers of the judge's endpoint.", [("", {}, judge.requests)])
    yield _family(
        "judge_tokens_total",
        "counter",
        "Tokens that the judge read (prompt) and wrote (completion).",
        (("", {"kind": "prompt"}, judge.prompt_tokens), ("", {"kind": "completion"}, judge.completion_tokens)),
    )
    yield _family("judge_cost_total", "counter", "Cost of the judge by the recipe's prices.", [("", {}, judge.cost)])


def _histogram(snapshot: StatsSnapshot) -> Iterator[_Sample]:
    """Cumulative buckets, as the format wants them: each counts all that took at most its bound."""
    total = snapshot.total
    bounds = [*(_number(bound) for bound in snapshot.latency_bounds_seconds), "+Inf"]
    for bound, below in zip(bounds, itertools.accumulate(total.latency_counts), strict=True):
        yield "_bucket", {"le": bound}, below
    yield "_sum", {}, total.latency_sum_seconds
    yield "_count", {}, sum(total.latency_counts)


def _family(name: str, kind: str, help: str, samples: Iterable[_Sample]) -> Iterator[str | _Sample]:
    full = f"{_PREFIX}_{name}"
    yield f"# HELP {full} {help}\n# TYPE {full} {kind}\n"
    for suffix, labels, value in samples:
        yield full + suffix, labels, value


def _lines(parts: Iterable[str | _Sample], replica: str) -> Iterator[str]:
    for part in parts:
        if isinstance(part, str):
            yield part
        else:
            name, labels, value = part
            pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in {"replica": replica, **labels}.items())
            yield f"{name}{{{pairs}}} {_number(value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """The shortest digits that give the same double back."""
    return repr(float(value)) if value != int(value) else str(int(value))
