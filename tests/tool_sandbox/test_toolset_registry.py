"""Toolsets by name: built in, installed and registered; and what an unknown name gets."""

from __future__ import annotations

import pickle

import pytest

from tool_sandbox import errors
from tool_sandbox.errors import InvalidToolset, Retryable, UnknownToolset
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.registry import load_toolset, register, toolset_names


class _Renamed(LedgerToolset):
    name = "renamed-ledger"


def test_the_ledger_is_there_without_installation() -> None:
    assert load_toolset("ledger").name == "ledger"
    assert load_toolset("ledger") is load_toolset("ledger")


def test_an_unknown_toolset_names_the_nearest_one_and_the_remedy() -> None:
    with pytest.raises(UnknownToolset, match=r"'legder' is not registered; did you mean 'ledger'.*steptool.toolsets"):
        load_toolset("legder")


def test_code_without_a_distribution_registers_its_toolset() -> None:
    register("renamed-ledger", _Renamed)
    register("renamed-ledger", _Renamed)
    assert isinstance(load_toolset("renamed-ledger"), _Renamed)
    assert "renamed-ledger" in toolset_names()


def test_a_taken_name_is_refused() -> None:
    with pytest.raises(InvalidToolset, match="'ledger': the name is taken"):
        register("ledger", _Renamed)


def test_a_toolset_that_calls_itself_otherwise_is_refused() -> None:
    register("misnamed", _Renamed)
    with pytest.raises(InvalidToolset, match="expected an object whose `name` is 'misnamed'"):
        load_toolset("misnamed")


def test_every_error_survives_pickling_with_its_message() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert errors.SandboxError in kinds
    assert len(kinds) > 10
    for kind in kinds:
        copy = pickle.loads(pickle.dumps(kind("what, found, expected")))
        assert type(copy) is kind
        assert str(copy) == "what, found, expected"


def test_retryability_is_a_type() -> None:
    assert issubclass(errors.SandboxFull, Retryable)
    assert issubclass(errors.SandboxUnavailable, Retryable)
    assert not issubclass(errors.LeaseLost, Retryable)
