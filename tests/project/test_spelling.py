"""Warnings and errors of the Python functions speak of their keywords, those of the command line of its options."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_npz
from command_line import run, wrong
from places import ROOT

import xnorinfer
from xnorinfer.errors import ConversionWarning, NetworkError, OptionError, StrictError, XnorinferError
from xnorinfer.keywords import ConvertKeywords
from xnorinfer.spelling import in_python

#: Options that only the command line has, and that texts may name.
ONLY_THERE = {
    "--write-net",
    "--certificate",
    "--framework",
    "--layer",
    "--name",
    "--plot",
    "--labels",
    "--margins",
    "--resize",
    "--invert",
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("--input-range, --input-signs or --input-real decides", "input_range=, input_signs=True or input_real=True decides"),
        ("leave --input-range=-1:1 for images; and", "leave input_range=(-1, 1) for images; and"),
        ("--input-normalize 0.1307:0.3081 for", "input_normalize=(0.1307, 0.3081) for"),
        ("--input-normalize=0.5,0.4:0.25,1e-1.", "input_normalize=((0.5, 0.4), (0.25, 1e-1))."),
        ("--input-threshold 128, --input-shape 3,32,32: x", "input_threshold=128, input_shape=(3, 32, 32): x"),
        ("--h glorot says so; --h and --scale-by say it", 'h="glorot" says so; h= and scale_by= say it'),
        ("--profile ge-zero (0 becomes +1) or gt-zero", 'profile="ge-zero" (0 becomes +1) or gt-zero'),
        ("--float-layer fc4 --float-layer 'fc 5' says so", 'float_layers=["fc4", "fc 5"] says so'),
        ("so that --float-layer is wrong there", "so that float_layers= is wrong there"),
        ("--ignore a.b leaves it out, --ignore 'x*' too", 'ignore=["a.b"] leaves it out, ignore=["x*"] too'),
        ("--state KEY says which, as in --state model.ema", 'state="KEY" says which, as in state="model.ema"'),
        ("--before-norm leaky-relu:0.1 --center makes", 'before_norm="leaky-relu:0.1", center=True makes'),
        ("--before-norm tanh, sigmoid or hardtanh says", 'before_norm="tanh", sigmoid or hardtanh says'),
        ("a net.toml (--net) can; --write-net drafts it", "a net.toml (net=) can; --write-net drafts it"),
        ("a--h, x--net and ---h stay", "a--h, x--net and ---h stay"),
    ],
)
def test_options_become_keywords(text: str, said: str) -> None:
    assert in_python(text) == said


def texts_of(path: Path) -> list[str]:
    """All texts of a module but docstrings, with {} for what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return [text for text in found if not text.startswith(("`", "Usage")) and "\n\n" not in text]


def test_every_option_that_a_conversion_names_is_a_keyword() -> None:
    """Or it is known to be of the command line alone."""
    known = {*ConvertKeywords.__annotations__, "data"}
    seen = set()
    for folder in ("converters", "xnorinfer/net", "xnorinfer/packing", "xnorinfer/proof"):
        for path in (ROOT / folder).rglob("*.py"):
            for text in texts_of(path):
                said = in_python(text)
                left = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", said))
                assert not left - ONLY_THERE, (path.name, said)
                seen |= set(re.findall(r"\b([a-z_]+)=", said)) if said != text else set()
    assert len(seen & known) > 12


def test_of_a_conversion(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_npz(
        tmp_path / "net.npz",
        **{"0.weight": rng.uniform(-1, 1, (8, 16)), "1.weight": rng.uniform(-1, 1, (4, 8)), "0.bias": rng.normal(size=8)},
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = xnorinfer.convert(path)
    said = [str(one.message) for one in caught if issubclass(one.category, ConversionWarning)]
    assert any("input_range=" in text for text in said)
    assert not [text for text in said if "--" in text]
    assert caught[0].filename == __file__
    assert model.report.warnings == tuple(said)
    # The same file says it to the command line as that has it.
    model.save(tmp_path / "m.safetensors")
    assert "--input-range" in run("info", tmp_path / "m.safetensors").stdout
    with pytest.raises(StrictError, match="input_range=") as strict:
        xnorinfer.convert(path, strict=True)
    assert strict.value.warnings == tuple(said)
    with pytest.raises(OptionError, match=r'^float_layers=\["fc9"\]: there is no such layer'):
        xnorinfer.convert(path, float_layers=["fc9"])
    assert "--float-layer fc9: there is no such layer" in wrong("convert", path, "--dry-run", "--float-layer", "fc9")


def test_errors_with_lists_change_as_a_whole() -> None:
    error = NetworkError(["a: check --h", "b: --net says it"], about="net.npz")
    error.reword(in_python)
    assert error.problems == ("a: check h=", "b: net= says it")
    assert str(error) == "net.npz cannot be converted (2 problems):\n  - a: check h=\n  - b: net= says it"
    assert isinstance(error, XnorinferError)
