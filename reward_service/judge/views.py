"""The same text in other spellings: what a reader may see in it who undoes a disguise.

Owns `views`. Pure, and linear in the text. Each view is plain text for the scanner; nothing here judges.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import html
import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote

from reward_service.judge.homoglyphs import HOMOGLYPHS, LEET

DEPTH = 3
"""Disguises on top of each other that are undone."""
_MOST_DECODED = 12
_TAG_BASE = 0xE0000
_INVISIBLE = frozenset({"Cf", "Mn", "Me", "Co"})
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([nrt])|([\"'/\\]))")
_BREAKS = {"n": "\n", "r": "\n", "t": "\t"}
_MARKUP = re.compile(r"<!--|-->|</?[A-Za-z][^<>]{0,200}>|[*_`~]{1,3}(?=\w)|(?<=\w)[*_`~]{1,3}")
_SPACED = re.compile(r"(?<!\w)\w(?:[ .\-_*|/]\w(?!\w)){4,}")
_SPACED_GAP = re.compile(r"[ .\-_*|/]")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{20,}={0,2}")
_WRAPPED = re.compile(r"(?<=[A-Za-z0-9+/]{40})\s{1,4}(?=[A-Za-z0-9+/])")
_BASE32 = re.compile(r"(?:[A-Z2-7]{8}){3,}(?:[A-Z2-7]{2,7}={1,6})?")
_HEX = re.compile(r"(?:(?:0x|\\x|%)?[0-9a-fA-F]{2}[ :,]?){10,}")
_HEX_PAIR = re.compile(r"(?:0x|\\x|%)?([0-9a-fA-F]{2})[ :,]?")
_PRINTABLE_SHARE = 0.9
_LEAST_DECODED = 8


def views(text: str) -> tuple[str, ...]:
    """`text` itself and what its disguises hide, each once: encodings inside each other, then one change of letters."""
    found = {text: 0}
    queue = [text]
    for shown in queue:
        for decode in _DECODERS if found[shown] < DEPTH else ():
            decoded = decode(shown)
            if decoded and decoded not in found and len(found) < _MOST_DECODED:
                found[decoded] = found[shown] + 1
                queue.append(decoded)
    respelled = (respell(shown) for shown in queue for respell in _RESPELLINGS)
    return tuple(dict.fromkeys((*queue, *respelled)))


def plain(text: str) -> str:
    """Compatibility forms resolved, invisible characters gone, lower case; every script stays what it is."""
    if text.isascii():
        return text.lower()
    composed = unicodedata.normalize("NFKC", text)
    return "".join(each for each in composed if unicodedata.category(each) not in _INVISIBLE).casefold()


def latin(text: str) -> str:
    """As `plain`, with accents gone and look-alike letters of other scripts made Latin."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.translate(HOMOGLYPHS))
    visible = "".join(each for each in decomposed if unicodedata.category(each) not in _INVISIBLE)
    return visible.translate(HOMOGLYPHS).casefold()


def _tags(text: str) -> str:
    """The invisible tag characters as the ASCII that they mirror."""
    if text.isascii():
        return ""
    return "".join(chr(ord(each) - _TAG_BASE) for each in text if 0xE0020 <= ord(each) <= 0xE007E)


def _escapes(text: str) -> str:
    return _ESCAPE.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    point = match[1] or match[2]
    if point:
        return chr(int(point, 16))
    return _BREAKS[match[3]] if match[3] else match[4]


def _unmarked(text: str) -> str:
    """Without the marks of HTML and Markdown, which may stand inside a word."""
    return _MARKUP.sub("", text)


def _joined(text: str) -> str:
    """Letters that stand apart, put together; a wider gap stays a gap."""
    return _SPACED.sub(lambda match: _SPACED_GAP.sub("", match[0]), text)


def _leet(text: str) -> str:
    return text.translate(LEET)


def _rot13(text: str) -> str:
    return codecs.encode(text, "rot13")


def _reversed(text: str) -> str:
    return text[::-1]


def _base64(text: str) -> str:
    pieces = _BASE64.findall(_WRAPPED.sub("", text))
    return "\n".join(filter(None, map(_from_base64, pieces)))


def _from_base64(piece: str) -> str:
    """What `piece` says; a stray letter before it may have shifted its beginning by up to three."""
    plain = piece.rstrip("=").replace("-", "+").replace("_", "/")
    for shift in range(4):
        part = plain[shift:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        decoded = _text(lambda part=part: base64.b64decode(part + "=" * (-len(part) % 4), validate=True))
        if decoded:
            return decoded
    return ""


def _base32(text: str) -> str:
    pieces = _BASE32.findall(text)
    return "\n".join(filter(None, (_text(lambda piece=piece: base64.b32decode(piece)) for piece in pieces)))


def _hex(text: str) -> str:
    pieces = ("".join(_HEX_PAIR.findall(match[0])) for match in _HEX.finditer(text))
    return "\n".join(filter(None, (_text(lambda piece=piece: bytes.fromhex(piece)) for piece in pieces)))


def _text(decode: Callable[[], bytes]) -> str:
    """What bytes say, if they are text at all."""
    try:
        decoded = decode().decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
    printable = sum(each.isprintable() or each.isspace() for each in decoded)
    return decoded if len(decoded) >= _LEAST_DECODED and printable >= _PRINTABLE_SHARE * len(decoded) else ""


_DECODERS: tuple[Callable[[str], str], ...] = (
    *(_tags, _escapes, html.unescape, unquote, _unmarked, _base64, _base32, _hex),
)
_RESPELLINGS: tuple[Callable[[str], str], ...] = (_joined, _leet, _rot13, _reversed)
