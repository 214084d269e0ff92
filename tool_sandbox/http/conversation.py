"""OpenEnv's WebSocket: one connection is one episode at a time, which is how OpenEnv's own client speaks.

Owns the messages `reset`, `step`, `state` and `close`, and their answers. The episode ends with its connection.
"""

from __future__ import annotations

import base64
import binascii
import json
import uuid
from enum import StrEnum
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect, WebSocketException
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.status import WS_1008_POLICY_VIOLATION

from tool_sandbox.errors import Retryable, SandboxError
from tool_sandbox.http.episodes import Episodes
from tool_sandbox.http.guard import Gate, authorise
from tool_sandbox.http.keys import ApiKeys
from tool_sandbox.http.openenv import ResetRequest, StepRequest


class ErrorCode(StrEnum):
    """OpenEnv's names of what can go wrong with a message."""

    INVALID_JSON = "INVALID_JSON"
    UNKNOWN_TYPE = "UNKNOWN_TYPE"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    EXECUTION_ERROR = "EXECUTION_ERROR"
    CAPACITY_REACHED = "CAPACITY_REACHED"


async def converse(socket: WebSocket, episodes: Episodes, keys: ApiKeys, gate: Gate) -> None:
    """Answer one message after the other until either side ends the connection."""
    owner = _owner(socket, keys)
    await socket.accept()
    conversation = _Conversation(episodes, owner, gate)
    try:
        while (answer := await conversation.answer(await socket.receive_text())) is not None:
            await socket.send_json(answer)
        await socket.close()
    except WebSocketDisconnect:
        return
    finally:
        await conversation.end()


class _Conversation:
    """One connection's episode."""

    def __init__(self, episodes: Episodes, owner: str, gate: Gate) -> None:
        self._episodes = episodes
        self._owner = owner
        self._gate = gate
        self._name = uuid.uuid4().hex

    async def answer(self, text: str) -> dict[str, Any] | None:
        """What to send back; None where the caller wants to end."""
        try:
            message = json.loads(text)
        except (ValueError, RecursionError) as error:
            return _error(ErrorCode.INVALID_JSON, f"found no JSON: {error}")
        kind = message.get("type") if isinstance(message, dict) else None
        if kind == "close":
            return None
        try:
            with self._gate.place():
                return await self._act(kind, message)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            return _error(ErrorCode.VALIDATION_ERROR, f"{where}: {first['msg']}")
        except HTTPException as error:
            return _error(ErrorCode.CAPACITY_REACHED, error.detail)
        except (SandboxError, TimeoutError) as error:
            code = ErrorCode.CAPACITY_REACHED if isinstance(error, Retryable) else ErrorCode.EXECUTION_ERROR
            return _error(code, str(error) or "the sandbox did not answer in time")

    async def end(self) -> None:
        """Give the session back."""
        await self._episodes.forget(self._owner, self._name)

    async def _act(self, kind: object, message: dict[str, Any]) -> dict[str, Any]:
        if kind == "reset":
            request = ResetRequest.model_validate(message.get("data") or {})
            # A name of the caller's could be that of an episode over HTTP, which would end with this connection.
            named = request.model_copy(update={"episode_id": self._name})
            return _told("observation", await self._episodes.reset(self._owner, named))
        if kind == "step":
            request = StepRequest.model_validate({"action": message.get("data"), "episode_id": self._name})
            return _told("observation", await self._episodes.step(self._owner, request))
        if kind == "state":
            return _told("state", await self._episodes.state(self._owner, self._name))
        return _error(ErrorCode.UNKNOWN_TYPE, f"found type {kind!r}; expected reset, step, state or close")


def _owner(socket: WebSocket, keys: ApiKeys) -> str:
    """Name of the caller's key. Refuses the connection without one, if there are any."""
    try:
        return authorise(keys, _bearer(socket.headers.get("authorization")))
    except HTTPException as error:
        raise WebSocketException(WS_1008_POLICY_VIOLATION, error.detail) from error


def _bearer(authorization: str | None) -> str | None:
    """`Basic name:key` as `Bearer key`: OpenEnv's client sends no header but that of `ws://name:key@host`."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return authorization
    try:
        _, _, key = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return authorization
    return f"Bearer {key}"


def _told(kind: str, data: BaseModel) -> dict[str, Any]:
    return {"type": kind, "data": data.model_dump(mode="json")}


def _error(code: ErrorCode, message: str) -> dict[str, Any]:
    return {"type": "error", "data": {"message": message, "code": code.value}}
