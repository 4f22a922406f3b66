"""The models that ship: found by name, true to their cards, in the package."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import CHECKPOINT, fine, wrong
from places import ROOT

import xnorinfer
from xnorinfer import shipped
from xnorinfer.errors import NotAModelError
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import describe

NAME = "mnist-784-1024x3"
SHIPPED = shipped.names()


@pytest.mark.parametrize("name", SHIPPED)
def test_files_are_those_of_the_card(name: str) -> None:
    card, path = shipped.card(name), shipped.path(name)
    info = describe(modelfile.load(path))
    assert card["name"] == name
    assert card["content_digest"] == info["content_digest"]
    assert card["checkpoint_sha256"] == info["provenance"]["sha256"]
    assert card["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    # 28x28x1-48C5V-P2-10: the image, neurons of convolutions and dense layers, pools.
    image, *parts = card["network"].split("-")
    assert math.prod(map(int, image.split("x"))) == info["inputs"]
    neurons = [int(re.match(r"\d+", part)[0]) for part in parts if part[0] != "P"]  # type: ignore[index]
    assert neurons == [layer["neurons"] for layer in info["layers"] if layer["kind"] != "pool"]
    sizes = {"file_bytes": path.stat().st_size, **{key: info[key] for key in ("packed_bytes", "float32_bytes")}}
    assert card["size"] == sizes
    assert sizes["file_bytes"] < 500_000
    assert not any(Path(str(value)).is_absolute() for value in info["provenance"].values())


@pytest.mark.parametrize("name", SHIPPED)
def test_accuracy_is_that_of_the_card(name: str, mnist_folder: Path) -> None:
    images, labels = (next(mnist_folder.glob(f"t10k-{part}-ubyte*")) for part in ("images-idx3", "labels-idx1"))
    accuracy = shipped.card(name)["accuracy"]
    shown = fine("run", name, images, "--labels", labels)
    assert f"({accuracy['packed_correct']} of {accuracy['images']} correct)" in shown
    assert accuracy["images"] == 10_000


@pytest.mark.parametrize("name", SHIPPED)
def test_samples_run_out_of_the_box(name: str, tmp_path: Path) -> None:
    out = tmp_path / "digits.npz"
    assert "400, 28, 28" in fine("models", name, "--samples", out)
    samples = shipped.card(name)["samples"]
    shown = fine("run", name, f"{out}:x", "--labels", f"{out}:y")
    assert f"({samples['correct']} of {samples['images']} correct)" in shown


def test_samples_are_prepared_as_mnists() -> None:
    images, classes = shipped.sample_digits()
    assert images.shape == (400, 28, 28)
    assert images.dtype == classes.dtype == np.uint8
    for image in images:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert rows[-1] - rows[0] < 20
        assert columns[-1] - columns[0] < 20
        for axis in (0, 1):
            centre = (image.sum(axis=1 - axis, dtype=np.float64) * np.arange(28)).sum() / image.sum(dtype=np.float64)
            assert abs(centre - 13.5) <= 0.5


def test_bilinear_scaling_keeps_constant_and_linear_parts() -> None:
    """Inside the image, scaling a ramp gives a ramp."""
    places = (np.arange(20) + 0.5) * 8 / 20 - 0.5
    inside = (places >= 0) & (places <= 7)
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))
    np.testing.assert_allclose(weights[inside] @ np.arange(8), places[inside], atol=1e-12)
    np.testing.assert_allclose(weights[inside].sum(axis=1), 1, atol=1e-12)


def test_a_name_is_good_wherever_a_model_is() -> None:
    digest = shipped.card(NAME)["content_digest"]
    assert json.loads(fine("info", NAME, "--json"))["content_digest"] == digest
    assert xnorinfer.load(NAME).info["content_digest"] == digest
    assert "Meant for trying" in fine("models", NAME)
    assert fine("models", NAME, "--path").strip() == str(shipped.path(NAME))
    assert json.loads(fine("models", NAME, "--json")) == shipped.card(NAME)
    assert json.loads(fine("models", "--json")) == [shipped.card(name) for name in SHIPPED]
    assert all(name in fine("models") for name in SHIPPED)


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fine("convert", CHECKPOINT, "-o", NAME)
    assert json.loads(fine("info", NAME, "--json"))["inputs"] == 64
    assert shipped.locate(NAME) == Path(NAME)


def test_other_names_list_what_ships() -> None:
    assert f"no such file, and no model that ships with xnorinfer ({', '.join(SHIPPED)})" in wrong("info", "mnist")
    assert f"there is {', '.join(SHIPPED)}" in wrong("models", "../models/" + NAME)
    assert "need the NAME" in wrong("models", "--path")
    with pytest.raises(NotAModelError, match=f"no such file.*{NAME}"):
        xnorinfer.load("mnist")


def test_every_data_file_is_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^xnorinfer = \[(.*)\]$", text[text.index("[tool.setuptools.package-data]") :], re.MULTILINE)
    assert found
    package = ROOT / "xnorinfer"
    covered = {path for pattern in re.findall(r'"([^"]+)"', found[1]) for path in package.glob(pattern)}
    files = {path for path in (package / "data").rglob("*") if path.is_file()}
    assert package / "data" / "models" / f"{NAME}.safetensors" in files
    assert files <= covered
