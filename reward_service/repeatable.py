"""A request that can be asked once more, because its first replica was lost before it answered.

Owns `Repeatable`, which keeps what came in of one ASGI request, and says which requests may be repeated. Pure of Serve.
"""

from __future__ import annotations

from starlette.types import Message, Receive, Scope

_SAFE_METHODS = frozenset({"GET", "HEAD"})
"""RFC 9110, §9.2.1."""
_SCORING = ("/v1/score", "/compat/openrlhf/get_reward", "/compat/vllm/classify", "/verify")
"""To score again gives the same answer, and the store makes no vote twice. A batch would begin twice."""
_MOST_BYTES = 4 * 2**20
"""Of a body that is kept while its answer is awaited."""


class Repeatable:
    """The way in of one request."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._scope = scope
        self._receive = receive
        self._kept: list[Message] = []
        self._room = _MOST_BYTES if _may_be_repeated(scope) else -1

    @property
    def is_kept(self) -> bool:
        """Whether all that came in until now can be given again; not where it was too much, or the caller has left."""
        return self._room >= 0

    @property
    def is_whole(self) -> bool:
        """Whether all of its body has come in, and is kept."""
        return self.is_kept and bool(self._kept) and not self._kept[-1].get("more_body", False)

    async def receive(self) -> Message:
        """The next message, which is kept."""
        message = await self._receive()
        self._room -= len(message.get("body", b""))
        if message["type"] == "http.disconnect":
            self._room = -1
        self._kept = [*self._kept, message] if self.is_kept else []
        return message

    def again(self) -> Receive:
        """All that came in, and then what is still to come."""
        kept = iter(self._kept)

        async def receive() -> Message:
            message = next(kept, None)
            return await self._receive() if message is None else message

        return receive


def _may_be_repeated(scope: Scope) -> bool:
    return scope["method"] in _SAFE_METHODS or (scope["method"] == "POST" and scope["path"].endswith(_SCORING))
