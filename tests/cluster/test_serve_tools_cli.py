"""`steptool serve-tools`: what it refuses before it listens, and a real process that is told to stop."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner, Result

from cluster.cli import app
from cluster.serve_tools_cli import KEYS_VARIABLE
from tool_sandbox.http.keys import digest

ROOT = Path(__file__).resolve().parents[2]


def serve_tools(*arguments: str, **environment: str) -> Result:
    names = {"COLUMNS": "200", "TERMINAL_WIDTH": "200", KEYS_VARIABLE: None, f"{KEYS_VARIABLE}_FILE": None}
    return CliRunner().invoke(app, ["serve-tools", *arguments], env={**names, **environment})


@pytest.mark.parametrize("word", ["--host", "--port", "--config", "--actors", "--namespace", KEYS_VARIABLE])
def test_the_help_teaches_every_option(word: str) -> None:
    result = serve_tools("--help")
    assert result.exit_code == 0
    assert word in result.output


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--host", "0.0.0.0"], {}, "sandbox service: no API keys, and 0.0.0.0 can be reached from elsewhere"),
        (["--host", "example"], {}, "--host example: expected an IP address or localhost"),
        ([], {KEYS_VARIABLE: "secret-in-clear"}, "API key 1 of 1: expected 'name:' and 64 hexadecimal digits"),
        ([], {KEYS_VARIABLE: "", f"{KEYS_VARIABLE}_FILE": "keys"}, "found both"),
        (["--config", "/nowhere.yaml"], {}, "--config /nowhere.yaml"),
    ],
)
def test_what_cannot_be_served_ends_with_2_before_anything_listens(
    arguments: list[str], environment: dict[str, str], message: str
) -> None:
    result = serve_tools(*arguments, **environment)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "secret-in-clear" not in result.output


@pytest.mark.parametrize(("text", "message"), [("http: {level: L0, levle: L1}", "levle"), ("[", "--config")])
def test_a_settings_file_that_cannot_be_used_ends_with_2(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    result = serve_tools("--config", str(path))
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_port_that_is_taken_ends_with_2() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = serve_tools("--port", str(port))
    assert result.exit_code == 2
    assert f"--port {port}: cannot listen there (Address already in use" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_service_answers_its_key_and_ends_well_when_it_is_told_to(tmp_path: Path, number: int) -> None:
    settings, known = tmp_path / "serve.yaml", tmp_path / "keys"
    settings.write_text("http: {level: L1}\npool: {max_sessions: 4}\n")
    known.write_text(f"anna:{digest('hush')}\n")
    command = [sys.executable, "-m", "cluster", "serve-tools", "--port", "0", "--config", str(settings)]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), f"{KEYS_VARIABLE}_FILE": str(known)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            match = re.match(r"serving tools at (http://127\.0\.0\.1:\d+) with 1 keys", process.stdout.readline())
            assert match is not None
            with httpx.Client(base_url=match[1], timeout=30, trust_env=False) as http:
                assert http.post("/reset").status_code == 401
                begun = http.post("/reset", headers={"Authorization": "Bearer hush"}).json()
                name = begun["observation"]["episode_id"]
                headers = {"Authorization": "Bearer hush"}
                state = http.get("/state", params={"episode_id": name}, headers=headers).json()
                assert state["level"] == "L1"
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            process.kill()
