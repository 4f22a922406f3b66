"""Running the application by uvicorn, in this process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import os
import signal
import socket
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from xnorinfer.errors import OptionError
from xnorinfer.serve.application import Application
from xnorinfer.serve.telemetry import Log

#: Seconds that a connection may take for the head of a request, the rest of a body that nobody wants, or its end.
HEAD_SECONDS = 10.0
#: Seconds that a connection without a request stays open.
KEEP_ALIVE_SECONDS = 75
#: Seconds in which what was sent before the end still arrives, and in which clients at work are told of it by an answer.
LAST_CALL, LAST_ANSWER = 0.1, 1.0
#: Requests that a connection may send before the first is answered, and bytes between two looks at how many these are.
MOST_PIPELINED, SLICE = 100, 1 << 14
#: The event loop and an engine's thread pass Python's lock to each other within this time, instead of 5 ms.
SWITCH_SECONDS = 0.0005


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.  Raises OptionError where it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise OptionError(f"{host} is no address to listen at: {error.strerror}") from None
    try:
        if os.name == "posix":
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
        opened.listen(2048)
    except (OSError, OverflowError) as error:
        opened.close()
        reason = getattr(error, "strerror", None) or error
        raise OptionError(
            f"cannot listen at {host}, port {port}: {reason}; --port chooses another, 0 any that is free"
        ) from None
    opened.setblocking(False)
    return opened


def url_of(opened: socket.socket) -> str:
    """What a browser calls it."""
    host, port = opened.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


class _Whole:
    """A connection's transport that holds the head of an answer for its body: they leave together, the client wakes once."""

    def __init__(self, transport: asyncio.Transport, finish: Callable[[], bool]) -> None:
        # Weak: a connection that ended is gone with all that it read, and not only when garbage is collected.
        self._transport, self._finish, self._head = transport, weakref.WeakMethod(finish), b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """The head of an answer, which waits, or what follows it; all else at once."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.writelines([head, data])
        elif data.startswith(b"HTTP/") and not data.startswith(b"HTTP/1.1 100 "):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Send a head that no body follows."""
        if self._head:
            self.write(b"")

    def close(self) -> None:
        """As the transport's, which sends what it was given; later, if `finish` says so."""
        self.flush()
        finish = self._finish()
        if finish is None or not finish():
            self._transport.close()


class _Protocol(AutoHTTPProtocol):
    """uvicorn's connection.  It takes any number of requests before the first is answered: one that sends so many is cut.

    A client that still sends a body when it has its answer, a refusal, is let finish before the connection is closed: else the
    system would reset it, and the client never see the answer.
    """

    _finishing: asyncio.TimerHandle | None = None
    #: When its last answer was complete, by the event loop's clock.
    answered = -math.inf

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(_Whole(transport, self._finish))

    def _finish(self) -> bool:
        """Whether the end must wait for the rest of a body; once, and not for long."""
        cycle = self.cycle
        if self._finishing is not None or cycle is None or not (cycle.response_complete and cycle.more_body):
            return False
        self._finishing = self.loop.call_later(HEAD_SECONDS, self.transport.close)
        return True

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._finishing is not None:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if self._finishing is not None:
            self._finishing.cancel()  # it would keep what was read
        super().connection_lost(error)

    def on_response_complete(self) -> None:
        self.transport.flush()
        self.answered = self.loop.time()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), SLICE):
            if self.transport.is_closing():
                return
            super().data_received(data[start : start + SLICE])
            if len(getattr(self, "pipeline", ())) > MOST_PIPELINED:
                self.transport.abort()


class _Server(uvicorn.Server):
    """uvicorn's server, with an end that answers all that arrived, and an eye on connections that send nothing."""

    def __init__(self, config: Any, application: Application) -> None:
        super().__init__(config)
        self._application = application
        self._silent: dict[Any, tuple[Any, float]] = {}

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but signals do not come again after the end, which is what they asked for."""
        heard = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in heard}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._application.stopping = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, which closes connections without a request at once: a client that just had an answer and sends its next
        request would find it closed.  That request is awaited; its answer says that the connection ends."""
        self._application.stopping = True
        clock = asyncio.get_running_loop().time
        begin = clock()
        await asyncio.sleep(LAST_CALL)
        while clock() < begin + LAST_ANSWER and not self.force_exit:
            if not any(connection.answered > begin - LAST_ANSWER for connection in self.server_state.connections):
                break
            await asyncio.sleep(LAST_CALL / 10)
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._close_silent()
        return bool(await super().on_tick(counter))

    def _close_silent(self) -> None:
        """Cut connections that for too long owe the head of a request, send a body whose answer they have, or take nothing of
        an answer."""
        now = time.monotonic()
        silent: dict[Any, tuple[Any, float]] = {}
        for connection in list(self.server_state.connections):
            cycle, transport = connection.cycle, connection.transport
            unread = transport.is_closing() or connection.flow.write_paused
            answered = cycle is None or cycle.response_complete
            if unread or (answered and connection.timeout_keep_alive_task is None):
                state = (cycle, transport.get_write_buffer_size())
                known, since = self._silent.get(connection, (state, now))
                silent[connection] = (state, since if known == state else now)
                if now - silent[connection][1] > HEAD_SECONDS:
                    transport.abort()
        self._silent = silent


class _Told(logging.Handler):
    """What uvicorn has to say, in our own lines."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._log(record.getMessage().strip(), error=error, level=record.levelname.lower())


def run(application: Application, opened: socket.socket) -> None:
    """Serve in this process until SIGINT or SIGTERM; what was accepted is answered before it returns."""
    limits = application.limits
    config = uvicorn.Config(
        application,
        http=_Protocol,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(limits.seconds) + 1,
    )
    loggers, told = [logging.getLogger("uvicorn.error"), logging.getLogger("asyncio")], _Told(application.log)
    for logger in loggers:
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        logger.addHandler(told)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # else every full collection looks through all that was imported, while requests wait
    try:
        _Server(config, application).run([opened])
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval)
        for logger in loggers:
            logger.removeHandler(told)
