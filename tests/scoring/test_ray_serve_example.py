"""The deployment of Ray Serve answers a request over HTTP."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys

import pytest
from places import ROOT
from waiting import HANGS

import xnorinfer
from xnorinfer.shipped import sample_digits


@pytest.mark.long
def test_the_deployment_answers() -> None:
    if importlib.util.find_spec("ray") is None or importlib.util.find_spec("ray.serve") is None:
        pytest.skip("the example needs ray[serve]")
    pytest.importorskip("starlette", reason="the example needs ray[serve]")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", 8000)) == 0:
            pytest.skip("the port of Ray Serve, 8000, is in use")
    command = [sys.executable, str(ROOT / "examples" / "ray_serve.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    images, labels = sample_digits()
    assert f"class {xnorinfer.load('mnist-784-1024x3').predict(images[:1])[0]}, label {labels[0]}" in done.stdout, done.stderr[
        -2000:
    ]
