"""BFCL multi-turn through our sessions: solved by its ground truth, judged as its own package judges."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

pytest.importorskip("bfcl_eval", reason="the extra `bfcl` is not installed")

from tests.tool_sandbox.bfcl_trajectories import KINDS, cluttered, corrupted, dialogues, package_verdict, play, truth
from tool_sandbox.bfcl import BfclToolset, package
from tool_sandbox.bfcl.calls import parse_call
from tool_sandbox.bfcl.documents import tool_specs
from tool_sandbox.bfcl.package import CLASSES, LEVELS, entries, entry
from tool_sandbox.bfcl.session import BfclSession
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.errors import CorruptTask, InvalidToolset, NoSuchTask
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import Dialogue, Forkable, Judged
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall

BFCL = BfclToolset()
SIZES = {Split.TRAIN: 126, Split.VAL: 23, Split.TEST_IID: 51}
"""Dialogues of each split, on every level."""
TWEETS = entry("multi_turn_base_147")
"""Two turns: a stock is looked up and a tweet posted; then somebody is mentioned in it."""


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall("c", name, arguments)


def test_the_ground_truth_solves_800_of_800_and_every_call_owed_brings_it_one_nearer() -> None:
    solved, gains = 0, Counter()
    for dialogue in dialogues():
        session, outcomes = play(dialogue, truth(dialogue))
        solved += session.verdict(None)
        gains.update(one.progress.before - one.progress.after for one in outcomes if one.progress)
        assert outcomes[-1].progress is not None
        assert outcomes[-1].progress.after == 0
    assert solved == 800
    # 4,625 calls; three repeat what an earlier turn has already shown (`get_watchlist` in dialogue 113).
    assert gains == {1: 4622, 0: 3}


def test_doing_nothing_solves_0_of_800() -> None:
    verdicts = [play(dialogue, [[] for _ in dialogue.turns])[0].verdict("done") for dialogue in dialogues()]
    assert (len(verdicts), sum(verdicts)) == (800, 0)


def test_the_verdict_on_800_corrupted_trajectories_is_the_packages_own() -> None:
    kinds, passed = Counter(), Counter()
    for position, dialogue in enumerate(dialogues()):
        dice = random.Random(f"corrupt {dialogue.id}")
        preferred = KINDS[position % 3 :] + KINDS[: position % 3]
        # Some dialogues have no turn with two calls to swap: the next kind takes their place.
        tried = ((kind, corrupted(dialogue, kind, dice)) for kind in preferred)
        kind, turns = next((kind, turns) for kind, turns in tried if turns is not None)
        session, _ = play(dialogue, turns)
        verdict = session.verdict(None)
        assert verdict == package_verdict(dialogue, turns, f"corrupted-{position}"), (dialogue.id, kind)
        kinds[kind] += 1
        passed[kind] += verdict
    assert kinds == {"alter": 316, "drop": 267, "swap": 217}
    assert passed == {"swap": 114, "alter": 24, "drop": 0}


def test_the_verdict_on_200_trajectories_full_of_strange_calls_is_the_packages_own() -> None:
    verdicts = []
    for dialogue in entries("base").values():
        turns = cluttered(dialogue, random.Random(f"clutter {dialogue.id}"))
        session, outcomes = play(dialogue, turns)
        verdicts.append(session.verdict(None))
        assert verdicts[-1] == package_verdict(dialogue, turns, "cluttered"), dialogue.id
        assert outcomes[-1].progress is not None
        assert (outcomes[-1].progress.after == 0) == verdicts[-1], dialogue.id
    assert 50 < sum(verdicts) < 150


def test_all_eight_classes_and_their_128_functions_are_tools_with_valid_schemas() -> None:
    specs = BFCL.specs()
    assert len(specs) == 128
    assert {spec.family for spec in specs} == set(CLASSES)
    for spec in specs:
        Draft202012Validator.check_schema(dict(spec.parameters))
    assert tool_specs()["mean"].parameters["properties"]["numbers"]["items"]["type"] == "number"
    assert json.dumps([spec.openai_function() for spec in specs]).count('"float"') == 0


def test_a_session_talks_judges_and_forks() -> None:
    session = BFCL.open(BFCL.sample_task(Split.TRAIN, "base", 0))
    assert isinstance(session, Dialogue)
    assert isinstance(session, Judged)
    assert isinstance(session, Forkable)


def test_a_wrong_write_takes_away_what_it_spoils_and_a_repair_gives_it_back() -> None:
    session = BfclSession(entry("multi_turn_base_3"))
    owed = sum(len(calls) for calls in entry("multi_turn_base_3").ground_truth)
    calls = [call("mkdir", dir_name="junk"), call("ls"), call("rmdir", dir_name="junk")]
    progress = [session.call(one).progress for one in calls]
    assert progress == [Progress(owed, owed + 1), Progress(owed + 1, owed + 1), Progress(owed + 1, owed)]


def test_a_wrong_write_that_says_what_the_right_one_would_say_earns_nothing() -> None:
    session = BfclSession(entry("multi_turn_base_2"))
    owed = sum(len(calls) for calls in entry("multi_turn_base_2").ground_truth)
    calls = [
        call("cd", folder="documents"),
        call("touch", file_name="wrong.txt"),
        call("rm", file_name="wrong.txt"),
        call("touch", file_name="TeamNotes.txt"),
    ]
    gains = [one.before - one.after for one in (session.call(each).progress for each in calls) if one is not None]
    assert gains == [1, 0, 0, 1]
    assert session.call(call("ls")).progress == Progress(owed - 2, owed - 2)


def test_what_a_turn_left_undone_is_never_made_up() -> None:
    session = BfclSession(TWEETS)
    session.user_turn()
    for one in [*truth(TWEETS)[0], *truth(TWEETS)[1]]:
        outcome = session.call(one)
    assert outcome.progress is not None
    assert outcome.progress.after >= 2
    assert session.verdict(None) is False


def test_only_the_last_turn_may_be_left_open() -> None:
    session = BfclSession(TWEETS)
    for one in truth(TWEETS)[0]:
        session.call(one)
    assert session.verdict(None) is False
    session.user_turn()
    session.call(truth(TWEETS)[1][0])
    assert session.verdict(None) is True
    assert session.user_turn() is None
    assert session.verdict("done") is True


def test_the_user_speaks_turn_by_turn_and_brings_the_functions_that_were_held_out() -> None:
    dialogue = entry("multi_turn_miss_func_0")
    session = BfclSession(dialogue)
    said = [session.user_turn() for _ in range(5)]
    assert said[0] == dialogue.turns[1]
    assert said[2] is not None
    documents, _, words = said[2].partition("\n")
    assert [document["function"]["name"] for document in json.loads(documents)] == ["sort"]
    assert words == "I have updated some more functions you can choose from. What about now?"
    assert said[4] is None
    offered = _task("multi_turn_miss_func_0").tools
    assert ("sort" in offered, "grep" in offered) == (False, True)


def test_an_error_of_a_tool_is_the_models_with_the_tools_own_words() -> None:
    session = BfclSession(entry("multi_turn_base_0"))
    refused = session.call(call("cd", folder="nowhere")).result
    assert refused.status is CallStatus.TOOL_ERROR
    assert json.loads(refused.content) == {"error": "cd: 'nowhere': No such file or directory"}
    raised = session.call(call("tail", file_name="x", lines="many")).result
    assert raised.status is CallStatus.TOOL_ERROR


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        (call("cd"), CallStatus.INVALID_ARGUMENTS, "error: cd needs folder"),
        (call("cd", folder="x", path="y"), CallStatus.INVALID_ARGUMENTS, "error: cd has no path"),
        (call("fly"), CallStatus.UNKNOWN_TOOL, "error: no tool fly"),
        (call("__init__"), CallStatus.UNKNOWN_TOOL, "error: no tool __init__"),
        (call("_load_scenario", scenario={}), CallStatus.UNKNOWN_TOOL, "error: no tool _load_scenario"),
        (call("mean", numbers=[1]), CallStatus.UNKNOWN_TOOL, "error: no tool mean"),
    ],
)
def test_only_documented_functions_of_the_dialogues_own_classes_run(
    wrong: ToolCall, status: CallStatus, said: str
) -> None:
    session = BfclSession(entry("multi_turn_base_0"))
    before = session.state_hash()
    outcome = session.call(wrong)
    assert (outcome.result.status, outcome.result.content) == (status, said)
    assert outcome.progress is not None
    assert outcome.progress.before == outcome.progress.after
    assert session.state_hash() == before


def test_one_call_cannot_keep_the_process_busy() -> None:
    session = BfclSession(_with("MathAPI"))
    for wrong in [
        call("logarithm", value=2, base=10, precision=10**8),
        call("power", base=10, exponent=10**9),
        call("power", base=10**40, exponent=10**4),
        call("round_number", number=5, decimal_places=-(10**9)),
    ]:
        assert session.call(wrong).result.status is CallStatus.INVALID_ARGUMENTS
    assert session.call(call("power", base=2, exponent=10)).result.content == '{"result": 1024}'


def test_no_session_leaves_anything_behind_for_another() -> None:
    """In the package all tweets without mentions share one list, and a precision once set stays set."""
    import decimal

    import mpmath

    before = (decimal.getcontext().prec, mpmath.mp.dps)
    for _ in range(2):
        session = BfclSession(TWEETS)
        posted = json.loads(session.call(call("post_tweet", content="hello")).result.content)
        assert posted["mentions"] == []
        session.call(call("mention", tweet_id=posted["id"], mentioned_usernames=["@all"]))
    maths = BfclSession(_with("MathAPI"))
    maths.call(call("square_root", number=2, precision=60))
    assert maths.call(call("logarithm", value=20, base=10, precision=60)).result.status is CallStatus.OK
    assert (decimal.getcontext().prec, mpmath.mp.dps) == before


def test_a_fork_goes_its_own_way() -> None:
    session, alone = BfclSession(TWEETS), BfclSession(TWEETS)
    fork = session.fork()
    assert fork.state_hash() == session.state_hash() == alone.state_hash()
    fork.call(call("post_tweet", content="something else"))
    fork.user_turn()
    for one in truth(TWEETS)[0]:
        assert session.call(one).progress == alone.call(one).progress
    assert session.state_hash() == alone.state_hash() != fork.state_hash()
    assert fork.verdict(None) is False


def test_the_long_context_is_the_same_dialogue_in_a_world_of_clutter() -> None:
    plain, long = (BfclSession(entry(f"multi_turn_{level}_1")) for level in ("base", "long_context"))
    listed = [one.call(call("find", path=".")).result.content for one in (plain, long)]
    assert len(listed[1]) > 10 * len(listed[0])


def test_every_dialogue_is_in_one_split_and_its_variants_go_with_it() -> None:
    numbers: dict[Split, set[str]] = {}
    for split, size in SIZES.items():
        found = {
            level: [BFCL.sample_task(split, level, index).id.rpartition("_")[2] for index in range(size)]
            for level in LEVELS
        }
        assert len(set(found["base"])) == size
        assert all(each == found["base"] for each in found.values())
        numbers[split] = set(found["base"])
    assert sum(len(each) for each in numbers.values()) == len(set.union(*numbers.values())) == 200


def test_training_goes_round_and_a_held_out_split_ends() -> None:
    assert BFCL.sample_task(Split.TRAIN, "base", 126) == BFCL.sample_task(Split.TRAIN, "base", 0)
    with pytest.raises(
        NoSuchTask, match=r"'test_iid' has 51 tasks of level 'base', asked for index 51.*evaluate fewer"
    ):
        BFCL.sample_task(Split.TEST_IID, "base", 51)
    with pytest.raises(NoSuchTask, match=r"no level 'L0'.*levels are base, miss_func, miss_param, long_context"):
        BFCL.sample_task(Split.TRAIN, "L0", 0)


def test_a_task_of_another_version_of_the_package_is_refused() -> None:
    task = BFCL.sample_task(Split.TRAIN, "base", 0)
    with pytest.raises(CorruptTask, match=r"made with bfcl-eval 2025\.1, installed is 2026"):
        BFCL.open(replace(task, payload={**task.payload, "version": "2025.1"}))


def test_the_registry_has_it_and_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_toolset("bfcl").name == "bfcl"
    package.installed_version.cache_clear()
    monkeypatch.setattr(package, "DISTRIBUTION", "no-such-distribution")
    with pytest.raises(
        InvalidToolset, match=r"no-such-distribution is not installed.*steptool\[bfcl\].*--no-deps: bfcl-eval=="
    ):
        BfclToolset()
    package.installed_version.cache_clear()


@pytest.mark.parametrize(
    "text", ["cd(folder=__import__('os').getcwd())", "cd(folder='x'); ls()", "os.system('ls')", "fly(to='x')", "cd"]
)
def test_a_ground_truth_call_is_parsed_and_never_evaluated(text: str) -> None:
    with pytest.raises(InvalidToolset, match="expected tool"):
        parse_call(text, tool_specs(), "c")


def test_a_ground_truth_call_may_leave_the_names_of_its_arguments_out() -> None:
    parsed = parse_call("mean([1, -2.5, 3])", tool_specs(), "c")
    assert parsed == ToolCall("c", "mean", {"numbers": [1, -2.5, 3]})


def _task(id: str) -> Task:
    tasks = (
        BFCL.sample_task(split, level, index) for split in SIZES for level in LEVELS for index in range(SIZES[split])
    )
    return next(task for task in tasks if task.id == f"bfcl/{id}")


def _with(class_name: str) -> package.Entry:
    return next(one for one in entries("base").values() if class_name in one.classes)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_demonstrator_solves_every_dialogue_whatever_its_noise(noise: float) -> None:
    tasks = [BFCL.sample_task(Split.TEST_IID, level, index) for level in LEVELS for index in range(51)]
    runs = [demonstrate(BFCL, task, BFCL.demonstrator(noise, 1), max_steps=99) for task in tasks]
    assert all(run.solved for run in runs)
    assert [len(run.turns) + 1 for run in runs] == [len(entry(task.payload["entry"]).turns) for task in tasks]
    statuses = Counter(outcome.result.status for run in runs for outcome in run.outcomes)
    owed = sum(task.ground_truth.minimum_calls or 0 for task in tasks)
    assert statuses[CallStatus.OK] == owed
    share = statuses[CallStatus.INVALID_ARGUMENTS] / owed
    # Some calls need no argument, and are never preceded by an error.
    assert 0.3 < share < 0.5 if noise else share == 0.0


def test_a_demonstration_that_runs_out_of_steps_in_the_middle_of_a_dialogue_is_unsolved() -> None:
    run = demonstrate(BFCL, _task("multi_turn_base_147"), BFCL.demonstrator(0.0, 0), max_steps=3)
    assert (len(run.actions), len(run.turns), run.answer, run.solved) == (2, 1, None, False)
    assert (run.turns[0].calls, run.turns[0].said) == (2, TWEETS.turns[1])
