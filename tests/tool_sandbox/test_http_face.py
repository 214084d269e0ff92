"""The HTTP face: SandboxFusion's and OpenEnv's contracts in raw JSON, and what stands before them."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.tool_sandbox.served import keys, programs, served
from tool_sandbox.client import LocalSandbox
from tool_sandbox.config import HttpConfig, PoolConfig
from tool_sandbox.demonstrations import demonstrate
from tool_sandbox.errors import InvalidTool, SandboxFull, SandboxUnavailable
from tool_sandbox.http.app import build_app
from tool_sandbox.http.episodes import Episodes, NoSuchEpisode
from tool_sandbox.http.keys import ApiKeys
from tool_sandbox.http.openenv import ResetRequest
from tool_sandbox.http.run_code import RUN_CODE_TOOL
from tool_sandbox.ledger import LedgerToolset
from tool_sandbox.ledger.policies import OraclePolicy
from tool_sandbox.sandbox import Sandbox, Snapshot
from tool_sandbox.tasks import Split
from tool_sandbox.tools import CallStatus, IsolationLevel, ToolCall, ToolResult, ToolSpec, Trust

CONFIG = HttpConfig(max_requests=4, max_body_bytes=64 * 1024, call_seconds=20)
POOL = PoolConfig(max_sessions=3, queue_seconds=0)
JSON = {"Content-Type": "application/json"}
LEDGER = LedgerToolset()


@dataclass(frozen=True, slots=True)
class Service:
    url: str
    key: str


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    (known, key), sandbox = keys(), programs()
    with served(build_app(CONFIG, LocalSandbox(PoolConfig()), known, sandbox), CONFIG) as url:
        yield Service(url, key)
    sandbox.close()


@pytest.fixture
def http(service: Service) -> Iterator[httpx.Client]:
    """A plain HTTP client with the key, as curl would be."""
    headers = {"Authorization": f"Bearer {service.key}"}
    with httpx.Client(base_url=service.url, headers=headers, timeout=30, trust_env=False) as client:
        yield client


def in_process(
    client: Any = None, sandbox: Sandbox | None = None, config: HttpConfig = CONFIG, known: ApiKeys | None = None
) -> httpx.AsyncClient:
    app = build_app(config, client or LocalSandbox(POOL), known or ApiKeys.nobody_asked(), sandbox)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://sandbox")


def assert_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    """An RFC 9457 document with its status inside; returns it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    document = json.loads(response.content)
    assert {"type", "title", "status", "detail"} <= document.keys()
    assert document["status"] == status
    return document


# SandboxFusion


def test_a_program_in_raw_json(http: httpx.Client) -> None:
    body = b"""{"code": "import sys\\nprint(sys.stdin.read()[::-1])\\nprint('hm', file=sys.stderr)",
                "language": "python", "compile_timeout": 10, "run_timeout": 10, "memory_limit_MB": 128,
                "stdin": "pmal", "files": {},
                "fetch_files": [], "args": []}"""
    response = http.post("/run_code", content=body, headers=JSON)
    assert response.status_code == 200
    answer = response.json()
    assert 0 < answer["run_result"].pop("execution_time") < 20
    assert answer == {
        "status": "Success",
        "message": "",
        "compile_result": None,
        "run_result": {"status": "Finished", "return_code": 0, "stdout": "lamp\n", "stderr": "hm\n"},
        "executor_pod_name": None,
        "files": {},
    }


def program(http: httpx.Client, code: str, **fields: Any) -> dict[str, Any]:
    response = http.post("/run_code", json={"code": code, "language": "python"} | fields)
    assert response.status_code == 200, response.text
    return response.json()


def test_files_go_in_and_come_out(http: httpx.Client) -> None:
    code = "import os\nopen('out/b.bin', 'wb').write(open('in/a.bin', 'rb').read() * 2)\nprint(sorted(os.listdir('.')))"
    files = {"in/a.bin": base64.b64encode(b"\x00\xff").decode(), "out/.keep": ""}
    answer = program(http, code, files=files, fetch_files=["out/b.bin", "nowhere"])
    assert answer["run_result"]["stdout"] == "['in', 'out']\n"
    assert {path: base64.b64decode(content) for path, content in answer["files"].items()} == {
        "out/b.bin": b"\x00\xff\x00\xff"
    }


