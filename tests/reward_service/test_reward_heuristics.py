"""Whether the result of a call reads like a failure."""

from __future__ import annotations

import pytest

from reward_service.heuristics import inferred_status
from tool_sandbox.tools import CallStatus

FAILURES = [
    "error: no such order",
    "Error",
    "ERROR 404",
    "ValueError: invalid literal",
    "requests.exceptions.HTTPError: 404 Client Error",
    "Traceback (most recent call last):\n  File",
    "HTTP/1.1 503 Service Unavailable",
    "404 Not Found",
    "Invalid order id value",
    "Unknown tool 'prise'",
    "Permission denied",
    "Request timed out",
    "Please provide a city name.",
    '{"error": "no such order"}',
    '{"error": {"code": 7}}',
    '{"error": "", "response": "Please specify a date"}',
    '{"success": false}',
    '{"isError": true, "content": []}',
    '{"status": 400, "message": "x"}',
    '{"status": "failed"}',
    '{"statusCode": "502"}',
    '"error: quoted"',
    '[{"error": "boom"}]',
    '["error: no lamp", {"isError": true}]',
    '{"status": "Timed out"}',
    "{'error': 'boom'}",
    "{'error': \"it's gone\"}",
    "{'error': ''}",
    "{'error': {'code': 7}}",
    "[{'error': 'boom'}, {'error': 'bang'}]",
    "{'found': None, 'count': 0, 'success': False}",
    "{'status': 'failed', 'rows': []}",
    "{'code': 502, 'body': ''}",
    "{'error': 'a message that is cut in the mid",
    "{'error': '" + "x" * 70_000 + "'}",
]
RESULTS = [
    "",
    "42",
    "The error margin is 3 percent",
    "error 0.02",
    "404 items found",
    "450 dollars",
    "Terror: a film of 1995",
    "Pleased to meet you",
    "He was denied permission",
    "There were no errors",
    "wrong turn (2003)",
    '{"error": "", "response": "42"}',
    '{"error": null, "errors": [], "value": 1}',
    '{"error": "none"}',
    '{"status": 200}',
    '{"code": 404000}',
    '{"status": "ok", "text": "an error occurred to me"}',
    '{"success": true}',
    "[1, 2]",
    "[]",
    '[{"error": "boom"}, {"price": 42}]',
    "[{'error': 'boom'}, {'price': 42}]",
    "{'error': None, 'price': 42}",
    "{'error': '', 'price': 42}",
    "{'errors': [], 'price': 42}",
    "{'text': 'an \\\\' error', 'success': True}",
    "{'note': \"'error': 'boom'\"}",
    "{'price': {'error': 'boom'}}",
    "{'a'" * 3000,
    "{'" + "\\\\" * 3000,
    "{'status': 'shipped'}",
    "404",
    "[" * 5000,
]


@pytest.mark.parametrize("text", FAILURES)
def test_a_failure_at_the_place_where_tools_put_it_is_a_failed_call(text):
    assert inferred_status(text) is CallStatus.TOOL_ERROR


@pytest.mark.parametrize("text", RESULTS)
def test_a_result_that_mentions_an_error_is_a_result(text):
    """The published rule looks for `error` and `wrong` anywhere, and fails five of these calls."""
    assert inferred_status(text) is CallStatus.OK
