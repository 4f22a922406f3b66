"""Where the time of a packed model goes: every node of its plan by itself, against the whole run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.plan import Plan
from xnorinfer.graph import INPUT, Interpretation
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
    Pool,
)
from xnorinfer.speed.timing import REFILL_SECONDS, SETTLE_SECONDS, Call, Timing, in_turns

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
    """One node.  takes, gives: numbers of a sample, and what they are; operations: of one call; timing: seconds of one call."""

    name: str
    takes: str
    gives: str
    operations: int
    timing: Timing

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.timing.median


@dataclass(frozen=True)
class Profile:
    """The nodes of a plan at one batch size and thread count, and the whole run, in which blocks stay in cache between them."""

    batch: int
    threads: int
    nodes: tuple[NodeTime, ...]
    whole: Timing

    @property
    def sum(self) -> float:
        """Seconds of all nodes, one by one."""
        return sum(node.timing.median for node in self.nodes)

    def share(self, node: NodeTime) -> float:
        """Of the sum, that a node takes."""
        return node.timing.median / self.sum

    def to_json(self) -> dict[str, Any]:
        """JSON-able, with rates and shares added."""
        return {
            "batch": self.batch,
            "threads": self.threads,
            "nodes": [
                {
                    **asdict(node),
                    "operations_per_second": node.rate,
                    "share": self.share(node),
                    "unstable": node.timing.unstable,
                }
                for node in self.nodes
            ],
            "whole": asdict(self.whole),
        }


def profile(plan: Plan, x: NDArray[Any], seconds: float) -> Profile:
    """Time every node on what it reads when the network runs on canonical inputs x, (rows, depth); nodes and the whole run take
    turns for about so many seconds."""
    packed: PackedModel = plan.packed
    outputs = plan.trace(x)
    calls: dict[int, Call] = {
        index: partial(
            plan.run_nodes,
            [x if read == INPUT else outputs[read] for read in node.inputs],
            np.empty_like(output),
            index,
            index + 1,
        )
        for index, (node, output) in enumerate(zip(packed.nodes, outputs, strict=True))
    }
    calls[-1] = partial(plan.run, x)
    timings = in_turns(calls, seconds, settle=SETTLE_SECONDS if plan.threads > 1 else REFILL_SECONDS)
    values = packed.values
    nodes = tuple(
        NodeTime(
            node.name,
            " + ".join(f"{value.width} {value.kind}" for value in packed.reads_of(node)),
            f"{values[index].width} {values[index].kind}",
            _operations(node) * values[index].width * len(x),
            timings[index],
        )
        for index, node in enumerate(packed.nodes)
    )
    return Profile(len(x), plan.threads, nodes, timings[-1])