@pytest.mark.parametrize("read", ["input()", "open(0).readline().strip()", "__import__('os').read(0, 4).decode()"])
def test_standard_input_is_there_however_it_is_read(http: httpx.Client, read: str) -> None:
    assert program(http, f"print({read})", stdin="lamp\nx")["run_result"]["stdout"] == "lamp\n"


@pytest.mark.parametrize(
    ("code", "status", "return_code", "stderr"),
    [
        ("print('a')\n1 / 0", "Failed", 1, "ZeroDivisionError: division by zero\n"),
        ("print('a')\nimport sys\nsys.exit(3)", "Failed", 3, ""),
        ("print('a')\nimport sys\nsys.exit('why')", "Failed", 1, "why\n"),
        ("print('a')\nimport sys\nsys.exit()", "Success", 0, ""),
        ("print('a')\ninput()", "Failed", 1, "EOFError: EOF when reading a line\n"),
        ("print('a')\nimport pickle\nclass A: pass\npickle.loads(pickle.dumps(A()))", "Success", 0, ""),
        ("print('a')\nx = []\nwhile True: x.append('y' * 1000000)", "Failed", 1, "MemoryError\n"),
    ],
)
def test_how_a_program_ends(http: httpx.Client, code: str, status: str, return_code: int, stderr: str) -> None:
    answer = program(http, code)
    assert (answer["status"], answer["run_result"]["status"]) == (status, "Finished")
    assert answer["run_result"]["return_code"] == return_code
    assert answer["run_result"]["stdout"] == "a\n"
    assert answer["run_result"]["stderr"].endswith(stderr)


def test_a_traceback_shows_the_program_and_nothing_of_ours(http: httpx.Client) -> None:
    stderr = program(http, "def f():\n    raise KeyError('b')\nf()")["run_result"]["stderr"]
    assert stderr == (
        'Traceback (most recent call last):\n  File "<code>", line 3, in <module>\n'
        "  File \"<code>\", line 2, in f\nKeyError: 'b'\n"
    )


@pytest.mark.parametrize(
    ("code", "seconds"), [("import time\ntime.sleep(60)", 0.5), ("while True: pass", 0.5), ("while True: pass", 60)]
)
def test_a_program_out_of_time(http: httpx.Client, code: str, seconds: float) -> None:
    answer = program(http, f"print('a', flush=True)\n{code}", run_timeout=seconds)
    assert (answer["status"], answer["run_result"]["status"]) == ("Failed", "TimeLimitExceeded")
    assert (answer["run_result"]["return_code"], answer["run_result"]["stdout"].strip()) == (None, "a")


def test_a_memory_limit_of_the_request_narrows_that_of_the_sandbox(http: httpx.Client) -> None:
    code = "x = 'a' * 100_000_000\nprint('b')"
    assert program(http, code)["status"] == "Success"
    assert program(http, code, memory_limit_MB=64)["run_result"]["stderr"].endswith("MemoryError\n")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"language": "cpp"}, "language 'cpp' is not served here; this service runs 'python' only"),
        ({"files": {"a": "%%"}}, "files: the content of 'a' is not base64"),
    ],
)
def test_what_is_not_served_is_the_protocol_s_own_error(
    http: httpx.Client, fields: dict[str, Any], message: str
) -> None:
    answer = program(http, "1", **fields)
    assert (answer["status"], answer["message"], answer["run_result"]) == ("SandboxError", message, None)


async def test_a_service_without_a_sandbox_for_programs_says_so() -> None:
    async with in_process() as http:
        answer = (await http.post("/run_code", json={"code": "1", "language": "python"})).json()
    assert answer["status"] == "SandboxError"
    assert "without a sandbox for programs" in answer["message"]


def test_a_sandbox_without_the_tool_is_refused() -> None:
    with pytest.raises(InvalidTool, match="RUN_CODE_TOOL"):
        build_app(CONFIG, LocalSandbox(POOL), ApiKeys.nobody_asked(), Scripted(CallStatus.OK, tools=()))


