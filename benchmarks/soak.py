"""The server for long: `python -m benchmarks.soak --seconds 600`.

Clients ask without a pause and check every answer against the version that gives it, while the model's file is replaced by
another, by broken ones and back; others send slowly, leave in the middle, send too much, or what is no request.  Wanted: no
wrong answer, every request answered as it should be, nothing pending at the end, and memory (RSS) that grows by less than 20 MB
after the first fifth of the time.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import re
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.networks import random_network, random_pixels
from benchmarks.serving import free_port, process
from xnorinfer.engine.model import Model
from xnorinfer.packing import modelfile

WIDTHS = (784, 1024, 1024, 10)
MOST_GROWTH = 20e6
BODY = 1 << 20
TIMEOUT = 5


class Soak:
    """counts: answers by who asked and status.  wrong: what must not be."""

    def __init__(self, port: int, path: Path) -> None:
        self.port, self.path = port, path
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.stop = threading.Event()
        self.rows = {rows: random_pixels(rows, WIDTHS[0], rows) for rows in (1, 2, 7, 64)}
        self.files: list[bytes] = []
        self.want: dict[tuple[str, int], bytes] = {}
        for seed in (0, 1):
            packed = random_network(WIDTHS, seed=seed)
            modelfile.save(packed, path)
            self.files.append(path.read_bytes())
            version = str(modelfile.header_of(packed)["content_digest"])[:16]
            for rows, x in self.rows.items():
                self.want[version, rows] = Model(packed, threads=1).scores(x).tobytes()
        self.versions = list(dict.fromkeys(version for version, _ in self.want))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def request(self, rows: int) -> tuple[bytes, dict[str, str]]:
        x = self.rows[rows]
        tensor = {"name": "input", "datatype": "UINT8", "shape": [*x.shape], "parameters": {"binary_data_size": x.nbytes}}
        text = json.dumps({"inputs": [tensor], "outputs": [{"name": "scores", "parameters": {"binary_data": True}}]}).encode()
        return text + x.tobytes(), {"Inference-Header-Content-Length": str(len(text))}

    # ------------------------------------------------------------ who asks

    def steady(self, random: random.Random) -> None:
        """Asks without a pause, on one connection."""
        connection = self.connect()
        while not self.stop.is_set():
            rows = random.choice(list(self.rows))
            body, headers = self.request(rows)
            connection.request("POST", "/v2/models/network/infer", body, headers)
            answer = connection.getresponse()
            content = answer.read()
            self.counts[f"steady {answer.status}"] += 1
            if answer.status == 200:
                at = int(answer.headers["Inference-Header-Content-Length"])
                version = json.loads(content[:at])["model_version"]
                self.counts[f"version {self.versions.index(version)}"] += 1
                if content[at:] != self.want[version, rows]:
                    self.wrong.append(f"scores of version {version} differ")
            elif answer.status != 503:
                self.wrong.append(f"steady: {answer.status} {content[:200]!r}")
        connection.close()

    def in_json(self, random: random.Random) -> None:
        """The same in JSON, each on a connection of its own."""
        connection = self.connect()
        tensor = {"name": "input", "datatype": "UINT8", "shape": [2, WIDTHS[0]], "data": self.rows[2].ravel().tolist()}
        connection.request("POST", "/v2/models/network/infer", json.dumps({"inputs": [tensor]}).encode())
        answer = connection.getresponse()
        content = json.loads(answer.read())
        self.counts[f"JSON {answer.status}"] += 1
        if answer.status == 200:
            scores = np.array(content["outputs"][0]["data"], np.float32).tobytes()
            if scores != self.want[content["model_version"], 2]:
                self.wrong.append("scores in JSON differ")
        elif answer.status != 503:
            self.wrong.append(f"JSON: {answer.status} {content}")
        connection.close()

    def malformed(self, random: random.Random) -> None:
        """Good requests with some bytes changed, cut or doubled."""
        body, headers = self.request(7)
        changed = bytearray(body)
        for _ in range(random.randint(1, 5)):
            changed[random.randrange(200)] = random.randrange(256)
        if random.random() < 0.5:
            changed = changed[: random.randrange(len(changed))]
        connection = self.connect()
        connection.request("POST", "/v2/models/network/infer", bytes(changed), headers)
        answer = connection.getresponse()
        content = answer.read()
        self.counts[f"malformed {answer.status}"] += 1
        if answer.status not in (200, 400, 413, 503):
            self.wrong.append(f"malformed: {answer.status} {content[:200]!r}")
        if answer.status >= 400 and list(json.loads(content)) != ["error"]:
            self.wrong.append(f"malformed: no error of the protocol {content[:200]!r}")
        connection.close()

    def oversized(self, random: random.Random) -> None:
        """More than is taken, announced or in pieces."""
        connection = self.connect()
        body: Any = bytes(2 * BODY)
        if random.random() < 0.5:
            body = iter([bytes(1 << 16)] * (2 * BODY >> 16))
        connection.request("POST", "/v2/models/network/infer", body)
        answer = connection.getresponse()
        answer.read()
        self.counts[f"oversized {answer.status}"] += 1
        if answer.status not in (413, 503):
            self.wrong.append(f"oversized: {answer.status}")
        connection.close()

    def leaving(self, random: random.Random) -> None:
        """Closes in the head, in the body, or before the answer."""
        body, headers = self.request(64)
        head = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": str(len(body))}.items())
        whole = f"POST /v2/models/network/infer HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(whole[: random.choice([20, 150, len(whole) // 2, len(whole)])])
            if random.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset
        self.counts["left"] += 1
        time.sleep(0.01)  # without, those who leave fill the queue of new connections for everyone

    def slow(self, random: random.Random) -> None:
        """A byte now and then; the server ends it in time."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(b"POST /v2/models/network/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n")
            begin = time.monotonic()
            answer = b""
            while not answer and time.monotonic() - begin < 10 * TIMEOUT:
                with contextlib.suppress(OSError):
                    connection.sendall(b"{")
                connection.settimeout(0.2)
                with contextlib.suppress(TimeoutError):
                    answer = connection.recv(1000)
        self.counts[f"slow {answer[9:12].decode()}"] += 1
        if answer[9:12] not in (b"408", b"503"):
            self.wrong.append(f"slow: {answer[:200]!r} after {time.monotonic() - begin:.1f} s")

    def replacing(self, random: random.Random) -> None:
        """The file becomes the other one, in one step or in place, or something broken."""
        time.sleep(1)
        content = random.choice(self.files)
        if random.random() < 0.3:
            content = content[: random.randrange(len(content))]
        if random.random() < 0.5:
            part = self.path.with_suffix(".part")
            part.write_bytes(content)
            part.replace(self.path)
        else:
            self.path.write_bytes(content)
        self.counts["files"] += 1

    # ------------------------------------------------------------ all of them

    def run(self, seconds: float, steady: int, rss: Callable[[], int]) -> list[int]:
        """RSS over time, from after the first fifth on."""

        def once(work: Callable[[random.Random], None], chance: random.Random) -> None:
            try:
                work(chance)
            except Exception as error:
                self.wrong.append(f"{work.__name__}: {type(error).__name__}: {error}")
                time.sleep(0.1)

        def again(work: Callable[[random.Random], None], seed: int) -> None:
            chance = random.Random(seed)
            while not self.stop.is_set():
                once(work, chance)

        others = [
            self.in_json,
            self.malformed,
            self.malformed,
            self.oversized,
            self.leaving,
            self.slow,
            self.slow,
            self.replacing,
        ]
        works = [*[self.steady] * steady, *others]
        threads = [threading.Thread(target=again, args=(work, seed)) for seed, work in enumerate(works)]
        for thread in threads:
            thread.start()
        begin, measured = time.monotonic(), []
        while (passed := time.monotonic() - begin) < seconds:
            time.sleep(min(1.0, seconds / 20))
            if passed > seconds / 5:
                measured.append(rss())
        self.stop.set()
        for thread in threads:
            thread.join()
        return measured


def resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=16, help="that ask without a pause")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port, path = free_port(), folder / "network.safetensors"
        soak = Soak(port, path)
        command = [sys.executable, "-m", "xnorinfer", "serve", str(path), "--port", str(port), "--timeout", str(TIMEOUT)]
        command += ["--max-body", str(BODY), "--reload", "0.2", "--threads", "1"]
        url = f"http://127.0.0.1:{port}/v2/health/ready"
        running = stack.enter_context(process(command, url))
        measured = soak.run(options.seconds, options.clients, lambda: resident(running.pid))
        time.sleep(1)
        connection = soak.connect()
        connection.request("GET", "/metrics")
        metrics = connection.getresponse().read().decode()
        connection.close()
    pending = float(re.findall(r"^xnorinfer_pending_requests (\S+)$", metrics, re.MULTILINE)[0])
    reloads = re.findall(r'^xnorinfer_reloads_total\{\S*result="(\w+)"\} (\S+)$', metrics, re.MULTILINE)
    fifth = max(1, len(measured) // 5)
    growth = float(np.median(measured[-fifth:]) - np.median(measured[:fifth]))
    print(json.dumps(dict(sorted(soak.counts.items())), indent=1))
    print(f"reloads: {dict(reloads)}; pending at the end: {pending:.0f}; exit code {running.returncode}")
    print(f"RSS: {measured[0] / 1e6:.1f} MB at first, {measured[-1] / 1e6:.1f} MB at the end, grown by {growth / 1e6:.1f} MB")
    problems = [f"{count} x {text}" for text, count in Counter(soak.wrong).most_common(20)]
    problems += ["requests are pending"] if pending else []
    problems += [f"memory grew by {growth / 1e6:.1f} MB"] if growth > MOST_GROWTH else []
    problems += [f"the server ended with {running.returncode}"] if running.returncode else []
    print("\n".join(problems) or "as it should be")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
