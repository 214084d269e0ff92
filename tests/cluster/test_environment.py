from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cluster.environment import apply_process_defaults, home, process_defaults
from cluster.native_ops import CPU_OPS


def test_a_variable_that_the_user_set_wins_over_the_default() -> None:
    environment = {"OMP_WAIT_POLICY": "ACTIVE", "PATH": "/usr/bin"}
    apply_process_defaults(environment)
    assert environment["OMP_WAIT_POLICY"] == "ACTIVE"
    assert environment["VLLM_NO_USAGE_STATS"] == "1"


def test_the_programs_of_this_interpreter_come_first_on_the_path_and_only_once() -> None:
    environment = {"PATH": "/usr/bin"}
    apply_process_defaults(environment)
    apply_process_defaults(environment)
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_home_is_the_named_directory_when_the_user_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPTOOL_HOME", str(tmp_path))
    (tmp_path / ".setup" / "torch_extensions").mkdir(parents=True)
    assert home() == tmp_path
    assert process_defaults()["TORCH_EXTENSIONS_DIR"] == str(tmp_path / ".setup" / "torch_extensions")


def test_set_up_has_compiled_every_operation_that_a_cpu_engine_asks_for() -> None:
    extensions = Path(process_defaults()["TORCH_EXTENSIONS_DIR"])
    assert {library.stem for library in extensions.rglob("*.so")} >= set(CPU_OPS.values())
