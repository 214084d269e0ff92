"""Digests: one value, one digest, on every machine."""

from __future__ import annotations

import pytest

from reward_service.store.keys import digest_of

# printf '%s' '{"a":[1,2.5,null,true],"b":"\u00e9"}' | sha256sum
KNOWN = "c66fca9242300f12718a1c583fc29f33790cbd7c712332cbc99734fd757a0385"


def test_a_digest_is_the_hash_of_sorted_ascii_json():
    assert digest_of({"b": "é", "a": [1, 2.5, None, True]}) == KNOWN


def test_the_order_of_keys_does_not_matter_and_that_of_items_does():
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest_of([1, 2]) != digest_of([2, 1])


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, "1"), (None, "null"), ("é", "e\u0301"), ([], {})])
def test_values_that_are_written_differently_are_different(one, other):
    assert digest_of(one) != digest_of(other)


def test_half_of_a_surrogate_pair_has_a_digest_too():
    assert digest_of("\ud800") != digest_of("\ud801")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")]])
def test_what_json_cannot_say_has_no_digest(value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_of(value)