class Scripted:
    """A sandbox that runs nothing: gives one result, or raises one error, once it is let go. Its own session too."""

    trust = Trust.ISOLATED
    level = IsolationLevel.NAMESPACES

    def __init__(self, outcome: CallStatus | Exception, tools: tuple[ToolSpec, ...] = (RUN_CODE_TOOL.spec,)) -> None:
        self._outcome = outcome
        self._tools = tools
        self.go = threading.Event()
        self.go.set()

    def specs(self) -> tuple[ToolSpec, ...]:
        return self._tools

    def open(self) -> Scripted:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self

    def call(self, call: ToolCall) -> ToolResult:
        assert self.go.wait(30)
        assert isinstance(self._outcome, CallStatus)
        return ToolResult(call.id, self._outcome, "lamp\nerror: hm")

    def fork(self, snapshot: Snapshot) -> Scripted:
        return self

    def state_hash(self) -> str:
        return ""

    def snapshot(self) -> Snapshot:
        return Snapshot(b"", "")

    def close(self) -> None:
        """Holds nothing."""


@pytest.mark.parametrize(
    ("status", "verdict", "return_code"),
    [
        (CallStatus.TOOL_ERROR, "Failed", 1),
        (CallStatus.OUT_OF_MEMORY, "Failed", 137),
        (CallStatus.DENIED, "Failed", 159),
        (CallStatus.TIMEOUT, "Failed", None),
    ],
)
async def test_a_program_that_could_not_say_how_it_ended(
    status: CallStatus, verdict: str, return_code: int | None
) -> None:
    async with in_process(sandbox=Scripted(status)) as http:
        answer = (await http.post("/run_code", json={"code": "1", "language": "python"})).json()
    result = answer["run_result"]
    assert (answer["status"], result["return_code"], result["stdout"], result["stderr"]) == (
        verdict,
        return_code,
        "lamp",
        "hm",
    )


async def test_a_lost_sandbox_is_the_service_s_failure() -> None:
    async with in_process(sandbox=Scripted(CallStatus.INFRA_ERROR)) as http:
        answer = (await http.post("/run_code", json={"code": "1", "language": "python"})).json()
    assert (answer["status"], answer["message"]) == ("SandboxError", "lamp\nerror: hm")


@pytest.mark.parametrize(("error", "status"), [(SandboxFull("full"), 429), (SandboxUnavailable("down"), 503)])
async def test_no_room_for_a_program_asks_the_caller_to_come_again(error: Exception, status: int) -> None:
    async with in_process(sandbox=Scripted(error)) as http:
        response = await http.post("/run_code", json={"code": "1", "language": "python"})
    assert_problem(response, status)
    assert response.headers["retry-after"] == "1"


async def test_requests_beyond_the_limit_are_refused_and_places_are_given_back() -> None:
    sandbox = Scripted(CallStatus.OK)
    sandbox.go.clear()
    body = {"code": "1", "language": "python"}
    async with in_process(sandbox=sandbox, config=CONFIG.model_copy(update={"max_requests": 2})) as http:
        at_work = [asyncio.create_task(http.post("/run_code", json=body)) for _ in range(2)]
        await asyncio.sleep(0.2)
        refused = await http.post("/run_code", json=body)
        sandbox.go.set()
        assert [(await response).status_code for response in at_work] == [200, 200]
        again = await http.post("/run_code", json=body)
    assert "2 requests are at work" in assert_problem(refused, 429)["detail"]
    assert refused.headers["retry-after"] == "1"
    assert again.status_code == 200


async def test_a_place_is_taken_until_the_work_ends_even_if_nobody_waits_for_it() -> None:
    sandbox = Scripted(CallStatus.OK)
    sandbox.go.clear()
    body = {"code": "1", "language": "python"}
    config = CONFIG.model_copy(update={"max_requests": 1, "call_seconds": 0.2})
    async with in_process(sandbox=sandbox, config=config) as http:
        late = (await http.post("/run_code", json=body)).json()
        assert (late["status"], late["message"]) == ("SandboxError", "no result in 0.2 s")
        assert_problem(await http.post("/run_code", json=body), 429)
        sandbox.go.set()
        await asyncio.sleep(0.2)
        assert (await http.post("/run_code", json=body)).json()["status"] == "Success"


# OpenEnv


def oracle_calls(seed: int, level: str) -> list[ToolCall]:
    task = LEDGER.sample_task(Split.TRAIN, level, seed)
    return list(demonstrate(LEDGER, task, OraclePolicy(), max_steps=8).actions)


