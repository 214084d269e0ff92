"""Every error of an HTTP service as a problem document (RFC 9457, `application/problem+json`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from tool_sandbox.http.envelope import REQUEST_ID, Envelope

_MAX_LISTED_ERRORS = 20
_MAX_POINTER = 256
"""Characters."""


def problem(
    status: int, detail: str, *, kind: str = "about:blank", headers: Mapping[str, str] | None = None, **members: Any
) -> JSONResponse:
    """One problem document; `members` are its extension members."""
    document = {"type": kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail, **members}
    return JSONResponse(document, status, headers, media_type="application/problem+json")


def install(app: FastAPI, service: str) -> None:
    """Let every error of `app` leave as a problem document; `service` names it, as in `the reward service`."""
    app.add_middleware(Envelope, service=service, failed=_failure(service))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, error.detail, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # The input itself is left out: it may be large, and it may hold what JSON cannot carry.
        found = [{"pointer": _pointer(item), "detail": _reason(item)} for item in _told(error.errors())]
        summary = "; ".join(f"{item['pointer'] or 'body'}: {item['detail']}" for item in found[:3])
        detail = f"{len(found)} errors in the request: {summary}"
        return problem(422, detail, errors=found[:_MAX_LISTED_ERRORS])


def _told(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without the complaint that a list is short of the very entries that are wrong, which pydantic adds."""
    places = [item["loc"] for item in errors]
    return [item for item in errors if not (item["type"] == "too_short" and _is_about_parts(item["loc"], places))]


def _is_about_parts(place: Sequence[object], places: Iterable[Sequence[object]]) -> bool:
    return any(len(other) > len(place) and other[: len(place)] == place for other in places)


def _failure(service: str) -> JSONResponse:
    return problem(500, f"{service} failed on this request; its log has the cause, under the id in {REQUEST_ID}")


def json_pointer(place: Iterable[object]) -> str:
    """JSON pointer (RFC 6901) to `place`, as pydantic gives the place of an error."""
    path = (str(part) for part in place if not _is_tag(part))
    pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
    # Keys of the body stand in it, which may be as long as a body can be.
    return pointer if len(pointer) <= _MAX_POINTER else f"{pointer[:_MAX_POINTER]}…"


def _pointer(item: Mapping[str, Any]) -> str:
    """Into the body; empty, the whole of it, where the body is no JSON."""
    return json_pointer(() if item["type"] == "json_invalid" else item["loc"][1:])


def _is_tag(part: object) -> bool:
    """Whether a part of a place names the branch of a union, by our custom in brackets, and nothing in the body."""
    return isinstance(part, str) and part.startswith("(") and part.endswith(")")


def _reason(item: Mapping[str, Any]) -> str:
    cause = item.get("ctx", {}).get("error")
    return f"{item['msg']}: {cause}" if item["type"] == "json_invalid" else str(item["msg"])
