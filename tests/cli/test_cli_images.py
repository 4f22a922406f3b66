"""Images for convolutional networks from the command line: every form of the same ones, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_npz
from command_line import fine, wrong
from numpy.typing import NDArray

import xnorinfer

SHAPE = (7, 10, 3)
CLASSES = 4
TOML = """
profile = "ge-zero"
kernel_layout = "{kernels}"
layout = "out_in"
flatten = "channels_last"
[input]
shape = [7, 10, 3]
normalize = [[0.5, 0.25, 0.75], [0.5, 0.5, 0.25]]
[[layers]]
name = "stem"
weight = "stem"
stride = 1
padding = 1
pool = {{kind = "max", size = 2, after = "activation"}}
steps = [{{sub = 0.125}}]
[[layers]]
name = "fc"
weight = "fc"
"""


def network(folder: Path, kernels: str) -> tuple[Path, Path]:
    """A source and the model that it is converted to; kernels say whether the source has channels first."""
    rng = np.random.default_rng(0)
    stem, fc = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((8, 3, 3, 3), (CLASSES, 3 * 5 * 8)))
    source = write_npz(folder / "net.npz", stem=stem if kernels == "OIHW" else stem.transpose(2, 3, 1, 0), fc=fc)
    (folder / "net.toml").write_text(TOML.format(kernels=kernels))
    model = folder / f"{kernels}.safetensors"
    fine("convert", source, "--net", folder / "net.toml", "-o", model)
    return source, model


@pytest.fixture(scope="module")
def images() -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (12, *SHAPE), dtype=np.uint8)


def classes(text: str) -> list[int]:
    return [int(line) for line in text.split()]


@pytest.mark.parametrize("kernels", ["OIHW", "HWIO"])
def test_every_form_of_the_same_images(tmp_path: Path, images: NDArray[Any], kernels: str) -> None:
    _, model = network(tmp_path, kernels)
    want = xnorinfer.load(model, threads=1).predict(images).tolist()
    assert len(set(want)) > 1
    np.save(tmp_path / "last.npy", images)
    np.save(tmp_path / "flat.npy", images.reshape(len(images), -1))
    np.savez_compressed(tmp_path / "some.npz", x=images, y=np.array(want))
    for form in ("last.npy", "flat.npy", "some.npz:x"):
        assert classes(fine("run", model, tmp_path / form)) == want
    assert "100.00%" in fine("run", model, tmp_path / "some.npz:x", "--labels", tmp_path / "some.npz:y")
    np.save(tmp_path / "first.npy", images.transpose(0, 3, 1, 2))
    if kernels == "OIHW":
        assert classes(fine("run", model, tmp_path / "first.npy")) == want
    else:
        assert "channels first; this model takes them last: x.transpose(0, 2, 3, 1)" in wrong(
            "run", model, tmp_path / "first.npy"
        )


def test_folders_of_colours(tmp_path: Path, images: NDArray[Any]) -> None:
    image = pytest.importorskip("PIL.Image")
    source, model = network(tmp_path, "HWIO")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(images):
        image.fromarray(pixels).save(folder / f"{number:02}.png")
    want = xnorinfer.load(model, threads=1).predict(images).tolist()
    lines = [line.split("\t") for line in fine("run", model, folder).splitlines()]
    assert lines == [[str(folder / f"{number:02}.png"), str(c)] for number, c in enumerate(want)]
    assert "12 samples" in fine("info", model, "--stats", folder)
    fine("verify", model, source, "--data", folder)
    image.fromarray(images[0, :, :, 0]).save(tmp_path / "grey.png")
    assert "is grey (mode L), this model takes images of three channels" in wrong("run", model, tmp_path / "grey.png")
    image.fromarray(images[0].transpose(1, 0, 2).copy()).save(tmp_path / "turned.png")
    said = wrong("run", model, tmp_path / "turned.png")
    assert "is 7x10 pixels (width x height), this model takes 10x7; nothing is resized unless that is asked for" in said


def test_arrays_of_other_shapes(tmp_path: Path, images: NDArray[Any]) -> None:
    _, model = network(tmp_path, "OIHW")
    cases = {
        "turned": images.transpose(0, 2, 1, 3),
        "grey": images[:, :, :, 0],
        "cut": images[:, :, :8],
        "one": images[0],
        "short": images.reshape(12, -1)[:, :-1],
    }
    for name, array in cases.items():
        np.save(tmp_path / f"{name}.npy", array)
        said = wrong("run", model, tmp_path / f"{name}.npy")
        shape = re.escape(str(array.shape))
        way = r"looks like one sample; give it a row axis" if name == "one" else r"this model takes images \(rows, 7, 10, 3\)"
        assert re.search(rf"{name}\.npy: has shape {shape}[,;] (?:which )?{way}", said), said
