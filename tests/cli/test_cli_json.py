"""--json: stdout holds one JSON object and nothing else, with the numbers that the commands print for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CHECKPOINT, DIGITS, fine, run

from xnorinfer.cli.tensors import folded, show_tensors
from xnorinfer.converters.reading import TensorUse
from xnorinfer.engine.model import Model
from xnorinfer.packing import modelfile


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    fine("convert", CHECKPOINT, "-o", path)
    return path


def told(*arguments: object) -> dict[str, Any]:
    found = json.loads(fine(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


def test_convert(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    result = run("convert", CHECKPOINT, "-o", out, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["output"] == str(out)
    assert found["format"] == "npz"
    assert {use["name"] for use in found["tensors"]} == set(np.load(CHECKPOINT))
    assert {one["what"] for one in found["assumptions"]} >= {"tie profile", "input"}
    assert found["model"]["content_digest"] == modelfile.header_of(modelfile.load(out))["content_digest"]
    assert len(found["warnings"]) == 2
    assert result.stderr.splitlines() == [f"warning: {text}" for text in found["warnings"]]
    assert told("convert", CHECKPOINT, "--dry-run")["output"] is None
    # What fails leaves stdout empty, and says why on stderr as ever.
    failed = run("convert", CHECKPOINT, "--dry-run", "--strict", "--json")
    assert (failed.exit_code, failed.stdout) == (1, "")
    assert "error: --strict: 2 warnings; nothing written" in failed.stderr
    # The next command speaks again.
    assert "Packed network" in fine("convert", CHECKPOINT, "--dry-run")


def test_what_only_training_needs_is_one_row(capsys: pytest.CaptureFixture[str]) -> None:
    """However much an optimizer keeps, and wherever it stands, the tensors of the network and the warnings are seen."""
    state = [
        TensorUse(f"opt.{i}.{name}", (3,), "f4", "optimizer state, no part of inference", True)
        for i in range(9)
        for name in "mv"
    ]
    counters = [TensorUse("bn.count", (), "int64", "counts training batches, no part of inference", True)]
    kernel = TensorUse("fc.weight", (3, 4), "float32", "fc: weights, (neurons, inputs)")
    odd = TensorUse("spare", (3,), "float32", "--ignore spare", True)
    show_tensors([*state[:9], kernel, *counters, odd, *state[9:]])
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[2:] == ["fc.weight", "spare", "opt.0.m and 18 more", "21 tensors: 1 used, 20 ignored"]
    show_tensors([*counters, kernel])
    assert "bn.count" in capsys.readouterr().out


def test_run(model: Path, tmp_path: Path) -> None:
    images, classes = (np.load(DIGITS)[name] for name in ("x", "y"))
    ready = Model(modelfile.load(model))
    found = told("run", model, f"{DIGITS}:x")
    assert found["classes"] == ready.predict(images).tolist()
    assert (found["rows"], found["output"], found["accuracy"]) == (400, None, None)
    scores = told("run", model, f"{DIGITS}:x", "--scores")["scores"]
    np.testing.assert_array_equal(np.array(scores, np.float32), ready.scores(images))
    margins = told("run", model, f"{DIGITS}:x", "--margins", "--batch", "37")["margins"]
    assert [row[0] for row in margins] == found["classes"]
    labelled = told("run", model, f"{DIGITS}:x", "--labels", f"{DIGITS}:y")
    assert labelled["correct"] == int((ready.predict(images) == classes).sum())
    assert labelled["accuracy"] == labelled["correct"] / 400
    written = told("run", model, f"{DIGITS}:x", "-o", tmp_path / "c.npy")
    assert written["output"] == str(tmp_path / "c.npy")
    assert np.load(tmp_path / "c.npy").tolist() == found["classes"]


def test_bench(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("threadpoolctl")
    given = ("bench", model, "--batch", "4", "--threads", "1", "--seconds", "0.01", "--json")
    found = json.loads(fine(*given))
    assert json.loads(fine(*given, "-")).keys() == found.keys()
    assert [case["batch"] for case in found["cases"]] == [4]
    assert "against float32 numpy" in fine(*given, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text()).keys() == found.keys()


def test_extract(model: Path, tmp_path: Path) -> None:
    found = told("extract", model, "-o", tmp_path / "m.npz")
    assert found["written"] == [str(tmp_path / "m.npz")]
    assert {name: tuple(one["shape"]) for name, one in found["arrays"].items()} == {
        name: array.shape for name, array in np.load(tmp_path / "m.npz").items() if name != "meta"
    }
    found = told("extract", model, "-o", tmp_path / "m.h", "--runner")
    assert found["written"] == [str(tmp_path / name) for name in ("m.h", "m_runner.c", "m_vectors.txt")]
    assert found["prefix"] == "m"
    found = told("extract", model, "-o", tmp_path / "m", "--arduino")
    names = ("library.properties", "src/m.h", "examples/m/m.ino")
    assert found == {"written": [str(tmp_path / "m" / name) for name in names], "prefix": "m"}


def test_verify_info_and_models(model: Path) -> None:
    found = told("verify", model, CHECKPOINT, "--rows", 5)
    assert (found["holds"], found["equal"], found["rows"], found["expected"]) == (True, True, 5, None)
    assert found["reading"][0] == "input: 64 values, uint8 pixels 0..255 mapped linearly to -1..1"
    assert told("info", model)["classes"] == 10
    assert told("models", "mnist-784-1024x3")["name"] == "mnist-784-1024x3"


# ---------------------------------------------------------------- many tensors


def test_many_tensors_of_one_kind_are_few_rows() -> None:
    slots = [TensorUse(f"layer_{i}/kernel/Adam", (3,), "f4", f"optimizer slot of layer_{i}/kernel", True) for i in range(40)]
    kernels = [TensorUse(f"layer_{i}/kernel", (3,), "f4", f"layer_{i}: latent weights, (inputs, neurons)") for i in range(40)]
    tensors = [one for pair in zip(kernels, slots, strict=True) for one in pair]
    found = list(folded(tensors))
    assert [(use, more) for use, more in found if not use.ignored] == [(use, 0) for use in kernels]
    assert [(use, more) for use, more in found if use.ignored] == [(slots[0], 0), (slots[1], 0), (slots[39], 38)]
    assert list(folded(tensors[:16])) == [(use, 0) for use in tensors[:16]]
