"""Waiting for what other processes do: until they have done it, however busy the machine is."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

#: Seconds after which a process is held to hang.  Nothing here comes near it, and no test says how fast something is.
HANGS = 600


def wait_until(happened: Callable[[], Any], running: subprocess.Popen[Any]) -> None:
    """Return once it has happened.  Raises AssertionError if the process ends before, or seems to hang."""
    deadline = time.monotonic() + HANGS
    while not happened():
        assert running.poll() is None or happened(), f"ended with {running.returncode} before"
        assert time.monotonic() < deadline, "hangs"
        time.sleep(0.005)
