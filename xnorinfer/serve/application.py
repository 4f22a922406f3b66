"""The server as an ASGI application: routes, and a frame around them for what every request needs."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from importlib.resources import files
from typing import Any, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route, Router

import xnorinfer
from xnorinfer.errors import XnorinferError
from xnorinfer.oneline import shortened
from xnorinfer.serve.batching import busy
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.protocol import EXTENSIONS, JSON_LENGTH, ProtocolError, error_body, parse, respond
from xnorinfer.serve.repository import Repository, Served, describe
from xnorinfer.serve.telemetry import Log, Metrics

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

REQUEST_ID = b"x-request-id"
#: Answered without a token: whoever asks whether a server is up has none.
OPEN = frozenset({"/v2/health/live", "/v2/health/ready"})
#: The status of requests whose client left, as servers log it.
CLIENT_LEFT = 499

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")

PAGE = {"/": ("index.html", "text/html"), "/page.css": ("page.css", "text/css"), "/page.js": ("page.js", "text/javascript")}
#: The page uses nothing but this server, and nobody frames it.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Exchange:
    """What is known of a request by the time it is answered."""

    __slots__ = (
        "counted",
        "engine",
        "expired",
        "headers",
        "id",
        "inference",
        "model",
        "reading",
        "reason",
        "rows",
        "started",
        "status",
        "version",
    )

    def __init__(self, headers: dict[bytes, bytes]) -> None:
        self.headers, self.started = headers, time.perf_counter()
        self.id = _identifier(headers.get(REQUEST_ID))
        self.status = 0
        self.counted = self.expired = self.inference = self.reading = False
        self.model: str | None = None
        self.version: str | None = None
        self.reason: str | None = None
        self.rows: int | None = None
        self.engine: float | None = None


class Application:
    """An ASGI application.

    repository: the models.  tokens: bearer tokens that requests must have one of; none where there are none.
    reload_seconds: how often files are looked at, 0 for never.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        limits: Limits | None = None,
        log: Log,
        tokens: Sequence[bytes] = (),
        reload_seconds: float = 1.0,
    ) -> None:
        self.repository, self.limits, self.log = repository, limits or Limits(), log
        self.metrics = Metrics()
        #: Whether the server is about to end: it is not ready, and answers close their connections.
        self.stopping = False
        self._reload_seconds = reload_seconds
        self._tokens = [hashlib.sha256(token).digest() for token in tokens]
        self._pending_bytes = 0
        self._batchers = repository.batchers(
            self.limits, lambda name: lambda rows, seconds: self.metrics.batch(name, rows, seconds)
        )
        self._app = Router(self._routes(), redirect_slashes=False, lifespan=self._lifespan)

    def _routes(self) -> list[Route]:
        model = "/v2/models/{model}"
        routes = []
        for prefix in (model, model + "/versions/{version}"):
            routes += [
                Route(prefix + "/infer", _Plain(self._infer), methods=["POST"]),
                Route(prefix + "/ready", self._model_ready),
                Route(prefix, self._model),
            ]
        routes += [
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2", self._server),
            Route("/v2/models", self._models),
            Route("/metrics", self._metrics),
        ]
        folder = files("xnorinfer.serve").joinpath("page")
        return routes + [Route(path, _file(folder.joinpath(name).read_bytes(), kind)) for path, (name, kind) in PAGE.items()]

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Any) -> AsyncIterator[None]:
        self.log.start()
        for batcher in self._batchers.values():
            batcher.start()
        watching = None
        if self._reload_seconds:
            watching = asyncio.create_task(self.repository.watch(self._reload_seconds, self._reloaded))
        try:
            yield
        finally:
            if watching is not None:
                watching.cancel()
                await asyncio.wait([watching])
            for batcher in self._batchers.values():
                batcher.stop()
            self.log.stop()

    def _reloaded(self, name: str, found: Served | Exception) -> None:
        if isinstance(found, Served):
            self.metrics.reload(name, "loaded")
            self.log("model reloaded", model=name, version=found.version, network=describe(found))
        else:
            self.metrics.reload(name, "refused")
            version = self.repository.served[name].version
            reason, defect = shortened(str(found)), None if isinstance(found, XnorinferError | MemoryError) else found
            self.log("model not reloaded, the old one serves on", error=defect, model=name, version=version, reason=reason)

    # ------------------------------------------------------------ the frame

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["app"] = self  # then starlette raises where there is no route, instead of an answer of its own
        exchange = scope["xnorinfer"] = Exchange(dict(scope["headers"]))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID, exchange.id.encode())]
                if self.stopping:
                    message["headers"].append((b"connection", b"close"))
            elif not message.get("more_body"):
                self._count(exchange)  # before it leaves: who has an answer finds it counted, whichever process is asked
            await send(message)

        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None

        def expire() -> None:
            exchange.expired = True
            task.cancel()

        timer = loop.call_later(self.limits.seconds, expire)
        failure: Exception | None = None
        try:
            if self._tokens and scope["path"] not in OPEN and scope["path"] not in PAGE:
                self._require_token(exchange.headers.get(b"authorization", b""))
            await self._app(scope, receive, answer)
        except ProtocolError as error:
            await self._refuse(answer, exchange, error.status, str(error), error.headers)
        except HTTPException as error:
            await self._refuse(
                answer, exchange, error.status_code, f"{scope['method']} {scope['path']}: {error.detail}", error.headers
            )
        except asyncio.CancelledError:
            if not exchange.expired:
                raise
            if hasattr(task, "uncancel"):  # from Python 3.11 on
                task.uncancel()
            what = "the request was not complete" if exchange.reading else "there was no answer"
            status = 408 if exchange.reading else 504
            await self._refuse(answer, exchange, status, f"{what} within {self.limits.seconds:g} s", {"connection": "close"})
        except MemoryError:
            await self._refuse(answer, exchange, 503, "there is not enough memory for this request", None)
        except Exception as error:
            failure = error
            await self._refuse(answer, exchange, 500, "internal error, a defect of xnorinfer; the log has more", None)
        finally:
            timer.cancel()
            self._told(scope, exchange, failure)

    async def _refuse(self, answer: Send, exchange: Exchange, status: int, message: str, headers: Any) -> None:
        exchange.reason = message = shortened(message)
        if not exchange.status:  # else the answer has begun, and can only end early
            more = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
            await _reply(answer, error_body(message), [JSON, *more], status)

    def _count(self, exchange: Exchange) -> None:
        """Numbers about a request, once."""
        if exchange.inference and not exchange.counted:
            exchange.counted = True
            self.metrics.request(exchange.model or "", exchange.status or CLIENT_LEFT, time.perf_counter() - exchange.started)

    def _told(self, scope: Scope, exchange: Exchange, failure: Exception | None) -> None:
        """What is known when a request has its answer or its client left: numbers and a log line."""
        self._count(exchange)
        seconds = time.perf_counter() - exchange.started
        status = exchange.status or CLIENT_LEFT
        if status >= 400 or (exchange.inference and self.log.requests):
            client = scope.get("client")
            self.log(
                "request",
                error=failure,
                id=exchange.id,
                client=client and client[0],
                method=scope["method"],
                path=shortened(scope["path"]),
                status=status,
                model=exchange.model,
                version=exchange.version,
                rows=exchange.rows,
                milliseconds=round(1e3 * seconds, 3),
                engine_milliseconds=None if exchange.engine is None else round(1e3 * exchange.engine, 3),
                reason=exchange.reason,
            )

    def _require_token(self, header: bytes) -> None:
        scheme, _, token = header.partition(b" ")
        given = hashlib.sha256(token.strip()).digest()
        # Every token is compared, each in constant time: how long it takes tells nothing.
        right = sum(hmac.compare_digest(given, one) for one in self._tokens)
        if scheme.lower() != b"bearer" or not right:
            text = "this server wants a token" if not header else "the token is not right"
            raise ProtocolError(f"{text}: Authorization: Bearer TOKEN", 401, {"www-authenticate": "Bearer"})

    # ------------------------------------------------------------ inference

    async def _infer(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = await self._computed(scope, receive)
        if answer is not None:
            await _reply(send, *answer)

    async def _computed(self, scope: Scope, receive: Receive) -> tuple[bytes, list[tuple[bytes, bytes]]] | None:
        """Body and headers of the answer to a request for inference, None if its client left.  Raises ProtocolError."""
        exchange: Exchange = scope["xnorinfer"]
        exchange.inference = True
        served = self._served(scope["path_params"], exchange)
        exchange.reading = True
        taken = [0]
        self.metrics.pending.inc()
        try:
            body = await self._body(exchange.headers, receive, taken)
            exchange.reading = False
            if body is None:
                return None
            text = exchange.headers.get(JSON_LENGTH.encode())
            request = parse(body, None if text is None else text.decode("latin-1"), served.model.packed, self.limits.rows)
            exchange.rows = len(request.x)
            if request.margins and exchange.rows > self.limits.batch:
                raise ProtocolError(
                    f"margins of {exchange.rows} rows; this server gives those of {self.limits.batch} at once", 413
                )
            job = await self._batchers[served.name].compute(served.model, request.x, request.margins)
            assert job.scores is not None
            exchange.engine = job.seconds
            about = {"engine_microseconds": round(1e6 * job.seconds, 1), "batch_rows": job.batch_rows}
            found, length = respond((served.name, served.version), request, job.scores, job.margins, about)
            return found, [JSON] if length is None else [BINARY, (JSON_LENGTH.encode(), b"%d" % length)]
        finally:
            self._pending_bytes -= taken[0]
            self.metrics.pending.dec()

    async def _body(self, headers: dict[bytes, bytes], receive: Receive, taken: list[int]) -> bytes | None:
        """The body of a request, None if its client left.  taken: counts the bytes that it holds.  Raises ProtocolError."""
        encoding = headers.get(b"content-encoding", b"identity")
        if encoding != b"identity":
            raise ProtocolError(f"the body has the encoding {encoding.decode('latin-1')!r}; send it as it is", 415)
        self._require_size(int(headers.get(b"content-length", b"0")))  # a number: the HTTP parser has seen to it
        parts, size = [], 0
        message = await receive()
        while message["type"] == "http.request":
            parts.append(message["body"])
            size += len(message["body"])
            self._require_size(size)
            if self._pending_bytes + len(message["body"]) > self.limits.pending:
                raise busy(f"requests of {self._pending_bytes} bytes wait already", self.limits)
            self._pending_bytes += len(message["body"])
            taken[0] = size
            if not message.get("more_body"):
                return b"".join(parts)
            message = await receive()
        return None

    def _require_size(self, size: int) -> None:
        if size > self.limits.body:
            raise ProtocolError(f"the body has {size} bytes or more; this server takes {self.limits.body}", 413)

    def _served(self, parameters: dict[str, str], exchange: Exchange) -> Served:
        """The model that a path names.  Raises ProtocolError."""
        name, version = parameters["model"], parameters.get("version")
        served = self.repository.served.get(name)
        if served is None:
            raise ProtocolError(f"there is no model {name!r}; there is {', '.join(self.repository.names)}", 404)
        exchange.model, exchange.version = name, served.version
        if version not in (None, served.version):
            raise ProtocolError(f"model {name} has no version {version!r}; there is {served.version}", 404)
        return served

    # ------------------------------------------------------------ everything else

    async def _live(self, request: HttpRequest) -> Response:
        return _json({"live": True})

    async def _ready(self, request: HttpRequest) -> Response:
        return _json({"ready": not self.stopping}, 503 if self.stopping else 200)

    async def _server(self, request: HttpRequest) -> Response:
        return _json({"name": "xnorinfer", "version": xnorinfer.__version__, "extensions": list(EXTENSIONS)})

    async def _models(self, request: HttpRequest) -> Response:
        return _json({"models": list(self.repository.names)})

    async def _model(self, request: HttpRequest) -> Response:
        return _json(self._served(request.path_params, request.scope["xnorinfer"]).about)

    async def _model_ready(self, request: HttpRequest) -> Response:
        served = self._served(request.path_params, request.scope["xnorinfer"])
        return _json({"name": served.name, "ready": not self.stopping}, 503 if self.stopping else 200)

    async def _metrics(self, request: HttpRequest) -> Response:
        return Response(self.metrics.text(), media_type=Metrics.content_type)


class _Plain:
    """An ASGI application that starlette's routes take for one."""

    def __init__(self, call: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._call(scope, receive, send)


async def _reply(send: Send, body: bytes, headers: list[tuple[bytes, bytes]], status: int = 200) -> None:
    head = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status, media_type="application/json")


def _file(content: bytes, kind: str) -> Callable[[HttpRequest], Awaitable[Response]]:
    headers = {
        "content-security-policy": POLICY,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def give(request: HttpRequest) -> Response:
        return Response(content, headers=headers, media_type=f"{kind}; charset=utf-8")

    return give


def _identifier(given: bytes | None) -> str:
    """A request's id: the client's, if it is a plain word, else one of our own."""
    if given is not None and re.fullmatch(rb"[\w.:/+=@-]{1,128}", given):
        return given.decode("ascii", "replace")
    return f"{random.getrandbits(64):016x}"  # a name, not a secret
