"""What every request to a server has: an id, a log line, numbers, a token if wanted, limits; and the page."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import asked, binary_request
from test_serve_protocol import GOOD, require_error

from xnorinfer.serve import application
from xnorinfer.serve.batching import Batcher
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.telemetry import Log

X = np.zeros((3, 64), np.uint8)


def test_every_answer_has_the_id_of_its_request(model: Path) -> None:
    with asked({"net": model}) as server:
        own = server.infer("net", GOOD, **{"x-request-id": "trace-1/a"}).headers["x-request-id"]
        assert own == "trace-1/a"
        made = {server.infer("net", GOOD).headers["x-request-id"] for _ in range(20)}
        assert len(made) == 20
        for wrong in ("a b", "x" * 129, 'a"b', ""):
            assert re.fullmatch("[0-9a-f]{16}", server.infer("net", GOOD, **{"x-request-id": wrong}).headers["x-request-id"])


def test_requests_have_log_lines(model: Path) -> None:
    with asked({"net": model}) as server:
        server.infer("net", binary_request(X), X.tobytes(), **{"x-request-id": "first"})
        server.client.get("/v2/health/live")
        server.infer("net", {}, **{"x-request-id": "second"})
        server.client.get("/v2/models/other")
        version = server.application.repository.served["net"].version
    good, wrong, other = server.lines
    assert good["event"] == "request"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", good["time"])
    assert (good["id"], good["status"], good["model"], good["version"], good["rows"]) == ("first", 200, "net", version, 3)
    assert good["milliseconds"] >= good["engine_milliseconds"] > 0
    assert (wrong["id"], wrong["status"], wrong["reason"]) == ("second", 400, "the request has no inputs")
    assert (other["method"], other["path"], other["status"]) == ("GET", "/v2/models/other", 404)


def test_a_log_can_leave_out_what_went_well(model: Path) -> None:
    with asked({"net": model}) as server:
        server.application.log.requests = False
        server.infer("net", GOOD)
        server.infer("net", {})
    assert [line["status"] for line in server.lines] == [400]


class Stuck(io.StringIO):
    """A reader that takes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    def write(self, text: str) -> int:
        self.free.wait(30)
        return super().write(text)


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    stream = Stuck()
    log = Log(stream)
    log.GATHER = 0.001

    async def run() -> None:
        log.start()
        for number in range(2 * log.MOST):
            log("event", number=number)
            log._flush()
        stream.free.set()
        while not log._written.empty():
            await asyncio.sleep(0.01)
        log("last")
        log.stop()

    asyncio.run(run())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    dropped = [line["count"] for line in lines if line["event"] == "lines dropped"]
    assert sum(dropped) > 0
    assert sum(dropped) + len(lines) - len(dropped) - 1 == 2 * log.MOST
    assert any(line["event"] == "last" for line in lines)


def test_a_log_without_a_reader_stops_nothing() -> None:
    stream = io.StringIO()
    stream.close()
    Log(stream)("event")


def sample(text: str, name: str) -> float:
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(value)


def test_numbers_for_prometheus(model: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    with asked({"net": model, "other": model}) as server:
        for _ in range(3):
            server.infer("net", binary_request(X), X.tobytes())
        server.infer("net", {})
        server.infer("nobody", GOOD)
        answer = server.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = {family.name for family in parser.text_string_to_metric_families(answer.text)}
    assert {"xnorinfer_requests", "xnorinfer_request_errors", "process_resident_memory_bytes"} <= families
    text = answer.text
    assert sample(text, 'xnorinfer_requests_total{model="net"}') == 4
    assert sample(text, 'xnorinfer_request_errors_total{model="net",status="400"}') == 1
    assert sample(text, 'xnorinfer_request_errors_total{model="",status="404"}') == 1
    assert sample(text, 'xnorinfer_request_seconds_count{model="net"}') == 4
    assert sample(text, 'xnorinfer_batch_rows_sum{model="net"}') == 9
    assert sample(text, 'xnorinfer_engine_seconds_count{model="net"}') == 3
    assert sample(text, "xnorinfer_pending_requests") == 0


def test_who_has_an_answer_finds_it_counted(model: Path) -> None:
    """Also by another process that shares the port: what is counted later would be missing there."""
    with asked({"net": model}) as server:
        counted: list[tuple[float, float]] = []

        async def ask(body: bytes) -> None:
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v2/models/net/infer",
                "headers": [(b"content-length", b"%d" % len(body))],
            }

            async def receive() -> dict[str, Any]:
                return {"type": "http.request", "body": body}

            async def send(message: Any) -> None:
                if message["type"] == "http.response.body":
                    text = server.application.metrics.text().decode()
                    requests, pending = 'xnorinfer_requests_total{model="net"}', "xnorinfer_pending_requests"
                    counted.append((sample(text, requests), sample(text, pending)))

            await server.application(scope, receive, send)

        for body in (json.dumps(GOOD).encode(), b"{}"):
            server.client.portal.call(ask, body)
        assert counted == [(1, 0), (2, 0)]


def test_a_token_is_wanted_of_everybody_but_probes_and_the_page(model: Path) -> None:
    with asked({"net": model}, tokens=(b"one", b"two")) as server:
        get = server.client.get
        for path in ("/v2/health/live", "/v2/health/ready", "/", "/page.js", "/page.css"):
            assert get(path).status_code == 200
        for path in ("/v2", "/v2/models", "/v2/models/net", "/metrics", "/nothing"):
            require_error(get(path), 401, "this server wants a token: Authorization: Bearer TOKEN")
            assert get(path).headers["www-authenticate"] == "Bearer"
        for wrong in ("Bearer on", "Bearer one two", "Basic one", "Bearer", "one", "Bearer \u00fc"):
            require_error(get("/v2", headers={"authorization": wrong.encode()}), 401, "the token is not right")
        require_error(server.infer("net", GOOD), 401, "this server wants a token")
        for right in ("Bearer one", "bearer two", "Bearer  two "):
            assert get("/v2", headers={"authorization": right}).status_code == 200
        assert server.infer("net", GOOD, authorization="Bearer one").status_code == 200
    assert not any("one" in json.dumps(line) for line in server.lines if line["status"] == 401)


