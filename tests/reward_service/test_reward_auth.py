"""API keys: their list, and who gets in."""

from __future__ import annotations

import pytest

from reward_service.auth import KEYS_FILE_VARIABLE, KEYS_VARIABLE, ApiKeys, digest
from reward_service.errors import InvalidKeys

TWO = f"anna:{digest('secret-a')},\n# the second team\nbert:{digest('secret-b')}\n"


def test_a_key_is_known_by_its_name():
    keys = ApiKeys.parse(TWO)
    assert keys.who("Bearer secret-b") == "bert"
    assert keys.who("bearer secret-a") == "anna"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Bearer secret-c", "Basic secret-a", "secret-a", f"Bearer {digest('secret-a')}"],
)
def test_anything_else_is_nobody(header):
    assert ApiKeys.parse(TWO).who(header) is None


def test_an_issued_key_opens_its_own_list_only():
    keys, secret = ApiKeys.issue("trainer")
    assert keys.who(f"Bearer {secret}") == "trainer"
    assert ApiKeys.issue("trainer")[0].who(f"Bearer {secret}") is None


def test_the_list_of_keys_holds_no_usable_key():
    keys, secret = ApiKeys.issue("trainer")
    assert secret not in repr(keys)


def test_a_broken_entry_is_named_by_its_place_and_never_shown():
    with pytest.raises(InvalidKeys, match="API key 2 of 2") as caught:
        ApiKeys.parse(f"anna:{digest('a')},bert:secret-in-clear")
    assert "secret-in-clear" not in str(caught.value)


def test_a_name_that_occurs_twice_is_refused():
    with pytest.raises(InvalidKeys, match="'anna' is taken"):
        ApiKeys.parse(f"anna:{digest('a')},anna:{digest('b')}")


def test_keys_come_from_the_environment_or_from_a_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(TWO)
    assert ApiKeys.load({KEYS_VARIABLE: TWO}) == ApiKeys.load({KEYS_FILE_VARIABLE: str(path)})


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "found neither"),
        ({KEYS_VARIABLE: TWO, KEYS_FILE_VARIABLE: "keys"}, "found both"),
        ({KEYS_VARIABLE: "# nothing"}, "the list is empty"),
        ({KEYS_FILE_VARIABLE: "/nowhere/keys"}, r"cannot read /nowhere/keys \(No such file"),
    ],
)
def test_a_service_does_not_start_with_unclear_keys(environment, message):
    with pytest.raises(InvalidKeys, match=message):
        ApiKeys.load(environment)
