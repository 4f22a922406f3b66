"""The README is run: set-up commands by the continuous integration, everything else here, in order, in one folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
SHELL = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
SET_UP = [line for line in SHELL if line.startswith("pip ")]
#: Commands of minutes; each says how long it takes, and benchmarks are no tests.
LONG = [line for line in SHELL if line.startswith(("python -m benchmarks", "python -m xnorinfer.training"))]


def test_every_block_is_known() -> None:
    assert {language for language, _ in BLOCKS} <= {"sh", "python", "toml", "text"}
    assert len(SET_UP) >= 2


def test_set_up_commands_are_those_of_the_continuous_integration() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for line in SET_UP[:2]:
        assert any(found == line or found.startswith(f"{line} -") for found in script), line  # options of pytest may follow


def test_extras_exist() -> None:
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extras in re.findall(r"pip install '\S*\[([\w,]+)\]'", "\n".join(SHELL)):
        assert all(re.search(rf"^{extra} = \[", declared, re.MULTILINE) for extra in extras.split(","))


@pytest.mark.long
def test_commands_and_code_run_as_written(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    commands = [line for line in SHELL if line not in SET_UP and line not in LONG]
    assert any(shlex.split(line, comments=True)[:2] == ["xnorinfer", "convert"] for line in commands)
    script = "\n".join(["set -e", *commands])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    code = "\n".join(text for language, text in BLOCKS if language == "python")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_long_commands_are_understood() -> None:
    """They are not run, but their options exist and their values are taken."""
    pytest.importorskip("torch", reason="the training commands are written in PyTorch")
    from xnorinfer.training.commands import commands

    trainings = [shlex.split(line, comments=True)[3:] for line in LONG if "xnorinfer.training" in line]
    assert trainings
    for name, *options in trainings:
        commands.commands[name].make_context(name, options).close()


DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"),
    *("tests/README.md", "training/README.md", "xnorinfer/data/README.md"),
)
PLACES = re.compile(r"`((?:xnorinfer|converters|training|tests|benchmarks|\.ci)/[\w/.-]*)`|\]\((\w+\.md)\)")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_that_documents_name_exist(name: str) -> None:
    for code, link in PLACES.findall((ROOT / name).read_text(encoding="utf-8")):
        path = code or link
        assert any((ROOT / one).exists() for one in (path, path.removeprefix("xnorinfer/"))), path


def test_a_contributor_sets_up_with_two_commands() -> None:
    """Those of the continuous integration, for a checkout that is edited."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert block.splitlines() == ["pip install -e '.[test]'", "pytest"]
    assert "pip install '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w/.-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists(), path
