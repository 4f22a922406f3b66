"""Running the command line in this process, for its tests."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

import xnorinfer
from xnorinfer.cli import main

#: Before version 8.2 click put stderr into stdout unless it was told not to.
APART: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
DATA = Path(xnorinfer.__file__).parent / "data"
CHECKPOINT = str(DATA / "digits-64-256-256-10.npz")
DIGITS = str(DATA / "digits-test.npz")


def run(*arguments: object) -> Result:
    """Run a command line as a user would; an exception that is no exit is a defect and escapes."""
    result = CliRunner(**APART).invoke(main, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def fine(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def wrong(*arguments: object, code: int = 2) -> str:
    """The one error line of a command that must fail."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]
