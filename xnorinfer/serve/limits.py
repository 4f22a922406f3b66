"""What a server lets requests cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """body: bytes of one request.  pending: bytes of all requests that are being read or wait.  queue: requests that wait for
    the engine, of each model.  rows: samples of one request.  batch: samples that the engine takes at once, of several
    requests.  seconds: from a request's head to its answer.
    """

    body: int = 8 << 20
    pending: int = 256 << 20
    queue: int = 1024
    rows: int = 4096
    batch: int = 256
    seconds: float = 30.0

    #: What a client that finds no room is told to wait, in seconds.
    retry_after: int = 1
