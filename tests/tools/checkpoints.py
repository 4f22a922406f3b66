"""Checkpoints for the converter tests: random trained-looking networks, written the way training code writes them.

A `Layer` here is plain numpy and knows nothing of the package; `decide` computes the forward pass independently, in float64,
with the ties of its framework, so that a converter is checked against something that shares no code with it.
"""

from __future__ import annotations

import io
import itertools
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass
class Layer:
    """weight: (neurons, depth); vectors (neurons,).  variance or inv_std, gamma and beta, bias may be absent."""

    weight: Array
    bias: Array | None = None
    mean: Array | None = None
    variance: Array | None = None
    inv_std: Array | None = None
    gamma: Array | None = None
    beta: Array | None = None


def random_layers(
    widths: Sequence[int], seed: int, *, bias: bool = True, affine: bool = True, head_norm: bool = True, inv_std: bool = False
) -> list[Layer]:
    """Layers with the values that hurt: negative, zero and tiny gammas, small variances, integer means (ties)."""
    rng = np.random.default_rng(seed)

    def vector(neurons: int, spread: float = 1.0) -> Array:
        return (rng.standard_normal(neurons) * spread).astype(np.float32)

    layers = []
    for index, (depth, neurons) in enumerate(itertools.pairwise(widths)):
        layer = Layer(rng.uniform(-1, 1, (neurons, depth)).astype(np.float32))
        if bias:
            layer.bias = vector(neurons)
        if index + 2 < len(widths) or head_norm:
            layer.mean = np.where(rng.random(neurons) < 0.3, np.round(vector(neurons, 4)), vector(neurons, 4)).astype(
                np.float32
            )
            variance = rng.uniform(0.01, depth, neurons).astype(np.float32)
            if inv_std:
                layer.inv_std = (1 / np.sqrt(variance + 1e-4)).astype(np.float32)
            else:
                layer.variance = variance
            if affine:
                layer.gamma = vector(neurons)
                layer.gamma[:4] = [-0.5, 0.0, 3e-7, -3e-7][: min(4, neurons)]
                layer.beta = vector(neurons, 0.3)
        layers.append(layer)
    return layers


def signs(latent: Array, at_zero: int) -> Array:
    """-1/+1 as float64; 0 becomes at_zero."""
    return np.where(latent > 0, 1.0, np.where(latent < 0, -1.0, float(at_zero)))


def decide(
    layers: Sequence[Layer],
    x: Array,
    *,
    epsilon: float,
    weight_zero: int = 1,
    activation_zero: int = 1,
    h: Sequence[float] | None = None,
    float_head: bool = False,
) -> tuple[Array, float]:
    """Scores in float64 of inputs that already are what enters the first layer, and the smallest distance of any value before a
    sign to 0: where that is far above float32 rounding, every decision is certain."""
    closest = np.inf
    value = np.asarray(x, np.float64)
    for index, layer in enumerate(layers):
        last = index + 1 == len(layers)
        if last and float_head:
            value = np.clip(value, -1, 1) @ layer.weight.astype(np.float64).T
        else:
            if index:
                closest = min(closest, float(np.abs(value).min()))
                value = signs(value, activation_zero)
            value = value @ signs(layer.weight, weight_zero).T * (1.0 if h is None else h[index])
        if layer.bias is not None:
            value = value + layer.bias.astype(np.float64)
        if layer.mean is not None:
            inverse = 1 / np.sqrt(layer.variance.astype(np.float64) + epsilon) if layer.inv_std is None else layer.inv_std
            gamma = 1.0 if layer.gamma is None else layer.gamma.astype(np.float64)
            value = (value - layer.mean) * (gamma * np.asarray(inverse, np.float64))
            value = value if layer.beta is None else value + layer.beta
    return value, closest


def lasagne_arrays(layers: Sequence[Layer]) -> list[Array]:
    """What `lasagne.layers.get_all_param_values` returns: W (inputs, neurons), b, beta, gamma, mean, inv_std."""
    arrays: list[Array] = []
    for layer in layers:
        parts = (layer.bias, layer.beta, layer.gamma, layer.mean, layer.inv_std)
        arrays += [np.ascontiguousarray(layer.weight.T), *(part for part in parts if part is not None)]
    return arrays


def named_arrays(layers: Sequence[Layer]) -> dict[str, Array]:
    """The documented named layout."""
    arrays: dict[str, Array] = {}
    for index, layer in enumerate(layers):
        for name, value in (
            ("weight", layer.weight),
            ("bias", layer.bias),
            ("bn.gamma", layer.gamma),
            ("bn.beta", layer.beta),
            ("bn.mean", layer.mean),
            ("bn.var", layer.variance),
            ("bn.inv_std", layer.inv_std),
        ):
            if value is not None:
                arrays[f"{index}.{name}"] = value
    return arrays


def state_arrays(layers: Sequence[Layer], dense: str = "fc{}", norm: str = "bn{}", prefix: str = "") -> dict[str, Array]:
    """A PyTorch state dict of numpy arrays, layers numbered from 1, each BatchNorm after its layer."""
    arrays: dict[str, Array] = {}
    for number, layer in enumerate(layers, start=1):
        names = {f"{dense.format(number)}.weight": layer.weight, f"{dense.format(number)}.bias": layer.bias}
        if layer.mean is not None:
            here = norm.format(number)
            names |= {f"{here}.weight": layer.gamma, f"{here}.bias": layer.beta}
            names |= {f"{here}.running_mean": layer.mean, f"{here}.running_var": layer.variance}
            names[f"{here}.num_batches_tracked"] = np.array(7, np.int64)
        arrays |= {prefix + name: value for name, value in names.items() if value is not None}
    return arrays


def write_npz(path: Path, *args: Array, **named: Array) -> Path:
    np.savez(path, *args, **named)  # type: ignore[arg-type]
    return path


def npy_bytes(array: Array, **options: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, **options)
    return out.getvalue()


def write_zip(path: Path, entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path
