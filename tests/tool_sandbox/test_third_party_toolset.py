"""A toolset from a package of its own: built, installed into a folder, and found by name in a fresh interpreter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parent / "packages" / "steptool_weather"
ROOT = Path(__file__).resolve().parents[2]

PLAY = """
import json
from tool_sandbox.registry import load_toolset, toolset_names
from tool_sandbox.tasks import Split
from tool_sandbox.tools import ToolCall

weather = load_toolset("weather")
easy, hard = weather.sample_task(Split.TRAIN, "all", 0), weather.sample_task(Split.VAL, "hard", 0)
asked, warned = weather.open(easy), weather.open(hard)
answer = asked.call(ToolCall("c", "temperature", {"city": "Rome"}))
unknown = warned.call(ToolCall("c", "temperature", {"city": "Atlantis"}))
warned.call(ToolCall("c", "warn", {"city": "Oslo"}))
print(json.dumps({
    "names": toolset_names(),
    "levels": weather.levels(),
    "signatures": [spec.signature() for spec in weather.specs()],
    "content": answer.result.content,
    "progress": [answer.progress.before, answer.progress.after],
    "unknown": unknown.result.content,
    "verdicts": [asked.verdict("14"), asked.verdict("15"), warned.verdict(None)],
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed the package, without a network and without anything else."""
    folder = tmp_path_factory.mktemp("third-party")
    # setuptools builds inside the source tree; ours stays as it is.
    source = shutil.copytree(PACKAGE, folder / "source")
    offline = ["--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check", "--quiet"]
    pip = [sys.executable, "-m", "pip", "install", *offline, "--target", str(folder / "site"), str(source)]
    done = subprocess.run(pip, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def fresh_interpreter(program: str, *path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd="/", capture_output=True, text=True, timeout=60
    )


def test_an_installed_package_is_found_by_name_and_played(site: Path) -> None:
    done = fresh_interpreter(PLAY, site, ROOT)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    assert set(told.pop("names")) >= {"ledger", "weather"}
    assert told == {
        "levels": ["all", "hard"],
        "signatures": ["temperature(city)", "warn(city)"],
        "content": "14",
        "progress": [1, 0],
        "unknown": "error: LookupError: no city Atlantis",
        "verdicts": [True, False, True],
    }


def test_without_the_package_the_name_is_unknown() -> None:
    done = fresh_interpreter("from tool_sandbox.registry import load_toolset; load_toolset('weather')", ROOT)
    assert done.returncode == 1
    assert "toolset 'weather' is not registered" in done.stderr
