"""What `run` writes and reads beside arrays: tables with names, standard input, images of other sizes."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import APART, CHECKPOINT, DIGITS, fine, wrong
from networks import INPUTS, random_network

import xnorinfer
from xnorinfer.cli import main
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

X = np.load(DIGITS)["x"]
Y = np.load(DIGITS)["y"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    fine("convert", CHECKPOINT, "-o", path)
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- tables


def test_csv(model: Path, tmp_path: Path) -> None:
    """Numbers read back the same, whatever the batch."""
    ready = xnorinfer.load(model)
    out = tmp_path / "a.CSV"
    text = fine("run", model, f"{DIGITS}:x", "-o", out, "--batch", 33)
    assert text.splitlines()[0] == f"wrote {out}: classes of 400 samples"
    assert rows_of(out) == [{"row": str(i), "class": str(c)} for i, c in enumerate(ready.predict(X))]
    fine("run", model, f"{DIGITS}:x", "-o", out, "--scores", "--labels", f"{DIGITS}:y", "--batch", 33)
    found = rows_of(out)
    assert list(found[0]) == ["row", "class", "label", *(f"score_{i}" for i in range(10))]
    assert [int(row["label"]) for row in found] == Y.tolist()
    scores = np.array([[np.float32(row[f"score_{i}"]) for i in range(10)] for row in found])
    assert (scores == ready.scores(X)).all()
    fine("run", model, f"{DIGITS}:x", "-o", out, "--margins")
    sure = ready.margins(X)
    assert [float(row["gap"]) for row in rows_of(out)] == sure.gaps.tolist()
    assert [float(row["margin_1"]) for row in rows_of(out)] == sure.layers[1].smallest.tolist()


def test_parquet(model: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    ready = xnorinfer.load(model)
    out = tmp_path / "a.parquet"
    for batch in (33, 1000):
        fine("run", model, f"{DIGITS}:x", "-o", out, "--scores", "--batch", batch)
        table = parquet.read_table(out)
        assert table.column_names == ["row", "class", "scores"]
        assert table["class"].to_pylist() == ready.predict(X).tolist()
        assert (np.array(table["scores"].to_pylist(), np.float32) == ready.scores(X)).all()
    np.save(tmp_path / "none.npy", X[:0])
    fine("run", model, tmp_path / "none.npy", "-o", out, "--margins")
    assert parquet.read_table(out).column_names == ["row", "class", "gap", "margins"]
    assert parquet.read_table(out).num_rows == 0


def test_a_table_of_nothing_has_columns(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", X[:0])
    fine("run", model, tmp_path / "none.npy", "-o", tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text() == "row,class\n"


def test_tables_are_refused_by_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.txt", "a.xlsx", "a.json"):
        said = wrong("run", model, f"{DIGITS}:x", "-o", tmp_path / name)
        assert f"{name}: predictions are written as .npy, .csv or .parquet; give a name that ends so" in said
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    said = wrong("run", model, f"{DIGITS}:x", "-o", tmp_path / "a.parquet")
    assert "needs the package pyarrow: pip install 'xnorinfer[score]'" in said
    late = np.full((9, 64), -1.0)
    late[8, 1] = 0.123
    np.save(tmp_path / "late.npy", late)
    wrong("run", model, tmp_path / "late.npy", "--batch", 2, "-o", tmp_path / "late.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late.npy"]


# ---------------------------------------------------------------- images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Digits of the demo as images of their size, and as dark ones on white of another."""
    image = pytest.importorskip("PIL.Image")
    for folder in ("same", "large"):
        (tmp_path / folder).mkdir()
    for number, pixels in enumerate(X[:6].reshape(-1, 8, 8)):
        image.fromarray(pixels).save(tmp_path / "same" / f"{number}.png")
        image.fromarray(255 - pixels.repeat(5, axis=0).repeat(7, axis=1)).save(tmp_path / "large" / f"{number}.png")
    return tmp_path


def test_names_of_images_are_told(model: Path, photos: Path) -> None:
    want = xnorinfer.load(model).predict(X[:6]).tolist()
    names = [str(photos / "same" / f"{number}.png") for number in range(6)]
    text = "".join(f"{name}\t{c}\n" for name, c in zip(names, want, strict=True))
    assert fine("run", model, photos / "same") == text
    assert fine("run", model, *names, "--batch", 4) == text
    assert all(line.count("\t") == 10 for line in fine("run", model, photos / "same", "--scores").splitlines())
    found = json.loads(fine("run", model, photos / "same", "--json"))
    assert (found["files"], found["classes"]) == (names, want)
    fine("run", model, photos / "same", "-o", photos / "a.csv")
    assert rows_of(photos / "a.csv") == [{"file": n, "class": str(c)} for n, c in zip(names, want, strict=True)]


