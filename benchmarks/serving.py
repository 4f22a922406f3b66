"""The server under load: `python -m benchmarks.serving`, with wrk (https://github.com/wg/wrk; Debian's package of that name).

One sample a request, from 1, 8 and 64 connections: requests a second, p50 and p99 of `xnorinfer serve`, asked in JSON and in
binary, and of the same network served as people do it by hand: a plain FastAPI function around ONNX Runtime, both by uvicorn in
one process.  The answers of both are compared first.  Aims: at 64 connections three times the requests a second and less than
half the p99; at one connection at most 300 us more than the engine's call.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import REFERENCE, random_network, random_pixels
from xnorinfer.engine.model import Model
from xnorinfer.packing import modelfile

CONNECTIONS = (1, 8, 64)

#: The other server: what its users would write, but for where the network comes from.
BY_HAND = """
import sys

import fastapi, numpy, pydantic, uvicorn

from xnorinfer.packing import modelfile
from xnorinfer.speed.peers import peer

network = peer("onnxruntime float32", modelfile.load(sys.argv[1]), 1, int(sys.argv[3]))
app = fastapi.FastAPI()


class Sample(pydantic.BaseModel):
    pixels: list[int]


@app.post("/predict")
def predict(sample: Sample) -> dict[str, list[float]]:
    x = numpy.array([sample.pixels], numpy.uint8)
    return {"scores": network.scores(x)[0].tolist()}


uvicorn.run(app, port=int(sys.argv[2]), log_level="warning")
"""

SCRIPT = """
local file = io.open("{path}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, from when it answers at `url`."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url, timeout=5).close()
                break
            if running.poll() is not None:
                raise RuntimeError(f"{command[:4]} ended with {running.returncode}")
            time.sleep(0.1)
        yield running
    finally:
        running.terminate()
        running.wait(60)


class Case:
    """One way to ask one server.  headers: of each request."""

    def __init__(self, name: str, url: str, body: bytes, headers: dict[str, str]) -> None:
        self.name, self.url, self.body, self.headers = name, url, body, headers

    def answer(self) -> bytes:
        with urllib.request.urlopen(urllib.request.Request(self.url, self.body, self.headers), timeout=60) as answer:
            content: bytes = answer.read()
            return content

    def load(self, connections: int, seconds: float, folder: Path) -> dict[str, float]:
        """Requests a second, p50 and p99 in microseconds, as wrk has them."""
        body, script = folder / "body", folder / "script.lua"
        body.write_bytes(self.body)
        headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in self.headers.items())
        script.write_text(SCRIPT.format(path=body, headers=headers))
        command = [
            "wrk",
            "-t",
            "1",
            "-c",
            str(connections),
            "-d",
            f"{seconds:.0f}s",
            "--latency",
            "--timeout",
            "60s",
            "-s",
            str(script),
            self.url,
        ]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "Non-2xx" in text or "Socket errors" in text:
            raise RuntimeError(f"{self.name}: {text}")
        found = {f"p{percent}": _microseconds(text, percent) for percent in (50, 99)}
        return {"requests_per_second": float(re.findall(r"Requests/sec:\s+([\d.]+)", text)[0]), **found}


def _microseconds(text: str, percent: int) -> float:
    found = re.findall(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    if not found:  # no request was answered in the time
        return float("nan")
    value, unit = found[0]
    return float(value) * {"us": 1, "ms": 1e3, "s": 1e6, "m": 6e7}[unit]


def cases(ours: str, theirs: str, pixels: list[int]) -> list[Case]:
    tensor: dict[str, Any] = {"name": "input", "datatype": "UINT8", "shape": [1, len(pixels)]}
    url, kind = f"{ours}/v2/models/network/infer", {"Content-Type": "application/json"}
    text = json.dumps({"inputs": [{**tensor, "data": pixels}], "outputs": [{"name": "scores"}]}).encode()
    sized = {**tensor, "parameters": {"binary_data_size": len(pixels)}}
    head = json.dumps({"inputs": [sized], "outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}).encode()
    return [
        Case("xnorinfer serve, binary", url, head + bytes(pixels), {"Inference-Header-Content-Length": str(len(head))}),
        Case("xnorinfer serve, JSON", url, text, kind),
        Case("FastAPI and ONNX Runtime, JSON", f"{theirs}/predict", json.dumps({"pixels": pixels}).encode(), kind),
    ]


def engine_seconds(url: str) -> tuple[float, float]:
    """Sum and number of the engine's calls so far."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    total, count = (
        re.findall(rf"^xnorinfer_engine_seconds_{name}\S* (\S+)$", text, re.MULTILINE)[0] for name in ("sum", "count")
    )
    return float(total), float(count)


def require_equal(found: list[Case], want: np.ndarray[Any, Any]) -> None:
    binary, text, other = (case.answer() for case in found)
    assert (np.frombuffer(binary[-want.nbytes :], np.float32) == want).all()
    assert (np.array(json.loads(text)["outputs"][0]["data"], np.float32) == want).all()
    if not np.allclose(json.loads(other)["scores"], want, rtol=1e-3, atol=1e-3):
        raise RuntimeError("the servers do not answer the same")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--threads", type=int, default=1, help="of both engines")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        parser.error("wrk is not in PATH: apt-get install wrk")
    packed = random_network(REFERENCE)
    sample = random_pixels(1, packed.depth)
    ours, theirs = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "network.safetensors"
        modelfile.save(packed, path)
        serve = [sys.executable, "-m", "xnorinfer", "serve", str(path), "--port", str(ours), "--quiet"]
        by_hand = [sys.executable, "-c", BY_HAND, str(path), str(theirs), str(options.threads)]
        base, other = f"http://127.0.0.1:{ours}", f"http://127.0.0.1:{theirs}"
        stack.enter_context(process([*serve, "--threads", str(options.threads)], f"{base}/v2/health/ready"))
        stack.enter_context(process(by_hand, f"{other}/openapi.json"))
        found = cases(base, other, sample[0].tolist())
        require_equal(found, Model(packed, threads=1).scores(sample)[0])
        results = []
        print(f"{'':32}{'connections':>12}{'requests/s':>12}{'p50 us':>10}{'p99 us':>10}{'engine us':>11}")
        for connections in CONNECTIONS:
            for case in found:
                case.load(connections, 1, folder)
                before = engine_seconds(base)
                row = {"case": case.name, "connections": connections, **case.load(connections, options.seconds, folder)}
                total, count = (after - earlier for after, earlier in zip(engine_seconds(base), before, strict=True))
                row["engine_us"] = 1e6 * total / count if count else float("nan")
                results.append(row)
                print(
                    f"{case.name:32}{connections:12}{row['requests_per_second']:12.0f}{row['p50']:10.0f}{row['p99']:10.0f}"
                    f"{row['engine_us']:11.0f}",
                    flush=True,
                )
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
