"""The page of the documents about the server, run as it is written, but for the port."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from places import PACKAGE_DATA, ROOT
from servers import Running

import xnorinfer
from xnorinfer.cli import demo

PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PORT = "localhost:8000"


@pytest.fixture
def served(start: Callable[..., Running], tmp_path: Path) -> Running:
    """The server of the page, whose files lie in the folder."""
    (tmp_path / "digits").mkdir()
    for name in (demo.CHECKPOINT, demo.DATA):
        shutil.copy(PACKAGE_DATA / name, tmp_path / "digits")
    xnorinfer.convert(tmp_path / "digits" / demo.CHECKPOINT).save(tmp_path / "mine.safetensors")
    (command,) = re.findall(r"^xnorinfer serve (digits=.*) --port 8000$", PAGE, re.MULTILINE)
    models = [one.replace("mine", str(tmp_path / "mine")) for one in command.split()]
    return start(*models)


def run(command: list[str], folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_lines_of_curl(served: Running, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("the page's lines need curl")
    texts = [text.replace(PORT, served.address) for language, text in BLOCKS if language == "sh" and "curl" in text]
    assert len(texts) == 3
    outputs = [run(["bash", "-c", "set -e\n" + text], tmp_path) for text in texts]
    one, two = (json.loads(text) for text in outputs[:2])
    assert [output["name"] for output in one["outputs"]] == ["scores", "classes"]
    assert one["outputs"][0]["shape"] == [1, 10]
    assert two["outputs"][0]["shape"] == [2, 10]
    assert '{"models": ["digits", "mnist-784-1024x3"]}' in outputs[2]
    assert 'xnorinfer_requests_total{model="digits"} 2.0' in outputs[2]


def test_lines_of_python(served: Running, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    (text,) = [text.replace(PORT, served.address) for language, text in BLOCKS if language == "python"]
    images = np.load(tmp_path / "digits" / demo.DATA)["x"]
    want = xnorinfer.load(tmp_path / "mine.safetensors").predict(images)[:10]
    assert run([sys.executable, "-c", text], tmp_path).strip() == str(want)


def test_what_the_page_names_exists(served: Running) -> None:
    numbers = served.request("/metrics")[2].decode()
    for name in re.findall(r"`(xnorinfer_\w+?)(?:\{[\w,]+\})?`", PAGE):
        assert name.removesuffix("_total") in numbers, name
    options = run(["xnorinfer", "serve", "--help"], ROOT)
    for option in set(re.findall(r"`(--[\w-]+)", PAGE)):
        assert option in options, option
