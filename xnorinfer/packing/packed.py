"""The portable packed network: what the file holds and what a plan is made from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from xnorinfer.errors import MalformedModelError, OptionError, unhandled
from xnorinfer.graph import INPUT, Node, branching, chain
from xnorinfer.net.ties import profile_problems
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, Shape, ThresholdInput
from xnorinfer.packing.packedchecks import MAX_PIXEL_DEPTH, graph_problems, place_of, plain_node, plain_shape
from xnorinfer.packing.packedops import (
    PACKED_OPS,
    STEP_NAMES,
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
    Outside,
    PackedOp,
    Pool,
    Reads,
    StepName,
    Threshold,
    Value,
    outside_of,
    stored_arrays,
    value_of,
)

#: What others import from here: the network and its parts.
__all__ = [
    "MAX_PIXEL_DEPTH",
    "PACKED_OPS",
    "STEP_NAMES",
    "Affine",
    "Binarize",
    "Concat",
    "Digitize",
    "Dot",
    "Elementwise",
    "Grades",
    "Mapped",
    "Moved",
    "Multiply",
    "Outside",
    "PackedModel",
    "PackedOp",
    "Pool",
    "Reads",
    "StepName",
    "Threshold",
    "Value",
    "outside_of",
    "stored_arrays",
]

#: Kind of an input -> what its numbers are.
_ENTRIES: dict[str, Reads] = {
    "pixels": "pixels",
    "channels": "pixels",
    "threshold": "pixels",
    "signs": "bits",
    "reals": "reals",
}


@dataclass(frozen=True, eq=False)
class PackedModel:
    """A packed network.  `provenance` says where it came from and is not part of the network itself; neither is `profile`, the
    tie rules of its source: once folded, no sum of a sign is left to tie.

    shape: of one sample, (features,) or (height, width, channels).  nodes: in order of execution.  The first is a `Binarize`
    where the input is one threshold for all pixels.
    format_version: None, or 1 where its digests follow the rules of the file of that version that it was loaded from.
    """

    input: InputMapping
    shape: Shape
    nodes: tuple[Node[PackedOp], ...]
    profile: str
    provenance: dict[str, Any] = field(default_factory=dict)
    format_version: int | None = None

    @classmethod
    def chain(cls, input: InputMapping, named: Iterable[tuple[str, PackedOp]], profile: str, **parts: Any) -> PackedModel:
        """A network of dense layers, (name, op) each, that follow one another."""
        nodes = chain(named)
        return cls(input, (next((node.op.depth for node in nodes if isinstance(node.op, Dot)), 0),), nodes, profile, **parts)

    @cached_property
    def depth(self) -> int:
        """Number of input values of one sample."""
        return math.prod(self.shape)

    @property
    def channels_first(self) -> bool:
        """Whether the source has images as (channels, height, width), so that they are taken so, too."""
        return self.provenance.get("channels_first") is True

    @cached_property
    def score_shape(self) -> Shape:
        """Of the scores of one sample: (classes,), or (height, width, classes) where it ends in a map of several pixels."""
        shape = self.values[-1].shape
        return shape if math.prod(shape[:-1]) > 1 else shape[-1:]

    @property
    def classes(self) -> int:
        """Number of scores of one sample, or of one pixel where they are a map."""
        return self.score_shape[-1]

    def require_one_class(self, what: str) -> None:
        """Raise OptionError where not a sample but each pixel has a class, which `what` cannot hold."""
        if len(self.score_shape) > 1:
            size = " x ".join(map(str, self.score_shape[:-1]))
            raise OptionError(
                f"{what} one class of each sample, and this network gives one for each of {size} pixels; `xnorinfer run -o` "
                "and Model.predict give them all"
            )

    @property
    def binarize(self) -> Node[Binarize] | None:
        """The node that makes bits of the inputs, if there is one."""
        return cast("Node[Binarize]", self.nodes[0]) if self.nodes and type(self.nodes[0].op) is Binarize else None

    @property
    def own_limits(self) -> Node[Binarize] | None:
        """The same where every input has a limit of its own; else the input itself says the threshold of all."""
        return None if isinstance(self.input, ThresholdInput) else self.binarize

    @property
    def layers(self) -> tuple[Node[Any], ...]:
        """The nodes behind the one that makes bits of the inputs, numbered as in files."""
        return self.nodes[self.binarize is not None :]

    @property
    def entry(self) -> Value:
        """What the input is."""
        return Value(_ENTRIES[self.input.kind], self.shape)

    @cached_property
    def values(self) -> tuple[Value, ...]:
        """What every node gives.  Raises MalformedModelError where that cannot be told."""
        found: list[Value] = []
        for index, node in enumerate(self.nodes):
            read = [self.entry if other == INPUT else found[other] for other in node.inputs]
            found.append(value_of(node, place_of(self.nodes, index), read))
        return tuple(found)

    def read_by(self, node: Node[PackedOp]) -> Value:
        """What a node reads, of several values the first."""
        return self.reads_of(node)[0]

    def reads_of(self, node: Node[PackedOp]) -> list[Value]:
        """All that a node reads."""
        values = self.values
        return [self.entry if index == INPUT else values[index] for index in node.inputs]

    @cached_property
    def is_dense_chain(self) -> bool:
        """Whether it is a chain of dense layers, float ones last, and no more: what the formats 1 and 2 hold."""
        ops = [node.op for node in self.layers]
        return (
            len(self.shape) == 1
            and all(type(op) is Dot and op.window is None and "levels" not in (op.reads, op.gives) for op in ops)
            and not any(True for _ in branching(self.nodes))
        )

    def stored(self) -> Iterator[tuple[str, Node[PackedOp]]]:
        """The nodes that have arrays in files, each with what their names begin with."""
        bits = self.own_limits if self.is_dense_chain else self.binarize
        if bits is not None:
            yield "input", bits
        yield from ((f"layers.{number}", node) for number, node in enumerate(self.layers))

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every array of the model under its name in the file, in order."""
        for place, node in self.stored():
            for name, array in stored_arrays(node).items():
                yield f"{place}.{name}", array

    def check(self) -> list[str]:
        """All inconsistencies of the model; empty for anything that `lower` makes."""
        try:
            return list(self.plain()._problems())
        except MalformedModelError as error:
            return [str(error)]

    def plain(self) -> PackedModel:
        """The same network in objects of its own: classes of this module, read-only arrays of numpy's own class over the same
        memory.

        What is changed in the parts of this one later, but for values in arrays, does not reach it.  Raises MalformedModelError
        for parts that are something else.
        """
        if type(self.input) not in get_args(InputMapping):
            raise MalformedModelError(unhandled("PackedModel.check", self.input).problems[0])
        try:
            mapping = replace(self.input)
        except OptionError as error:
            raise MalformedModelError(str(error)) from None
        nodes = self.nodes if isinstance(self.nodes, tuple | list) else ()
        made = tuple(plain_node(place_of(nodes, index), node) for index, node in enumerate(nodes))
        return PackedModel(mapping, plain_shape(self.shape), made, self.profile, self.provenance, self.format_version)

    def require_valid(self) -> PackedModel:
        """`plain`, once `check` finds nothing wrong with it.  Raises MalformedModelError with everything that it finds."""
        made = self.plain()
        problems = list(made._problems())
        if problems:
            raise MalformedModelError(f"the model is inconsistent: {'; '.join(problems)}")
        return made

    def _problems(self) -> Iterator[str]:
        """What is wrong with a network in objects of its own."""
        yield from profile_problems(self.profile)
        if not isinstance(self.provenance, dict):
            yield f"provenance is a {type(self.provenance).__name__}, needed is a dict"
        wrong = list(graph_problems(self.nodes, self.entry))
        yield from wrong
        if wrong and not self.nodes:
            return
        if self.format_version is not None and (self.format_version not in (1, 2) or not self.is_dense_chain):
            yield f"there is no format version {self.format_version!r}"
        if isinstance(self.input, ThresholdInput):
            found = None if self.binarize is None else self.binarize.op.threshold
            if found != self.input.threshold:
                yield f"the input has the threshold {self.input.threshold}, its bits {found}"
        if isinstance(self.input, ChannelInput) and len(self.input.channels) != self.shape[-1]:
            yield f"the input has mappings of {len(self.input.channels)} channels and the shape {self.shape}"
        for index, node in enumerate(self.nodes):
            if (
                isinstance(node.op, Mapped)
                and node.inputs[0] == INPUT
                and not (
                    isinstance(self.input, PixelInput | ChannelInput)
                    and np.array_equal(node.op.values, Mapped.of(self.input).values)
                )
            ):
                yield f"{place_of(self.nodes, index)}: its values are not those of {self.input.describe()}"
