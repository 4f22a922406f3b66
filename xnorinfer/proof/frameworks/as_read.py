"""The layers of a reading, run by PyTorch: for checkpoints that hold no program, or one that cannot be run.

`F.linear` and `F.conv2d` with sign weights, `F.batch_norm` in evaluation mode, `hardtanh` and `sign` in float32, on the mapped
inputs: from the first sign on the operations of `reference`, by code that shares nothing with it.  Before it PyTorch rounds
every product and partial sum of real inputs, where the reference rounds once; the signs that come out are told, so that this
is all that may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from xnorinfer.errors import MissingExtraError, unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.net.ops import (
    ARITHMETIC,
    OPS,
    Add,
    Channels,
    Concat,
    Flatten,
    Levels,
    Linear,
    Multiply,
    Norm,
    Pad,
    Pool,
    Quantize,
    Step,
    Steps,
)
from xnorinfer.net.reference import binary_weights
from xnorinfer.net.windows import Window
from xnorinfer.proof.frameworks.program import Array, Program, Wanted

if TYPE_CHECKING:
    import torch

#: Formats whose training framework is PyTorch.
TORCH_FORMATS = ("torch",)

#: (op, what enters it, (rows, neurons) or (rows, height, width, channels), weights by the id of the op, what else enters it)
#: -> what leaves it.
in_torch: Interpretation[..., torch.Tensor] = Interpretation("frameworks.as_read", OPS)


def open_as_read(net: Net, source_format: str) -> Program:
    """The layers of a network in PyTorch.  source_format: of the checkpoint.  Raises MissingExtraError."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("--framework", "torch", "torch") from None
    nodes = net.nodes
    weights = {id(op): _tensor(binary_weights(op) if op.binary else op.weight) for _, op in net.linears}
    first_sign = next((index for index, node in enumerate(nodes) if isinstance(node.op, Quantize)), None)

    def values(x: F32, until: int | None = None) -> list[Array]:
        with torch.inference_mode():
            known = {INPUT: _tensor(x)}
            for index, node in enumerate(nodes[:until]):
                first, *others = (known[read] for read in node.inputs)
                known[index] = in_torch(node, first, weights, *others)
            return [known[index].numpy() for index in range(len(known) - 1)]

    def run(x: F32, until: int | None = None) -> Array:
        return in_rows(values(x, until)[-1])

    def inner(x: F32, wanted: Wanted) -> list[Array]:
        every = values(x)
        return [in_rows(every[-1])[wanted.rows], *wanted.of(every, len(x))]

    # Where a value goes around the first sign, or levels are made, its bits are not all that is left open.
    others = net.branches or any(isinstance(node.op, Levels) for node in nodes)
    signs = None if first_sign is None or others else lambda x: run(x, first_sign + 1)
    original = source_format in TORCH_FORMATS
    version = torch.__version__
    return Program("torch", version, net.input, None, net.shape, run, signs, whole=False, original=original, inner=inner)


def _tensor(array: Array) -> torch.Tensor:
    """A copy: arrays from files are read-only, which PyTorch warns of."""
    import torch

    return torch.from_numpy(np.array(array))


