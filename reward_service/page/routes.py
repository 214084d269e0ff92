"""The page for people over HTTP: `GET /`, its files below `/page`, `GET /v1/stats` and `GET /metrics`.

Consumes a `Stats` and the kind of route that asks for a key; produces one router. The page and `/metrics` are open:
the first holds nothing but itself, the second nothing but counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import PlainTextResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from reward_service.exposition import CONTENT_TYPE, exposition
from reward_service.stats import Stats
from reward_service.stats_wire import StatsSnapshot

_INDEX = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY_HEADERS = {
    # Trusted types without any policy: the browser itself refuses to turn a text into HTML or into a script.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file of the page, ready to be sent."""

    content: bytes
    media_type: str
    etag: str

    def answer(self, if_none_match: str | None) -> Response:
        """The file, or 304 where the caller has it already. Browsers ask each time, so an update shows at once."""
        headers = SECURITY_HEADERS | {"Cache-Control": "no-cache", "ETag": self.etag}
        if _holds(if_none_match, self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def page_files() -> Mapping[str, PageFile]:
    """All files of the page by name, read once."""
    entries = (files("reward_service.page") / "files").iterdir()
    return {entry.name: _read(entry) for entry in entries if PurePath(entry.name).suffix in _MEDIA_TYPES}


def page_router(stats: Stats, guarded: type[APIRoute]) -> APIRouter:
    """The page, its files and its numbers; `guarded` is the kind of route that all of `/v1` is made of."""
    router = APIRouter()
    _add_page(router, page_files())

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        return Response(exposition(stats.snapshot()), media_type=CONTENT_TYPE)

    numbers = APIRouter(prefix="/v1", route_class=guarded)

    @numbers.get("/stats")
    async def figures() -> StatsSnapshot:
        return stats.snapshot()

    router.include_router(numbers)
    return router


def _add_page(router: APIRouter, pages: Mapping[str, PageFile]) -> None:
    @router.get("/", include_in_schema=False)
    async def index(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        return pages[_INDEX].answer(if_none_match)

    @router.get("/page/{name}", include_in_schema=False)
    async def file(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        if name not in pages:
            raise HTTPException(404, f"the page has no file {name!r}; it has {', '.join(sorted(pages))}")
        return pages[name].answer(if_none_match)


def _read(entry: Traversable) -> PageFile:
    content = entry.read_bytes()
    return PageFile(content, _MEDIA_TYPES[PurePath(entry.name).suffix], f'"{hashlib.sha256(content).hexdigest()}"')


def _holds(if_none_match: str | None, etag: str) -> bool:
    """Whether a caller with this `If-None-Match` has the file (RFC 9110, section 13.1.2; weak comparison)."""
    offered = [tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")]
    return etag in offered or offered == ["*"]
