"""What is computed in one pass: a node, and the bits of the sign that reads its numbers.

A binary layer behind a shortcut reads the signs of a sum that another layer makes with its own steps.  While a group of those
numbers is at hand, its bits cost next to nothing; the numbers themselves are written only where something else reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from xnorinfer.engine.buffers import Life
from xnorinfer.engine.joins import Home
from xnorinfer.graph import INPUT, Node, users_of
from xnorinfer.kernels import Kernel
from xnorinfer.packing.packed import Affine, Binarize, Dot, Elementwise, PackedModel, PackedOp


@dataclass(frozen=True)
class Pass:
    """A row of the table.

    node: number of the one that is computed.  sign: that of the `Binarize` whose bits it gives, too.  kept: whether the value
    of the node itself is written.
    """

    node: int
    sign: int | None = None
    kept: bool = True

    @property
    def nodes(self) -> list[int]:
        """The nodes that it computes."""
        return [self.node] if self.sign is None else [self.node, self.sign]

    @property
    def gives(self) -> list[int]:
        """The nodes whose values it writes."""
        return [self.node] * self.kept + ([] if self.sign is None else [self.sign])


def apart(packed: PackedModel) -> list[Pass]:
    """Every node by itself."""
    return [Pass(index) for index in range(len(packed.nodes))]


def together(packed: PackedModel, kernel: Kernel) -> list[Pass]:
    """Signs in the pass of what they read, where that can be."""
    users = users_of(packed.nodes)
    signs: dict[int, int] = {}
    for index, node in enumerate(packed.nodes):
        read = node.inputs[0]
        if isinstance(node.op, Binarize) and read != INPUT and _gives_bits(packed.nodes[read], kernel):
            signs.setdefault(read, index)
    gone = set(signs.values())
    return [
        Pass(index, signs.get(index), index not in signs or users[index] != [signs[index]])
        for index in range(len(packed.nodes))
        if index not in gone
    ]


def _gives_bits(node: Node[PackedOp], kernel: Kernel) -> bool:
    """Whether the steps of a node give rows of numbers, in parts that fill bytes of bits."""
    op = node.op
    if isinstance(op, Elementwise):
        return True
    if not isinstance(op, Dot) or not isinstance(op.output, Affine) or op.groups > 1:
        return False
    return op.reads == "bits" if op.binary else kernel.floats(op.neurons).panel % 8 == 0


def lives_of(
    packed: PackedModel, passes: Sequence[Pass], sizes: Sequence[int], homes: Mapping[int, Home] = MappingProxyType({})
) -> dict[int, Life]:
    """How long each value that passes pass on is needed, by node; not that of the last one, nor those that lie in others.

    sizes: of every node's value.
    """
    steps: dict[int, list[int]] = {}
    for step, one in enumerate(passes):
        for node in (*one.gives, *packed.nodes[one.node].inputs):
            steps.setdefault(homes[node].node if node in homes else node, []).append(step)
    for own in (INPUT, passes[-1].node):
        steps.pop(own, None)
    return {node: Life(sizes[node], min(found), max(found)) for node, found in steps.items()}
