"""API keys: their list, and who gets in."""

from __future__ import annotations

import pytest

from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.keys import ApiKeys, digest, refuse_open_door

KEYS_VARIABLE = "STEPTOOL_TEST_KEYS"
KEYS_FILE_VARIABLE = "STEPTOOL_TEST_KEYS_FILE"

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
    assert ApiKeys.load({KEYS_VARIABLE: TWO}, KEYS_VARIABLE) == ApiKeys.parse(TWO)
    assert ApiKeys.load({KEYS_FILE_VARIABLE: str(path)}, KEYS_VARIABLE) == ApiKeys.parse(TWO)


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
        ApiKeys.load(environment, KEYS_VARIABLE)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7"])
def test_a_service_without_keys_is_not_shown_to_other_machines(host):
    keys, _ = ApiKeys.issue("anna")
    with pytest.raises(InvalidKeys, match=r"shop: no API keys, and .* can be reached from elsewhere; issue a key"):
        refuse_open_door("shop", host, ApiKeys.nobody_asked())
    refuse_open_door("shop", host, keys)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.9", "::1"])
def test_loopback_needs_no_keys(host):
    refuse_open_door("shop", host, ApiKeys.nobody_asked())
