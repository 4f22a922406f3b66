"""An HTTP server for packed networks: the Open Inference Protocol v2 on starlette and uvicorn, the extra `serve`.

`application.Application` is what any ASGI server can run, `running` what `xnorinfer serve` runs it with.
"""

from __future__ import annotations

from importlib.util import find_spec

from xnorinfer.errors import MissingExtraError

EXTRA = "serve"
PACKAGES = ("starlette", "uvicorn", "prometheus-client", "orjson")


def require_packages() -> None:
    """Raise MissingExtraError for the first package of the extra that is not installed."""
    for package in PACKAGES:
        if find_spec(package.replace("-", "_")) is None:
            raise MissingExtraError("serving models", package, EXTRA)
