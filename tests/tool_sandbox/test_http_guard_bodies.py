"""Before the routes: bodies as JSON, plain or in gzip, and the bombs among them."""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest
from starlette.exceptions import HTTPException

from tests.tool_sandbox.guarded_shop import JSON, MAX_BODY_BYTES, assert_refused, client, shop
from tool_sandbox.http.bodies import FREE_BYTES, MAX_RATIO, body_of
from tool_sandbox.http.keys import ApiKeys

GZIP = JSON | {"Content-Encoding": "gzip"}
BODY = json.dumps({"items": [1, 2, "é"]}).encode()


async def post(content: bytes | AsyncIterator[bytes], headers: dict[str, str] = GZIP):
    async with client(shop(ApiKeys.nobody_asked())) as http:
        return await http.post("/score", content=content, headers=headers)


async def bytewise(content: bytes) -> AsyncIterator[bytes]:
    for byte in content:
        yield bytes([byte])


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", " GZIP "])
async def test_a_gzip_body_is_read(encoding):
    response = await post(gzip.compress(BODY), JSON | {"Content-Encoding": encoding})
    assert response.json()["items"] == 3


async def test_a_gzip_body_may_arrive_in_any_pieces():
    assert (await post(bytewise(gzip.compress(BODY)))).json()["items"] == 3


async def test_a_large_gzip_body_comes_out_whole():
    items = [str(number * 7919) for number in range(150_000)]
    body = json.dumps({"items": items}).encode()
    assert FREE_BYTES < len(body) < MAX_BODY_BYTES
    assert (await post(gzip.compress(body))).json()["items"] == 150_000


@pytest.mark.parametrize("headers", [JSON, JSON | {"Content-Encoding": "identity"}])
async def test_a_plain_body_is_read(headers):
    assert (await post(BODY, headers)).json()["items"] == 3


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (BODY, "found no gzip stream"),
        (zlib.compress(BODY), "no gzip stream"),
        (gzip.compress(BODY)[:10] + b"\x07" + gzip.compress(BODY)[11:], "a damaged one"),
        (gzip.compress(BODY)[:-8] + b"\x00" * 8, "a damaged one"),
        (gzip.compress(BODY)[:-1], "ends too early"),
        (gzip.compress(BODY)[:5], "ends too early"),
        (gzip.compress(BODY) + gzip.compress(BODY), "something follows"),
        (gzip.compress(BODY) + b"\x00", "something follows"),
    ],
    ids=["plain", "zlib", "damaged", "wrong sum", "cut", "cut in its head", "two members", "padding"],
)
async def test_a_broken_gzip_body_is_a_bad_request(content, detail):
    for form in (content, bytewise(content)):
        assert detail in assert_refused(await post(form), 400)["detail"]


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "é", ""])
async def test_another_encoding_is_refused_and_gzip_offered(encoding):
    headers = {"Content-Type": b"application/json", "Content-Encoding": encoding.encode("latin-1")}
    async with client(shop(ApiKeys.nobody_asked())) as http:
        response = await http.post("/score", content=BODY, headers=headers)
    assert f"Content-Encoding: found {encoding!r}; expected gzip" in assert_refused(response, 415)["detail"]
    assert response.headers["accept-encoding"] == "gzip"


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"])
async def test_any_kind_of_json_is_taken(kind):
    assert (await post(BODY, {"Content-Type": kind})).status_code == 200


@pytest.mark.parametrize("kind", ["text/json", "application/jsonp", "application/+xml", "json", "application/a+json2"])
async def test_any_other_kind_is_refused(kind):
    assert_refused(await post(BODY, {"Content-Type": kind}), 415)


async def test_an_absent_body_needs_no_type_and_no_encoding():
    assert "Field required" in assert_refused(await post(b"", {"Content-Encoding": "br"}), 422)["detail"]


async def test_the_limit_counts_inflated_bytes():
    # Noise of 16 letters: packs to about half of itself, so that only its size is against it.
    noise = bytes(random.Random(0).choices(range(97, 113), k=MAX_BODY_BYTES))
    packed = gzip.compress(b'{"items": ["' + noise + b'"]}')
    assert len(packed) > MAX_BODY_BYTES // MAX_RATIO
    detail = assert_refused(await post(packed), 413)["detail"]
    assert detail == "body: over 2097152 bytes; order less (it is the inflated bytes that count)"


async def test_a_body_that_inflates_too_well_is_refused_before_the_limit():
    bomb = gzip.compress(b" " * (FREE_BYTES * 3 // 2))
    assert "inflates to over 250 times its size" in assert_refused(await post(bomb), 413)["detail"]
    assert (await post(gzip.compress(BODY + b" " * (FREE_BYTES - len(BODY))))).status_code == 200


async def test_packed_bytes_that_inflate_to_nothing_are_limited_too():
    empty_block = b"\x00\x00\x00\xff\xff"
    head = gzip.compress(b"")[:10]

    async def endless() -> AsyncIterator[bytes]:
        yield head
        while True:
            yield empty_block * 10_000

    assert "over 2097152 bytes; order less" in assert_refused(await post(endless()), 413)["detail"]


def test_a_bomb_never_is_in_memory():
    # 256 MiB in 255 KiB, all of it in one chunk.
    squeeze = zlib.compressobj(9, wbits=31)
    bomb = b"".join(squeeze.compress(b" " * 2**20) for _ in range(256)) + squeeze.flush()
    limit = 16 * 2**20
    tracemalloc.start()
    try:
        with pytest.raises(HTTPException) as caught:
            body_of({"content-type": "application/json", "content-encoding": "gzip"}, limit, "").feed(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.status_code == 413
    assert peak < 4 * 2**20
