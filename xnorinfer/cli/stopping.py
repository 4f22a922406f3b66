"""Ctrl-C and SIGTERM end a command within a second, whatever it is doing, and leave no unfinished file.

Usually an exception unwinds the stack.  It cannot while compiled code runs, and libraries lose it: Python drops exceptions in
finalizers and in callbacks from C, an interrupted import or compilation fails with another error.  So a thread, which learns of
the signal from Python's C handler itself, waits a moment for the command to end, and then removes what is unfinished and ends
the process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

#: Seconds that a command has to end by itself.
GRACE_SECONDS = 0.6

EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM


class Stopping:
    """What happened: `interrupted` once Ctrl-C was pressed, even if its exception got lost."""

    def __init__(self) -> None:
        self.interrupted = False
        self.ended = threading.Event()
        self._said = False
        self._saying = threading.Lock()

    def on_interrupt(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handler of SIGINT."""
        self.interrupted = True
        raise KeyboardInterrupt

    def on_terminate(self, number: int, frame: FrameType | None) -> NoReturn:
        """Handler of SIGTERM: unwinds the stack as Ctrl-C does."""
        sys.exit(EXIT_TERMINATED)

    def on_dropped(self, dropped: UnraisableHookArgs) -> None:
        """Hook for what Python drops and prints: not the exceptions of the handlers, which `watch` makes up for."""
        if not issubclass(dropped.exc_type, KeyboardInterrupt | SystemExit):
            sys.__unraisablehook__(dropped)

    def say_once(self, say: Callable[[bytes], object]) -> None:
        """Say by `say` that the command was interrupted, if nobody has: one that ends by itself late meets the thread here."""
        with self._saying:
            if not self._said:
                self._said = True
                say(b"interrupted\n")

    def watch(self, signals: socket.socket) -> None:
        """Body of the thread; `signals` gives a byte for every signal, and ends with the command."""
        with signals:
            while received := signals.recv(64):
                number = next((n for n in received if n in (signal.SIGINT, signal.SIGTERM)), None)
                if number is not None and not self.ended.wait(GRACE_SECONDS):
                    self._end_process(number)

    def _end_process(self, number: int) -> NoReturn:
        from xnorinfer.files import discard_unfinished

        discard_unfinished()
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):
                self.say_once(lambda words: os.write(2, words))
        os._exit(128 + number)


def leave(code: int) -> NoReturn:
    """End the process at once, with what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def stopping(state: Stopping) -> Iterator[None]:
    """Within the block signals are dealt with as said above, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, state.on_terminate)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as under nohup
        before[signal.SIGINT] = signal.signal(signal.SIGINT, state.on_interrupt)
    hook, sys.unraisablehook = sys.unraisablehook, state.on_dropped
    descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        threading.Thread(target=state.watch, args=(ours,), name="xnorinfer-stopping", daemon=True).start()
        yield
    finally:
        state.ended.set()
        signal.set_wakeup_fd(descriptor)
        theirs.close()
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def own_signals() -> Iterator[None]:
    """Within the block signals end nothing here: a server ends by itself once it has answered what it accepted."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    descriptor = signal.set_wakeup_fd(-1)
    try:
        yield
    finally:
        signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