def test_images_are_resized_and_inverted_only_when_asked(model: Path, photos: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    ready = xnorinfer.load(model)
    said = wrong("run", model, photos / "large")
    assert "has shape (6, 40, 56)" in said
    small = np.stack(
        [
            np.asarray(image.open(photos / "large" / f"{number}.png").resize((8, 8), image.Resampling.BILINEAR))
            for number in range(6)
        ]
    )
    for options, pixels in ((["--resize"], small), (["--resize", "--invert"], 255 - small)):
        lines = fine("run", model, photos / "large", *options).splitlines()
        assert [int(line.split("\t")[1]) for line in lines] == ready.predict(pixels).tolist()
    assert (np.abs(255.0 - small - X[:6].reshape(-1, 8, 8)) < 64).mean() > 0.9  # it is the same digit
    # An image of the right size stays as it is.
    assert fine("run", model, photos / "same", "--resize") == fine("run", model, photos / "same")
    np.save(photos / "inverted.npy", 255 - X)
    assert fine("run", model, photos / "inverted.npy", "--invert") == fine("run", model, f"{DIGITS}:x")


def test_resize_and_invert_are_refused_where_they_mean_nothing(model: Path, photos: Path) -> None:
    assert "is no image file; --resize scales those" in wrong("run", model, f"{DIGITS}:x", "--resize")
    np.save(photos / "floats.npy", X / 127.5 - 1)
    assert "--invert is for pixels of uint8, these are float64" in wrong("run", model, photos / "floats.npy", "--invert")
    modelfile.save(lower(random_network(1, [15, 8, 4], INPUTS["range"])).packed, photos / "odd")
    said = wrong("run", photos / "odd", photos / "large", "--resize")
    assert "the model takes 15 values, which are no square image" in said
    modelfile.save(lower(random_network(1, [16, 8, 4], INPUTS["signs"])).packed, photos / "signs")
    np.save(photos / "signs.npy", np.ones((2, 16), np.int8))
    assert "--invert is for pixels 0..255, this model takes" in wrong("run", photos / "signs", photos / "signs.npy", "--invert")


# ---------------------------------------------------------------- standard input


def piped(content: bytes, *arguments: object) -> Any:
    return CliRunner(**APART).invoke(main, [str(one) for one in arguments], input=content)


def bytes_of(name: str) -> bytes:
    stream = io.BytesIO()
    if name == "npz":
        np.savez_compressed(stream, X)
    else:
        np.save(stream, X)
    return gzip.compress(stream.getvalue()) if name == "npy.gz" else stream.getvalue()


@pytest.mark.parametrize("kind", ["npy", "npy.gz", "npz"])
def test_standard_input(model: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = piped(bytes_of(kind), "run", model, "-", "--batch", 33)
    assert done.exit_code == 0
    assert done.stdout == fine("run", model, f"{DIGITS}:x")
    done = piped(bytes_of(kind), "run", model, "-", "--labels", f"{DIGITS}:y", "--json")
    assert json.loads(done.stdout)["input"] == "standard input"
    assert json.loads(done.stdout)["correct"] == 391
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_refused_by_name(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    whole = bytes_of("npy")
    for content, said in [
        (b"", "error: standard input: is empty; needed is"),
        (whole[:-9], "error: standard input: is truncated"),
        (b"7, 8, 9\n" * 9, "error: standard input: is of no known kind"),
    ]:
        done = piped(content, "run", model, "-")
        assert done.exit_code == 2
        assert said in done.stderr
        assert str(tmp_path) not in done.output
    for options, said in [
        (["--resize"], "standard input: is no image file"),
        (["-o", tmp_path / "a.txt"], "predictions are written as"),
        (["-o", tmp_path / "none" / "a.npy"], "there is no folder"),
    ]:  # before any of it is read
        assert said in piped(b"", "run", model, "-", *options).stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- model files


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.onnx", "ONNX"), ("a.PT", "PyTorch"), ("a.tflite", "TensorFlow Lite"), ("a.npz", "numpy"), ("a.h", "C")],
)
def test_a_model_file_is_not_called_like_another(name: str, kind: str, model: Path, tmp_path: Path) -> None:
    said = wrong("convert", CHECKPOINT, "-o", tmp_path / name)
    assert f"{name}: ends in {Path(name).suffix} like {kind}, which is not what is written here" in said
    assert f"write {tmp_path / 'a.safetensors'}" in said
    assert ("'xnorinfer extract' writes" in said) == (name in ("a.npz", "a.h"))
    with pytest.raises(xnorinfer.errors.OutputError, match="ends in"):
        xnorinfer.load(model).save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["net.pt", "net.npz", "net.safetensors", "net.h5"])
def test_a_checkpoint_is_no_model_yet(name: str, tmp_path: Path) -> None:
    """The command that makes one of it is said, ready to type."""
    path = tmp_path / name
    if name == "net.pt":
        torch = pytest.importorskip("torch")
        torch.save({"fc.weight": torch.zeros(2, 2)}, path)
    elif name == "net.npz":
        np.savez(path, a=np.zeros(3))
    elif name == "net.safetensors":
        from safetensors.numpy import save_file

        save_file({"fc.weight": np.zeros((2, 2), np.float32)}, path)
    else:
        path.write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    for command in (["run", path, f"{DIGITS}:x"], ["info", path], ["bench", path], ["extract", path, "-o", tmp_path / "o.h"]):
        said = wrong(*command)
        assert f"convert a checkpoint first: xnorinfer convert {path} -o " in said
