"""Where the time of a packed model goes: every node of its plan by itself, against the whole run and what the core allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import kernels
from xnorinfer.engine.plan import INPUT_DTYPES, Plan
from xnorinfer.graph import INPUT, Interpretation, Node
from xnorinfer.packing.packed import (
    PACKED_OPS,
    Binarize,
    Concat,
    Digitize,
    Dot,
    Elementwise,
    Mapped,
    Moved,
    Multiply,
    PackedModel,
    PackedOp,
    Pool,
    stored_arrays,
)
from xnorinfer.speed.roofline import Floor, Peaks, Product, Work, measured
from xnorinfer.speed.timing import REFILL_SECONDS, SETTLE_SECONDS, Call, Timing, in_turns

#: Stands for the whole run among numbers of nodes.
WHOLE = -1

#: Op -> its operations for each number that it gives: 2 for a multiply-accumulate, as everywhere, 1 for a compare.
_operations: Interpretation[[], int] = Interpretation("bench.operations", PACKED_OPS)


@_operations.of(Binarize, Mapped, Concat, Multiply, Moved)
def _(op: Binarize | Mapped | Concat | Multiply | Moved) -> int:
    return 1


@_operations.of(Digitize)
def _(op: Digitize) -> int:
    return op.top


@_operations.of(Dot)
def _(op: Dot) -> int:
    return 2 * op.depth


@_operations.of(Pool)
def _(op: Pool) -> int:
    return op.window.taps


@_operations.of(Elementwise)
def _(op: Elementwise) -> int:
    return len(op.steps.ops)


@dataclass(frozen=True)
class NodeTime:
    """One node.  takes, gives: numbers of a sample, and what they are; operations: of one call; timing: seconds of one call;
    floor: seconds that the core needs for it at least, on one thread."""

    name: str
    takes: str
    gives: str
    operations: int
    timing: Timing
    floor: Floor | None = None

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.timing.median

    @property
    def reached(self) -> float | None:
        """Which share of the roofline it reaches: its floor over its time."""
        return None if self.floor is None else self.floor.seconds / self.timing.median


@dataclass(frozen=True)
class Profile:
    """The nodes of a plan at one batch size and thread count, and the whole run, in which blocks stay in cache between them.

    On one thread also the peaks of the core, and floors: of the whole run what bounds it, and for how many seconds.
    """

    batch: int
    threads: int
    nodes: tuple[NodeTime, ...]
    whole: Timing
    peaks: Peaks | None = None
    floors: tuple[Floor, ...] = ()

    @property
    def sum(self) -> float:
        """Seconds of all nodes, one by one."""
        return sum(node.timing.median for node in self.nodes)

    def share(self, node: NodeTime) -> float:
        """Of the sum, that a node takes."""
        return node.timing.median / self.sum

    @property
    def reached(self) -> float | None:
        """Which share of its roofline the whole run reaches."""
        return sum(floor.seconds for floor in self.floors) / self.whole.median if self.floors else None

    def to_json(self) -> dict[str, Any]:
        """JSON-able, with rates and shares added."""
        return {
            "batch": self.batch,
            "threads": self.threads,
            "nodes": [
                {
                    **asdict(node),
                    "floor": None if node.floor is None else node.floor._asdict(),
                    "operations_per_second": node.rate,
                    "share": self.share(node),
                    "of_roofline": node.reached,
                    "unstable": node.timing.unstable,
                }
                for node in self.nodes
            ],
            "whole": {
                **asdict(self.whole),
                "floors": [floor._asdict() for floor in self.floors],
                "of_roofline": self.reached,
            },
            "peaks": None if self.peaks is None else self.peaks.to_json(),
        }


# ---------------------------------------------------------------- what there is to do


def work_of(packed: PackedModel, index: int, rows: int) -> Work:
    """What a node of a packed network does for so many rows, by itself."""
    node, gives = packed.nodes[index], packed.values[index]
    product = _product(node.op)
    planes = packed.read_by(node).planes if product == "binary" else 1
    operations = planes * _operations(node) * gives.width * rows
    read = rows * sum(_touched(packed, node, read) for read in node.inputs) + weight_bytes(node)
    return Work(product, operations, read, rows * gives.nbytes)


def weight_bytes(node: Node[PackedOp]) -> int:
    """Bytes of its arrays."""
    return sum(array.nbytes for array in stored_arrays(node).values())


def _product(op: PackedOp) -> Product | None:
    """Whose peak bounds it; None where it does not multiply."""
    if not isinstance(op, Dot):
        return None
    return "float32" if not op.binary else op.reads if op.reads in ("pixels", "reals") else "binary"


def _touched(packed: PackedModel, node: Node[PackedOp], read: int) -> int:
    """Bytes of one of the values of a node that it reads at least once."""
    entry = np.dtype(INPUT_DTYPES[packed.input.kind])
    whole = packed.depth * entry.itemsize if read == INPUT else packed.values[read].nbytes
    window = node.op.window if isinstance(node.op, Dot | Pool) else None
    if window is None or read != node.inputs[0]:
        return whole
    height, width = packed.read_by(node).shape[:2]
    return min(whole, whole * math.prod(window.outputs(height, width)) * window.taps // (height * width))


def floors_of(plan: Plan, peaks: Peaks, rows: int) -> tuple[Floor, ...]:
    """What bounds a whole run, and for how many seconds, the longest first.

    Signs that are made in the pass of their numbers read nothing, numbers that nothing else reads are not written; and weights
    come from the cache that holds those of the whole network.
    """
    packed, seconds = plan.running, dict[str, float]()
    weights = sum(map(weight_bytes, packed.nodes))
    for one in plan.passes:
        own_nodes = (*one.nodes, *one.signs)
        works = [(packed.nodes[index], work_of(packed, index, rows)) for index in own_nodes]
        written = rows * sum(packed.values[index].nbytes for index in one.gives)
        maps = sum(_touched(packed, node, read) for node, _ in works for read in node.inputs if read not in own_nodes)
        moved = peaks.moved(rows * maps, written)
        own = peaks.read_seconds(sum(weight_bytes(node) for node, _ in works), of=weights)
        floor = max(moved._replace(seconds=moved.seconds + own), *(peaks.computed(work) for _, work in works))
        seconds[floor.bound] = seconds.get(floor.bound, 0.0) + floor.seconds
    return tuple(sorted((Floor(spent, bound) for bound, spent in seconds.items()), reverse=True))


# ---------------------------------------------------------------- measuring


def profile(plan: Plan, x: NDArray[Any], seconds: float) -> Profile:
    """Time every node on what it reads when the network runs on canonical inputs x, (rows, depth); nodes and the whole run take
    turns for about so many seconds.  On one thread what the core does at most is measured, too."""
    packed: PackedModel = plan.packed
    calls: dict[int, Call] = {**dict(enumerate(plan.node_calls(x))), WHOLE: partial(plan.run, x)}
    timings = in_turns(calls, seconds, settle=SETTLE_SECONDS if plan.threads > 1 else REFILL_SECONDS)
    works = [work_of(packed, index, len(x)) for index in range(len(packed.nodes))]
    peaks = _peaks_for(plan, works) if plan.threads == 1 else None
    values = packed.values
    nodes = tuple(
        NodeTime(
            node.name,
            " + ".join(f"{value.width} {value.kind}" for value in packed.reads_of(node)),
            f"{values[index].width} {values[index].kind}",
            _operations(node) * values[index].width * len(x),
            timings[index],
            None if peaks is None else peaks.floor(works[index]),
        )
        for index, node in enumerate(packed.nodes)
    )
    floors = () if peaks is None else floors_of(plan, peaks, len(x))
    return Profile(len(x), plan.threads, nodes, timings[WHOLE], peaks, floors)


def _peaks_for(plan: Plan, works: Sequence[Work]) -> Peaks:
    products = [work.product for work in works if work.product is not None]
    sizes = [sum(map(weight_bytes, plan.packed.nodes)), *(work.read + work.written for work in works)]
    return measured(kernels.choose(plan.kernel), products, sizes)
