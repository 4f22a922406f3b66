"""The application in the process of a test, asked by starlette's client."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import servers  # noqa: F401, which skips tests without the extra
from numpy.typing import NDArray
from starlette.testclient import TestClient

from xnorinfer.serve.application import Application
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.repository import Repository
from xnorinfer.serve.telemetry import Log

LENGTH = "Inference-Header-Content-Length"


class Asked:
    """client: of an application that runs.  lines: what it has logged."""

    def __init__(self, application: Application, client: TestClient, stream: io.StringIO) -> None:
        self.application, self.client, self._stream = application, client, stream

    @property
    def lines(self) -> list[dict[str, Any]]:
        self.application.log.stop()
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def infer(self, model: str, document: Any, binary: bytes = b"", **headers: str) -> Any:
        """The answer to a request of JSON and binary data."""
        text = document if isinstance(document, bytes) else json.dumps(document).encode()
        more = {LENGTH: str(len(text))} if binary else {}
        return self.client.post(f"/v2/models/{model}/infer", content=text + binary, headers={**more, **headers})

    def scores(self, model: str, x: NDArray[Any]) -> NDArray[np.float32]:
        """Scores that the server gives, as binary data both ways."""
        answer = self.infer(model, binary_request(x), x.tobytes())
        assert answer.status_code == 200, answer.text
        document, (scores, _) = opened(answer)
        assert document["model_name"] == model
        return scores


def binary_request(x: NDArray[Any], **more: Any) -> dict[str, Any]:
    """A request whose tensors, both ways, are binary."""
    datatype = {"uint8": "UINT8", "int8": "INT8", "float32": "FP32"}[x.dtype.name]
    tensor = {"name": "input", "shape": list(x.shape), "datatype": datatype, "parameters": {"binary_data_size": x.nbytes}}
    return {"inputs": [tensor], "parameters": {"binary_data_output": True}, **more}


DTYPES = {"FP32": "<f4", "FP64": "<f8", "INT64": "<i8"}


def opened(answer: Any) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """The JSON of an answer, and its tensors in order, wherever their data are."""
    length = answer.headers.get(LENGTH)
    body = answer.content
    at = len(body) if length is None else int(length)
    document, tensors = json.loads(body[:at]), []
    for output in document["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            values = np.array(output["data"], DTYPES[output["datatype"]])
        else:
            values = np.frombuffer(body[at : at + size], DTYPES[output["datatype"]])
            at += size
        tensors.append(values.reshape(output["shape"]))
    assert at == len(body)
    return document, tensors


@contextlib.contextmanager
def asked(
    models: dict[str, Path], limits: Limits | None = None, snapshots: Path | None = None, **parts: Any
) -> Iterator[Asked]:
    """An application that serves these models while the block runs."""
    stream = io.StringIO()
    application = Application(Repository(models, threads=1, snapshots=snapshots), limits=limits, log=Log(stream), **parts)
    with TestClient(application) as client:
        yield Asked(application, client, stream)
