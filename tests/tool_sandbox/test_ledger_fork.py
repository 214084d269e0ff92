"""Forks of ledger sessions: by value, at any step, on every level."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tool_sandbox.demonstrations import Policy, demonstrate
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.policies import NoiseMix, NoisyOraclePolicy, RandomPolicy
from tool_sandbox.ledger.session import LedgerSession
from tool_sandbox.session import Forkable
from tool_sandbox.tasks import Split, Task
from tool_sandbox.tools import CallStatus, Progress, ToolCall

LEDGER = LedgerToolset()
PLACES = [(split, level) for split in Split for level in LEDGER.levels() if LEDGER.has_tasks(split, level)]

Seen = tuple[CallStatus, str, Progress | None, str]


def seen(session: LedgerSession, call: ToolCall) -> Seen:
    """All of an outcome but its seconds, and the state after it."""
    outcome = session.call(call)
    return outcome.result.status, outcome.result.content, outcome.progress, session.state_hash()


def script(task: Task, policy: Policy) -> list[ToolCall]:
    return list(demonstrate(LEDGER, task, policy, 10).actions)


def erring(seed: int) -> Policy:
    return NoisyOraclePolicy(0.5, seed, NoiseMix(premature=0))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(PLACES), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10))
def test_a_fork_at_any_step_goes_on_as_its_original_does(
    place: tuple[Split, str], index: int, seed: int, step: int
) -> None:
    task = LEDGER.sample_task(*place, index)
    calls = script(task, erring(seed))
    original = LEDGER.open(task)
    for call in calls[:step]:
        original.call(call)
    fork = original.fork()
    assert fork.state_hash() == original.state_hash()
    assert [seen(fork, call) for call in calls[step:]] == [seen(original, call) for call in calls[step:]]
    assert fork.next_call() == original.next_call()


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(PLACES), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10), st.booleans())
def test_what_one_of_the_two_does_the_other_never_sees(
    place: tuple[Split, str], index: int, seed: int, step: int, disturb_original: bool
) -> None:
    task = LEDGER.sample_task(*place, index)
    calls, noise = script(task, erring(seed)), script(task, RandomPolicy(seed, 0.0))
    undisturbed, original = LEDGER.open(task), LEDGER.open(task)
    for call in calls[:step]:
        undisturbed.call(call)
        original.call(call)
    fork = original.fork()
    disturbed, kept = (original, fork) if disturb_original else (fork, original)
    for call in noise:
        disturbed.call(call)
    assert kept.state_hash() == undisturbed.state_hash()
    assert [seen(kept, call) for call in calls[step:]] == [seen(undisturbed, call) for call in calls[step:]]


def test_a_ledger_session_says_that_it_can_be_forked() -> None:
    session = LEDGER.open(LEDGER.sample_task(Split.TRAIN, "L0", 0))
    assert isinstance(session, Forkable)
    assert isinstance(session.fork(), Forkable)


def test_a_fork_remembers_the_error_that_was_met_the_login_and_the_pages_that_were_read() -> None:
    found: set[str] = set()
    for index in range(60):
        task = LEDGER.sample_task(Split.TRAIN, "L2F", index)
        session, least = LEDGER.open(task), task.ground_truth.minimum_calls
        assert least is not None
        for left in range(least - 1, -1, -1):
            call = session.next_call()
            assert call is not None
            session = session.fork()
            outcome = session.call(call)
            assert outcome.progress == Progress(left + 1, left)
        found.add(task.payload["fault"]["kind"])
    assert found == {"transient", "login", "pages"}
