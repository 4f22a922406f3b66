"""Names of models, files that change under a server, and tokens."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import Asked, asked
from servers import save

import xnorinfer
from xnorinfer.errors import InputError, ModelFileError, NotAModelError, OptionError, OutputError
from xnorinfer.serve import repository
from xnorinfer.serve.repository import Repository, named_models

X = np.arange(128, dtype=np.uint8).reshape(2, 64)


def test_models_have_names(model: Path, tmp_path: Path) -> None:
    odd = shutil.copy(model, tmp_path / "a=b.safetensors")
    assert named_models([str(model)]) == {"net": model}
    assert named_models([f"n-1.x={model}", "mnist-784-1024x3"])["n-1.x"] == model
    assert "mnist-784-1024x3" in named_models(["mnist-784-1024x3"])
    with pytest.raises(OptionError, match="'a=b' cannot be the name of a model"):
        named_models([str(odd)])
    assert named_models([f"a={odd}"]) == {"a": odd}
    with pytest.raises(OptionError, match="two models are called net; give one another name"):
        named_models([str(model), f"net={model}"])


def test_a_model_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(b"PK12345678")
    for snapshots in (None, tmp_path):
        with pytest.raises(ModelFileError, match=r"/broken: .*a zip archive"):
            Repository({"broken": tmp_path / "broken"}, snapshots=snapshots)
        with pytest.raises(NotAModelError, match="/none: "):
            Repository({"none": tmp_path / "none"}, snapshots=snapshots)


def reloads(server: Asked) -> list[tuple[str, Any]]:
    return [(line["event"], line.get("reason")) for line in server.lines if line["event"].startswith("model ")]


def settled(server: Asked, count: int) -> None:
    """Wait until so many changed files have been loaded or refused."""
    deadline = time.monotonic() + 60
    while (
        sum(map(float, re.findall(r"^xnorinfer_reloads_total\{.*\} (\S+)$", server.client.get("/metrics").text, re.M))) < count
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_changed_serves_once_it_is_valid(model: Path, tmp_path: Path, in_place: bool) -> None:
    other = save(tmp_path / "other", 7)
    first, second = xnorinfer.load(model), xnorinfer.load(other)
    with asked({"net": model}, reload_seconds=0.02) as server:
        about = server.client.get("/v2/models/net").json()
        assert np.array_equal(server.scores("net", X), first.scores(X))
        content = other.read_bytes()
        # Broken: damaged, then gone; the old one serves.
        model.write_bytes(content[:-1])
        settled(server, 1)
        assert np.array_equal(server.scores("net", X), first.scores(X))
        model.unlink()
        settled(server, 2)
        assert np.array_equal(server.scores("net", X), first.scores(X))
        assert server.client.get("/v2/models/net").json() == about
        if in_place:
            model.write_bytes(content)
        else:
            os.replace(other, model)
        settled(server, 3)
        assert np.array_equal(server.scores("net", X), second.scores(X))
        (version,) = server.client.get("/v2/models/net").json()["versions"]
        assert [version] != about["versions"]
        metrics = server.client.get("/metrics").text
    events = reloads(server)
    assert [event for event, _ in events] == ["model not reloaded, the old one serves on"] * 2 + ["model reloaded"]
    assert "truncated" in events[0][1]
    assert "no such file" in events[1][1]
    assert 'xnorinfer_reloads_total{model="net",result="refused"} 2.0' in metrics
    assert 'xnorinfer_reloads_total{model="net",result="loaded"} 1.0' in metrics


def test_a_network_of_another_shape_may_take_the_place(model: Path) -> None:
    with asked({"net": model}, reload_seconds=0.02) as server:
        save(model, 3, "signs", (10, 20, 3))
        settled(server, 1)
        assert server.client.get("/v2/models/net").json()["inputs"][0] == {
            "name": "input",
            "datatype": "INT8",
            "shape": [-1, 10],
        }
        assert server.scores("net", np.ones((1, 10), np.int8)).shape == (1, 3)


def test_a_file_that_is_being_written_is_let_alone(model: Path) -> None:
    found = Repository({"net": model}, threads=1)
    assert found.changed() == []
    content = model.read_bytes()
    for size in (100, 200):
        model.write_bytes(content[:size])
        assert found.changed() == []
    model.write_bytes(content)
    assert found.changed() == []
    assert found.changed() == ["net"]
    assert found.changed() == []


def test_snapshots_are_mapped_and_outlive_their_file(model: Path, tmp_path: Path) -> None:
    snapshots = tmp_path / "snapshots"
    snapshots.mkdir()
    want = xnorinfer.load(model).scores(X)
    found = Repository({"net": model}, threads=1, snapshots=snapshots)
    (copy,) = snapshots.glob("*.safetensors")
    assert copy.read_bytes() == model.read_bytes()
    model.write_bytes(b"")  # in place: a file that is mapped itself would take the process with it
    served = found.served["net"].model
    assert np.array_equal(served.scores(X), want)
    assert served.margins(X).classes.shape == (2,)
    assert copy.exists()
    # Broken ones leave no copy, and the next good one takes the place of the last.
    assert isinstance(asyncio.run(found.reload("net")), NotAModelError)
    assert list(snapshots.glob("*.safetensors")) == [copy]
    save(model, 7)
    asyncio.run(found.reload("net"))
    (other,) = snapshots.glob("*.safetensors")
    assert other != copy
    assert np.array_equal(served.scores(X), want)
    assert np.array_equal(found.served["net"].model.scores(X), xnorinfer.load(model).scores(X))


def test_tokens_are_read_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_bytes(b"one\r\n\n two \n")
    assert repository.read_tokens(path) == (b"one", b"two")
    path.chmod(0o600)
    assert not repository.readable_by_others(path)
    path.chmod(0o644)
    assert repository.readable_by_others(path) == (os.name == "posix")
    for content, says in (
        (b" \n", "holds no token"),
        (b"a b\n", "token 1 holds what"),
        ("k\u00e4se".encode(), "token 1 holds what"),
    ):
        path.write_bytes(content)
        with pytest.raises((InputError, OptionError), match=says):
            repository.read_tokens(path)
    with pytest.raises(InputError, match="none: the tokens cannot be read: No such file"):
        repository.read_tokens(tmp_path / "none")


def test_no_space_for_a_copy_leaves_the_old_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = tmp_path / "snapshots"
    snapshots.mkdir()
    found = Repository({"net": model}, threads=1, snapshots=snapshots)
    before = found.served["net"]
    save(model, 7)

    def full(path: Path, content: bytes) -> None:
        raise OutputError(f"{path}: cannot be written: No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(repository, "write_bytes", full)
        assert "No space left" in str(asyncio.run(found.reload("net")))
        with pytest.raises(OutputError, match="No space left"):
            Repository({"net": model}, threads=1, snapshots=snapshots)
    assert found.served["net"] is before
    asyncio.run(found.reload("net"))
    assert found.served["net"].version != before.version