@in_torch.of(Linear)
def _linear(op: Linear, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    bias = None if op.bias is None else _tensor(op.bias)
    inner = None if op.binary else bias
    if op.window is None:
        value = torch.nn.functional.linear(value.flatten(1), weights[id(op)], inner)
    else:
        kernel, value = weights[id(op)].permute(0, 3, 1, 2), _padded(value, op.window, op.pad)
        window = op.window
        value = torch.nn.functional.conv2d(value, kernel, inner, window.stride, 0, window.dilation, op.groups)
        value = value.permute(0, 2, 3, 1)
    if not op.binary:
        return value
    value = value * op.h if op.h != 1 else value
    value = value if op.scale is None else value * _tensor(op.scale)
    return value if bias is None else value + bias


def _padded(value: torch.Tensor, window: Window, outside: float) -> torch.Tensor:
    """A map with its channels first, and what its windows find beyond it."""
    import torch

    top, bottom, left, right = window.padding
    padded: torch.Tensor = torch.nn.functional.pad(value.permute(0, 3, 1, 2), (left, right, top, bottom), value=outside)
    return padded


@in_torch.of(Pool)
def _pool(op: Pool, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    window = op.window or Window.whole(value.shape[1:])
    stride, dilation = window.stride, window.dilation
    if op.kind == "max":
        padded = _padded(value, window, float("-inf"))
        return torch.nn.functional.max_pool2d(padded, window.size, stride, 0, dilation).permute(0, 2, 3, 1)
    ones = torch.ones(value.shape[3], 1, *window.size)
    inside = torch.ones_like(value) if not op.padded else None
    sums, counts = (
        None if x is None else torch.nn.functional.conv2d(_padded(x, window, 0), ones, None, stride, 0, dilation, len(ones))
        for x in (value, inside)
    )
    assert sums is not None
    return (sums / (window.taps if counts is None else counts)).permute(0, 2, 3, 1)


@in_torch.of(Flatten)
def _flatten(op: Flatten, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    return value.flatten(1)


@in_torch.of(Add)
def _add(op: Add, value: torch.Tensor, weights: Mapping[int, torch.Tensor], other: torch.Tensor) -> torch.Tensor:
    return value + other


@in_torch.of(Concat)
def _concat(op: Concat, value: torch.Tensor, weights: Mapping[int, torch.Tensor], *others: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.cat([value, *others], dim=-1)


@in_torch.of(Multiply)
def _multiply(op: Multiply, value: torch.Tensor, weights: Mapping[int, torch.Tensor], other: torch.Tensor) -> torch.Tensor:
    beside = value.shape if other.numel() == value.numel() else (len(value), *[1] * (value.ndim - 2), value.shape[-1])
    return value * other.reshape(beside)


@in_torch.of(Channels)
def _channels(op: Channels, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    order = np.array(op.order)
    taken = value[..., order.clip(0).tolist()]
    return taken * _tensor((order >= 0).astype(np.float32)) if (order < 0).any() else taken


@in_torch.of(Pad)
def _pad(op: Pad, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    top, bottom, left, right = op.padding
    return torch.nn.functional.pad(value, (0, 0, left, right, top, bottom), value=op.value)


@in_torch.of(Norm)
def _norm(op: Norm, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    mean, gamma, beta = (None if v is None else _tensor(v) for v in (op.mean, op.gamma, op.beta))
    assert mean is not None
    if op.variance is not None and op.form == "torch":
        variance = _tensor(op.variance)
        first = value.movedim(-1, 1).contiguous()  # where PyTorch has channels
        return torch.nn.functional.batch_norm(first, mean, variance, gamma, beta, False, 0.0, op.epsilon).movedim(1, -1)
    gamma = torch.ones_like(mean) if gamma is None else gamma
    beta = torch.zeros_like(mean) if beta is None else beta
    if op.inv_std is not None:
        return (value - mean) * (gamma * _tensor(op.inv_std)) + beta
    assert op.variance is not None
    assert op.epsilon is not None
    deviation = torch.sqrt((_tensor(op.variance) + np.float32(op.epsilon).item()).double()).float()  # of float32 it is MKL's
    if op.form == "tf-fused":  # the product is exact in float64; two roundings of the sum hardly ever differ from one
        return ((value - mean) * torch.reciprocal(deviation)).double().mul(gamma.double()).add(beta.double()).float()
    scale = torch.reciprocal(deviation) * gamma
    return value * scale + (beta - mean * scale)


@in_torch.of(Steps)
def _steps(op: Steps, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    for step in op.steps:
        value = _function(step, value)
    return value


@in_torch.of(Quantize)
def _quantize(op: Quantize, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    if op.rule == "sign":
        return value.sign()
    if op.rule in ("ge", "gt"):
        plus = value >= 0 if op.rule == "ge" else value > 0
        return torch.where(plus, 1.0, -1.0)
    soft = torch.clamp((value + 1) / 2, 0, 1)
    away = torch.where(soft >= 0.5, 1.0, 0.0)  # soft + 0.5 would round to 1 next to the tie
    return 2 * (torch.round(soft) if op.rule == "round-even" else away) - 1


@in_torch.of(Levels)
def _levels(op: Levels, value: torch.Tensor, weights: Mapping[int, torch.Tensor]) -> torch.Tensor:
    import torch

    whole = torch.clamp(torch.round(value), op.low, op.high)
    if op.thresholds is not None:
        whole = op.low + torch.stack([value >= of_level for of_level in _tensor(op.thresholds)]).sum(0)
    return (whole - op.zero) * op.step / op.divisor


def _function(step: Step, value: torch.Tensor) -> torch.Tensor:
    import torch

    if step.function in ARITHMETIC:
        changed: torch.Tensor = getattr(value, step.function)(_tensor(step.parameters[0]))
        return changed
    if step.function == "prelu":
        return torch.nn.functional.prelu(value.movedim(-1, 1), _tensor(step.parameters[0]).reshape(-1)).movedim(1, -1)
    if step.function == "clip":
        low, high = (float(bound) for bound in step.parameters)
        return torch.clamp(value, low, high)
    functions = {"relu": torch.relu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
    if step.function not in functions:
        raise unhandled("frameworks.as_read", step.function)
    return functions[step.function](value)
