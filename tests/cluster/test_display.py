from __future__ import annotations

from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from cluster.display import Display, LineDisplay, LiveDisplay
from cluster.evaluation import Evaluation
from learner.publish import PublishReport
from learner.reports import SftReport
from tests.cluster.builders import REPORT

EVALUATION = Evaluation(192, 0.5, (0.43, 0.57), {"L0": 0.75, "L2": 0.25}, 2.0, 0.5, {"L0": 1.0, "L2": 3.0})


@pytest.fixture
def console() -> Console:
    return Console(file=StringIO(), width=220, force_terminal=False)


def told(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def tell_everything(display: Display) -> None:
    display.note("starting the engines")
    display.warm_start(SftReport(0, 72, 2.5, 1.0, 800))
    display.published(PublishReport(1, 8, 0.3, 0.2, 0.041, 0.3))
    display.episode("iteration 3", 12, 48)
    display.iteration(REPORT, 40)
    display.evaluation("before", 0.0, EVALUATION)
    display.evaluation("before", 1.0, EVALUATION)


def test_a_log_has_one_line_for_each_event_worth_one(console: Console) -> None:
    tell_everything(LineDisplay(console))
    lines = [line.partition("] ")[2] for line in told(console).splitlines()]
    assert lines[:3] == [
        "starting the engines",
        "warm start 1/72: loss 2.500 nats a token",
        "weights version 1 delivered: canary gap 0.0410 nats mean",
    ]
    assert lines[3].startswith("iteration 3/40  solved 50%  reward +0.250  signals suc 0.75  steps 2.5")
    assert "tok/s roll 30  tok/s upd 60  seconds rol 4.0 upd 2.0  stale 0.2  gap 0.030" in lines[3]
    assert lines[4] == (
        "held-out before, greedy: solved 50.0% [43.0%, 57.0%] of 192; "
        "L0 75% (1.0 calls), L2 25% (3.0 calls); useless calls 0.50 an episode"
    )
    assert "sampled at T=1" in lines[5]


@pytest.mark.parametrize("live", [False, True])
def test_a_warning_stays_where_it_can_be_read(console: Console, live: bool) -> None:
    if live:
        with LiveDisplay(console) as display:
            display.warn("checkpoint 00010: file state.json is missing")
            display.note("resuming")
    else:
        LineDisplay(console).warn("checkpoint 00010: file state.json is missing")
    assert "warning: checkpoint 00010: file state.json is missing\n" in told(console)


def test_a_log_is_not_filled_by_every_step_of_the_warm_start(console: Console) -> None:
    display = LineDisplay(console)
    for step in range(25):
        display.warm_start(SftReport(step, 25, 2.5, 1.0, 800))
    steps = [line.split("warm start ")[1].split(":")[0] for line in told(console).splitlines()]
    assert steps == ["1/25", "11/25", "21/25", "25/25"]


def test_the_live_display_ends_with_the_table_and_the_last_status(console: Console) -> None:
    with LiveDisplay(console) as display:
        tell_everything(display)
        display.iteration(replace(REPORT, iteration=4, solved_rate=0.75), 40)
    text = told(console)
    assert "held-out before, greedy: solved 50.0%" in text
    assert "3/40" in text
    assert "4/40" in text
    assert "75%" in text
    assert "iteration 4 done" in text


def test_the_live_table_shows_the_newest_twelve_iterations(console: Console) -> None:
    with LiveDisplay(console) as display:
        for iteration in range(1, 15):
            display.iteration(replace(REPORT, iteration=iteration), 40)
    rows = [line for line in told(console).splitlines() if "/40" in line]
    assert [row.split("│")[1].strip() for row in rows] == [f"{n}/40" for n in range(3, 15)]


def test_text_in_brackets_is_shown_and_not_taken_for_markup(console: Console) -> None:
    LineDisplay(console).note("levels [L0] and [/bold]")
    assert "levels [L0] and [/bold]" in told(console)