def test_tokens_are_compared_in_constant_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    compare = application.hmac.compare_digest

    def watched(a: Any, b: Any) -> bool:
        compared.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(application.hmac, "compare_digest", watched)
    with asked({"net": model}, tokens=(b"one", b"two" * 40)) as server:
        for token in ("one", "o", "x" * 5000):
            server.client.get("/v2", headers={"authorization": f"Bearer {token}"})
    assert compared == [(32, 32)] * 6


def test_a_defect_is_an_error_of_the_protocol_and_the_server_goes_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with asked({"net": model}) as server:
        with monkeypatch.context() as patched:
            patched.setattr(Batcher, "_run", lambda self, batch: 1 / 0)
            require_error(server.infer("net", GOOD), 500, "internal error, a defect of xnorinfer")

            def exhausted(batch: Any) -> None:
                raise MemoryError

            patched.setattr(Batcher, "_run", staticmethod(exhausted))
            require_error(server.infer("net", GOOD), 503, "there is not enough memory for this request")
            patched.setattr(application, "parse", None)
            require_error(server.infer("net", GOOD), 500, "internal error")
        assert server.infer("net", GOOD).status_code == 200
        assert sample(server.client.get("/metrics").text, "xnorinfer_pending_requests") == 0
    first, _, second, good = server.lines
    assert "ZeroDivisionError" in first["traceback"]
    assert "TypeError" in second["traceback"]
    assert "traceback" not in good


def test_no_answer_in_time_is_an_error_of_the_protocol(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = threading.Event()
    run = Batcher._run

    def wait(batch: Any) -> None:
        held.wait(30)
        run(batch)

    with asked({"net": model}, Limits(seconds=0.2)) as server:
        with monkeypatch.context() as patched:
            patched.setattr(Batcher, "_run", staticmethod(wait))
            require_error(server.infer("net", GOOD), 504, "there was no answer within 0.2 s")
            held.set()
        server.application.limits = Limits()
        assert server.infer("net", GOOD).status_code == 200


@pytest.mark.parametrize("limits", [Limits(queue=2), Limits(pending=3 * len(json.dumps(GOOD)))])
def test_what_finds_no_room_is_told_to_come_again(model: Path, monkeypatch: pytest.MonkeyPatch, limits: Limits) -> None:
    begun, held = threading.Event(), threading.Event()
    run = Batcher._run

    def wait(batch: Any) -> None:
        begun.set()
        held.wait(30)
        run(batch)

    answers: list[Any] = []
    with asked({"net": model}, limits) as server:
        threads = [threading.Thread(target=lambda: answers.append(server.infer("net", GOOD))) for _ in range(10)]
        with monkeypatch.context() as patched:
            patched.setattr(Batcher, "_run", staticmethod(wait))
            threads[0].start()
            assert begun.wait(30)  # the engine has the first one, and room is for two more
            for thread in threads[1:]:
                thread.start()
            deadline = time.monotonic() + 25
            while len(answers) < 7 and time.monotonic() < deadline:
                time.sleep(0.01)
            held.set()
            for thread in threads:
                thread.join()
        refused = [answer for answer in answers if answer.status_code != 200]
        assert len(refused) == 7
        for answer in refused:
            require_error(answer, 503, "wait")
            assert answer.headers["retry-after"] == "1"
        assert server.infer("net", GOOD).status_code == 200


def test_a_server_that_ends_is_not_ready(model: Path) -> None:
    with asked({"net": model}) as server:
        server.application.stopping = True
        for path in ("/v2/health/ready", "/v2/models/net/ready"):
            answer = server.client.get(path)
            assert answer.status_code == 503
            assert answer.json()["ready"] is False
            assert answer.headers["connection"] == "close"
        assert server.client.get("/v2/health/live").status_code == 200
        assert server.infer("net", GOOD).status_code == 200


def test_the_page_asks_nobody_else(model: Path) -> None:
    with asked({"net": model}) as server:
        texts = {}
        for path in ("/", "/page.css", "/page.js"):
            answer = server.client.get(path)
            texts[path] = answer.text
            assert answer.status_code == 200
            assert answer.headers["content-type"].endswith("; charset=utf-8")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; ")
            assert "unsafe" not in answer.headers["content-security-policy"]
    for text in texts.values():
        assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text)
    assert set(re.findall(r'(?:href|src)="([^"#]+)"', texts["/"])) == {"data:,", "/page.css", "/page.js"}
    assert not re.search(r"<[^>]+\s(?:style|on\w+)=", texts["/"])  # which the policy forbids
    labelled = set(re.findall(r'<label for="(\w+)"', texts["/"]))
    inputs = set(re.findall(r'<(?:input|select) id="(\w+)"', texts["/"]))
    within = set(re.findall(r'<label><input id="(\w+)"', texts["/"]))
    assert inputs == labelled | within
    ids = set(re.findall(r'\bid="([\w-]+)"', texts["/"]))
    assert set(re.findall(r'by\("([\w-]+)"\)', texts["/page.js"])) <= ids


def test_other_than_http_is_let_alone(model: Path) -> None:
    with asked({"net": model}) as server:
        disconnect = pytest.importorskip("starlette.websockets").WebSocketDisconnect
        with pytest.raises(disconnect), contextlib.ExitStack() as stack:
            stack.enter_context(server.client.websocket_connect("/v2"))
