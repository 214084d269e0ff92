"""The API's description: what FastAPI derives from the routes, completed by what stands before and behind them.

Owns the keys' schemes, the problem documents of every route, and the file of the repository, which
`python -m reward_service.openapi FILE` writes. What a key may do, and every status that a route may answer, is said.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

_ABOUT = """A reward for every step of a tool trajectory.

Errors are problem documents (RFC 9457). A step that abstains has the reward null, which is not zero. Send the
`reward_version` of the first answer along with later requests, and a service that scores otherwise refuses them."""
_OPEN = frozenset({"/healthz", "/readyz", "/metrics"})
"""Paths that ask for no key."""
_WHY = {
    400: "The body is no JSON, or the Idempotency-Key is none.",
    401: "No key, or an unknown one.",
    403: "The key is for something else.",
    404: "No such batch, or another key's.",
    408: "The body did not arrive in time.",
    409: "The service scores by another reward version; or, with Retry-After, the same request is still at work.",
    413: "The body is too large.",
    415: "The body is no JSON by its Content-Type, or packed in a way that is not known.",
    422: "The request does not fit the contract; or the Idempotency-Key belongs to another request.",
    429: "Too many requests or open batches, or the key's quota is used up; Retry-After says when to come back.",
    500: "A defect of the service.",
    501: "The service keeps nothing, so it takes no batches.",
    503: "What the service depends on is down; Retry-After says when to come back.",
}
_GUARDED = frozenset({401, 403, 429, 500})
_WITH_BODY = frozenset({400, 408, 409, 413, 415, 422, 503})
_OF_BATCHES = frozenset({404, 422, 501, 503})
_PROBLEM = {
    "type": "object",
    "title": "Problem",
    "description": "A problem document, RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "`about:blank`, or a URN of ours that a program may rely on."},
        "title": {"type": "string"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "What was found, what was expected, what to do."},
        "errors": {
            "type": "array",
            "description": "The places in the body, of a request that does not fit.",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
    "additionalProperties": True,
}


def describe(app: FastAPI) -> None:
    """Let `app` answer `GET /openapi.json` with the whole description, made once."""
    found: dict[str, Any] = {}

    def openapi() -> dict[str, Any]:
        if not found:
            found.update(_described(app))
        return found

    app.openapi = openapi


def text(app: FastAPI) -> str:
    """The description as the file in the repository holds it."""
    return json.dumps(app.openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _described(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
    schemas = found["components"]["schemas"]
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    schemas["Problem"] = _PROBLEM
    found["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer", "description": "The key itself."},
        "basic": {"type": "http", "scheme": "basic", "description": "The key's name and the key."},
    }
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return found


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    operation["operationId"] = f"{method}_{path.strip('/').replace('/', '_').replace('{', '').replace('}', '')}"
    operation["responses"].pop("422", None)
    if path not in _OPEN:
        operation["security"] = [{"bearer": []}, {"basic": []}]
    operation["responses"] |= {str(status): _problem(status) for status in sorted(_statuses(path, operation))}


def _statuses(path: str, operation: Mapping[str, Any]) -> frozenset[int]:
    if path in _OPEN:
        return frozenset({503}) if path == "/readyz" else frozenset()
    found = _GUARDED
    if "requestBody" in operation:
        found |= _WITH_BODY
    if path.startswith("/v1/score/batches"):
        found |= _OF_BATCHES
    return found


def _problem(status: int) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {"description": _WHY[status], "content": content}


def main(path: Path) -> None:
    """Write the file."""
    from reward_service.api import build_app
    from reward_service.config import RewardConfig
    from reward_service.scoring import Recipe
    from reward_service.service import RewardService
    from tool_sandbox.http.keys import ApiKeys

    app = build_app(RewardService(Recipe(RewardConfig())), ApiKeys.nobody_asked())
    path.write_text(text(app), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