def test_an_episode_is_solved_with_a_reward_for_every_useful_call(http: httpx.Client) -> None:
    task = LEDGER.sample_task(Split.TRAIN, "L1", 5)
    begun = http.post("/reset", json={"seed": 5, "level": "L1"}).json()
    assert (begun["reward"], begun["done"]) == (None, False)
    observation = begun["observation"]
    assert observation["text"] == task.prompt
    assert [tool["function"]["name"] for tool in observation["tools"]] == list(task.tools)
    name, calls = observation["episode_id"], oracle_calls(5, "L1")
    for call in calls:
        action = {"type": "call_tool", "tool_name": call.name, "arguments": dict(call.arguments)}
        stepped = http.post("/step", json={"action": action, "episode_id": name}).json()
        assert (stepped["reward"], stepped["done"], stepped["observation"]["status"]) == (1.0, False, "ok")
    assert stepped["observation"]["progress"] == {"before": 1, "after": 0}
    answer = {"type": "answer", "answer": task.ground_truth.answer}
    ended = http.post("/step", json={"action": answer, "episode_id": name}).json()
    assert (ended["reward"], ended["done"], ended["observation"]["text"]) == (1.0, True, "")
    state = http.get("/state", params={"episode_id": name}).json()
    assert state == {
        "episode_id": name,
        "step_count": len(calls) + 1,
        "done": True,
        "task_id": task.id,
        "toolset": "ledger",
        "split": "train",
        "level": "L1",
        "state_hash": None,
    }


def test_an_answer_out_of_the_blue_is_wrong_and_nothing_tells_the_right_one(http: httpx.Client) -> None:
    task = LEDGER.sample_task(Split.TRAIN, "L1", 6)
    begun = http.post("/reset", json={"seed": 6, "level": "L1"})
    name = begun.json()["observation"]["episode_id"]
    state = http.get("/state", params={"episode_id": name})
    step = {"action": {"type": "answer", "answer": "no idea"}, "episode_id": name}
    ended = http.post("/step", json=step)
    assert (ended.json()["reward"], ended.json()["done"]) == (0.0, True)
    assert task.ground_truth.answer is not None
    assert [r.text for r in (state, ended) if f'"{task.ground_truth.answer}"' in r.text] == []
    assert "it ended after 1 steps" in assert_problem(http.post("/step", json=step), 409)["detail"]


def test_the_model_s_errors_are_observations(http: httpx.Client) -> None:
    name = http.post("/reset", json={}).json()["observation"]["episode_id"]
    step = {"action": {"type": "call_tool", "tool_name": "teleport"}, "episode_id": name}
    response = http.post("/step", json=step)
    assert response.status_code == 200
    assert (response.json()["observation"]["status"], response.json()["done"]) == ("unknown_tool", False)
    assert response.json()["reward"] == 0.0


def test_a_reset_needs_no_body_and_the_same_seed_is_the_same_task(http: httpx.Client) -> None:
    first, second, third = (
        http.post("/reset"),
        http.post("/reset", json={"seed": 0}),
        http.post("/reset", json={"seed": 1}),
    )
    texts = [response.json()["observation"]["text"] for response in (first, second, third)]
    assert texts[0] == texts[1] != texts[2]


def test_an_episode_has_the_name_that_its_caller_gives_and_begins_anew_under_it(http: httpx.Client) -> None:
    for seed in (0, 1):
        begun = http.post("/reset", json={"seed": seed, "episode_id": "mine"}).json()
        assert begun["observation"]["episode_id"] == "mine"
    assert http.get("/state", params={"episode_id": "mine"}).json()["step_count"] == 0
    task = LEDGER.sample_task(Split.TRAIN, "L0", 1)
    assert http.get("/state", params={"episode_id": "mine"}).json()["task_id"] == task.id


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({"toolset": "ledgre"}, "did you mean 'ledger'?"),
        ({"level": "L99"}, "L99"),
        ({"split": "exam"}, "/split"),
        ({"seed": -1}, "/seed"),
        ({"sede": 1}, "/sede: Extra inputs are not permitted"),
    ],
)
def test_a_task_that_does_not_exist_is_unprocessable(http: httpx.Client, body: dict[str, Any], detail: str) -> None:
    assert detail in assert_problem(http.post("/reset", json=body), 422)["detail"]


def test_an_action_of_no_known_kind_is_unprocessable(http: httpx.Client) -> None:
    name = http.post("/reset").json()["observation"]["episode_id"]
    problem = assert_problem(http.post("/step", json={"action": {"type": "dance"}, "episode_id": name}), 422)
    assert "/action" in problem["detail"]


