"""Operations of TensorFlow on maps, as nodes of ONNX: convolutions, pools, padding, BatchNorm of channels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from numpy.typing import NDArray

from xnorinfer.converters.containers.onnxfile import Attribute, OnnxNode
from xnorinfer.converters.graphs.channelslast import on_channels_last, on_column, on_kernel, window_attributes
from xnorinfer.converters.tfgraphs.tfnodes import TfNode

T = TypeVar("T")

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
#: Pools by ONNX's names; those of the second version have size and strides as inputs.
POOLS = {"MaxPool": "MaxPool", "MaxPoolV2": "MaxPool", "AvgPool": "AveragePool"}
PADS = ("Pad", "PadV2")
#: What stands before and behind a convolution whose dilation is spelled.
DILATION = ("SpaceToBatchND", "BatchToSpaceND")
#: What takes height and width together, one value for each channel, by ONNX's names.
WHOLE = {"Mean": "GlobalAveragePool", "Max": "GlobalMaxPool"}


def channels_first(node: TfNode) -> bool:
    """Whether a node works on maps (rows, channels, height, width)."""
    return node.text("data_format").startswith("NC")


def placed(node: TfNode, made: OnnxNode) -> Iterator[OnnxNode]:
    """A node of ONNX, with the channels where TensorFlow's node has them."""
    if channels_first(node):
        yield made
    else:
        yield from on_channels_last(made)


def convolution(
    node: TfNode, name: str, value: str, kernel: str, shape: Sequence[int], channels: int | None
) -> Iterator[OnnxNode]:
    """A convolution by a constant kernel of that shape.  name: of its layer; channels: of its map, None if they are not known.

    Raises ValueError.
    """
    if len(shape) != 4 or 0 in shape:
        raise ValueError(f"its kernel has the shape {tuple(shape)}")
    depthwise = node.operation != "Conv2D"
    group = shape[2] if depthwise else max(1, (channels or 0) // shape[2])
    made = OnnxNode("Conv", name, (value, kernel), (node.name,), {**_window(node), "group": group})
    *kernels, last = on_kernel(made, shape, depthwise=depthwise)
    yield from kernels
    yield from placed(node, last)


def pool(node: TfNode, value: str, sizes: Sequence[Sequence[int]], *, column: bool) -> Iterator[OnnxNode]:
    """A pool.  sizes: of its window, and its strides, where inputs say them.  column: the map is a line with an axis more.

    Raises ValueError.
    """
    size, strides = sizes if sizes else (node.integers("ksize"), node.integers("strides"))
    reach = _spatial(node, size)
    attributes: dict[str, Attribute] = {"kernel_shape": reach, **_window(node, strides)}
    made = OnnxNode(POOLS[node.operation], node.name, (value,), (node.name,), attributes)
    yield from on_column(made) if column and reach[1] == 1 else placed(node, made)


def spelled_dilation(node: TfNode, value: str, block: NDArray[Any], pads: NDArray[Any]) -> OnnxNode:
    """SpaceToBatchND or BatchToSpaceND.  Raises ValueError."""
    if block.ndim != 1 or pads.shape != (block.size, 2):
        raise ValueError(f"its block has the shape {block.shape}, its pads {pads.shape}")
    said: dict[str, Attribute] = {"block": tuple(block.tolist()), "pads": tuple(pads.T.reshape(-1).tolist())}
    return OnnxNode(node.operation, node.name, (value,), (node.name,), said)


def _window(node: TfNode, strides: Sequence[int] | None = None) -> dict[str, Attribute]:
    """Strides, dilations and padding of a node."""
    explicit = node.integers("explicit_paddings")
    pairs = list(zip(explicit[::2], explicit[1::2], strict=True))
    dilations = node.integers("dilations")
    return window_attributes(
        _spatial(node, node.integers("strides") if strides is None else strides),
        _spatial(node, dilations) if dilations else (),
        node.text("padding"),
        _spatial(node, pairs) if pairs else (),
    )


def _spatial(node: TfNode, axes: Sequence[T]) -> tuple[T, ...]:
    """What an attribute says of height and width."""
    if len(axes) != 4:
        raise ValueError(f"it has {len(axes)} numbers for 4 axes")
    return tuple(axes[2:] if channels_first(node) else axes[1:3])
