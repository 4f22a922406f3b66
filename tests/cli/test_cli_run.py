"""`xnorinfer run` in this process: every form of input and output, every refusal."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CHECKPOINT, DIGITS, fine, wrong
from networks import INPUTS, random_inputs, random_network
from numpy.typing import NDArray

import xnorinfer
from xnorinfer.conversion import convert_file
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network, converted."""
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    fine("convert", CHECKPOINT, "-o", path)
    return path


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """Images, true classes, and the classes that the packed network gives."""
    held = dict(np.load(DIGITS))
    net = convert_file(CHECKPOINT, ConvertOptions()).reading.net
    return held["x"], held["y"].astype(np.int64), forward(net, held["x"]).argmax(axis=1)


def test_run_prints_one_class_a_line(model: Path, digits: tuple[NDArray[Any], ...]) -> None:
    _, _, classes = digits
    assert fine("run", model, DIGITS + ":x") == "".join(f"{c}\n" for c in classes)
    assert fine("run", model, DIGITS + ":x", "--batch", 7, "--threads", 1) == "".join(f"{c}\n" for c in classes)


def test_run_prints_scores(model: Path, digits: tuple[NDArray[Any], ...]) -> None:
    lines = fine("run", model, DIGITS + ":x", "--scores").splitlines()
    scores = np.array([[np.float32(v) for v in line.split("\t")] for line in lines])
    assert (scores == xnorinfer.load(model).scores(digits[0])).all()


def test_run_accuracy_and_output(model: Path, digits: tuple[NDArray[Any], ...], tmp_path: Path) -> None:
    x, y, classes = digits
    correct = int((classes == y).sum())
    text = fine("run", model, DIGITS + ":x", "--labels", DIGITS + ":y", "-o", tmp_path / "o.npy", "--batch", 33)
    assert f"({correct} of 400 correct)" in text
    assert f"{correct / 400:.2%}" in text
    written = np.load(tmp_path / "o.npy")
    assert written.dtype == np.int64
    assert (written == classes).all()
    fine("run", model, DIGITS + ":x", "--scores", "-o", tmp_path / "s.npy", "--batch", 33)
    assert (np.load(tmp_path / "s.npy") == xnorinfer.load(model).scores(x)).all()
    assert sorted(os.listdir(tmp_path)) == ["o.npy", "s.npy"]


def test_run_takes_every_form_of_the_same_images(model: Path, digits: tuple[NDArray[Any], ...], tmp_path: Path) -> None:
    x, _, classes = digits
    x, classes = x[:40], classes[:40]
    expected = "".join(f"{c}\n" for c in classes)
    header = bytes([0, 0, 8, 3]) + struct.pack(">III", 40, 8, 8)
    np.save(tmp_path / "flat.npy", x)
    np.save(tmp_path / "square.npy", x.reshape(40, 8, 8))
    np.save(tmp_path / "fortran.npy", np.asfortranarray(x))
    np.save(tmp_path / "mapped.npy", (x.astype(np.float32) / np.float32(255)) * np.float32(2) - np.float32(1))
    np.save(tmp_path / "wide.npy", x.astype(np.int64))
    np.savez_compressed(tmp_path / "one.npz", x)
    (tmp_path / "x.idx").write_bytes(header + x.tobytes())
    (tmp_path / "x.idx.gz").write_bytes(gzip.compress(header + x.tobytes()))
    for path in sorted(tmp_path.iterdir()):
        assert fine("run", model, path, "--batch", 16) == expected, path


