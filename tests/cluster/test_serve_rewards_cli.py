"""`steptool serve-rewards` as a real process: it scores, says when it is full, and finishes what it accepted."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.reward_service.builders import trajectory
from tests.reward_service.held import HeldSignal
from tests.reward_service.problems import assert_problem

ROOT = Path(__file__).parents[2]
DEADLINE = 60.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command(tmp_path: Path, *options: str) -> list[str]:
    held = HeldSignal(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"signals": {"contribution": held.settings}, "store": {"kind": "none"}}))
    return [sys.executable, "-m", "cluster", "serve-rewards", "--port", "0", "--reward", str(recipe), *options]


def test_a_full_service_says_when_to_come_back_and_one_that_is_stopped_finishes_its_requests(tmp_path: Path) -> None:
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": path}
    with (
        subprocess.Popen(
            command(tmp_path, "--max-requests", "2"), cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
        ) as process,
        ThreadPoolExecutor(2) as threads,
    ):
        try:
            assert process.stdout is not None
            match = re.match(r"serving rewards \w+ at (http://127\.0\.0\.1:\d+) with 0 keys", process.stdout.readline())
            assert match is not None
            with httpx.Client(base_url=match[1], timeout=DEADLINE, trust_env=False) as http:

                def score(number: int) -> httpx.Response:
                    return http.post("/v1/score", json={"trajectories": [trajectory(f"t-{number}")]})

                held = [threads.submit(score, number) for number in range(2)]
                until(lambda: len(list(tmp_path.glob("arrived-*"))) == 2)
                refused = score(2)
                assert_problem(refused, 429)
                assert refused.headers["retry-after"] == "1"
                assert refused.json()["detail"].startswith("2 requests are at work")
                # Whoever only reads is let in all the same.
                assert http.get("/v1/models").status_code == 200
                process.send_signal(signal.SIGTERM)
                until(lambda: not _listens(match[1]))
                assert not any(one.done() for one in held)
                (tmp_path / "released").touch()
                for one in held:
                    (result,) = one.result(DEADLINE).json()["results"]
                    # A call that the signal gives 1: 0.6 - 0.1; the right answer: 1.
                    assert result["total"] == 1.5
            assert process.wait(DEADLINE) == 0
        finally:
            (tmp_path / "released").touch()
            process.kill()


def test_a_batch_is_scored_and_kept_in_the_file_of_the_store(tmp_path: Path) -> None:
    store = tmp_path / "kept.db"
    arguments = [sys.executable, "-m", "cluster", "serve-rewards", "--port", "0", "--store", str(store)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.match(r"serving rewards \w+ at (http://127\.0\.0\.1:\d+) with 0 keys", process.stdout.readline())
            assert match is not None
            batches = f"{match[1]}/v1/score/batches"
            with httpx.Client(timeout=DEADLINE, trust_env=False) as http:
                found = http.post(batches, json={"trajectories": [trajectory("t-1")]}).json()["id"]
                until(lambda: http.get(f"{batches}/{found}").json()["status"] == "done")
                (result,) = http.get(f"{batches}/{found}/results").json()["results"]
            # One useful call: 0.6 - 0.1; the right answer: 1.
            assert (result["id"], result["total"]) == ("t-1", 1.5)
            assert store.is_file()
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE) == 0
        finally:
            process.kill()


def _listens(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", timeout=DEADLINE, trust_env=False)
    except httpx.TransportError:
        return False
    return True
