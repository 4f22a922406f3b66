"""The layers of a reading, run by PyTorch: for checkpoints that hold no program, or one that cannot be run.

`F.linear` with sign weights, `F.batch_norm` in evaluation mode, `hardtanh` and `sign` in float32, on the mapped inputs: from
the first sign on the operations of `reference`, by code that shares nothing with it.  Before it PyTorch rounds every product
and partial sum of real inputs, where the reference rounds once; the signs that come out are told, so that this is all that
may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np

from xnorinfer.errors import MissingExtraError, unhandled
from xnorinfer.graph import Interpretation, chain
from xnorinfer.netspec import F32, BatchNorm, Chain, Dense, Elementwise, FloatDense, Hardtanh, Layer, NetSpec, Sign
from xnorinfer.programs.base import Array, Program
from xnorinfer.reference import binary_weights

if TYPE_CHECKING:
    import torch

#: Formats whose training framework is PyTorch.
TORCH_FORMATS = ("torch",)

#: (layer, what enters it, weights (neurons, depth) of a dense layer) -> what leaves it.
in_torch: Interpretation[[torch.Tensor, torch.Tensor | None], torch.Tensor] = Interpretation(
    "programs.as_read", get_args(Layer)
)


def open_as_read(net: NetSpec, source_format: str) -> Program:
    """The layers of a network in PyTorch.  source_format: of the checkpoint.  Raises MissingExtraError."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("--framework", "torch", "torch") from None
    nodes = chain((layer.name, layer) for layer in net.layers)
    weights = {
        index: _tensor(binary_weights(layer) if isinstance(layer, Dense) else layer.weight)
        for index, layer in enumerate(net.layers)
        if isinstance(layer, Dense | FloatDense)
    }
    first_sign = next((index for index, layer in enumerate(net.layers) if isinstance(layer, Sign)), None)

    def run(x: F32, until: int | None = None) -> Array:
        with torch.inference_mode():
            value = _tensor(x)
            for index, node in enumerate(nodes[:until]):
                value = in_torch(node, value, weights.get(index))
            answer: Array = value.numpy()
        return answer

    signs = None if first_sign is None else lambda x: run(x, first_sign + 1)
    original = source_format in TORCH_FORMATS
    return Program("torch", torch.__version__, net.input, None, (net.depth,), run, signs, whole=False, original=original)


def _tensor(array: Array) -> torch.Tensor:
    """A copy: arrays from files are read-only, which PyTorch warns of."""
    import torch

    return torch.from_numpy(np.array(array))


@in_torch.of(Dense)
def _dense(layer: Dense, value: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    import torch

    value = torch.nn.functional.linear(value, weights)
    value = value * layer.h if layer.h != 1 else value
    value = value if layer.scale is None else value * _tensor(layer.scale)
    return value if layer.bias is None else value + _tensor(layer.bias)


@in_torch.of(FloatDense)
def _float_dense(layer: FloatDense, value: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.linear(value, weights, None if layer.bias is None else _tensor(layer.bias))


@in_torch.of(BatchNorm)
def _batch_norm(layer: BatchNorm, value: torch.Tensor, weights: None) -> torch.Tensor:
    import torch

    mean, gamma, beta = (None if v is None else _tensor(v) for v in (layer.mean, layer.gamma, layer.beta))
    assert mean is not None
    if layer.variance is not None and layer.form == "torch":
        variance = _tensor(layer.variance)
        return torch.nn.functional.batch_norm(value, mean, variance, gamma, beta, False, 0.0, layer.epsilon)
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    if layer.inv_std is not None:
        return (value - mean) * (gamma * _tensor(layer.inv_std)) + beta
    assert layer.variance is not None
    deviation = torch.sqrt(
        (_tensor(layer.variance) + np.float32(layer.epsilon).item()).double()
    ).float()  # of float32 it is MKL's
    scale = torch.reciprocal(deviation) * gamma
    return value * scale + (beta - mean * scale)


@in_torch.of(Chain)
def _chain(layer: Chain, value: torch.Tensor, weights: None) -> torch.Tensor:
    for op, vector in layer.steps:
        value = getattr(value, op)(_tensor(vector))
    return value


@in_torch.of(Hardtanh)
def _hardtanh(layer: Hardtanh, value: torch.Tensor, weights: None) -> torch.Tensor:
    import torch

    return torch.nn.functional.hardtanh(value)


@in_torch.of(Sign)
def _sign(layer: Sign, value: torch.Tensor, weights: None) -> torch.Tensor:
    import torch

    if layer.rule == "sign":
        return value.sign()
    if layer.rule in ("ge", "gt"):
        plus = value >= 0 if layer.rule == "ge" else value > 0
        return torch.where(plus, 1.0, -1.0)
    soft = torch.clamp((value + 1) / 2, 0, 1)
    away = torch.where(soft >= 0.5, 1.0, 0.0)  # soft + 0.5 would round to 1 next to the tie
    return 2 * (torch.round(soft) if layer.rule == "round-even" else away) - 1


@in_torch.of(Elementwise)
def _elementwise(layer: Elementwise, value: torch.Tensor, weights: None) -> torch.Tensor:
    import torch

    if layer.function == "prelu":
        return torch.nn.functional.prelu(value, _tensor(layer.parameters[0]).reshape(-1))
    if layer.function == "clip":
        low, high = (float(bound) for bound in layer.parameters)
        return torch.clamp(value, low, high)
    functions = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    if layer.function not in functions:
        raise unhandled("programs.as_read", layer.function)
    return functions[layer.function](value)
