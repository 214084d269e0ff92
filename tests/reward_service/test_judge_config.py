"""Settings of the judge, and what of them is part of the reward version."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from reward_service.errors import JudgeKeyMissing
from reward_service.judge.config import BreakerConfig, Defence, Prices
from reward_service.judge.judge import Judge, fingerprint
from tests.reward_service.judges import config


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("localhost:8000", "expected http://host:port"),
        ("ftp://models", "expected http://host:port"),
        ("http://models/v1", "give the address before /v1/chat/completions"),
        ("http://models/v1/", "give the address before /v1/chat/completions"),
        ("http://models?x=1", "give the address before /v1/chat/completions"),
        ("http://user:secret@models", "put the key into an environment variable"),
    ],
)
def test_an_address_that_cannot_be_asked_is_refused(url, reason):
    with pytest.raises(ValidationError, match=reason):
        config(url=url)


def test_a_slash_at_the_end_of_the_address_does_not_matter():
    assert config(url="http://models:8000/judge/").url == "http://models:8000/judge"


def test_all_defences_stand_unless_somebody_takes_them_down():
    assert config().defences == frozenset(Defence)
    assert config(defences=["echo"]).defences == {Defence.ECHO}


@pytest.mark.parametrize("value", [None, "", "  ", "zwölf", "a\nb"])
def test_a_key_that_is_missing_or_that_no_header_takes_is_told_without_being_shown(value):
    environment = {} if value is None else {"JUDGE_KEY": value}
    with pytest.raises(JudgeKeyMissing, match="the environment variable JUDGE_KEY is not set") as error:
        Judge(config(key_variable="JUDGE_KEY"), environment)
    assert "zw" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "other"},
        {"votes": 3},
        {"temperature": 0.0},
        {"scope": "step"},
        {"structured": "none"},
        {"max_tokens": 64},
        {"text_characters": 100},
        {"record_characters": 2000},
        {"answer_retries": 2},
        {"defences": [each for each in Defence if each is not Defence.CAP]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_may_change_a_grade_changes_the_fingerprint(changes):
    assert fingerprint(config(**changes)) != fingerprint(config())


def test_where_the_judge_is_and_how_long_one_waits_for_it_does_not():
    elsewhere = config(
        url="https://elsewhere",
        key_variable="KEY",
        request_retries=0,
        request_seconds=1.0,
        vote_seconds=2.0,
        requests_in_flight=1,
        breaker=BreakerConfig(failures=1),
        prices=Prices(prompt_per_million=1, completion_per_million=2),
    )
    assert fingerprint(elsewhere) == fingerprint(config())


@pytest.mark.parametrize("source", ["template_text", "rules_text"])
def test_another_prompt_and_other_rules_change_the_fingerprint(monkeypatch, source):
    before = fingerprint(config())
    monkeypatch.setattr(f"reward_service.judge.judge.{source}", lambda: "other")
    assert fingerprint(config()) != before


def test_the_judge_loads_nothing_heavy():
    heavy = ("torch", "vllm", "ray", "fastapi", "transformers", "sqlalchemy")
    code = f"import sys, reward_service.judge.judge; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert loaded.stdout.strip() == "[]"
