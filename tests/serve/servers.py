"""Servers in processes of their own, and models for them.  Whoever imports this is skipped where the extra is not installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import packed_networks as nets
import pytest
from networks import INPUTS, random_network

from xnorinfer.engine.model import Model
from xnorinfer.graph import chain
from xnorinfer.net.windows import Window
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import PackedModel

pytest.importorskip("starlette", reason="pip install 'xnorinfer[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'xnorinfer[serve]'")
pytest.importorskip("prometheus_client", reason="pip install 'xnorinfer[serve]'")
pytest.importorskip("orjson", reason="pip install 'xnorinfer[serve]'")
pytest.importorskip("httpx2", reason="starlette's client needs the package httpx2")

COMMAND = str(Path(sys.executable).parent / ("xnorinfer.exe" if os.name == "nt" else "xnorinfer"))


def save(path: Path, seed: int, kind: str = "range", widths: tuple[int, ...] = (64, 40, 5)) -> Path:
    """Put a random network in the place of a file, as `save` does."""
    modelfile.save(lower(random_network(seed, list(widths), INPUTS[kind])).packed, path)
    return path


def model_of(seed: int) -> Model:
    return Model(lower(random_network(seed, [64, 40, 5], INPUTS["range"])).packed, threads=1)


def conv_model(head: Window | None = None, shape: tuple[int, int, int] = (4, 6, 3), **provenance: Any) -> Model:
    """Pixels, a convolution of bits, and a head over the whole map or another window."""
    rng = np.random.default_rng(1)
    first = nets.random_dot(rng, "pixels", shape, 20, window=Window((2, 3)), bits=True)
    between = (shape[0] - 1, shape[1] - 2, 20)
    last = nets.random_dot(rng, "bits", between, 5, window=head or Window.whole(between), bits=False)
    return Model(PackedModel(INPUTS["range"], shape, chain([("first", first), ("head", last)]), "ge-zero", provenance))


class Running:
    """A server in a process of its own.  lines: what it logged.  before: code that its process runs first."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None, before: str = "") -> None:
        own = [sys.executable, "-c", f"{before}\nfrom xnorinfer.cli import main\nmain()"] if before else [COMMAND]
        command = [*own, "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
        )
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = str(self.wait_for("serving")["url"])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line) if line.startswith("{") else {"event": "text", "text": line})

    def wait_for(self, event: str, count: int = 1, seconds: float = 300) -> dict[str, Any]:
        """The line of an event, the `count`-th of its kind."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            found = [line for line in list(self.lines) if line["event"] == event]
            if len(found) >= count:
                return found[count - 1]
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no {event!r} in {self.lines[-20:]}")

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def request(self, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, body, headers), timeout=30) as answer:
                return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(120)
        finally:
            self._reader.join(10)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
