"""What a request's body may be: JSON, plain or as one gzip stream, and bounded before it is in memory.

Owns the limits on inflation. Consumes the chunks of a body as they arrive; produces what they hold.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Protocol

from starlette.exceptions import HTTPException

MAX_RATIO = 250
"""Bytes for each one that arrived: 256 copies of one trajectory come to 120, a bomb to 1000."""
FREE_BYTES = 2**20
"""May be of any ratio: not worth a refusal."""
_PIECE_BYTES = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS
_SHOWN_CHARACTERS = 64


class Body(Protocol):
    """Takes the chunks of one body as they arrive."""

    def feed(self, chunk: bytes) -> bytes:
        """What the chunk brings. Raises HTTP 400 where it is broken, 413 where the body is too large."""
        ...

    def end(self) -> None:
        """Raises HTTP 400 where something is missing."""
        ...


def body_of(headers: Mapping[str, str], max_bytes: int, advice: str) -> Body:
    """What takes a body that came with `headers`. Raises HTTP 415 where it is no JSON, or encoded otherwise."""
    found = headers.get("content-type", "")
    kind = found.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        # The types that a browser sends to any address without asking first are all refused here.
        raise HTTPException(415, f"Content-Type: found {found[:_SHOWN_CHARACTERS]!r}; expected application/json")
    encoding = headers.get("content-encoding", "identity").strip().lower()
    match encoding:
        case "identity":
            return _Plain(max_bytes, advice)
        case "gzip" | "x-gzip":
            return _Gzip(max_bytes, advice)
        case _:
            detail = f"Content-Encoding: found {encoding[:_SHOWN_CHARACTERS]!r}; expected gzip, or none"
            raise HTTPException(415, detail, {"Accept-Encoding": "gzip"})


class _Plain:
    def __init__(self, max_bytes: int, advice: str) -> None:
        self._max_bytes = max_bytes
        self._advice = advice
        self._bytes = 0

    def feed(self, chunk: bytes) -> bytes:
        self._bytes += len(chunk)
        if self._bytes > self._max_bytes:
            raise HTTPException(413, f"body: over {self._max_bytes} bytes; {self._advice}")
        return chunk

    def end(self) -> None:
        """A plain body has no end of its own."""


class _Gzip:
    def __init__(self, max_bytes: int, advice: str) -> None:
        self._inflated = _Plain(max_bytes, f"{advice} (it is the inflated bytes that count)")
        self._packed = _Plain(max_bytes, advice)
        self._stream = zlib.decompressobj(_GZIP)
        self._in, self._out = 0, 0

    def feed(self, chunk: bytes) -> bytes:
        rest = self._packed.feed(chunk)
        self._in += len(chunk)
        pieces: list[bytes] = []
        while rest or (pieces and len(pieces[-1]) == _PIECE_BYTES):
            pieces.append(self._piece(rest))
            rest = self._stream.unconsumed_tail
        return b"".join(pieces)

    def end(self) -> None:
        if not self._stream.eof:
            raise HTTPException(400, "body: its gzip stream ends too early; send all of it")

    def _piece(self, chunk: bytes) -> bytes:
        """As much as one piece of what the chunk brings; the stream keeps the rest of the chunk."""
        try:
            piece = self._inflated.feed(self._stream.decompress(chunk, _PIECE_BYTES))
        except zlib.error as error:
            raise HTTPException(400, "body: found no gzip stream, or a damaged one; see Content-Encoding") from error
        if self._stream.unused_data:
            raise HTTPException(400, "body: something follows its gzip stream; send a single one")
        self._out += len(piece)
        if self._out > FREE_BYTES and self._out > MAX_RATIO * (self._in - len(self._stream.unconsumed_tail)):
            raise HTTPException(413, f"body: inflates to over {MAX_RATIO} times its size; send it without an encoding")
        return piece
