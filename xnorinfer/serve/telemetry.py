"""What a server tells about itself: numbers for Prometheus, and log lines, a JSON object each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import threading
import time
import traceback
from typing import Any, TextIO

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from xnorinfer.serve.workers import SHARED_NUMBERS

_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics:
    """The numbers of a server."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        share = {"registry": self._registry}
        self._requests = Counter("xnorinfer_requests", "Requests for inference.", ["model"], **share)
        self._errors = Counter("xnorinfer_request_errors", "Those answered with an error.", ["model", "status"], **share)
        self._latency = Histogram(
            "xnorinfer_request_seconds", "From a request's head to its answer.", ["model"], buckets=_SECONDS, **share
        )
        self._rows = Histogram("xnorinfer_batch_rows", "Samples computed at once.", ["model"], buckets=_ROWS, **share)
        self._engine = Histogram(
            "xnorinfer_engine_seconds", "The engine's time for a batch.", ["model"], buckets=_SECONDS, **share
        )
        self._reloads = Counter("xnorinfer_reloads", "Model files that changed.", ["model", "result"], **share)
        self.pending = Gauge(
            "xnorinfer_pending_requests", "Requests that are read, wait or are computed.", multiprocess_mode="livesum", **share
        )
        self._known: dict[tuple[Any, str], Any] = {}
        if SHARED_NUMBERS not in os.environ:
            ProcessCollector(registry=self._registry)

    def _of(self, family: Any, model: str) -> Any:
        """The numbers of a model; `labels` takes longer than counting does."""
        found = self._known.get((family, model))
        if found is None:
            found = self._known[family, model] = family.labels(model)
        return found

    def request(self, model: str, status: int, seconds: float) -> None:
        """One request for inference was answered."""
        self._of(self._requests, model).inc()
        self._of(self._latency, model).observe(seconds)
        if status >= 400:
            self._errors.labels(model, str(status)).inc()

    def batch(self, model: str, rows: int, seconds: float) -> None:
        """The engine computed a batch."""
        self._of(self._rows, model).observe(rows)
        self._of(self._engine, model).observe(seconds)

    def reload(self, model: str, result: str) -> None:
        """A changed file was loaded ("loaded"), or was not ("refused")."""
        self._reloads.labels(model, result).inc()

    def text(self) -> bytes:
        """All numbers, of all processes that share the port, in Prometheus' text format."""
        registry = self._registry
        if SHARED_NUMBERS in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        text: bytes = generate_latest(registry)
        return text


class Log:
    """Log lines on a stream.

    After `start` a thread writes them, gathered, so that a reader that stands still stops no request; lines that it does not
    take are dropped and counted.

    requests: whether requests that went well have lines.
    """

    #: Seconds for which lines are gathered, and gatherings that may wait for the reader.
    GATHER = 0.05
    MOST = 256

    def __init__(self, stream: TextIO, *, requests: bool = True) -> None:
        self.requests = requests
        self._stream = stream
        self._lines: list[str] = []
        self._dropped = 0
        self._written: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Write by a thread, for the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_all, name="xnorinfer-serve-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what is left; a reader that takes nothing is waited for a second."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._flush()
            self._written.put(None)
            thread.join(1)

    def __call__(self, event: str, *, error: BaseException | None = None, **fields: Any) -> None:
        """One line.  error: whose traceback belongs to it.  Fields that are None are left out."""
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        line: dict[str, Any] = {"time": stamp, "event": event}
        line.update((name, value) for name, value in fields.items() if value is not None)
        if error is not None:
            line["traceback"] = "".join(traceback.format_exception(error))
        text = json.dumps(line)
        if self._thread is None:
            self._write(text + "\n")
            return
        if not self._lines:
            self._loop.call_later(self.GATHER, self._flush)
        self._lines.append(text)

    def _flush(self) -> None:
        lines, self._lines = self._lines, []
        if not lines:
            return
        if self._written.qsize() >= self.MOST:
            self._dropped += len(lines)
            return
        if self._dropped:
            lines.append(json.dumps({"event": "lines dropped", "count": self._dropped}))
            self._dropped = 0
        self._written.put("\n".join([*lines, ""]))

    def _write_all(self) -> None:
        while (text := self._written.get()) is not None:
            self._write(text)

    def _write(self, text: str) -> None:
        with contextlib.suppress(
            OSError, ValueError
        ):  # nobody reads it, or the disk is full: requests are answered all the same
            self._stream.write(text)
            self._stream.flush()
