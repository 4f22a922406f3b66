"""Micro-batches: what waits is computed together, nothing waits for more, and the queue ends somewhere."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from servers import model_of

from xnorinfer.engine.model import random_inputs
from xnorinfer.serve.batching import Batcher
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.protocol import ProtocolError


class Held(Batcher):
    """Waits with every batch until it may go on."""

    def __init__(self, limits: Limits) -> None:
        self.seen: list[int] = []
        super().__init__("net", limits, lambda rows, seconds: self.seen.append(rows))
        self.go_on = threading.Event()
        self.begun = threading.Event()

    def _next(self) -> Any:
        batch = super()._next()
        self.begun.set()
        return batch

    def _run(self, batch: Any) -> None:  # type: ignore[override]
        self.go_on.wait(30)
        super()._run(batch)


def held(limits: Limits, body: Callable[[Held], Awaitable[None]]) -> list[int]:
    """Run the body with a batcher that is held; rows of the batches that it computed."""

    async def run() -> list[int]:
        batcher = Held(limits)
        batcher.start()
        try:
            await body(batcher)
            await asyncio.sleep(0)
        finally:
            batcher.go_on.set()
            await asyncio.to_thread(batcher.stop)
        return batcher.seen

    return asyncio.run(run())


async def begun(batcher: Held) -> None:
    await asyncio.to_thread(batcher.begun.wait, 30)


def test_a_server_without_requests_keeps_no_model() -> None:
    async def run() -> None:
        batcher = Batcher("net", Limits(), lambda rows, seconds: None)
        batcher.start()
        model = model_of(1)
        gone = weakref.ref(model)
        await batcher.compute(model, random_inputs(model.packed, 1, 1))
        del model
        for _ in range(100):
            if gone() is None:
                break
            await asyncio.sleep(0.05)
        assert gone() is None
        await asyncio.to_thread(batcher.stop)

    asyncio.run(run())


def test_what_came_while_the_engine_was_busy_is_one_batch() -> None:
    model = model_of(1)
    inputs = [random_inputs(model.packed, rows, rows) for rows in (1, 3, 2, 5, 1)]

    async def body(batcher: Held) -> None:
        first = asyncio.create_task(batcher.compute(model, inputs[0]))
        await begun(batcher)
        others = [asyncio.create_task(batcher.compute(model, x, margins=len(x) == 2)) for x in inputs[1:]]
        await asyncio.sleep(0.05)
        batcher.go_on.set()
        for x, task in zip(inputs, [first, *others], strict=True):
            job = await task
            assert job.scores is not None
            assert np.array_equal(job.scores, model.scores(x))
            assert (job.margins is not None) == (len(x) == 2)
            assert job.batch_rows == (1 if task is first else 11)

    assert held(Limits(), body) == [1, 11]


def test_a_batch_ends_at_its_limit_and_at_another_model() -> None:
    models = [model_of(1), model_of(2)]
    x = random_inputs(models[0].packed, 3, 1)

    async def body(batcher: Held) -> None:
        first = asyncio.create_task(batcher.compute(models[0], x))
        await begun(batcher)
        order = [0, 0, 0, 1, 0]
        tasks = [asyncio.create_task(batcher.compute(models[one], x)) for one in order]
        await asyncio.sleep(0.05)
        batcher.go_on.set()
        await first
        for one, task in zip(order, tasks, strict=True):
            scores = (await task).scores
            assert scores is not None
            assert np.array_equal(scores, models[one].scores(x))

    assert held(Limits(batch=7), body) == [3, 6, 3, 3, 3]


def test_more_rows_than_a_batch_are_one() -> None:
    model = model_of(1)
    x = random_inputs(model.packed, 20, 1)

    async def body(batcher: Held) -> None:
        batcher.go_on.set()
        scores = (await batcher.compute(model, x)).scores
        assert scores is not None
        assert np.array_equal(scores, model.scores(x))

    assert held(Limits(batch=7), body) == [20]


def test_a_full_queue_says_when_to_come_again() -> None:
    model = model_of(1)
    x = random_inputs(model.packed, 1, 1)

    async def body(batcher: Held) -> None:
        first = asyncio.create_task(batcher.compute(model, x))
        await begun(batcher)
        waiting = [asyncio.create_task(batcher.compute(model, x)) for _ in range(3)]
        await asyncio.sleep(0.05)
        with pytest.raises(ProtocolError, match="3 requests wait for net already") as refused:
            await batcher.compute(model, x)
        assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "1"})
        batcher.go_on.set()
        await asyncio.gather(first, *waiting)

    assert held(Limits(queue=3), body) == [1, 3]


def test_what_nobody_waits_for_is_not_computed() -> None:
    model = model_of(1)
    x = random_inputs(model.packed, 1, 1)

    async def body(batcher: Held) -> None:
        first = asyncio.create_task(batcher.compute(model, x))
        await begun(batcher)
        left = asyncio.create_task(batcher.compute(model, x))
        stays = asyncio.create_task(batcher.compute(model, x))
        await asyncio.sleep(0.05)
        left.cancel()
        await asyncio.sleep(0.05)
        batcher.go_on.set()
        await asyncio.gather(first, stays)

    assert held(Limits(), body) == [1, 1]


def test_a_failure_of_the_engine_reaches_who_waits_and_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(1)
    x = random_inputs(model.packed, 1, 1)

    async def body(batcher: Held) -> None:
        batcher.go_on.set()

        def fail(batch: Any) -> None:
            raise MemoryError("no more")

        with monkeypatch.context() as patched:
            patched.setattr(batcher, "_run", fail)
            with pytest.raises(MemoryError, match="no more"):
                await batcher.compute(model, x)
        assert (await batcher.compute(model, x)).scores is not None

    assert held(Limits(), body) == [1]


def test_what_waits_is_computed_before_the_end() -> None:
    model = model_of(1)
    x = random_inputs(model.packed, 1, 1)

    async def run() -> None:
        batcher = Batcher("net", Limits(), lambda rows, seconds: None)
        batcher.start()
        tasks = [asyncio.create_task(batcher.compute(model, x)) for _ in range(50)]
        await asyncio.sleep(0)
        begin = time.monotonic()
        await asyncio.to_thread(batcher.stop)
        for job in await asyncio.gather(*tasks):
            assert job.scores is not None
        assert time.monotonic() - begin < 20

    asyncio.run(run())
