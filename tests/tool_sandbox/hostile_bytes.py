"""What hostile callers send: any bytes, nearly gzip, nearly JSON, and a good request with one value gone bad."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import httpx
from fastapi import FastAPI
from hypothesis import strategies as st

HEADER = st.binary(max_size=64) | st.sampled_from([b"Bearer ", b"Basic ", b"basic Og==", b"Bearer \xff", b"\x00"])
ENCODING = st.none() | st.sampled_from([b"gzip", b"identity", b"br"]) | st.binary(max_size=8)
TYPE = st.just(b"application/json") | st.none() | st.binary(max_size=16)

SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**400), 10**4000, 2**63, -1, 1e308, -0.0]),
    st.floats(allow_nan=True),
    st.text(),
    st.sampled_from(["\ud800", "\x00", "a" * 70_000, "ok", "__proto__"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=6
)
BODIES = (
    st.binary()
    | st.binary().map(gzip.compress)
    | st.lists(st.sampled_from([b'"', b"\\", b"[", b"]", b"{", b"}", b":", b"1", b","]), max_size=200).map(b"".join)
    | VALUES.map(lambda value: json.dumps(value).encode())
)


@st.composite
def spoilt(draw: st.DrawFn, good: Any) -> Any:
    """`good` with one of its values, at any depth, replaced, left out, or doubled under another name."""
    if not isinstance(good, dict | list) or not good or draw(st.integers(0, 5)) == 0:
        return draw(VALUES)
    copy: Any = dict(good) if isinstance(good, dict) else list(good)
    place: Any = draw(st.sampled_from(list(copy) if isinstance(copy, dict) else range(len(copy))))
    match draw(st.integers(0, 6)):
        case 0:
            del copy[place]
        case 1 if isinstance(copy, dict):
            copy[draw(st.text())] = draw(VALUES)
        case 1 if isinstance(copy, list):
            copy.append(copy[place])
        case _:
            copy[place] = draw(spoilt(copy[place]))
    return copy


def status(app: FastAPI, method: str, path: str, headers: dict[str, bytes | None], content: bytes = b"") -> int:
    """How `app` answers one request; what it raises is raised here."""
    sent = [(name.encode(), value) for name, value in headers.items() if value is not None]

    async def ask() -> int:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://fuzz") as http:
            return (await http.request(method, path, headers=sent, content=content)).status_code

    return asyncio.run(ask())
