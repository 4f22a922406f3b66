"""Requests that wait are computed together: a batch closes when the engine is free, so that a server with time adds no wait.

Each model has one thread, which calls the engine; the event loop only hands over and is woken once for each batch.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.margins import Margins
from xnorinfer.engine.model import Model
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.protocol import ProtocolError


class Job:
    """Rows that wait for a model.

    After `done`: scores as the model gives them, margins if they were wanted, seconds of the engine and rows of the batch that
    it was part of; or the error.
    """

    __slots__ = ("batch_rows", "done", "error", "margins", "model", "scores", "seconds", "wants_margins", "x")

    def __init__(self, model: Model, x: NDArray[Any], wants_margins: bool, done: asyncio.Future[None]) -> None:
        self.model, self.x, self.wants_margins, self.done = model, x, wants_margins, done
        self.scores: NDArray[np.float32] | None = None
        self.margins: Margins | None = None
        self.error: BaseException | None = None
        self.seconds, self.batch_rows = 0.0, 0


class Batcher:
    """The thread of one model and the requests that wait for it.

    observe: called in the event loop for each batch with its rows and the engine's seconds.
    """

    def __init__(self, name: str, limits: Limits, observe: Callable[[int, float], None]) -> None:
        self._name, self._limits, self._observe = name, limits, observe
        self._waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._left: Job | None = None
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin to compute, for the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._work, name=f"xnorinfer-serve-{self._name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread once everything that waits is computed."""
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()

    async def compute(self, model: Model, x: NDArray[Any], margins: bool = False) -> Job:
        """Scores of canonical rows.  Raises ProtocolError where too many requests wait already, or the engine fails."""
        assert self._loop is not None, "start() comes first"
        if self._waiting.qsize() >= self._limits.queue:
            raise busy(f"{self._limits.queue} requests wait for {self._name} already", self._limits)
        job = Job(model, x, margins, self._loop.create_future())
        self._waiting.put(job)
        await job.done
        if job.error is not None:
            raise job.error
        return job

    # ------------------------------------------------------------ in the thread

    def _work(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            try:
                self._run(batch)
            except Exception as error:
                for job in batch:
                    job.error = error
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(self._deliver, batch)
            except RuntimeError:  # the event loop was closed, and everybody who waited is gone
                return
            del batch  # else a model that was replaced would stay until the next request

    def _next(self) -> list[Job] | None:
        """All that waits, in order, of one model and up to `batch` rows; waits for the first; None at the end."""
        batch: list[Job] = []
        rows = 0
        while True:
            job = self._left
            self._left = None
            if job is None:
                try:
                    job = self._waiting.get(block=not batch)
                except queue.Empty:
                    return batch
                if job is None:
                    self._waiting.put(None)  # for the call after this batch
                    return batch or None
                if job.done.done():  # nobody waits for it any more
                    continue
            if batch and (rows + len(job.x) > self._limits.batch or job.model is not batch[0].model):
                self._left = job
                return batch
            batch.append(job)
            rows += len(job.x)

    @staticmethod
    def _run(batch: list[Job]) -> None:
        model = batch[0].model
        x = batch[0].x if len(batch) == 1 else np.concatenate([job.x for job in batch])
        begin = time.perf_counter()
        scores = model.scores(x)
        seconds = time.perf_counter() - begin
        start = 0
        for job in batch:
            job.scores = scores[start : start + len(job.x)]
            job.seconds, job.batch_rows = seconds, len(x)
            start += len(job.x)
            if job.wants_margins:
                job.margins = model.margins(job.x)

    # ------------------------------------------------------------ in the event loop

    def _deliver(self, batch: list[Job]) -> None:
        for job in batch:
            if not job.done.done():
                job.done.set_result(None)
        if batch[0].error is None:
            self._observe(batch[0].batch_rows, batch[0].seconds)


def busy(message: str, limits: Limits) -> ProtocolError:
    """No room for a request at the moment."""
    return ProtocolError(message, 503, {"retry-after": str(limits.retry_after)})
