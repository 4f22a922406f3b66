"""Publishing a trained network as a shipped model, and downloading MNIST, on made-up data."""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xnorinfer.cli.models import markdown
from xnorinfer.engine.model import Model
from xnorinfer.errors import InputError, MissingExtraError, OptionError, OutputError
from xnorinfer.packing import modelfile

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from click.testing import CliRunner  # noqa: E402

from xnorinfer.training import data, download  # noqa: E402
from xnorinfer.training import mnist as mnist_recipe  # noqa: E402
from xnorinfer.training import publish as publishing  # noqa: E402
from xnorinfer.training.commands import commands  # noqa: E402


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments])


def samples(rows: int, seed: int) -> data.Samples:
    rng = np.random.default_rng(seed)
    return data.Samples.of(rng.integers(0, 256, (rows, 784)), rng.integers(0, 10, rows))


@pytest.fixture
def mnist_of_noise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up images stand for MNIST."""
    split = data.Split(samples(200, 0), samples(100, 1), samples(150, 2))
    monkeypatch.setattr(mnist_recipe, "load_mnist", lambda folder: split)
    monkeypatch.setattr(publishing, "mnist", lambda folder: split)
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in data.MNIST_FILES:
        (folder / name).touch()
    monkeypatch.setenv(data.MNIST_VARIABLE, str(folder))


def trained_as(tmp_path: Path, *layers: str) -> Path:
    """A checkpoint of `mnist` with its history."""
    done = run("mnist", "-o", tmp_path / "net.npz", *layers, "--epochs", 2, "--batch", 20, "--seed", 7)
    assert done.exit_code == 0, done.output
    return tmp_path / "net.npz"


@pytest.mark.parametrize(
    ("option", "layers", "network", "hidden"),
    [
        ("--hidden", "24,16", "784-24-16-10", [24, 16]),
        ("--layers", "6C5V-P2-4C3-P4-9-10", "28x28x1-6C5V-P2-4C3-P4-9-10", ["6C5V-P2", "4C3-P4", 9]),
    ],
)
@pytest.mark.usefixtures("mnist_of_noise")
def test_a_card_tells_what_the_files_hold(
    tmp_path: Path, option: str, layers: str, network: str, hidden: list[int | str]
) -> None:
    trained = trained_as(tmp_path, option, layers)
    out = tmp_path / "models"
    out.mkdir()
    done = run("publish", trained, "tiny", "--output", out)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == ["tiny.json", "tiny.safetensors"]
    card = json.loads((out / "tiny.json").read_text())
    history = json.loads((tmp_path / "net.npz.history.json").read_text())
    packed = modelfile.load(out / "tiny.safetensors")
    test = publishing.mnist(tmp_path).test
    right = int((Model(packed).predict(test.pixels.numpy()) == test.labels.numpy()).sum())
    assert card["accuracy"] == {
        "images": 150,
        "packed_correct": right,
        "framework_correct": round(150 * (1 - history["summary"]["test_error"])),
    }
    assert card["recipe"] == history["recipe"]
    assert card["recipe"]["seed"] == 7
    assert card["network"] == network
    assert card["shape"]["hidden"] == hidden
    assert card["training"]["epochs"] == 2
    assert card["training"]["best_epoch"] == history["summary"]["best_epoch"]
    assert card["checkpoint_sha256"] == hashlib.sha256(trained.read_bytes()).hexdigest()
    assert card["file_sha256"] == hashlib.sha256((out / "tiny.safetensors").read_bytes()).hexdigest()
    text = markdown(card)
    assert text.startswith("# tiny\n")
    assert f"({right} of 150)" in text
    assert "CC BY-SA 3.0" in text


@pytest.mark.usefixtures("mnist_of_noise")
def test_what_does_not_fit_is_not_published(tmp_path: Path) -> None:
    trained = trained_as(tmp_path, "--hidden", "24,16")
    out = tmp_path / "models"
    out.mkdir()
    history = tmp_path / "net.npz.history.json"
    content = json.loads(history.read_text())
    content["summary"]["network"] = "784-9-10"
    (tmp_path / "other.json").write_text(json.dumps(content))
    (tmp_path / "odd.json").write_text("[]")
    for arguments, error, message in (
        (("--history", tmp_path / "other.json"), OptionError, "its history tells of 784-9-10"),
        (("--history", tmp_path / "odd.json"), InputError, "is no training history"),
        (("--history", tmp_path / "gone.json"), InputError, "cannot be read"),
    ):
        done = run("publish", trained, "tiny", "--output", out, *arguments)
        assert isinstance(done.exception, error)
        assert message in str(done.exception)
    assert not list(out.iterdir())


# ---------------------------------------------------------------- download


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with four made-up files, served as the mirror, whose digests are the known ones."""
    pytest.importorskip("pooch", reason="pooch is not installed")
    folder = tmp_path / "served"
    folder.mkdir()
    for name in data.MNIST_FILES:
        (folder / f"{name}.gz").write_bytes(gzip.compress(name.encode()))
    known = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(download, "SHA256", known)
    monkeypatch.setattr(download, "MIRROR", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield folder
    server.shutdown()
    server.server_close()


def test_the_known_digests_are_those_of_four_files() -> None:
    assert set(download.SHA256) == {f"{name}.gz" for name in data.MNIST_FILES}
    assert all(len(bytes.fromhex(digest)) == 32 for digest in download.SHA256.values())


def test_files_that_are_missing_are_fetched(mirror: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "mnist"
    folder.mkdir(parents=True)
    (folder / data.MNIST_FILES[0]).write_bytes(b"mine")
    told: list[str] = []
    assert data.mnist_folder(folder, True, told.append) == folder
    assert [url.rpartition("/")[2] for url in told] == [f"{name}.gz" for name in data.MNIST_FILES[1:]]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [data.MNIST_FILES[0], *(f"{n}.gz" for n in data.MNIST_FILES[1:])]
    )
    for name in data.MNIST_FILES[1:]:
        assert (folder / f"{name}.gz").read_bytes() == (mirror / f"{name}.gz").read_bytes()
    told.clear()
    data.mnist_folder(folder, True, told.append)
    assert not told


def test_another_file_and_a_missing_one_leave_nothing(mirror: Path, tmp_path: Path) -> None:
    first, second = (f"{name}.gz" for name in data.MNIST_FILES[:2])
    (mirror / first).write_bytes(b"something else")
    with pytest.raises(InputError, match="is not MNIST's file, its SHA-256 is not"):
        data.mnist_folder(tmp_path / "new", True)
    assert not list((tmp_path / "new").iterdir())
    (mirror / second).unlink()
    with pytest.raises(InputError, match=r"cannot be downloaded .*; get the file in another way and put it into"):
        download.download_mnist(tmp_path / "new", data.MNIST_FILES[1:2])
    assert not list((tmp_path / "new").iterdir())


def test_offline_and_unwritable(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        data.mnist_folder(tmp_path / "file" / "mnist", True)
    monkeypatch.setattr(download, "MIRROR", "http://127.0.0.1:9/")
    with pytest.raises(InputError, match="cannot be downloaded"):
        data.mnist_folder(tmp_path / "new", True)
    assert not list((tmp_path / "new").iterdir())


def test_without_pooch_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xnorinfer\[train\]'"):
        data.mnist_folder(tmp_path / "new", True)
    done = run("mnist", "-o", tmp_path / "net.npz", "--data", tmp_path / "new", "--download")
    assert isinstance(done.exception, MissingExtraError)
    done = run("mnist", "-o", tmp_path / "net.npz", "--data", tmp_path / "new")
    assert "which --download fetches" in str(done.exception)
