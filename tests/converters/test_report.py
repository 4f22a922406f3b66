"""`Model.report`: what the command line prints of a conversion is there in Python, and still there in the model file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CHECKPOINT, DIGITS, fine

import xnorinfer
from xnorinfer.errors import MalformedModelError
from xnorinfer.report import Assumption, Report, TensorUse
from xnorinfer.spelling import in_python


def odd_checkpoint(folder: Path) -> Path:
    arrays = {key: array for key, array in np.load(CHECKPOINT).items() if not key.endswith("epsilon")}
    np.savez(folder / "net.npz", **arrays, step=np.int64(3))
    return folder / "net.npz"


def test_a_report_says_what_the_command_line_prints_and_is_kept(tmp_path: Path) -> None:
    source = odd_checkpoint(tmp_path)
    model = xnorinfer.convert(source, ignore=["step"], input_range=(-1, 1))
    report = model.report
    assert (report.source, report.format) == ("net.npz", "npz")
    assert report.ignored == (TensorUse("step", (), "int64", 'ignore=["step"]', True),)
    assert TensorUse("0.weight", (256, 64), "float32", "layer 0: latent weights, (neurons, inputs)") in report.found
    assert Assumption("input", "uint8 pixels 0..255 mapped linearly to -1..1", "option") in report.assumed
    assert any("the file does not say BatchNorm's epsilon" in text for text in report.warnings)
    assert report.options["ignore"] == ["step"]
    model.save(tmp_path / "m")
    assert xnorinfer.load(tmp_path / "m").report == report
    told = json.loads(json.dumps(report.to_json()))
    printed = fine("convert", source, "--dry-run", "--ignore", "step", "--input-range", "-1:1")
    given = json.loads(fine("convert", source, "--dry-run", "--ignore", "step", "--input-range", "-1:1", "--json"))
    tensors = [{**one, "use": in_python(one["use"])} for one in given["tensors"]]
    assert [one for one in tensors if one["ignored"]] == told["ignored"]
    assert [one for one in tensors if not one["ignored"]] == told["found"]
    assert (given["assumptions"], list(map(in_python, given["warnings"]))) == (told["assumed"], told["warnings"])
    text = str(report)
    assert all(one.name in text for one in (*report.found, *report.ignored))
    assert all(warning in text for warning in report.warnings)
    assert all(warning in printed for warning in given["warnings"])
    assert "0.weight" not in fine("info", tmp_path / "m")  # the command line shows the packed layers


def test_what_was_expected_is_reported() -> None:
    x = np.load(DIGITS)["x"][:50]
    model = xnorinfer.convert(CHECKPOINT, profile="tf1-round", input_range=(-1, 1))
    assert model.report.expected is None
    told = xnorinfer.convert(CHECKPOINT, profile="tf1-round", input_range=(-1, 1), expect=(x, model.scores(x))).report.expected
    assert told is not None
    assert told["rows"] == 50


def test_models_without_a_conversion_have_a_report_too() -> None:
    assert xnorinfer.load("mnist-784-1024x3").report.assumed  # packed by an older version, which kept no tensors
    bare = dataclasses.replace(xnorinfer.convert(CHECKPOINT).packed, provenance={})
    assert xnorinfer.Model(bare).report == Report.of({})


@pytest.mark.parametrize(
    "provenance",
    [
        {"source": 3},
        {"options": []},
        {"warnings": "one"},
        {"warnings": [1]},
        {"assumptions": {"a": 1}},
        {"assumptions": [["a", "b"]]},
        {"assumptions": [["a", "b", 3]]},
        {"tensors": [["a", [1, "2"], "float32", "0: weight", False]]},
        {"tensors": [["a", [1, 2], "float32", "0: weight", "no"]]},
        {"tensors": ["abcde"]},
        {"expected": []},
    ],
)
def test_provenance_of_a_wrong_form_is_named(provenance: dict[str, Any]) -> None:
    with pytest.raises(MalformedModelError, match=f"provenance: {next(iter(provenance))}"):
        Report.of(provenance)


def test_names_of_tensors_cannot_look_like_lines_of_a_report() -> None:
    report = Report.of({"source": "a\nWarnings", "tensors": [["w\n  none", [2], "float32", "0: weight\x1b[2J", False]]})
    assert len(str(report).splitlines()) == 2
    assert "\x1b" not in str(report)
