"""What the evidence scripts share, without a framework: MNIST, the values that hurt, and the record of a framework's answers.

A record (`CASE.npz` beside the checkpoint) holds the arrays of the live network, what the framework computes from MNIST's test
images, and a description from which `evidence` writes down the network by hand, through no converter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from real_networks import mnist_arrays

Array = NDArray[Any]

STEPS, BATCH = 60, 100
WIDTHS = (784, 96, 96, 10)
#: Written over gammas of trained hidden layers, which long trainings drive there.
GAMMAS = (0.0, 3e-7, -3e-7, -0.5, 1e-30, -0.0)
LATENTS = (0.0, -0.0, 1e-9)


@dataclass
class Mnist:
    """Images (rows, 784) uint8 and labels (rows,)."""

    train_x: Array
    train_y: Array
    test_x: Array

    @classmethod
    def read(cls, folder: Path) -> Mnist:
        train_x, train_y = mnist_arrays(folder, "train", STEPS * BATCH)
        return cls(train_x, train_y, mnist_arrays(folder, "t10k")[0])


def centred(pixels: Array) -> Array:
    """-1..1 as float32, as most of these scripts compute it."""
    return (pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)).astype(np.float32)


def spoiled_latents(weight: Array, values: Sequence[float] = LATENTS) -> Array:
    """(depth, neurons) with ties in every second neuron, at inputs that are not always the same."""
    weight = np.array(weight, np.float32)
    middle = weight.shape[0] // 2
    weight[middle : middle + len(values), ::2] = np.array(values, np.float32)[:, None]
    return weight


def spoiled_gamma(gamma: Array) -> Array:
    gamma = np.array(gamma, np.float32)
    gamma[: len(GAMMAS)] = GAMMAS
    return gamma


def signed_gamma(neurons: int, seed: int) -> Array:
    """What a training starts with here, so that a third of the gammas stay negative."""
    return np.where(np.random.default_rng(seed).random(neurons) < 0.3, -1, 1).astype(np.float32)


def nudged_beta(weight: Array, bias: Array, norm: Mapping[str, Any], pixels: Array) -> Array:
    """beta of a first layer that puts thresholds of some neurons on real images, where the order of a float32 sum decides.

    weight: (depth, neurons), binarized; each neuron takes the image that is nearest to its threshold anyway.
    """
    chosen = slice(10, 60)
    x = 2 * pixels.astype(np.float64) / 255 - 1
    totals = x @ weight[:, chosen].astype(np.float64) + bias[chosen]
    gamma = norm.get("gamma", np.ones(weight.shape[1])).astype(np.float64)
    alpha = (gamma / np.sqrt(norm["variance"].astype(np.float64) + norm["epsilon"]))[chosen]
    values = (totals - norm["mean"][chosen]) * alpha
    nearest = np.abs(values + norm["beta"][chosen]).argmin(axis=0)
    beta = np.array(norm["beta"], np.float32)
    beta[chosen] = -values[nearest, np.arange(values.shape[1])]
    # Beside the tie, not on it: at exactly 0 torch.sign has no bit.
    largest = np.maximum(np.abs(beta[chosen]), np.abs(norm["mean"][chosen] * alpha))
    beta[chosen] += 4 * np.spacing(largest.astype(np.float32))
    return beta


@dataclass
class Layer:
    """A layer of a live network.  weight: (depth, neurons); values: what stands before the next sign (rows, neurons).

    norm: gamma, beta, mean, variance and epsilon, gamma and beta where they are.  kind: "binary", or "float" for an ordinary
    layer.  reads: what a float layer does to values before it, "hardtanh" or "sign".
    """

    weight: Array
    bias: Array | None = None
    norm: Mapping[str, Any] | None = None
    values: Array | None = None
    kind: str = "binary"
    h: float = 1.0
    scale: Array | None = None
    reads: str = "sign"


@dataclass
class Case:
    """A network on file and what its framework answers.  options: of ConvertOptions; input: a mapping as in a net.toml."""

    source: str
    name: str
    file: str
    layers: list[Layer]
    scores: Array
    rule: str
    form: str
    options: dict[str, Any] = field(default_factory=dict)
    input: dict[str, Any] = field(default_factory=lambda: {"range": [-1, 1]})
    weight_rule: str = ""

    def write(self, folder: Path) -> None:
        arrays: dict[str, Array] = {"scores": self.scores}
        described = []
        for index, layer in enumerate(self.layers):
            given = {"weight": layer.weight, "bias": layer.bias, "scale": layer.scale, "values": layer.values}
            given |= {f"norm.{name}": value for name, value in (layer.norm or {}).items() if name != "epsilon"}
            arrays |= {f"{index}.{name}": np.asarray(value) for name, value in given.items() if value is not None}
            described.append(
                {"kind": layer.kind, "h": layer.h, "reads": layer.reads, "epsilon": (layer.norm or {}).get("epsilon")}
            )
        meta = {
            "source": self.source,
            "case": self.name,
            "file": self.file,
            "options": self.options,
            "input": self.input,
            "rule": self.rule,
            "weight_rule": self.weight_rule or self.rule,
            "form": self.form,
            "layers": described,
        }
        np.savez(folder / f"{self.name.replace(' ', '-')}.{self.source.split()[0]}.npz", meta=json.dumps(meta), **arrays)  # type: ignore[arg-type]
