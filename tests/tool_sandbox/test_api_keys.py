"""API keys: their list, what an entry grants, and who gets in."""

from __future__ import annotations

import base64
import pickle

import pytest

from tool_sandbox.errors import InvalidKeys
from tool_sandbox.http.keys import ApiKeys, Key, Quota, Scope, Unit, digest, refuse_open_door

KEYS_VARIABLE = "STEPTOOL_TEST_KEYS"
KEYS_FILE_VARIABLE = "STEPTOOL_TEST_KEYS_FILE"

ANNA, BERT = digest("secret-a"), digest("secret-b")
TWO = f"anna:{ANNA},\n# the second team\nbert:{BERT}\n"


def basic(user_info: bytes) -> str:
    return f"Basic {base64.b64encode(user_info).decode()}"


def test_a_key_is_known_by_its_name():
    keys = ApiKeys.parse(TWO)
    assert keys.who("Bearer secret-b") == "bert"
    assert keys.who("bearer secret-a") == "anna"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer secret-c",
        "Basic secret-a",
        "secret-a",
        f"Bearer {digest('secret-a')}",
        "Digest secret-a",
        "Bearer sécret-a",
        "Bearer \ud800",
        "Bearer " + "x" * 100_000,
        "Basic !!!!",
        "Basic YW5uYTpzZWNyZXQtYQ",
        "Basic \xff\xfe",
        basic(b"anna"),
        basic(b"anna:"),
        basic(b"secret-a:"),
        basic(b"\xff\xfe:\xff"),
    ],
    ids=lambda header: repr(header)[:30],
)
def test_anything_else_is_nobody(header):
    assert ApiKeys.parse(TWO).who(header) is None


@pytest.mark.parametrize(
    ("user_info", "name"),
    [
        (b"anna:secret-a", "anna"),
        (b"bert:secret-b", "bert"),
        (b":secret-b", "bert"),
        (b"bert:secret-a", None),
        (b"Anna:secret-a", None),
        (b"anna :secret-a", None),
    ],
)
def test_with_basic_the_user_name_is_that_of_the_key_or_left_out(user_info, name):
    assert ApiKeys.parse(TWO).who(basic(user_info)) == name


def test_a_key_may_hold_a_colon_also_with_basic():
    keys = ApiKeys.parse(f"anna:{digest('a:b:c')}")
    assert keys.who(basic(b"anna:a:b:c")) == keys.who("Bearer a:b:c") == "anna"


def test_an_issued_key_opens_its_own_list_only():
    keys, secret = ApiKeys.issue("trainer")
    assert keys.who(f"Bearer {secret}") == "trainer"
    assert ApiKeys.issue("trainer")[0].who(f"Bearer {secret}") is None


def test_the_list_of_keys_holds_no_usable_key():
    keys, secret = ApiKeys.issue("trainer")
    assert secret not in repr(keys)


@pytest.mark.parametrize(
    ("granted", "key"),
    [
        ("", Key(ANNA, (Scope.SCORE, Scope.BATCHES, Scope.TOOLS, Scope.READ), ())),
        (":score", Key(ANNA, (Scope.SCORE,))),
        (":read+score", Key(ANNA, (Scope.SCORE, Scope.READ))),
        (":600/min", Key(ANNA, quotas=(Quota(600, Unit.REQUESTS),))),
        (":tools:5000 trajectories/min", Key(ANNA, (Scope.TOOLS,), (Quota(5000, Unit.TRAJECTORIES),))),
        (":score:1/min:2 trajectories/min", Key(ANNA, (Scope.SCORE,), (Quota(1), Quota(2, Unit.TRAJECTORIES)))),
    ],
)
def test_an_entry_says_what_its_key_is_for_and_how_much_of_it(granted, key):
    assert ApiKeys.parse(f"anna:{ANNA}{granted}").entries == {"anna": key}


@pytest.mark.parametrize(
    "granted",
    [
        ":",
        ":admin",
        ":score+",
        ":Score",
        ":0/min",
        ":-1/min",
        ":1.5/min",
        ":10/s",
        ":10",
        ":1000000000/min",
        ":10 tokens/min",
        ":10/min:score",
        ":10/min:20/min",
        ":score:read",
        ":hush-hush",
    ],
)
def test_what_an_entry_cannot_grant_is_refused_and_not_shown(granted):
    with pytest.raises(InvalidKeys, match="API key 1 of ") as caught:
        ApiKeys.parse(f"anna:{ANNA}{granted}")
    assert caught.value.__cause__ is None
    assert not [part for part in (ANNA, "hush") if part in str(caught.value)]