def test_an_unknown_episode_is_not_found(http: httpx.Client) -> None:
    step = {"action": {"type": "answer", "answer": ""}, "episode_id": "nobody's"}
    assert "never begun with this key" in assert_problem(http.post("/step", json=step), 404)["detail"]
    assert_problem(http.get("/state", params={"episode_id": "nobody's"}), 404)


async def test_an_episode_belongs_to_the_key_that_began_it() -> None:
    anna, anna_key = ApiKeys.issue("anna")
    bert, bert_key = ApiKeys.issue("bert")
    async with in_process(known=anna.joined(bert)) as http:
        hers, his = ({"Authorization": f"Bearer {key}"} for key in (anna_key, bert_key))
        assert (await http.post("/reset", json={"episode_id": "x"}, headers=hers)).status_code == 200
        assert_problem(await http.get("/state", params={"episode_id": "x"}, headers=his), 404)
        assert (await http.get("/state", params={"episode_id": "x"}, headers=hers)).status_code == 200


async def test_a_full_pool_asks_the_caller_to_come_again_and_an_ended_episode_gives_its_session_back() -> None:
    async with in_process() as http:
        names = [(await http.post("/reset")).json()["observation"]["episode_id"] for _ in range(3)]
        response = await http.post("/reset")
        assert "all 3 sessions stayed open" in assert_problem(response, 429)["detail"]
        assert response.headers["retry-after"] == "1"
        await http.post("/step", json={"action": {"type": "answer", "answer": ""}, "episode_id": names[0]})
        assert (await http.post("/reset")).status_code == 200


class SlowClient(LocalSandbox):
    """Calls do not come back before they are let go."""

    def __init__(self) -> None:
        super().__init__(POOL)
        self.go = asyncio.Event()
        self.closed: list[str] = []

    async def call(self, lease: str, call: ToolCall) -> Any:
        await self.go.wait()
        return await super().call(lease, call)

    async def close(self, lease: str) -> None:
        self.closed.append(lease)
        await super().close(lease)


STEP = {"action": {"type": "call_tool", "tool_name": "teleport"}, "episode_id": "x"}


async def test_an_episode_makes_one_step_at_a_time() -> None:
    client = SlowClient()
    async with in_process(client) as http:
        await http.post("/reset", json={"episode_id": "x"})
        first = asyncio.create_task(http.post("/step", json=STEP))
        await asyncio.sleep(0.1)
        assert_problem(await http.post("/step", json=STEP), 409)
        assert_problem(await http.post("/reset", json={"episode_id": "x"}), 409)
        client.go.set()
        assert (await first).status_code == 200


async def test_a_step_that_takes_too_long_loses_the_episode_and_is_nobody_s_fault() -> None:
    client = SlowClient()
    async with in_process(client) as http:
        await http.post("/reset", json={"episode_id": "x"})
        stepped = (await http.post("/step", json=STEP | {"timeout_s": 0.1})).json()
        assert (stepped["observation"]["status"], stepped["reward"], stepped["done"]) == ("infra_error", None, True)
        assert stepped["observation"]["text"] == "error: no result in 0.1 s"
        assert len(client.closed) == 1
        assert_problem(await http.post("/step", json=STEP), 409)


class TalkativeClient(LocalSandbox):
    """A user who speaks twice, and a toolset that calls every answer right."""

    def __init__(self) -> None:
        super().__init__(POOL)
        self.says: list[str | None] = ["And the desk?", None]

    async def user_turn(self, lease: str) -> str | None:
        return self.says.pop(0)

    async def verdict(self, lease: str, answer: str | None) -> bool | None:
        return True


async def test_an_answer_ends_the_turn_and_the_episode_only_when_the_user_is_done() -> None:
    answer = {"action": {"type": "answer", "answer": "no idea"}, "episode_id": "x"}
    async with in_process(TalkativeClient()) as http:
        await http.post("/reset", json={"episode_id": "x"})
        first = (await http.post("/step", json=answer)).json()
        second = (await http.post("/step", json=answer)).json()
    assert (first["observation"]["text"], first["reward"], first["done"]) == ("And the desk?", None, False)
    # The toolset's own verdict counts, although the answer is not the expected one.
    assert (second["observation"]["text"], second["reward"], second["done"]) == ("", 1.0, True)


