"""The documents in docs/ are run, each page in a folder of its own, block by block; and built, where mkdocs is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from places import PACKAGE_DATA, ROOT

import xnorinfer
from xnorinfer.cli import demo, main

DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
#: Run beside a server, by tests/serve/test_serve_docs.py.
ELSEWHERE = {"server.md"}
#: Language, title, text; a block with a title is a file.
BLOCK = re.compile(r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
#: What pages may need that the tests do not install by themselves.
FRAMEWORKS = ("torch", "tensorflow", "tf_keras", "larq", "sklearn", "pyarrow", "ray", "pyspark", "dask")
#: What these need beside themselves: packages and programs.
ALONG = {"sklearn": ("torch", "pandas"), "ray": ("pyarrow",), "pyspark": ("pyarrow", "pandas", "java")}
#: What pages begin with.  It takes seconds and is run with the README; here its files are put in place.
DEMO = "xnorinfer demo --keep digits\n"
#: Runs blocks in order: what Python blocks define stays for the next ones, shell blocks share their folder.
DRIVER = """
import json, subprocess, sys
names = {"__name__": "__main__"}
for number, (language, title, text) in enumerate(json.load(open(sys.argv[1], encoding="utf-8")), 1):
    if title:
        open(title, "w", encoding="utf-8").write(text)
    elif language == "python":
        exec(compile(text, f"block {number}", "exec"), names)
    elif language == "sh":
        subprocess.run(["bash", "-c", "set -e\\n" + text], check=True)
"""


def blocks(page: str) -> list[tuple[str, str, str]]:
    return BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))


def test_every_fence_is_a_known_block() -> None:
    for page in PAGES:
        text = (DOCS / page).read_text(encoding="utf-8")
        assert text.count("\n```") == 2 * len(blocks(page)), page
        assert all(title for language, title, _ in blocks(page) if language in ("c", "toml")), page
        assert {language for language, _, _ in blocks(page)} <= {"sh", "python", "c", "cmake", "toml", "text"}, page


def frameworks_of(page: str) -> list[str]:
    source = "\n".join(text for _, _, text in blocks(page))
    return [name for name in FRAMEWORKS if re.search(rf"^(?:import|from) {name}\b", source, re.MULTILINE)]


@pytest.mark.parametrize(
    "page",
    [one for one in PAGES if blocks(one) and one not in ELSEWHERE],
)
@pytest.mark.long
def test_page_runs_as_written(page: str, tmp_path: Path) -> None:
    source = "\n".join(text for _, _, text in blocks(page))
    needed = frameworks_of(page)
    needed += [name for one in needed for name in ALONG.get(one, ())]
    missing = [name for name in needed if importlib.util.find_spec(name) is None and shutil.which(name) is None]
    if re.search(r"^cc ", source, re.MULTILINE) and shutil.which("cc") is None:
        missing.append("cc")
    if missing:
        pytest.skip(f"{page} needs {', '.join(missing)}")
    folder = tmp_path / "page"
    folder.mkdir()
    if DEMO in source:
        digits = folder / "digits"
        digits.mkdir()
        for name in (demo.CHECKPOINT, demo.DATA):
            shutil.copy(PACKAGE_DATA / name, digits)
        xnorinfer.convert(digits / demo.CHECKPOINT).save(digits / demo.MODEL)
    written = [(language, title, text.replace(DEMO, "")) for language, title, text in blocks(page)]
    (tmp_path / "blocks.json").write_text(json.dumps(written), encoding="utf-8")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "blocks.json")]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES)
def test_paths_that_a_page_names_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    for path in re.findall(r"`((?:xnorinfer|converters|training|tests|benchmarks)/[\w/.-]*)`", text):
        assert (ROOT / path).exists() or (ROOT / path.removeprefix("xnorinfer/")).exists(), path


@pytest.mark.parametrize("page", PAGES)
def test_options_that_a_page_names_within_a_sentence_exist(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    context = click.Context(main)
    for name, call in re.findall(r"`(?:xnorinfer )?(?!xnorinfer)([a-z]+) ([^`\n]*)`", text):
        if name in main.list_commands(context):
            command = main.get_command(context, name)
            assert command is not None
            known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
            assert set(re.findall(r"(?<!\S)--[a-z-]+", call)) <= known | {"--help"}, (name, call)


def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    for name in ("mkdocs", "material", "mkdocstrings_handlers.python", "mkdocs_click"):
        pytest.importorskip(name, reason="pip install '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    net_toml = (tmp_path / "site" / "net-toml" / "index.html").read_text(encoding="utf-8")
    assert "inv_std" in net_toml  # the docstring, not an empty page
    command_line = (tmp_path / "site" / "command-line" / "index.html").read_text(encoding="utf-8")
    assert "--bn-epsilon" in command_line
    assert "Sentinel" not in command_line  # click's word for no default