def test_run_images(model: Path, digits: tuple[NDArray[Any], ...], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    x, y, classes = digits
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(12):
        image.fromarray(x[i].reshape(8, 8)).save(folder / f"{i:02}.png")
    (tmp_path / "y.txt").write_text("".join(f"{c}\n" for c in y[:12]))
    lines = [f"{folder / f'{i:02}.png'}\t{c}\n" for i, c in enumerate(classes[:12])]
    assert fine("run", model, folder) == "".join(lines)
    assert fine("run", model, folder / "05.png", folder / "02.png") == lines[5] + lines[2]
    assert "of 12 correct" in fine("run", model, folder, "--labels", tmp_path / "y.txt")
    image.fromarray(x[0].reshape(4, 16)).save(folder / "05.png")
    assert "05.png: is 16x4 pixels" in wrong("run", model, folder, "-o", tmp_path / "o.npy")
    assert not (tmp_path / "o.npy").exists()


@pytest.mark.parametrize("name", INPUTS)
def test_run_takes_every_kind_of_input(name: str, tmp_path: Path) -> None:
    net = random_network(2, [40, 70, 10], INPUTS[name])
    modelfile.save(lower(net).packed, tmp_path / "m")
    x = random_inputs(np.random.default_rng(0), net.input, 30, 40)
    np.save(tmp_path / "x.npy", x)
    assert fine("run", tmp_path / "m", tmp_path / "x.npy") == "".join(f"{c}\n" for c in forward(net, x).argmax(axis=1))


def test_run_refuses_images_for_a_network_of_reals(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    modelfile.save(lower(random_network(2, [64, 70, 10], INPUTS["reals"])).packed, tmp_path / "m")
    image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    assert "image files hold pixels 0..255, this model takes float32" in wrong("run", tmp_path / "m", tmp_path / "x.png")


def test_run_on_no_samples(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.empty((0, 64), np.uint8))
    np.save(tmp_path / "y.npy", np.empty(0, int))
    assert fine("run", model, tmp_path / "x.npy") == ""
    text = fine("run", model, tmp_path / "x.npy", "--labels", tmp_path / "y.npy", "-o", tmp_path / "o.npy", "--scores")
    assert "0 of 0 correct" in text
    assert np.load(tmp_path / "o.npy").shape == (0, 10)


def test_run_bad_inputs(model: Path, tmp_path: Path) -> None:
    x = np.zeros((10, 64), np.uint8)
    late = np.zeros((10, 64), np.float32) - 1
    late[7, 3] = 0.12345
    saved = {
        "narrow": np.zeros((10, 63), np.uint8),
        "one": np.zeros(64, np.uint8),
        "late": late,
        "negative": np.full((10, 64), -5),
        "bool": np.zeros((10, 64), bool),
        "nan": np.full((10, 64), np.nan),
        "good": x,
    }
    for name, array in saved.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "good.npy").read_bytes()[:-100])
    np.save(tmp_path / "labels9.npy", np.zeros(9, int))
    np.save(tmp_path / "labels10.npy", np.full(10, 10))
    before = sorted(os.listdir(tmp_path))
    out = ["-o", tmp_path / "o.npy", "--batch", 4]
    assert "has shape (10, 63)" in wrong("run", model, tmp_path / "narrow.npy", *out)
    assert "row axis" in wrong("run", model, tmp_path / "one.npy", *out)
    message = wrong("run", model, tmp_path / "late.npy", *out)
    assert "late.npy, rows from 4 on: input row 3, column 3 is 0.12345" in message
    assert "--input-real" in message
    assert "negative.npy" in wrong("run", model, tmp_path / "negative.npy", *out)
    assert "dtype bool" in wrong("run", model, tmp_path / "bool.npy", *out)
    assert "nan.npy" in wrong("run", model, tmp_path / "nan.npy", *out)
    assert "truncated" in wrong("run", model, tmp_path / "cut.npy", *out)
    assert "no such file" in wrong("run", model, tmp_path / "none.npy", *out)
    assert "choose one by its name" in wrong("run", model, DIGITS, *out)
    good = tmp_path / "good.npy"
    assert "9 labels for 10 samples" in wrong("run", model, good, "--labels", tmp_path / "labels9.npy", *out)
    assert "label 0 is 10" in wrong("run", model, good, "--labels", tmp_path / "labels10.npy", *out)
    assert "is an input" in wrong("run", model, good, "-o", good)
    assert "is an input" in wrong("run", model, good, "-o", model)
    assert "is an input" in wrong("run", model, DIGITS + ":x", "-o", DIGITS)
    assert "is a folder" in wrong("run", model, good, "-o", tmp_path)
    assert sorted(os.listdir(tmp_path)) == before
