"""The network of a packed model in PyTorch, float32; maps lie in memory as torch is fastest with them, "channels last"."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import unhandled
from xnorinfer.float32 import F32
from xnorinfer.graph import INPUT, Interpretation
from xnorinfer.net.values import InputMapping, Shape
from xnorinfer.net.windows import Window
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Affine,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Grades,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    Pool,
)
from xnorinfer.speed.floatnetwork import border_of
from xnorinfer.speed.peernetwork import Peer, known_steps, product_of, shapes_of, steps_behind

#: Op -> a function of tensors, maps as (rows, channels, height, width): (..., mapping of the input, shape of what it reads).
_torch_op: Interpretation[[InputMapping, Shape], Callable[..., Any]] = Interpretation("bench.torch", PACKED_OPS)


def _of_channels(array: NDArray[Any], shape: Shape) -> Any:
    """(channels,) or (height, width, channels) as what acts on a tensor of values of that shape."""
    import torch

    if array.ndim == 1 and len(shape) == 3:
        array = array[None, None]
    return torch.from_numpy(np.moveaxis(array, -1, 0).copy())


@_torch_op.of(Binarize)
def _(op: Binarize, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    import torch

    turn, border = (_of_channels(array, shape) for array in border_of(op))
    one, minus_one = torch.tensor(1.0), torch.tensor(-1.0)
    return lambda x: torch.where(x * turn + border >= 0, one, minus_one)


@_torch_op.of(Digitize)
def _(op: Digitize, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    import torch

    pairs = [[_of_channels(array, shape) for array in border_of(Binarize(limits, op.mirrored))] for limits in op.limits]
    return lambda x: torch.stack([x * turn + border >= 0 for turn, border in pairs]).sum(0).float()


@_torch_op.of(Dot)
def _(op: Dot, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    weights, bias = product_of(op, mapping, shape)
    if isinstance(op.output, Grades):
        zero = np.zeros(op.neurons, np.float32)
        sums = _matrix(weights, zero) if op.window is None else _convolution(op, op.window, weights, zero)
        of_codes = [_of_channels(one if op.window is None or one.ndim == 3 else one[None, None], ()) for one in bias]
        return lambda x: _codes(sums(x), of_codes)
    product = _matrix(weights, bias) if op.window is None else _convolution(op, op.window, weights, bias)
    steps = steps_behind(op)
    if steps is None:
        return lambda x: product(x).sign_()
    return lambda x, *side: _stepped(steps, product(x), *side)


def _codes(sums: Any, biases: list[Any]) -> Any:
    """How many of the sums are above 0."""
    import torch

    return torch.stack([sums + bias > 0 for bias in biases]).sum(0).float()


def _matrix(weights: F32, bias: F32) -> Callable[[Any], Any]:
    import torch

    matrix, vector = torch.from_numpy(weights), torch.from_numpy(bias)
    return lambda x: torch.addmm(vector, x, matrix)


def _convolution(op: Dot, window: Window, weights: F32, bias: F32) -> Callable[[Any], Any]:
    import torch

    channels = op.depth // window.taps
    kernels = torch.from_numpy(weights.T.reshape(op.neurons, *window.size, channels).transpose(0, 3, 1, 2).copy())
    kernels = kernels.contiguous(memory_format=torch.channels_last)
    everywhere = torch.from_numpy(bias) if bias.ndim == 1 else None
    of_places = _of_channels(bias, bias.shape) if everywhere is None else None
    top, bottom, left, right = window.padding
    even = (top, left) == (bottom, right) and not op.outside
    ways: dict[str, Any] = {"stride": window.stride, "dilation": window.dilation, "groups": op.groups}
    ways["padding"] = (top, left) if even else 0

    def convolve(x: Any) -> Any:
        x = x if even else torch.nn.functional.pad(x, (left, right, top, bottom), value=op.outside)
        found = torch.conv2d(x, kernels, everywhere, **ways)
        return found if of_places is None else found.add_(of_places)

    return convolve


def _stepped(steps: Affine, x: Any, *side: Any) -> Any:
    """Steps on vectors or maps.  side: what is added, of as many numbers."""
    import torch

    channels_last, *others = (_channels_last(value).contiguous().numpy() for value in (x, *side))
    values = steps.apply(channels_last, *(other.reshape(channels_last.shape) for other in others), fused=False)
    made = torch.from_numpy(values)
    return made if x.ndim == 2 else made.permute(0, 3, 1, 2)


def _channels_last(x: Any) -> Any:
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1)


@_torch_op.of(Concat)
def _(op: Concat, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    import torch

    if op.flat:
        return lambda *reads: torch.cat([_channels_last(read).flatten(1) for read in reads], dim=1)
    return lambda *reads: torch.cat(reads, dim=1)


@_torch_op.of(Multiply)
def _(op: Multiply, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    def multiply(*reads: Any) -> Any:
        x, other = map(_channels_last, reads)
        beside = x.shape if other.numel() == x.numel() else (len(x), *(1,) * (x.ndim - 2), x.shape[-1])
        found = x * other.reshape(beside)
        return found if x.ndim == 2 else found.permute(0, 3, 1, 2)

    return multiply


@_torch_op.of(Moved)
def _(op: Moved, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    import torch

    top, bottom, left, right = op.padding
    order, none = torch.from_numpy(op.channels.clip(0).astype(np.int64)), torch.from_numpy(op.channels < 0)

    def move(x: Any) -> Any:
        found = x[:, order]
        if none.any():
            found[:, none] = op.value
        return torch.nn.functional.pad(found, (left, right, top, bottom), value=op.value) if any(op.padding) else found

    return move


@_torch_op.of(Pool)
def _(op: Pool, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    import torch

    of_torch = torch.nn.functional
    window, (top, bottom, left, right) = op.window, op.window.padding
    sides = (left, right, top, bottom)
    if op.kind == "average":
        ones = of_torch.pad(torch.ones(1, 1, *shape[:2]), sides, value=float(op.padded))
        if window.dilation == (1, 1):
            inside = of_torch.avg_pool2d(ones, window.size, window.stride)
            return lambda x: of_torch.avg_pool2d(of_torch.pad(x, sides), window.size, window.stride) / inside
        ways: dict[str, Any] = {"stride": window.stride, "dilation": window.dilation}
        taps = torch.ones(shape[2], 1, *window.size)
        count = torch.conv2d(ones, taps[:1], **ways)
        return lambda x: torch.conv2d(of_torch.pad(x, sides), taps, groups=shape[2], **ways) / count
    if op.kind != "max":
        raise unhandled("bench", op.kind)
    turn = None
    if op.falling is not None and op.falling.any():
        turn = _of_channels(np.where(op.falling, np.float32(-1), np.float32(1)), shape)

    def largest(x: Any) -> Any:
        x = x if turn is None else x * turn
        if any(sides):
            x = of_torch.pad(x, sides, value=-float("inf"))
        found = of_torch.max_pool2d(x, window.size, window.stride, dilation=window.dilation)
        return found if turn is None else found * turn

    return largest


@_torch_op.of(Elementwise)
def _(op: Elementwise, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    steps = known_steps(op.steps)
    return lambda x, *side: _stepped(steps, x, *side)


@_torch_op.of(Mapped)
def _(op: Mapped, mapping: InputMapping, shape: Shape) -> Callable[..., Any]:
    import torch

    shift, slope = (_of_channels(array, shape) for array in (op.values[0], op.values[1] - op.values[0]))
    return lambda x: torch.addcmul(shift, x, slope)


def torch_network(name: str, packed: PackedModel, rows: int, threads: int) -> Peer:
    """The network on so many threads."""
    import torch

    shapes = shapes_of(packed)
    nodes = [(_torch_op(node, packed.input, shapes[node.inputs[0]]), node.inputs) for node in packed.nodes]
    last = len(nodes) - 1

    def scores(x: NDArray[Any]) -> F32:
        with torch.inference_mode():
            entering = torch.from_numpy(x).float()
            if len(packed.shape) == 3:
                entering = entering.view(-1, *packed.shape).permute(0, 3, 1, 2)
            values = {INPUT: entering}
            for index, (compute, inputs) in enumerate(nodes):
                values[index] = compute(*(values[read] for read in inputs))
            scored = values[last] if values[last].ndim == 2 else values[last].permute(0, 2, 3, 1)
            found: F32 = scored.flatten(1).numpy()
        return found

    @contextlib.contextmanager
    def limited() -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    return Peer(name, scores, shapes[last], limited)
