"""One network for every source, and its writers that need no framework.

Nothing in it hangs on a framework's rounding or ties: latents are away from 0, no sum of a hidden layer comes near a tie, and
the head computes with few binary digits, so that every order of its float32 operations gives the same values.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from checkpoints import Layer, named_arrays
from onnx_writer import node, write

F = np.float32
WIDTHS = (24, 16, 12, 5)
EPSILON = 2.0**-10


def one_network() -> list[Layer]:
    """Dense layers with bias and BatchNorm: gammas negative, zero and tiny among them."""
    rng = np.random.default_rng(12)
    layers = []
    for depth, neurons in itertools.pairwise(WIDTHS):
        latent = rng.uniform(0.01, 1, (neurons, depth)) * rng.choice([-1, 1], (neurons, depth))
        variance = rng.uniform(0.5, depth, neurons).astype(F)
        gamma = rng.standard_normal(neurons).astype(F)
        gamma[:4] = [-0.5, 0.0, 3e-7, -3e-7]
        beta, mean = (rng.standard_normal(neurons).astype(F) for _ in "bm")
        layers.append(Layer(latent.astype(F), rng.standard_normal(neurons).astype(F), mean, variance, None, gamma, beta))
    head = layers[-1]
    head.variance = F([4, 16, 1, 4, 0.25]) - F(EPSILON)  # exact, and so are the roots once epsilon is added
    head.gamma = F([-0.5, 0.0, 4, 2.0**-22, -1])
    head.mean, head.beta, head.bias = F([1, -2, 0.5, 0, 3]), F([0.25, 4.5, 12, 1, 2]), F([0, 0.5, -1, 2, 0.25])
    return layers


def with_inv_std(layers: list[Layer]) -> list[Layer]:
    inverse = [F(1) / np.sqrt(layer.variance + F(EPSILON)) for layer in layers]
    return [Layer(o.weight, o.bias, o.mean, None, i, o.gamma, o.beta) for o, i in zip(layers, inverse, strict=True)]


def with_epsilon(layers: list[Layer]) -> dict[str, Any]:
    return named_arrays(layers) | {f"{index}.bn.epsilon": np.array(EPSILON) for index in range(len(layers))}


# ---------------------------------------------------------------- TensorFlow's names


def tf1_variables(layers: list[Layer]) -> dict[str, Any]:
    found = {}
    for index, layer in enumerate(layers):
        suffix = f"_{index}" if index else ""
        dense, norm = f"dense__binary_layer{suffix}", f"batch_normalization{suffix}"
        found |= {f"{dense}/kernel": layer.weight.T, f"{dense}/bias": layer.bias, f"{dense}/binary_weight": layer.weight.T * 0}
        found |= {f"{norm}/gamma": layer.gamma, f"{norm}/beta": layer.beta}
        found |= {f"{norm}/moving_mean": layer.mean, f"{norm}/moving_variance": layer.variance}
    return found


# ---------------------------------------------------------------- graphs


def graph(path: Path, layers: list[Layer], spelled: str) -> Path:
    """ONNX: "quantized" with BipolarQuant, "signs" with weights binarized before, "textbook" with BatchNorm in four steps."""
    nodes: list[bytes] = []
    constants: dict[str, Any] = {"one": np.array(1, F)}
    value = "x"

    def constant(name: str, array: Any) -> str:
        constants[name] = np.asarray(array, F)
        return name

    def add(operation: str, *inputs: str, output: str, **attributes: Any) -> None:
        nonlocal value
        nodes.append(node(operation, [value, *inputs], output, **attributes))
        value = output

    for i, layer in enumerate(layers):
        if i:
            add(
                "BipolarQuant" if spelled == "quantized" else "Sign",
                *(["one"] if spelled == "quantized" else []),
                output=f"s{i}",
            )
        if spelled == "quantized":
            nodes.append(node("BipolarQuant", [constant(f"w{i}", layer.weight), "one"], f"q{i}"))
            add("Gemm", f"q{i}", constant(f"b{i}", layer.bias), output=f"d{i}", transB=1)
        elif spelled == "signs":
            add("MatMul", constant(f"w{i}", np.sign(layer.weight.T)), output=f"m{i}")
            add("Add", constant(f"b{i}", layer.bias), output=f"d{i}")
        else:
            nodes.append(node("Sign", [constant(f"w{i}", layer.weight.T)], f"q{i}"))
            add("MatMul", f"q{i}", output=f"m{i}")
            add("Add", constant(f"b{i}", layer.bias), output=f"d{i}")
        if spelled == "textbook":
            add("Sub", constant(f"mean{i}", layer.mean), output=f"n{i}")
            add("Div", constant(f"std{i}", np.sqrt(layer.variance + F(EPSILON))), output=f"o{i}")
            add("Mul", constant(f"gamma{i}", layer.gamma), output=f"p{i}")
            add("Add", constant(f"beta{i}", layer.beta), output=f"r{i}")
        else:
            arrays = {"gamma": layer.gamma, "beta": layer.beta, "mean": layer.mean, "variance": layer.variance}
            names = [constant(f"{name}{i}", array) for name, array in arrays.items()]
            add("BatchNormalization", *names, output=f"n{i}", epsilon=EPSILON)
    return write(path, nodes, constants, value)


# ---------------------------------------------------------------- containers for net.toml

NORM = ("mean", "variance", "gamma", "beta")


def described(names: Callable[[int, str], str], layout: str = "out_in") -> str:
    """A net.toml; names(layer, what) is the name of an array."""
    text = f'profile = "keras-round"\nlayout = "{layout}"\n'
    for i in range(len(WIDTHS) - 1):
        fields = ", ".join(f'{what} = "{names(i, what)}"' for what in NORM)
        text += f'[[layers]]\nweight = "{names(i, "weight")}"\nbias = "{names(i, "bias")}"\n'
        text += f"norm = {{{fields}, epsilon = {EPSILON}}}\n"
    return text


def flat(layers: list[Layer]) -> dict[str, Any]:
    """Arrays called 0/weight, 0/bias, ..."""
    return {f"{i}/{what}": getattr(layer, what) for i, layer in enumerate(layers) for what in ("weight", "bias", *NORM)}
