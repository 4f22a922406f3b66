"""What tests that follow hints need: the texts, the lines and options in them, a net.toml around a line, numpy's scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import Layer, signs
from command_line import fine, run
from numpy.typing import NDArray

import xnorinfer

f = np.float32
Array = NDArray[Any]

EPSILON = 1e-3
GIVEN = ("--profile", "ge-zero", "--input-signs", "--bn-epsilon", EPSILON)
WIDTHS = [24, 18, 6]


def rows(depth: int = WIDTHS[0]) -> Array:
    return np.random.default_rng(depth).choice(np.array([-1, 1], np.int8), (200, depth))


Change = Callable[[int, Array], Array]


def forward(
    layers: Sequence[Layer],
    change: Change = lambda n, value: value,
    *,
    inputs: Array | None = None,
    weights: Callable[[int, Array], Array] | None = None,
    at_zero: int = 1,
    epsilon: float = EPSILON,
) -> Array:
    """Scores in float64 of -1/+1 inputs; `change` gets each layer's number and its sums with their bias, `weights` gives the
    matrix that counts, else the signs."""
    value = (rows(layers[0].weight.shape[1]) if inputs is None else inputs).astype(np.float64)
    for n, layer in enumerate(layers):
        matrix = signs(layer.weight, at_zero) if weights is None else weights(n, layer.weight.astype(np.float64))
        value = (signs(value, at_zero) if n else value) @ matrix.T
        value = change(n, value if layer.bias is None else value + layer.bias)
        if layer.mean is not None:
            inverse = 1 / np.sqrt(layer.variance + epsilon) if layer.inv_std is None else layer.inv_std
            value = (value - layer.mean) * inverse * (1 if layer.gamma is None else layer.gamma)
            value = value if layer.beta is None else value + layer.beta
    return value


def equal(found: Array, wanted: Array) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found.argmax(axis=1), wanted.argmax(axis=1))


def told(path: Path, *given: object) -> str:
    """All that `convert` says, whether it refuses or warns."""
    result = run("convert", path, "--dry-run", *(given or GIVEN))
    return f"{result.stdout}\n{result.stderr}"


def lines_of(text: str, about: str) -> list[str]:
    """The net.toml lines that a text proposes behind the words `about`."""
    assert about in text, text
    said = re.search(r" net\.toml \(--net\) can say ((?:`[^`]+`(?: or |, | and )?)+)", text[text.index(about) :])
    assert said is not None, text
    return re.findall(r"`([^`]+)`", said[1])


def filled(line: str, *values: str) -> str:
    """A line with its places `...` filled in; a bare key gets its value; a table's head goes."""
    line = line.removeprefix("[[layers]] ").removesuffix(", in their order").removesuffix(" in each [[layers]]")
    for value in values:
        line = re.sub(r"\.\.\.", lambda _, value=value: value, line, count=1) if "..." in line else f"{line} = {value}"
    return line.replace('""', '"')


def networks(path: Path, toml: str, x: Array | None = None) -> Array:
    return xnorinfer.convert(path, net=toml, threads=1).scores(rows() if x is None else x)


def option(text: str, name: str, value: str = "") -> list[str]:
    """An option that a text proposes, as arguments: with the value that stands there, else with the one given."""
    found = re.search(
        rf"(?<![\w-]){name}(?![\w-])(?:[= ](?=[\d'-]*\d|'|dense_|mean|relu|tanh|ge-|gt-)('[^']*'|[^\s,;()]+))?", text
    )
    assert found is not None, text
    said = value or (found[1] or "").strip("'").rstrip(".:")
    return [f"{name}={said}"] if said else [name]


def after_options(path: Path, folder: Path, *given: object, x: Array | None = None) -> Array:
    """Scores of what the command line converts with these options."""
    fine("convert", path, "-o", folder / "model", *given)
    return xnorinfer.load(folder / "model", threads=1).scores(rows() if x is None else x)


# ---------------------------------------------------------------- a net.toml around a proposed line

Names = dict[str, str]


def named(n: int) -> Names:
    names = {"mean": "bn.mean", "variance": "bn.var", "gamma": "bn.gamma", "beta": "bn.beta"}
    return {role: f'"{n}.{name}"' for role, name in {"weight": "weight", "bias": "bias", **names}.items()}


def of_state(n: int, dense: str = "fc{}", norm: str = "bn{}") -> Names:
    fc, bn = dense.format(n + 1), norm.format(n + 1)
    names = {"mean": "running_mean", "variance": "running_var", "gamma": "weight", "beta": "bias"}
    return {"weight": f'"{fc}.weight"', "bias": f'"{fc}.bias"', **{r: f'"{bn}.{name}"' for r, name in names.items()}}


def listed(first: int, *roles: str) -> Names:
    return {role: f'"arr_{first + i}"' for i, role in enumerate(roles)}


def toml(layers: list[Names], said: dict[int, list[str]] | None = None, top: str = "", layout: str = "out_in") -> str:
    """said: lines of layer n, each in the place of the one of its key."""
    text = top if top.startswith("layout") else f'layout = "{layout}"\n{top}'
    text = f'profile = "ge-zero"\nepsilon = {EPSILON}\n{text}\n[input]\nsigns = true\n'
    for n, names in enumerate(layers):
        norm = {role: name for role, name in names.items() if role not in ("weight", "bias")}
        form = {} if "inv_std" in norm else {"form": '"tf"'}
        lines = [f"{role} = {name}" for role, name in names.items() if role not in norm]
        if norm:
            lines.append("norm = {" + ", ".join(f"{k} = {v}" for k, v in (norm | form).items()) + "}")
        for line in (said or {}).get(n, []):
            lines = [one for one in lines if one.split(" = ")[0] != line.split(" = ")[0]] + [line]
        text += "[[layers]]\n" + "".join(f"{line}\n" for line in lines)
    return text
