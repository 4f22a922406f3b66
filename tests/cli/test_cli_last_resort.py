"""What nobody thought of still ends in one line: a defect, whose traceback --debug shows, no memory, odd environments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import CHECKPOINT, run, wrong

from xnorinfer import conversion
from xnorinfer.engine import plan
from xnorinfer.errors import OptionError


def breaks(error: BaseException) -> Any:
    def convert_file(*arguments: Any) -> None:
        raise error

    return convert_file


def test_a_defect_is_one_line_and_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "convert_file", breaks(ZeroDivisionError("division by zero\nand more")))
    line = wrong("convert", CHECKPOINT, "--dry-run", code=70)
    assert line == (
        "error: internal error, a defect of xnorinfer: ZeroDivisionError: division by zero; please report it with what "
        "--debug shows"
    )
    assert "70 a defect of xnorinfer" in " ".join(run("--help").stdout.split())


@pytest.mark.parametrize(
    "arguments", [["--debug", "convert", CHECKPOINT, "--dry-run"], ["convert", CHECKPOINT, "--debug", "--dry-run"]]
)
def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(conversion, "convert_file", breaks(KeyError()))
    result = run(*arguments)
    assert result.exit_code == 70
    first, *_, last = result.stderr.splitlines()
    assert first.startswith("Traceback")
    assert "in convert_file" in result.stderr
    assert last == "error: internal error, a defect of xnorinfer: KeyError"
    monkeypatch.undo()
    assert run("convert", CHECKPOINT, "--debug", "--dry-run").exit_code == 0
    assert "Traceback" not in wrong("convert", "no such file", "--debug", "--dry-run")


def test_the_end_of_the_memory_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "convert_file", breaks(MemoryError("Unable to allocate 2 TiB")))
    assert wrong("convert", CHECKPOINT, "--dry-run") == "error: there is not enough memory (Unable to allocate 2 TiB)"


def test_names_of_a_thousand_letters_are_shortened() -> None:
    line = wrong("convert", f"{'x' * 200}/{'y' * 3000}.npz", "--dry-run")
    assert line.startswith("error: ")
    assert "xxx...yyy" in line
    assert len(line) < 400


@pytest.mark.parametrize("text", ["²", "0", "-1", "1e3", "1" * 5000, "1025", "two"])
def test_threads_of_the_environment(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("XNORINFER_NUM_THREADS", text)
    with pytest.raises(OptionError, match=r"XNORINFER_NUM_THREADS is .*; give a whole number of threads, 1 to 1024"):
        plan.default_threads()


def test_numba_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    environment = {**os.environ, "XNORINFER_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "0"}
    command = [sys.executable, "-m", "xnorinfer", "warmup"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: numba, which compiles the kernels, refuses its environment variables NUMBA_...: ")
    assert len(done.stderr.splitlines()) == 1
