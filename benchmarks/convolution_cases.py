"""One 3x3 convolution, bits in and thresholded bits out, against what else one could call; and VGG-small.

Peers compute less: float32 gives sums without thresholds (and `openvino_binary`).  Every case checks its results before it is
timed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.networks import random_words
from benchmarks.openvino_binary import openvino_binary
from xnorinfer.bits import bitunpack
from xnorinfer.engine.plan import Plan
from xnorinfer.graph import chain
from xnorinfer.net.values import PixelInput, RealInput, SignInput
from xnorinfer.net.windows import Window, borders
from xnorinfer.packing.packed import Affine, Binarize, Digitize, Dot, Grades, PackedModel, PackedOp, Pool, Threshold

Call = Callable[[], object]
#: A convolution that keeps the size of its map.
SAME = Window((3, 3), padding=(1, 1, 1, 1))
#: Channels and height of the square maps of layers as papers have them.
LAYERS = ((64, 56), (128, 28), (256, 14), (512, 7), (32, 56))


def random_dot(
    rng: np.random.Generator, reads: Any, shape: tuple[int, int, int], neurons: int, window: Window, pad: int = 0
) -> Dot:
    """Random weights, and limits near the middle of what each border class counts."""
    depth = window.taps * shape[2]
    inside = borders(window, *shape[:2]).inside.reshape(-1, window.taps).sum(axis=1) * shape[2]
    if pad:
        inside = np.array([depth])
    middle, spread = (0 * inside, 100.0) if reads == "pixels" else (inside // 2, 0.5)
    limits = middle[:, None] + np.rint(rng.standard_normal((len(inside), neurons)) * spread * depth**0.5).astype(np.int32)
    if reads == "bits":
        limits = np.clip(limits, -1, inside[:, None])
    output = Threshold(np.ascontiguousarray(limits[0] if len(inside) == 1 else limits, np.int32))
    return Dot(reads, depth, random_words(rng, neurons, depth), output, window, 1, pad)


def layer_of(channels: int, size: int, window: Window = SAME, pool: Window | None = None) -> PackedModel:
    """Bits of a map, the layer with that window (node 1), a pool where there is one, scores."""
    rng = np.random.default_rng(3)
    shape = (size, size, channels)
    named: list[tuple[str, PackedOp]] = [
        ("bits", random_dot(rng, "bits", shape, channels, Window((1, 1)))),
        ("layer", random_dot(rng, "bits", shape, channels, window)),
    ]
    if pool is not None:
        named.append(("pool", Pool("max", pool)))
    head = Affine((), np.zeros((0, 2, 10), np.float32))
    named.append(("head", Dot("bits", channels, random_words(rng, 10, channels), head, Window((1, 1)))))
    return PackedModel(SignInput(), shape, chain(named), "ge-zero").require_valid()


def _layer(plan: Plan, bits: NDArray[np.uint64], out: NDArray[np.uint64], last: int) -> Call:
    """Nodes 1 up to `last`, run once; as inside a network, where nothing is checked between two layers."""
    plan.run_nodes(bits, out, 1, last)
    return partial(plan._run_nodes, [bits], out, 1, last)


def dense_of(channels: int, size: int, kernel: str | None = None) -> Call:
    """The dense layer of as many bit operations: 9 * channels inputs, a row for each pixel."""
    rng = np.random.default_rng(3)
    depth = 9 * channels
    limits = Threshold((depth // 2 + np.rint(rng.standard_normal(channels) * depth**0.5 / 2)).astype(np.int32))
    head = Dot("bits", channels, random_words(rng, 10, channels), Affine((), np.zeros((0, 2, 10), np.float32)))
    first = Dot("bits", 64, random_words(rng, depth, 64), Threshold(np.full(depth, 32, np.int32)))
    layer = Dot("bits", depth, random_words(rng, channels, depth), limits)
    packed = PackedModel.chain(SignInput(), [("bits", first), ("layer", layer), ("head", head)], "ge-zero")
    plan = Plan(packed, threads=1, kernel=kernel)
    rows, out = random_words(rng, size * size, depth), np.empty((size * size, -(-channels // 64)), np.uint64)
    return _layer(plan, rows, out, 2)


def convolution(
    channels: int, size: int, threads: int = 1, peers: bool = True, kernel: str | None = None
) -> tuple[dict[str, Call], list[str]]:
    """channels -> channels over size x size.  Returns calls by name and what was left out and why."""
    rng = np.random.default_rng(4)
    packed = layer_of(channels, size)
    layer = packed.nodes[1].op
    assert isinstance(layer, Dot)
    assert isinstance(layer.output, Threshold)
    plan = Plan(packed, threads=threads, kernel=kernel)
    words = random_words(rng, size * size, channels)
    bits, out = words.reshape(1, -1), np.empty((1, words.size), np.uint64)
    calls: dict[str, Call] = {"xnorinfer": _layer(plan, bits, out, 2)}

    signs = bitunpack(words, channels).reshape(size, size, channels).astype(np.float32)
    weights = bitunpack(layer.weights, layer.depth).reshape(channels, 3, 3, channels).astype(np.float32)
    outer = np.pad(signs, ((1, 1), (1, 1), (0, 0)))
    taps = [(y, x) for y in range(3) for x in range(3)]
    dots = sum(outer[y : y + size, x : x + size] @ weights[:, y, x].T for y, x in taps)
    found = borders(SAME, size, size)
    inside = found.inside.reshape(-1, 9).sum(axis=1)[found.of][..., None] * channels
    want = (inside - np.asarray(dots)) / 2 <= layer.output.limits[found.of]
    _equal("xnorinfer", bitunpack(out.reshape(size * size, -1), channels) > 0, want.reshape(-1, channels))
    missing = []
    if peers:
        x, w = (np.ascontiguousarray(np.moveaxis(array, -1, 1)) for array in (signs[None], weights))
        sums = np.moveaxis(np.asarray(dots), -1, 0)[None]
        missing += _torch(calls, x, w, sums, threads)
        missing += _onnxruntime(calls, x, w, sums, threads)
        missing += openvino_binary(calls, x, w, 1, sums, threads)
    return calls, missing


def variants(channels: int, size: int, kernel: str | None = None) -> dict[str, Call]:
    """The layer, the dense layer of as many operations, the layer over a map with its padding in it, and with a pool behind."""
    rng = np.random.default_rng(6)
    calls = {"dense layer of as many operations": dense_of(channels, size, kernel)}
    for name, over, window, pool in (
        ("layer", size, SAME, None),
        ("the same without padding", size + 2, Window((3, 3)), None),
        ("pooled", size, SAME, Window((2, 2), (2, 2))),
    ):
        packed = layer_of(channels, over, window, pool)
        plan = Plan(packed, threads=1, kernel=kernel)
        last = 2 if pool is None else 3
        bits = random_words(rng, over * over, channels).reshape(1, -1)
        out = np.empty((1, packed.values[last - 1].words), np.uint64)
        calls[name] = _layer(plan, bits, out, last)
    return calls


def level_layers(channels: int, size: int, kernel: str | None = None) -> dict[str, Call]:
    """The layer over signs, and over levels of 2 to 4 bits that gives such levels."""
    rng = np.random.default_rng(7)
    shape, depth = (size, size, channels), 9 * channels
    calls = {}
    for planes, name in ((1, "signs"), (2, "2 bits"), (3, "3 bits"), (4, "4 bits")):
        top, reads = (1 << planes) - 1, "bits" if planes == 1 else "levels"
        codes: PackedOp = Binarize(np.zeros(channels, np.float32), np.zeros(channels, np.bool_))
        layer = random_dot(rng, "bits", shape, channels, SAME, pad=1)
        if planes > 1:
            codes = Digitize(_falling(rng.standard_normal((top, channels)).astype(np.float32)), np.zeros(channels, np.bool_))
            limits = rng.integers(-depth, depth, (top, channels), np.int32) * top // 4
            layer = Dot("levels", depth, layer.weights, Grades(_falling(limits)), SAME)
        head = Dot(
            reads, channels, random_words(rng, 10, channels), Affine((), np.zeros((0, 2, 10), np.float32)), Window((1, 1))
        )
        packed = PackedModel(RealInput(), shape, chain([("codes", codes), ("layer", layer), ("head", head)]), "ge-zero")
        plan = Plan(packed.require_valid(), threads=1, kernel=kernel)
        given = plan.trace(rng.standard_normal((1, size * size * channels)).astype(np.float32))
        out = np.empty_like(given[1])
        calls[name] = _layer(plan, given[0], out, 2)  # type: ignore[arg-type]
        assert np.array_equal(out, given[1])
    return calls


def _falling(limits: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.sort(limits, axis=0)[::-1])


def vgg_small() -> PackedModel:
    """BinaryNet's network for CIFAR: 128C3-128C3-P2-256C3-256C3-P2-512C3-512C3-P2-1024-1024-10 over uint8, pools on sums."""
    rng = np.random.default_rng(5)
    shape: tuple[int, int, int] = (32, 32, 3)
    named: list[tuple[str, PackedOp]] = []
    for number, channels in enumerate((128, 128, 256, 256, 512, 512)):
        named.append((f"conv{number}", random_dot(rng, "bits" if number else "pixels", shape, channels, SAME)))
        shape = (*shape[:2], channels)
        if number % 2:
            named.append((f"pool{number}", Pool("max", Window((2, 2), (2, 2)), rng.random(channels) < 0.3)))
            shape = (shape[0] // 2, shape[1] // 2, channels)
    named.append(("dense6", random_dot(rng, "bits", shape, 1024, Window.whole(shape))))
    named.append(("dense7", random_dot(rng, "bits", (1, 1, 1024), 1024, Window((1, 1)))))
    values = np.stack([np.full(10, 0.01), rng.standard_normal(10)]).astype(np.float32)
    named.append(("dense8", Dot("bits", 1024, random_words(rng, 10, 1024), Affine(("fma",), values[None]), Window((1, 1)))))
    return PackedModel(PixelInput.range(-1, 1), (32, 32, 3), chain(named), "ge-zero").require_valid()


def _equal(name: str, got: NDArray[Any], want: NDArray[Any]) -> None:
    if not np.array_equal(got, want):
        raise AssertionError(f"{name} computes something else; its time would mean nothing")


def _torch(calls: dict[str, Call], x: NDArray[Any], w: NDArray[Any], sums: NDArray[Any], threads: int) -> list[str]:
    try:
        import torch
    except ImportError:
        return ["torch float32: torch is not installed"]
    torch.set_num_threads(threads)
    for name, layout in (("torch float32", torch.contiguous_format), ("torch float32, channels last", torch.channels_last)):
        image, kernel = (torch.from_numpy(array).contiguous(memory_format=layout) for array in (x, w))

        def call(image: Any = image, kernel: Any = kernel) -> Any:
            with torch.inference_mode():
                return torch.nn.functional.conv2d(image, kernel, padding=1)

        _equal(name, call().numpy(), sums)
        calls[name] = call
    return []


def _onnxruntime(calls: dict[str, Call], x: NDArray[Any], w: NDArray[Any], sums: NDArray[Any], threads: int) -> list[str]:
    try:
        import onnx
        import onnxruntime
    except ImportError:
        return ["onnxruntime float32: onnx or onnxruntime is not installed"]
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in (("x", x.shape), ("y", None))
    ]
    graph = onnx.helper.make_graph([node], "layer", values[:1], values[1:], [onnx.numpy_helper.from_array(w, "w")])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    call = partial(session.run, None, {"x": x})
    _equal("onnxruntime float32", call()[0], sums)
    calls["onnxruntime float32"] = call
    return []