async def test_an_episode_unused_for_too_long_is_closed() -> None:
    now = 0.0
    client = SlowClient()
    episodes = Episodes(client, CONFIG.model_copy(update={"episode_seconds": 10}), clock=lambda: now)
    await episodes.reset("", ResetRequest(episode_id="x"))
    now = 9.0
    await episodes.state("", "x")
    now = 18.9
    assert await episodes.expire() == 0
    now = 19.0
    assert (await episodes.expire(), len(episodes), len(client.closed)) == (1, 0, 1)
    with pytest.raises(NoSuchEpisode, match="unused for 10 s"):
        await episodes.state("", "x")


def test_stopping_the_service_gives_every_session_back() -> None:
    client = SlowClient()
    with served(build_app(CONFIG, client, ApiKeys.nobody_asked()), CONFIG) as url:
        for _ in range(2):
            assert httpx.post(f"{url}/reset", trust_env=False).status_code == 200
        assert client.closed == []
    assert len(client.closed) == 2


def test_a_request_at_work_may_end_when_the_service_is_told_to_stop() -> None:
    sandbox = Scripted(CallStatus.OK)
    sandbox.go.clear()
    answers: list[httpx.Response] = []
    app = build_app(CONFIG, LocalSandbox(POOL), ApiKeys.nobody_asked(), sandbox)
    with served(app, CONFIG) as url:
        body = {"code": "1", "language": "python"}
        asking = threading.Thread(
            target=lambda: answers.append(httpx.post(f"{url}/run_code", json=body, timeout=30, trust_env=False))
        )
        asking.start()
        threading.Timer(0.5, sandbox.go.set).start()
        threading.Event().wait(0.2)
    asking.join(30)
    assert [answer.json()["status"] for answer in answers] == ["Success"]


# Before the routes


@pytest.mark.parametrize("key", ["", "Bearer", "Bearer wrong", "Basic dXNlcjpwYXNz"])
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/run_code"), ("POST", "/reset"), ("POST", "/step"), ("GET", "/state")]
)
def test_nobody_gets_in_without_a_key(http: httpx.Client, method: str, path: str, key: str) -> None:
    # The body is broken too: the key is asked for before anything is read.
    response = http.request(method, path, headers={"Authorization": key} | JSON, content=b"{")
    assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"


def test_health_and_schema_need_no_key(service: Service) -> None:
    health = httpx.get(f"{service.url}/health", trust_env=False)
    assert (health.status_code, health.json()) == (200, {"status": "healthy"})
    schema = httpx.get(f"{service.url}/schema", trust_env=False).json()
    assert set(schema) == {"action", "observation", "state"}
    assert set(schema["state"]["properties"]) >= {"episode_id", "step_count"}
    assert schema["action"]["discriminator"]["propertyName"] == "type"


def test_a_body_over_the_limit_is_too_large(http: httpx.Client) -> None:
    response = http.post("/run_code", json={"code": "x" * CONFIG.max_body_bytes, "language": "python"})
    assert "send less code or smaller files" in assert_problem(response, 413)["detail"]


def test_a_body_that_is_no_json_is_unprocessable_and_an_unknown_path_is_not_found(http: httpx.Client) -> None:
    assert_problem(http.post("/run_code", content=b"{", headers=JSON), 422)
    assert_problem(http.get("/run_jupyter"), 404)


async def test_a_form_of_a_web_page_runs_nothing_where_there_are_no_keys() -> None:
    # Browsers send this content type to any address without asking; JSON they ask for first, and are not answered.
    async with in_process(sandbox=Scripted(CallStatus.OK)) as http:
        body = json.dumps({"code": "1", "language": "python"})
        assert_problem(await http.post("/run_code", content=body, headers={"Content-Type": "text/plain"}), 415)
        preflight = await http.options("/run_code", headers={"Origin": "https://example.org"})
    assert_problem(preflight, 405)


@pytest.fixture
async def broken() -> AsyncIterator[httpx.AsyncClient]:
    async with in_process(sandbox=Scripted(RuntimeError("password is 1234"))) as http:
        yield http


async def test_a_bug_of_ours_is_a_server_error_that_keeps_its_secrets(broken: httpx.AsyncClient) -> None:
    response = await broken.post("/run_code", json={"code": "1", "language": "python"})
    assert_problem(response, 500)
    assert "1234" not in response.text
