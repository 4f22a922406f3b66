"""Helper threads that run a driver beside its caller; one pool per process.

Helpers are Python threads inside the compiled driver, without the GIL.  After a job they spin for a moment, so that the next
job reaches them within a microsecond; then they sleep on an event.  Only one caller at a time has the pool: a concurrent
caller works alone, its thread is a core's worth of work already.  Nobody ever waits for a helper to start (see `driver`), so
a helper that sleeps, or that does not exist after a fork, costs speed and nothing else.

A helper whose core is taken away in the middle of a task is waited for: by another process, or by the threads of a BLAS, which
spin for a tenth of a second after each product.  So the pool keeps account of what helpers bring (`_Account`), and works
without them for a while where that is less than nothing.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from functools import cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from xnorinfer.kernels import Drive, drive
from xnorinfer.kernels.fields import (
    ACTIVE,
    ALL,
    CONTROL_FIELDS,
    COUNTER_BYTES,
    GO_ON,
    OPEN,
    OWN,
    PUBLISH,
    START,
    STOP,
    TICKET,
    WAITED,
)
from xnorinfer.kernels.layout import aligned

#: Turns of the spin loop before a helper goes to sleep; some 200 microseconds.
SPINS = 8000
#: Turns by which the time of one is measured.
PROBE_SPINS = 2000


class _Account:
    """What helpers bring: seconds saved against working alone.

    A job that took `seconds` would have taken the caller busy / share alone, where it was `busy` on its core for a `share` of
    the work.  What is saved is credit, up to CREDIT; where losses exceed it, helpers are left out of jobs that take PAYBACK
    times the rest together, so that they cost a small part of the whole, however small the jobs and long the waits.

    owed: seconds of jobs without helpers still to come.  Callers on several threads may lose some of them, which is no matter.
    """

    CREDIT = 0.005
    PAYBACK = 20

    def __init__(self) -> None:
        self.balance = 0.0
        self.owed = 0.0

    def enter(self, seconds: float, busy: float, share: float) -> None:
        """Book one job."""
        alone = max(busy, 0.0) / share if share > 0 else 0.0
        self.balance = min(self.balance + alone - seconds, self.CREDIT)
        if self.balance < 0:
            self.owed = -self.PAYBACK * self.balance
            self.balance = 0.0


class Pool:
    """Helpers for one driver.  `run` works with or without them, from any number of threads."""

    _all: ClassVar[weakref.WeakSet[Pool]] = weakref.WeakSet()

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._prepare()
        Pool._all.add(self)

    def _prepare(self) -> None:
        """State of a pool without threads: at the start and in a forked child, where the parent's threads do not exist."""
        self._control = aligned((CONTROL_FIELDS * COUNTER_BYTES // 8,), np.int64)
        self._address = int(self._control.ctypes.data)
        self._lock = threading.Lock()
        self._wake: list[threading.Event] = []
        self._asleep: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._account = _Account()
        self._turn = 0.0

    def run(self, job: int, rows: int, source: int, target: int, helpers: int, fields: NDArray[np.int64]) -> None:
        """Run the job of these fields, at address `job`, to its end with at most so many helpers.

        source, target: addresses of the addresses of the input and output rows; rows: their number, above 0.
        """
        drive = self._drive
        begin = time.perf_counter() if helpers else 0.0
        owed = self._account.owed > 0
        if not helpers or owed or not self._lock.acquire(blocking=False):
            drive(0, job, START, rows, source, target)  # alone, it has nobody to wait for
            if helpers and owed:
                self._account.owed -= time.perf_counter() - begin
            return
        busy = -time.thread_time()  # of the caller: the time of its core without that of others on it
        try:
            if len(self._threads) < helpers:
                self._start(helpers)
                begin = time.perf_counter()
            role = START
            if self._asleep:
                # Publish first: a helper that wakes on this very core then works in the caller's place.
                drive(self._address, job, PUBLISH, rows, source, target)
                for event in self._wake:
                    event.set()
                role = GO_ON
            while not drive(self._address, job, role, rows, source, target):
                time.sleep(0)
                role = GO_ON
            busy += time.thread_time() - self._turn * float(fields[WAITED])
            self._account.enter(time.perf_counter() - begin, busy, float(fields[OWN]) / float(fields[ALL]))
        except BaseException:  # Ctrl-C, or whatever else a signal handler raises
            self._settle(job)
            raise
        finally:
            self._lock.release()

    def _settle(self, job: int) -> None:
        """Return when no helper works on the job any more: its arrays go away with the exception that ended `run`."""
        while True:
            try:
                while self._control[OPEN * COUNTER_BYTES // 8]:  # published, so it can be brought to its end
                    self._drive(self._address, job, GO_ON, 0, 0, 0)
                while self._control[ACTIVE * COUNTER_BYTES // 8]:
                    time.sleep(0)
            except BaseException:  # Ctrl-C once more
                continue
            return

    def _start(self, helpers: int) -> None:
        if not self._turn:
            before = time.perf_counter()
            self._drive(self._address, int(self._control[TICKET * COUNTER_BYTES // 8]), 1, PROBE_SPINS, 0, 0)
            self._turn = (time.perf_counter() - before) / PROBE_SPINS
        for number in range(len(self._threads) + 1, helpers + 1):
            event = threading.Event()
            arguments = (self._drive, self._control, number, event, self._asleep)
            thread = threading.Thread(target=_help, args=arguments, name=f"xnorinfer-{number}", daemon=True)
            # Listed before it starts: were the start interrupted (Ctrl-C), a second thread would get its number and memory.
            self._wake.append(event)
            self._threads.append(thread)
            try:
                thread.start()
            except RuntimeError:  # no more threads to be had: the caller does the work
                del self._wake[-1], self._threads[-1]
                return

    def stop(self) -> None:
        """End the helpers; a later `run` starts new ones.  Gives up quietly when a caller keeps the pool busy."""
        if not self._lock.acquire(timeout=1):
            return
        try:
            self._control[STOP * COUNTER_BYTES // 8] = 1
            for event in self._wake:
                event.set()
            for thread in self._threads:
                if thread.is_alive():
                    thread.join()
        finally:
            self._prepare()


def _help(drive: Drive, control: NDArray[np.int64], number: int, event: threading.Event, asleep: set[int]) -> None:
    """Body of a helper thread."""
    address = int(control.ctypes.data)
    stop = control[STOP * COUNTER_BYTES // 8 :]
    ticket = 0
    while not stop[0]:
        result = drive(address, ticket, number, SPINS, 0, 0)
        if result < 0:
            ticket = -1 - result
            time.sleep(0)
            continue
        ticket = result
        event.clear()
        asleep.add(number)
        if not stop[0]:  # looked at after clear(): stop() raises the flag before it sets the event
            event.wait()
        asleep.discard(number)


def _after_fork() -> None:
    for pool in list(Pool._all):
        pool._prepare()


def _at_exit() -> None:
    for pool in list(Pool._all):
        pool.stop()


@cache
def pool() -> Pool:
    """The pool of this process."""
    return Pool(drive())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
