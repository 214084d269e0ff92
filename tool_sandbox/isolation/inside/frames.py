"""Messages over a pipe: four bytes of length, then JSON in UTF-8. Both ends of the sandbox use this module."""

from __future__ import annotations

import json
import os
import select
import struct
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_HEADER = struct.Struct(">I")
_RETRY_SECONDS = 0.001


class BrokenFrame(Exception):
    """The other side wrote something that is not a message, or one that is longer than allowed."""


def frame(message: Any) -> bytes:
    """A message as it goes over the pipe."""
    body = json.dumps(message).encode()
    return _HEADER.pack(len(body)) + body


def write_frame(descriptor: int, message: Any) -> None:
    """Write one message; blocks until it is written. Raises `BrokenPipeError` where nobody reads."""
    rest = memoryview(frame(message))
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def write_frame_within(seconds: float, descriptor: int, message: Any) -> bool:
    """Write one message to a pipe that does not block. Whether it was read in time: hostile readers may not read."""
    rest, deadline = memoryview(frame(message)), time.monotonic() + seconds
    while rest:
        if not select.select((), (descriptor,), (), max(0.0, deadline - time.monotonic()))[1]:
            return False
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            # Ready for less than a whole page: wait for more room.
            time.sleep(_RETRY_SECONDS)
        except BrokenPipeError:
            return False
    return True


class FrameReader:
    """Puts messages together from the pieces in which a pipe gives them. Mutable."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of the longest message."""
        self._limit = limit
        self._buffer = bytearray()

    def feed(self, piece: bytes) -> None:
        self._buffer += piece

    def next(self) -> Any | None:
        """The next complete message; None while it is not. Raises `BrokenFrame`."""
        if len(self._buffer) < _HEADER.size:
            return None
        (length,) = _HEADER.unpack_from(self._buffer)
        if length > self._limit:
            raise BrokenFrame(f"a message of {length} bytes; at most {self._limit} are allowed")
        end = _HEADER.size + length
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_HEADER.size : end])
        del self._buffer[:end]
        try:
            return json.loads(body)
        except ValueError as error:
            raise BrokenFrame(f"a message that is not JSON: {error}") from error


def read_frame(descriptor: int, limit: int) -> Any | None:
    """The next message; blocks for it. None at the end of the pipe. Raises `BrokenFrame`."""
    header = _read_exactly(descriptor, _HEADER.size)
    if header is None:
        return None
    reader = FrameReader(limit)
    reader.feed(header)
    reader.next()  # refuses a length beyond the limit before anything is read for it
    (length,) = _HEADER.unpack(header)
    body = _read_exactly(descriptor, length)
    if body is None:
        return None
    reader.feed(body)
    return reader.next()


def _read_exactly(descriptor: int, count: int) -> bytes | None:
    pieces = bytearray()
    while len(pieces) < count:
        piece = os.read(descriptor, count - len(pieces))
        if not piece:
            return None
        pieces += piece
    return bytes(pieces)
