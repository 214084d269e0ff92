"""The metrics, read back with Prometheus's own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from reward_service.exposition import exposition
from reward_service.judge.judgement import Spent, Usage
from reward_service.stats import Stats
from reward_service.wire import FailedItem, ItemError


def families(stats: Stats):
    return {family.name: family for family in text_string_to_metric_families(exposition(stats.snapshot()))}


def values(family, label: str = ""):
    return {sample.labels.get(label, sample.name): sample.value for sample in family.samples}


def test_prometheus_reads_what_was_counted():
    stats = Stats("a", clock=lambda: 7.0)
    stats.answered(200, 0.25)
    stats.answered(200, 0.25)
    stats.answered(422, 0.25)
    stats.scored([FailedItem(id="t", error=ItemError(kind="data", message="why"))])
    found = families(stats)
    assert values(found["steptool_rewards_requests"], "status") == {"200": 2, "422": 1}
    assert values(found["steptool_rewards_trajectories"], "outcome") == {"ok": 0, "data": 1, "infrastructure": 0}
    assert found["steptool_rewards_requests"].type == "counter"
    assert found["steptool_rewards_uptime_seconds"].type == "gauge"
    assert all(family.documentation for family in found.values())


def test_the_buckets_of_the_histogram_are_cumulative_and_end_at_infinity():
    stats = Stats("a")
    for seconds in (0.25, 0.25, 0.75, 100.0):
        stats.answered(200, seconds)
    family = families(stats)["steptool_rewards_request_seconds"]
    buckets = {sample.labels["le"]: sample.value for sample in family.samples if sample.name.endswith("_bucket")}
    assert family.type == "histogram"
    assert [buckets[bound] for bound in ("0.2", "0.5", "1", "60", "+Inf")] == [0, 2, 3, 3, 4]
    rest = {sample.name: sample.value for sample in family.samples if not sample.name.endswith("_bucket")}
    assert rest == {"steptool_rewards_request_seconds_sum": 101.25, "steptool_rewards_request_seconds_count": 4}


def test_every_sample_names_its_replica_however_it_is_called():
    name = 'a "quoted" \\ name\nin two lines'
    stats = Stats(name)
    stats.answered(200, 0.25)
    samples = [sample for family in families(stats).values() for sample in family.samples]
    assert {sample.labels["replica"] for sample in samples} == {name}


def test_the_text_ends_with_a_line_feed_and_names_each_family_once():
    text = exposition(Stats("a").snapshot())
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert text.endswith("\n")
    assert len(names) == len(set(names)) == 10


def test_what_the_judge_took_is_counted():
    stats = Stats("a")
    stats.judged(Spent(votes=1, usage=Usage(requests=2, prompt_tokens=1000, completion_tokens=100), cost=0.25))
    stats.judged(Spent(votes=1, lost_votes=1))
    found = families(stats)
    assert values(found["steptool_rewards_judge_votes"], "outcome") == {"cast": 1, "lost": 1}
    assert values(found["steptool_rewards_judge_tokens"], "kind") == {"prompt": 1000, "completion": 100}
    assert list(values(found["steptool_rewards_judge_requests"]).values()) == [2]
    assert list(values(found["steptool_rewards_judge_cost"]).values()) == [0.25]