def test_equal_lists_have_equal_bytes_whatever_the_order_of_their_scopes():
    """Serve compares the bytes that a replica is started with, and replaces its replicas where they differ."""
    first, second = (ApiKeys.parse(f"anna:{ANNA}:{scopes}:9/min") for scopes in ("read+score", "score+read"))
    assert pickle.dumps(first) == pickle.dumps(second)
    assert pickle.loads(pickle.dumps(first)) == first


def test_a_broken_entry_is_named_by_its_place_and_never_shown():
    with pytest.raises(InvalidKeys, match="API key 2 of 2") as caught:
        ApiKeys.parse(f"anna:{digest('a')},bert:secret-in-clear")
    assert "secret-in-clear" not in str(caught.value)


def test_the_digest_of_an_empty_key_is_refused():
    with pytest.raises(InvalidKeys, match="the SHA-256 of nothing"):
        ApiKeys.parse(f"anna:{digest('')}")


def test_a_name_that_occurs_twice_is_refused():
    with pytest.raises(InvalidKeys, match="API key 2 of 2: its name is taken"):
        ApiKeys.parse(f"anna:{digest('a')},anna:{digest('b')}")


def test_two_lists_are_joined_unless_they_share_a_name():
    anna, bert = ApiKeys.parse(f"anna:{ANNA}"), ApiKeys.parse(f"bert:{BERT}")
    assert anna.joined(bert) == ApiKeys.parse(TWO)
    with pytest.raises(InvalidKeys, match=r"the names \['anna'\] belong to keys of the service's own"):
        anna.joined(ApiKeys.parse(TWO))


def test_keys_come_from_the_environment_or_from_a_file(tmp_path, monkeypatch):
    path = tmp_path / "keys"
    path.write_text(TWO)
    assert ApiKeys.load({KEYS_VARIABLE: TWO}, KEYS_VARIABLE) == ApiKeys.parse(TWO)
    monkeypatch.chdir(tmp_path)
    keys = ApiKeys.load({KEYS_FILE_VARIABLE: "keys"}, KEYS_VARIABLE)
    # The file goes to another process as a file, so that a key removed meanwhile is not known there.
    assert keys == ApiKeys({}, path)
    assert keys.resolved() == ApiKeys.parse(TWO)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "found neither"),
        ({KEYS_VARIABLE: TWO, KEYS_FILE_VARIABLE: "keys"}, "found both"),
        ({KEYS_VARIABLE: "# nothing"}, "the list of STEPTOOL_TEST_KEYS is empty"),
        ({KEYS_FILE_VARIABLE: "/nowhere/keys"}, r"cannot read /nowhere/keys \(No such file"),
        ({KEYS_FILE_VARIABLE: "/dev/null"}, "the list of /dev/null is empty"),
    ],
)
def test_a_service_does_not_start_with_unclear_keys(environment, message):
    with pytest.raises(InvalidKeys, match=message):
        ApiKeys.load(environment, KEYS_VARIABLE)


def test_a_file_that_is_no_text_is_refused_without_showing_it(tmp_path):
    path = tmp_path / "keys"
    path.write_bytes(b"anna:hush\xff")
    with pytest.raises(InvalidKeys, match="is no text in UTF-8") as caught:
        ApiKeys.load({KEYS_FILE_VARIABLE: str(path)}, KEYS_VARIABLE)
    assert "hush" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7"])
def test_a_service_without_keys_is_not_shown_to_other_machines(host, tmp_path):
    keys, _ = ApiKeys.issue("anna")
    with pytest.raises(InvalidKeys, match=r"shop: no API keys, and .* can be reached from elsewhere; issue a key"):
        refuse_open_door("shop", host, ApiKeys.nobody_asked())
    refuse_open_door("shop", host, keys)
    refuse_open_door("shop", host, ApiKeys({}, tmp_path / "keys"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.9", "::1"])
def test_loopback_needs_no_keys(host):
    refuse_open_door("shop", host, ApiKeys.nobody_asked())
