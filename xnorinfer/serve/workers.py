"""Processes that share a port, and what their models hold in memory: forked from one that has loaded them."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from xnorinfer.errors import OptionError

#: Where the processes leave their numbers for each other; read by prometheus_client when it is imported.
SHARED_NUMBERS = "PROMETHEUS_MULTIPROC_DIR"
#: A process that ends sooner is not replaced at once.
TOO_SOON = 5.0


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder in which processes that serve together leave numbers for Prometheus and copies of models; gone afterwards.

    To be entered before `telemetry` is imported.  Raises OptionError where processes cannot be forked.
    """
    if not hasattr(os, "fork"):
        raise OptionError("this system cannot fork processes; serve with one, and start more on other ports")
    folder = Path(tempfile.mkdtemp(prefix="xnorinfer-serve-"))
    try:
        (folder / "numbers").mkdir()
        (folder / "models").mkdir()
        os.environ[SHARED_NUMBERS] = str(folder / "numbers")
        yield folder
    finally:
        os.environ.pop(SHARED_NUMBERS, None)
        shutil.rmtree(folder, ignore_errors=True)


class Workers:
    """Processes forked from this one, which holds the models; one that dies is replaced.

    serve: what each of them does.  log: told what happens to them.
    """

    def __init__(self, count: int, serve: Callable[[], None], log: Callable[..., None]) -> None:
        self._count, self._serve, self._log = count, serve, log
        self._running: dict[int, float] = {}
        self._stopping = False

    def run(self) -> None:
        """Keep them running until SIGINT or SIGTERM, which they get as well; returns when all have ended."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            gc.collect()
            gc.freeze()  # what is there is never collected, so that its pages stay shared
            for _ in range(self._count):
                self._start()
            while self._running:
                self._wait()
        finally:
            gc.unfreeze()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        for process in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def _start(self) -> None:
        # A signal between the fork and the entry below would not reach the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # the threads that there are hold no locks
                process = os.fork()
            if process == 0:
                self._child()
            self._running[process] = time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})

    def _child(self) -> None:
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C comes as SIGTERM from the parent
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
            self._serve()
            code = 0
        except BaseException as error:
            self._log("process failed", error=error, process=os.getpid())
        finally:
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(OSError, ValueError):
                    stream.flush()
            os._exit(code)

    def _wait(self) -> None:
        from prometheus_client.multiprocess import mark_process_dead

        process, status = os.wait()
        started = self._running.pop(process, None)
        if started is None:
            return
        mark_process_dead(process)
        if self._stopping:
            return
        self._log("process ended, another one starts", process=process, status=os.waitstatus_to_exitcode(status))
        if time.monotonic() - started < TOO_SOON:
            time.sleep(1)
        if not self._stopping:
            self._start()
