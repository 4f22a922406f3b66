"""`xnorinfer serve` in its own process: uvicorn, sockets, signals, several processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from in_process import LENGTH, binary_request
from places import ROOT
from servers import COMMAND, Running, save
from test_serve_protocol import GOOD

import xnorinfer
from xnorinfer.serve import PACKAGES

X = np.arange(320, dtype=np.uint8).reshape(5, 64)
Start = Callable[..., Running]

posix = pytest.mark.skipif(os.name != "posix", reason="signals and forked processes of POSIX")


def raw(running: Running) -> socket.socket:
    host, _, port = running.address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=30)


def received(connection: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def head(length: int | None, path: str = "/v2/models/net/infer", method: str = "POST", **headers: str) -> bytes:
    more = {"Host": "x", "Content-Length": str(length), **headers} if length is not None else {"Host": "x", **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in more.items()), "", ""]
    return "\r\n".join(lines).encode()


def scores(running: Running, x: np.ndarray[Any, Any]) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    text = json.dumps(binary_request(x, outputs=[{"name": "scores"}])).encode()
    status, headers, body = running.request("/v2/models/net/infer", text + x.tobytes(), **{LENGTH: str(len(text))})
    assert status == 200, body
    at = int(headers[LENGTH.lower()])
    return json.loads(body[:at]), np.frombuffer(body[at:], np.float32).reshape(len(x), -1)


# ---------------------------------------------------------------- one process


def test_every_verb_of_a_client_of_others(start: Start, model: Path, folder: Path) -> None:
    triton = pytest.importorskip("tritonclient.http", reason="pip install 'tritonclient[http]'")
    utils = pytest.importorskip("tritonclient.utils")
    running = start(f"net={model}", folder / "reals.safetensors", folder / "signs.safetensors", "--reload", "0.05")
    with triton.InferenceServerClient(running.address, concurrency=4) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        for name in ("net", "reals", "signs"):
            about = client.get_model_metadata(name)
            (version,) = about["versions"]
            assert client.get_model_metadata(name, version) == about
            assert client.is_model_ready(name)
            assert client.is_model_ready(name, version)
            own = xnorinfer.load(model if name == "net" else folder / f"{name}.safetensors")
            datatype = about["inputs"][0]["datatype"]
            x = (X - 100).astype({"UINT8": np.uint8, "INT8": np.int8, "FP32": np.float32}[datatype])
            x = np.where(x > 0, 1, -1).astype(np.int8) if datatype == "INT8" else x
            for there in (True, False):
                tensor = triton.InferInput("input", x.shape, datatype)
                tensor.set_data_from_numpy(x, binary_data=there)
                for back in (True, False):
                    wanted = [triton.InferRequestedOutput(one, binary_data=back) for one in ("classes", "scores", "margins")]
                    result = client.infer(name, [tensor], version, wanted, request_id="r1")
                    assert result.get_response()["id"] == "r1"
                    assert np.array_equal(result.as_numpy("scores"), own.scores(x))
                    assert np.array_equal(result.as_numpy("classes"), own.predict(x))
                    assert np.array_equal(result.as_numpy("margins")[:, 0], own.margins(x).layers[0].smallest)
                usual = client.infer(name, [tensor])
                assert usual.as_numpy("scores").dtype == np.float32
                waiting = [client.async_infer(name, [tensor]) for _ in range(8)]
                assert all(np.array_equal(one.get_result().as_numpy("scores"), own.scores(x)) for one in waiting)
        assert not client.is_model_ready("other")
        assert not client.is_model_ready("net", "1")
        for wrong in (lambda: client.get_model_metadata("other"), lambda: client.infer("other", [tensor])):
            with pytest.raises(utils.InferenceServerException, match=r"\[404\] there is no model 'other'"):
                wrong()
        with pytest.raises(utils.InferenceServerException, match=r"\[400\] input has the datatype 'INT8'"):
            client.infer("net", [tensor])
        with pytest.raises(utils.InferenceServerException, match=r"\[415\] the body has the encoding 'gzip'"):
            client.infer("signs", [tensor], request_compression_algorithm="gzip")
        # A file that changes under a client that stays connected.
        before = client.get_model_metadata("net")["versions"]
        other = xnorinfer.load(save(model, 9))
        running.wait_for("model reloaded")
        assert client.get_model_metadata("net")["versions"] != before
        tensor = triton.InferInput("input", X.shape, "UINT8")
        tensor.set_data_from_numpy(X)
        assert np.array_equal(client.infer("net", [tensor]).as_numpy("scores"), other.scores(X))


def test_bodies_in_pieces_and_connections_that_stay(start: Start, model: Path) -> None:
    running = start(model, "--max-body", "20000")
    want = xnorinfer.load(model).scores(X)
    host, _, port = running.address.rpartition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    text = json.dumps(binary_request(X, outputs=[{"name": "scores"}])).encode()
    body = text + X.tobytes()
    for _ in range(3):
        connection.request("POST", "/v2/models/net/infer", iter([body[:7], body[7:60], body[60:]]), {LENGTH: str(len(text))})
        answer = connection.getresponse()
        content = answer.read()
        at = int(answer.headers[LENGTH])
        assert np.array_equal(np.frombuffer(content[at:], np.float32).reshape(5, -1), want)
        # Too much, in pieces and announced: an answer, though more of the body is still to come.
        for large in (iter([b"0" * 999] * 40), b"0" * 40_000):
            connection.request("POST", "/v2/models/net/infer", large)
            answer = connection.getresponse()
            assert answer.status == 413
            assert "this server takes 20000" in json.loads(answer.read())["error"]
    connection.close()
    assert running.end() == 0


def test_answers_without_a_body_and_bodies_that_wait_for_a_word(start: Start, model: Path) -> None:
    """Heads of answers wait for their bodies, but not for ever."""
    running = start(model)
    with raw(running) as connection, connection.makefile("rb") as answers:

        def answered() -> tuple[bytes, dict[bytes, bytes]]:
            status, *lines = iter(answers.readline, b"\r\n")
            return status, dict(line.rstrip().split(b": ") for line in lines)

        for _ in range(2):
            connection.sendall(head(None, "/v2/health/live", "HEAD"))
            status, headers = answered()
            assert status.startswith(b"HTTP/1.1 200")
            assert int(headers[b"content-length"]) > 0
            connection.sendall(head(64, **{"Expect": "100-continue", LENGTH: "0"}))
            assert answered()[0].startswith(b"HTTP/1.1 100")
            connection.sendall(X[:1].tobytes())
            status, headers = answered()
            assert status.startswith(b"HTTP/1.1 200")
            assert json.loads(answers.read(int(headers[b"content-length"])))["outputs"][0]["shape"] == [1, 5]
        connection.sendall(b"nonsense\r\n\r\n")
        assert answered()[0].startswith(b"HTTP/1.1 400")
        answers.read()  # up to the end of the connection


def test_a_client_that_sends_too_much_and_wants_no_more_gets_its_answer(start: Start, model: Path) -> None:
    running = start(model)
    with raw(running) as connection:
        connection.sendall(head(64 << 20, Connection="close"))
        for _ in range(64):
            connection.sendall(bytes(1 << 20))
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 413")
    assert answer.count(b"HTTP/1.1") == 1
    with raw(running) as connection:  # who sends no more is not waited for longer than 10 s
        connection.sendall(head(64 << 20, Connection="close"))
        begin = time.monotonic()
        assert received(connection).startswith(b"HTTP/1.1 413")
        assert time.monotonic() - begin < 60
    assert running.end() == 0


def test_clients_that_are_slow_or_leave_keep_nobody_waiting(start: Start, model: Path) -> None:
    running = start(model, "--timeout", "3")
    slow, left, cut = raw(running), raw(running), raw(running)
    slow.sendall(head(1000) + b"{")
    left.sendall(head(1000) + b'{"inputs"')
    left.close()
    cut.sendall(head(40)[:20])
    assert scores(running, X)[1].shape == (5, 5)
    answer = received(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error": "the request was not complete within 3 s"}')
    slow.close()
    running.wait_for("request", count=3)
    statuses = sorted(line["status"] for line in running.lines if line["event"] == "request")
    assert statuses == [200, 408, 499]
    metrics = running.request("/metrics")[2].decode()
    assert "xnorinfer_pending_requests 0.0" in metrics
    assert received(cut) == b""  # after 10 s without the rest of its head
    cut.close()


def send_only(connection: socket.socket, requests: bytes, seconds: float) -> None:
    """Send again and again without reading, until the other side ends it."""
    connection.setblocking(False)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            connection.send(requests)
        time.sleep(0.02)


def test_connections_with_very_many_requests_are_cut(start: Start, model: Path) -> None:
    """Each request takes memory, and costs who sends it 40 bytes."""
    running = start(model)
    with raw(running) as connection:
        last = head(0, "/v2/health/live", method="GET", Connection="close")
        connection.sendall(head(0, "/v2/health/live", method="GET") * 89 + last)
        assert received(connection).count(b'{"live": true}') == 90
    with raw(running) as connection, pytest.raises(ConnectionError):
        send_only(connection, head(None, "/page.js", method="GET") * 5000, 30)
    assert scores(running, X)[1].shape == (5, 5)
    assert running.end() == 0


@pytest.mark.long
def test_clients_that_do_not_read_are_cut(start: Start, model: Path) -> None:
    """They ask for more than all buffers between hold, and take nothing."""
    running = start(model, "--timeout", "1")
    scores(running, X)
    time.sleep(0.1)
    rows = bytes(64 * 2000)
    descriptors = Path(f"/proc/{running.process.pid}/fd")
    before = len(list(descriptors.iterdir())) if descriptors.exists() else 0
    with raw(running) as connection, pytest.raises(ConnectionError):
        send_only(connection, head(len(rows), **{LENGTH: "0"}) + rows, 60)
    if descriptors.exists():
        assert len(list(descriptors.iterdir())) <= before
    assert scores(running, X)[1].shape == (5, 5)
    begin = time.monotonic()
    assert running.end() == 0
    assert time.monotonic() - begin < 60


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes as Linux sets them")
def test_more_connections_than_it_may_have_end_nothing(start: Start, model: Path) -> None:
    import resource

    running = start(model)
    scores(running, X)
    resource.prlimit(running.process.pid, resource.RLIMIT_NOFILE, (60, 60))
    opened = [raw(running) for _ in range(150)]
    time.sleep(0.5)
    for connection in opened:
        connection.close()
    for _ in range(100):
        with contextlib.suppress(OSError):  # until those that waited are gone
            assert scores(running, X)[1].shape == (5, 5)
            break
        time.sleep(0.1)
    assert scores(running, X)[1].shape == (5, 5)
    assert running.end() == 0


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", head(None, **{"Content-Length": "x"}), b"\x00" * 5000]
)
def test_what_is_no_http_is_answered_and_ends(start: Start, model: Path, garbage: bytes) -> None:
    running = start(model)
    with raw(running) as connection:
        connection.sendall(garbage)
        answer = received(connection)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert scores(running, X)[1].shape == (5, 5)


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_accepted_is_answered_before_the_end(start: Start, model: Path, number: signal.Signals, workers: int) -> None:
    running = start(model, "--workers", workers)
    want = xnorinfer.load(model).scores(X)
    host, _, port = running.address.rpartition(":")
    text = json.dumps(binary_request(X, outputs=[{"name": "scores"}])).encode()
    answered = [0] * 8
    wrong: list[str] = []

    def ask(index: int) -> None:
        """Until the server takes no connection any more.  What it had not begun to read when it ended has no answer, which is
        seen here as an error of the connection and not at all there."""
        while True:
            with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
                try:
                    connection.connect()
                except OSError:
                    return
                while True:
                    try:
                        connection.request("POST", "/v2/models/net/infer", text + X.tobytes(), {LENGTH: str(len(text))})
                        answer = connection.getresponse()
                        content = answer.read()
                    except (OSError, http.client.HTTPException):
                        break
                    at = int(answer.headers.get(LENGTH, 0))
                    if answer.status != 200 or not np.array_equal(np.frombuffer(content[at:], np.float32).reshape(5, -1), want):
                        wrong.append(f"{answer.status} {content!r}")
                    answered[index] += 1
                    if answer.headers.get("connection") == "close":
                        break

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    while min(answered) < 5:
        time.sleep(0.02)
    body = json.dumps(GOOD).encode()
    with raw(running) as slow:
        slow.sendall(head(len(body), Expect="100-continue"))
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 100 ")  # it has begun to read
        slow.sendall(body[:10])
        running.process.send_signal(number)
        time.sleep(0.5)
        slow.sendall(body[10:])
        answer = received(slow)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
    assert running.end() == 0
    for thread in threads:
        thread.join()
    assert wrong == []
    assert running.wait_for("ended")
    assert not any(line["event"] == "text" for line in running.lines), running.lines
    statuses = [line["status"] for line in running.lines if line["event"] == "request"]
    assert statuses == [200] * (sum(answered) + 1)


@posix
def test_a_client_at_work_is_told_of_the_end_by_an_answer(start: Start, model: Path) -> None:
    """Its connection would else be closed between two requests, which it sees as an error."""
    running = start(model, before="from xnorinfer.serve import running; running.LAST_ANSWER = 600.0")
    host, _, port = running.address.rpartition(":")
    with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection, raw(running) as silent:
        connection.request("POST", "/v2/models/net/infer", json.dumps(GOOD).encode())
        connection.getresponse().read()
        running.process.send_signal(signal.SIGTERM)
        while running.request("/v2/health/ready")[0] == 200:
            time.sleep(0.01)
        time.sleep(0.3)  # more than the others have
        connection.request("POST", "/v2/models/net/infer", json.dumps(GOOD).encode())
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["connection"] == "close"
        assert received(silent) == b""
    assert running.end() == 0


@posix
def test_processes_share_a_port_and_are_replaced(start: Start, model: Path) -> None:
    running = start(model, "--workers", 2, "--reload", "0.05", "--threads", 1, environment={"TMPDIR": str(model.parent)})
    (folder,) = model.parent.glob("xnorinfer-serve-*")
    first = xnorinfer.load(model)

    def ask(times: int) -> set[bytes]:
        return {scores(running, X)[1].tobytes() for _ in range(times)}

    assert ask(40) == {first.scores(X).tobytes()}
    metrics = running.request("/metrics")[2].decode()
    assert 'xnorinfer_requests_total{model="net"} 40.0' in metrics
    assert "xnorinfer_pending_requests 0.0" in metrics
    second = xnorinfer.load(save(model, 9))
    running.wait_for("model reloaded", count=2)
    assert ask(20) == {second.scores(X).tobytes()}
    model.write_bytes(b"broken")
    running.wait_for("model not reloaded, the old one serves on", count=2)
    assert ask(20) == {second.scores(X).tobytes()}
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    if children.exists():
        save(model, 9)
        killed = int(children.read_text().split()[0])
        os.kill(killed, signal.SIGKILL)
        line = running.wait_for("process ended, another one starts")
        assert (line["process"], line["status"]) == (killed, -signal.SIGKILL)
        running.wait_for("model reloaded", count=4)  # by the new one, which began with the first model, and by the other
        assert ask(20) == {second.scores(X).tobytes()}
    assert running.end() == 0
    assert not folder.exists()


# ---------------------------------------------------------------- wrong use


def test_wrong_use_is_one_line(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = command_line.wrong("serve", model, "--port", port)
        assert f"cannot listen at 127.0.0.1, port {port}: Address already in use; --port chooses another, 0 any" in text
    assert "no address to listen at" in command_line.wrong("serve", model, "--host", "no such host")
    assert "no such file, and no model that ships" in command_line.wrong("serve", tmp_path / "none", "--port", 0)
    assert "two models are called net; give one another name: NAME=" in command_line.wrong("serve", model, f"net={model}")
    assert "cannot be the name of a model" in command_line.wrong("serve", tmp_path / "a b")
    assert "holds no token" in command_line.wrong("serve", model, "--token-file", os.devnull)
    assert "finite number of seconds" in command_line.wrong("serve", model, "--timeout", "inf")
    (tmp_path / "broken").write_bytes(bytes(100))
    assert "not an xnorinfer model, or truncated" in command_line.wrong("serve", tmp_path / "broken", "--port", 0)


def test_a_missing_package_is_named(model: Path) -> None:
    for package in PACKAGES:
        module = package.replace("-", "_")
        code = (
            "import sys\n"
            f"sys.modules[{module!r}] = None\n"
            "import importlib.util as util\n"
            "find = util.find_spec\n"
            f"util.find_spec = lambda name, *more: None if name == {module!r} else find(name, *more)\n"
            "from xnorinfer.cli import main\n"
            f"main(['serve', {str(model)!r}])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == f"error: serving models needs the package {package}: pip install 'xnorinfer[serve]'\n"


def test_nothing_of_it_is_imported_without_being_asked_for() -> None:
    code = (
        "import sys, xnorinfer\n"
        "xnorinfer.load('mnist-784-1024x3')\n"
        "from xnorinfer.cli import main\n"
        "main.main(['--help'], standalone_mode=False)\n"
        "main.main(['serve', '--help'], standalone_mode=False)\n"
        "print('imported', *{'starlette', 'uvicorn', 'prometheus_client', 'asyncio', 'xnorinfer.serve'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported"
    assert subprocess.run([COMMAND, "serve"], capture_output=True, text=True, check=False).returncode == 2


# ---------------------------------------------------------------- long


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory as Linux counts it")
def test_processes_share_what_their_models_hold(start: Start, tmp_path: Path) -> None:
    model = save(tmp_path / "net.safetensors", 1, "range", (64, 8192, 8192, 10))
    assert model.stat().st_size > 8e6
    running = start(model, "--workers", 3, "--threads", 1)
    x = np.zeros((1, 64), np.uint8)
    for _ in range(60):
        scores(running, x)
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children").read_text().split()
    assert len(children) == 3
    for child in children:
        lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()[1:]
        kilobytes = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        # Neither the file's 8 MB nor the kernel's layout of them.
        assert kilobytes["Private_Clean"] + kilobytes["Private_Dirty"] < 15_000, kilobytes


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is full")
def test_a_log_on_a_full_disk_stops_nothing(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    command = [COMMAND, "serve", str(model), "--port", str(port), "--reload", "0"]
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=full)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            time.sleep(0.05)
        for _ in range(5):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("POST", "/v2/models/net/infer", json.dumps(GOOD).encode())
            assert connection.getresponse().status == 200
            connection.close()
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.long
def test_the_soak_for_some_seconds() -> None:
    command = [sys.executable, "-m", "benchmarks.soak", "--seconds", "20", "--clients", "8"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "as it should be" in done.stdout
