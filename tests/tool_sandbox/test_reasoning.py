"""reasoning-gym through our sessions: questions apart by split, and the package's own scorer as the verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("reasoning_gym", reason="the extra `reasoning` is not installed")

from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.errors import CorruptTask, InvalidToolset, NoDemonstration, NoSuchTask
from tool_sandbox.reasoning import ReasoningToolset, package
from tool_sandbox.reasoning.package import DATASETS, MAX_ANSWER_CHARACTERS
from tool_sandbox.reasoning.policy import EXPRESSIONS
from tool_sandbox.registry import load_toolset
from tool_sandbox.session import Dialogue, Judged
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, ToolCall, ToolResult

SPLITS = (Split.TRAIN, Split.VAL, Split.TEST_IID)
CODE = ToolCall("c", "python", {"code": "print(7)"})


def echo(call: ToolCall) -> ToolResult:
    """Stands for the isolated `python`."""
    return ToolResult(call.id, CallStatus.OK, "7")


TOOLSET = ReasoningToolset(python=echo)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_packages_answer_is_solved_and_another_is_not(dataset: str) -> None:
    for split in SPLITS:
        task = TOOLSET.sample_task(split, dataset, 0)
        answer = task.ground_truth.answer
        assert answer is not None
        session = TOOLSET.open(task)
        assert isinstance(session, Judged)
        assert session.verdict(f" {answer}\n") is True
        wrong = ("nonsense", "", None, f"7{answer}", "9" * (MAX_ANSWER_CHARACTERS + 1))
        assert [session.verdict(each) for each in wrong] == [False] * len(wrong), (task.prompt, answer)


@pytest.mark.parametrize("dataset", ["gcd", "chain_sum", "leg_counting", "dice"])
def test_no_question_is_in_two_splits_and_an_index_is_a_question(dataset: str) -> None:
    prompts = {split: [TOOLSET.sample_task(split, dataset, index).prompt for index in range(40)] for split in SPLITS}
    again = {split: [TOOLSET.sample_task(split, dataset, index).prompt for index in range(40)] for split in SPLITS}
    assert prompts == again
    for split in SPLITS:
        others = {prompt for other in SPLITS if other is not split for prompt in prompts[other]}
        assert not others & set(prompts[split])
        assert len(set(prompts[split])) >= 38


def test_a_session_calculates_and_runs_python() -> None:
    task = TOOLSET.sample_task(Split.TRAIN, "chain_sum", 0)
    assert task.tools == ("calculator", "python")
    session = TOOLSET.open(task)
    assert not isinstance(session, Dialogue)
    assert session.state_hash() is None
    expression = task.prompt.rpartition(":")[2].rstrip("= ")
    calculated = session.call(ToolCall("c", "calculator", {"expression": expression}))
    assert (calculated.result.status, calculated.result.content) == (CallStatus.OK, task.ground_truth.answer)
    assert calculated.progress is None
    assert session.call(CODE).result.content == "7"
    assert session.call(ToolCall("c", "abacus", {})).result.content == "error: no tool abacus"


@pytest.mark.parametrize("dataset", EXPRESSIONS)
def test_a_demonstration_calculates_and_answers_and_errs_when_told_to(dataset: str) -> None:
    for index in range(10):
        task = TOOLSET.sample_task(Split.TRAIN, dataset, index)
        straight, erring = (demonstrate(TOOLSET, task, TOOLSET.demonstrator(noise, 0), 4) for noise in (0.0, 1.0))
        assert [one.result.status for one in straight.outcomes] == [CallStatus.OK]
        assert [one.result.status for one in erring.outcomes] == [CallStatus.TOOL_ERROR, CallStatus.OK]
        assert straight.answer == erring.answer == straight.outcomes[0].result.content
        assert (straight.solved, erring.solved) == (True, True), (task.prompt, straight.answer)


def test_a_question_that_no_expression_answers_has_no_demonstration() -> None:
    task = TOOLSET.sample_task(Split.TRAIN, "dice", 0)
    with pytest.raises(NoDemonstration, match=r"level 'dice' has no demonstrations; chain_sum, .* have some"):
        TOOLSET.demonstrator(0.0, 0).act(task, ())


def test_noise_is_a_probability() -> None:
    with pytest.raises(ValueError, match=r"noise 1\.5; expected a probability"):
        TOOLSET.demonstrator(1.5, 0)


def test_python_is_there_only_for_tasks_that_name_it() -> None:
    task = replace(TOOLSET.sample_task(Split.TRAIN, "gcd", 0), tools=("calculator",))
    assert TOOLSET.open(task).call(CODE).result.status is CallStatus.UNKNOWN_TOOL


def test_an_unknown_dataset_or_split_names_those_there_are() -> None:
    with pytest.raises(NoSuchTask, match=r"no level 'sudoku' in split 'train'; levels are chain_sum, .* val, test_iid"):
        TOOLSET.sample_task(Split.TRAIN, "sudoku", 0)
    with pytest.raises(NoSuchTask, match="split 'test_depth'"):
        TOOLSET.sample_task(Split.TEST_DEPTH, "gcd", 0)


def test_a_task_of_another_version_of_the_package_is_refused() -> None:
    task = TOOLSET.sample_task(Split.TRAIN, "gcd", 0)
    with pytest.raises(CorruptTask, match=r"made with reasoning-gym 0\.0\.1, installed is"):
        TOOLSET.open(replace(task, payload={**task.payload, "version": "0.0.1"}))


def test_the_registry_has_it_and_says_which_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_toolset("reasoning").name == "reasoning"
    package.library.cache_clear()

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(package.importlib, "import_module", missing)
    with pytest.raises(InvalidToolset, match=r"cannot be imported \(No module named.*steptool\[reasoning\]"):
        ReasoningToolset()
    package.library.cache_clear()
