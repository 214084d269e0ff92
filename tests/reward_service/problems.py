"""What every refusal must look like."""

from __future__ import annotations

import httpx


def assert_problem(response: httpx.Response, status: int) -> None:
    """A problem document (RFC 9457) with this status, and exactly one request id."""
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.headers.get_list("x-request-id")) == 1
    document = response.json()
    assert document["status"] == status
    assert document["detail"]
