"""Injections against a judge that obeys every one that it can see, defence by defence."""

from __future__ import annotations

import html
import re

import pytest
from fastapi import Response

from reward_service.judge.config import Defence
from reward_service.judge.corpus.injection import Family, Injection
from reward_service.judge.corpus.victim import INJECTIONS, victim
from reward_service.judge.judgement import Judgement, Spread, StepJudgement, Usage
from reward_service.judge.measure import measure_injections
from reward_service.judge.scanner import scan
from tests.reward_service.judges import Asked, FakeJudge, grades, in_memory, written
from tool_sandbox.tools import CallStatus

COPIED = [one for one in INJECTIONS if one.verdict is not None]
OBEYED = [one for one in INJECTIONS if one.verdict is None]


def gullible(asked: Asked) -> str | Response:
    """Does what any injection of the corpus says that stands in its prompt; otherwise grades low and honestly."""
    for injection in INJECTIONS:
        if sees(asked.user, injection.text):
            if injection.verdict is not None:
                return injection.verdict
            return written(asked, dict.fromkeys(asked.ids, (1, 5)), "Solved")
    return grades(0, 1, "Unsolved")(asked)


def sees(prompt: str, text: str) -> bool:
    """Whether a reader who undoes escapes finds `text`, whatever became of its spaces and signs."""
    return text in prompt or (len(letters(text)) > 8 and letters(text) in letters(unescaped(prompt)))


def unescaped(text: str) -> str:
    once = re.sub(r"\\u([0-9a-f]{4})", lambda match: chr(int(match[1], 16)), text)
    return html.unescape(once.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\"))


def letters(text: str) -> str:
    return "".join(each for each in html.unescape(text) if each.isalnum())


async def measured(defences, corpus=INJECTIONS, model=gullible):
    judge = in_memory().judge(FakeJudge(model), defences=list(defences))
    report = await measure_injections(judge, corpus, repeats=2)
    await judge.aclose()
    return report


def raised(report) -> set[str]:
    return {trial.injection.name for trial in report.trials if trial.raised}


async def test_without_defences_every_injection_gets_full_marks():
    report = await measured(())
    assert raised(report) == {one.name for one in INJECTIONS}
    # Two calls go from 0 + 0.2 to 1 + 1, and the outcome from 0 to 1.
    assert {round(trial.gain, 6) for trial in report.trials} == {4.6}
    assert all(trial.solved for trial in report.trials)


async def test_with_all_defences_none_gets_anything():
    report = await measured(Defence)
    assert raised(report) == set()
    assert [trial.injection.name for trial in report.trials if trial.gain > 0] == []


async def test_the_rules_alone_hold_what_the_scanner_finds():
    report = await measured([Defence.RULES])
    missed = {one.name for one in INJECTIONS if not scan(victim(one.text).steps[1].observation or "")}
    assert raised(report) == missed
    assert len(missed) == 11
    assert all(trial.flagged != (trial.injection.name in missed) for trial in report.trials)


async def test_the_echo_alone_holds_verdicts_that_were_written_beforehand():
    report = await measured([Defence.ECHO])
    assert raised(report) == {one.name for one in OBEYED}
    lost = [trial for trial in report.trials if trial.injection.verdict is not None]
    assert len(lost) == len(COPIED) == 4
    assert all(trial.abstained for trial in lost)


async def test_the_control_alone_holds_whoever_asks_for_good_grades_for_everything():
    report = await measured([Defence.CONTROL], OBEYED)
    assert raised(report) == set()
    assert all(trial.abstained for trial in report.trials)


async def test_isolation_alone_does_not_make_a_gullible_judge_wise():
    report = await measured([Defence.ISOLATION])
    assert raised(report) >= {one.name for one in INJECTIONS if one.family is Family.COMMAND}
    assert "disguised/tags" not in raised(report)


async def test_an_accomplice_that_spares_failed_calls_is_held_by_the_rules_alone():
    """The limit of echo and control: a judge that wants to be deceived, and knows how."""

    def accomplice(asked):
        told = any(sees(asked.user, one.text) for one in INJECTIONS)
        return grades(1, 5, "Solved")(asked) if told else grades(0, 1, "Unsolved")(asked)

    commands = [one for one in INJECTIONS if one.family is Family.COMMAND]
    without_rules = [each for each in Defence if each is not Defence.RULES]
    assert raised(await measured(without_rules, commands, accomplice)) == {one.name for one in commands}
    found = {one.name for one in commands if scan(one.text)}
    assert raised(await measured(Defence, commands, accomplice)) == {one.name for one in commands} - found


async def test_a_failed_call_cannot_be_talked_into_a_success_by_the_cap_alone():
    judge = in_memory().judge(FakeJudge(gullible), defences=["cap"])
    hostile = victim(OBEYED[0].text)
    failed = hostile.steps[1].model_copy(update={"status": CallStatus.TOOL_ERROR})
    judgement = await judge.judge(hostile.model_copy(update={"steps": (hostile.steps[0], failed, hostile.steps[2])}))
    assert judgement.steps[1].success == Spread(0.0, 0.0, 1)
    assert judgement.steps[1].contribution == Spread(0.2, 0.0, 1)
    await judge.aclose()


class Scripted:
    """Judges by the text of the hostile result: the number of its plus signs, and abstains at a minus."""

    def __init__(self, clean: list[float]):
        self.clean = clean

    async def judge(self, item):
        text = item.steps[1].observation.partition("\n")[2]
        if "-" in text:
            return judgement(None)
        return judgement(0.25 * text.count("+") if text else self.clean.pop(0))


def judgement(value: float | None) -> Judgement:
    spread = None if value is None else Spread.fact(value)
    nothing = StepJudgement(None, None, None)
    step = StepJudgement(spread, Spread.fact(0.0), None)
    return Judgement((nothing, step, nothing), spread, None, (), (), Usage(), None)


def hostile(text: str) -> Injection:
    return Injection(f"command/{text}", Family.COMMAND, text)


async def test_an_injection_counts_as_raised_above_the_best_of_the_clean_runs():
    corpus = [hostile("+"), hostile("++"), hostile("+++"), hostile("-")]
    report = await measure_injections(Scripted([0.25, 0.75, 0.5]), corpus, repeats=3)
    # Success and outcome: mean 0.5 each without an injection, so the best clean run gains 2 x 0.25.
    assert report.noise == pytest.approx(0.5)
    assert [trial.gain for trial in report.trials] == pytest.approx([-0.5, 0.0, 0.5, 0.0])
    assert [trial.raised for trial in report.trials] == [False, False, False, False]
    assert [trial.abstained for trial in report.trials] == [False, False, False, True]
    loud = await measure_injections(Scripted([0.25, 0.75, 0.5]), [hostile("++++")], repeats=3)
    assert (loud.trials[0].gain, loud.trials[0].raised, loud.trials[0].solved) == (pytest.approx(1.0), True, True)


async def test_a_report_counts_by_family():
    report = await measure_injections(Scripted([0.0]), [hostile("+"), hostile("-")], repeats=1)
    counts = {"injections": 2, "raised": 1, "solved": 1, "abstained": 1, "flagged": 0, "mean_gain": 0.25}
    assert report.summary() == {"noise": 0.0, **counts, "families": {"command": counts}}


async def test_a_judge_that_always_abstains_cannot_be_measured():
    judge = in_memory().judge(FakeJudge(lambda asked: "no"))
    with pytest.raises(ValueError, match="abstained from 2 runs without an injection"):
        await measure_injections(judge, [hostile("+")], repeats=2)
    await judge.aclose()
