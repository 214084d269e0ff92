"""What an `Authorization` header offers: a key, and perhaps the name that it claims to have.

Owns the two forms: `Bearer KEY`, and HTTP Basic `NAME:KEY` for clients that can send no header of their own but put the
user info of a URL into one, as aiohttp does. Pure; says nothing of whether the key is known.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

MAX_CHARACTERS = 4096
"""Of a header that is looked at; our own keys have 43."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """A key that somebody sent."""

    secret: bytes = field(repr=False)
    """Never empty."""
    name: bytes
    """Empty where the caller leaves it open which key it is: always with Bearer, and with Basic without a user name."""


def read_credentials(authorization: str | None) -> Credentials | None:
    """What the header offers; None where it is missing, in another form, not ASCII, or too long to be one of ours."""
    if authorization is None or len(authorization) > MAX_CHARACTERS or not authorization.isascii():
        return None
    scheme, _, value = authorization.partition(" ")
    match scheme.lower():
        case "bearer":
            name, secret = b"", value.strip().encode()
        case "basic":
            name, secret = _user_info(value.strip())
        case _:
            return None
    return Credentials(secret, name) if secret else None


def _user_info(encoded: str) -> tuple[bytes, bytes]:
    """Name and key; both empty where it is no base64. Stays in bytes, which may be in any encoding."""
    try:
        name, _, secret = base64.b64decode(encoded, validate=True).partition(b":")
    except binascii.Error:
        return b"", b""
    return name, secret
