"""Networks that branch against other libraries: `python -m benchmarks.branches [--larq FOLDER] [--seconds S] [--only NAME]`;
with `--profile` instead where their time goes, by kind of node, against the roofline of this core; with `--ends` the float
layers before the first sign alone, and those behind the last binary layer, against ONNX Runtime in float32.

Published networks (`published`) at 224 x 224, batch 1, on one thread and on all cores, in turns in one process: xnorinfer, ONNX
Runtime in float32 on the same graph, ONNX Runtime in 8 bits on a ResNet-18 (`int8_resnet`), and Larq Compute Engine, for which
FOLDER has an environment, or gets one.  Scores are compared with the reference first, number by number.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.int8_resnet import int8_resnet18
from benchmarks.larq_compute_engine import install
from benchmarks.larq_networks import LarqNetwork
from benchmarks.published import NETWORKS, SIZE, binary_share
from xnorinfer.cli.layerlist import kind_text, whole_text
from xnorinfer.cores import usable_cores
from xnorinfer.engine.plan import Plan
from xnorinfer.net.network import Net
from xnorinfer.net.reference import forward
from xnorinfer.net.values import RealInput
from xnorinfer.packing.description import describe
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Binarize, Dot, PackedModel
from xnorinfer.speed import peers
from xnorinfer.speed.layertimes import NodeTime, Profile, profile
from xnorinfer.speed.timing import SETTLE_SECONDS, Call, Timing, in_turns

FLOAT, INT8, LARQ = "onnxruntime float32, the same graph", "onnxruntime int8, ResNet-18", "Larq Compute Engine"


@dataclass(frozen=True)
class Case:
    """A network.  differences: of our scores to the reference's, how many numbers."""

    name: str
    net: Net
    packed: PackedModel
    differences: int

    @classmethod
    def of(cls, name: str, size: int = SIZE) -> Case:
        net = NETWORKS[name](size)
        packed = lower(net).packed
        x = image(size).reshape(1, -1)
        differences = int((Plan(packed, threads=1).run(x) != forward(net, x)).sum())
        return cls(name, net, packed, differences)

    def text(self) -> str:
        """What it is."""
        size = sum(array.nbytes for _, array in self.packed.tensors())
        return (
            f"{len(self.net.nodes)} nodes, packed {len(self.packed.nodes)}, {binary_share(self.net):.1%} binary, "
            f"{size / 1e6:.2f} MB, {self.differences} differences"
        )


def image(size: int = SIZE) -> Any:
    """(1, size, size, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (1, size, size, 3), np.uint8)


def times(case: Case, threads: int, seconds: float, larq: Path | None = None) -> dict[str, Timing]:
    """Of one image, ours first.  larq: Python of its environment.  Raises AssertionError where the float network has another
    class."""
    x = image(case.net.shape[0])
    flat = x.reshape(1, -1)
    plan = Plan(case.packed, threads=threads)
    calls: dict[str, Call] = {"xnorinfer": partial(plan.run, flat)}
    if not peers.why_left_out("onnxruntime float32"):
        float_network = peers.peer("onnxruntime float32", case.packed, 1, threads)
        scores = plan.run(flat)
        apart = np.abs(float_network.scores(flat) - scores).max()
        assert apart < 1e-3 * np.abs(scores).max(), f"{case.name}: scores in float32 are {apart} away"
        calls[FLOAT] = partial(float_network.scores, flat)
        session = peers.onnx_session(int8_resnet18(case.net.shape[0]), threads)
        calls[INT8] = partial(session.run, None, {"x": np.ascontiguousarray(x.transpose(0, 3, 1, 2))})
    other = None
    if larq is not None:
        mapped = (2 * x.astype(np.float64) / 255 - 1).astype(np.float32)
        try:
            other = LarqNetwork(larq, case.net, mapped, threads)
            calls[LARQ] = other
            apart = np.abs(other.scores - plan.run(flat)).max()
            print(f"{case.name}: scores of {LARQ} are up to {apart:.1e} away", file=sys.stderr)
        except RuntimeError as error:
            print(f"skipped: {case.name}: {error}", file=sys.stderr)
    try:
        return in_turns(calls, seconds, settle=SETTLE_SECONDS if threads > 1 else 0.05)
    finally:
        if other is not None:
            other.close()


def lines(cases: list[Case], seconds: float, larq: Path | None) -> Iterator[str]:
    """A table in Markdown."""
    names = [FLOAT, INT8, *([LARQ] if larq else [])]
    yield f"| network | threads | ours | {' | '.join(f'{name} | ratio' for name in names)} |"
    yield f"|{'---|' * (3 + 2 * len(names))}"
    for case in cases:
        for threads in dict.fromkeys((1, usable_cores())):
            found = times(case, threads, seconds, larq)
            ours = found["xnorinfer"]
            cells = [case.name, str(threads), _text(ours)]
            for name in names:
                if (theirs := found.get(name)) is None:
                    cells += ["", ""]
                    continue
                cells += [_text(theirs), _ratio(ours, theirs)]
            yield f"| {' | '.join(cells)} |"


def ends_of(packed: PackedModel) -> dict[str, PackedModel]:
    """The nodes before the first that makes or takes bits, and those that read one value behind the last, as models of their
    own."""
    nodes = packed.nodes
    bits = [
        at for at, node in enumerate(nodes) if isinstance(node.op, Binarize) or (isinstance(node.op, Dot) and node.op.binary)
    ]
    first, last = bits[0], bits[-1] + 1
    while any(read < last - 1 for node in nodes[last:] for read in node.inputs):
        last += 1
    head = tuple(replace(node, inputs=tuple(read - last for read in node.inputs)) for node in nodes[last:])
    shape = packed.values[last - 1].shape
    return {
        "stem": replace(packed, nodes=nodes[:first]),
        "head": replace(packed, input=RealInput(), shape=shape, nodes=head),
    }


def end_lines(case: Case, seconds: float) -> Iterator[str]:
    """How long the ends of a network take, in Markdown.  Raises AssertionError where numbers are other ones."""
    yield f"| {case.name} | threads | ours | {FLOAT} | ratio |"
    yield f"|{'---|' * 5}"
    rng = np.random.default_rng(0)
    for name, packed in ends_of(case.packed).items():
        real = isinstance(packed.input, RealInput)
        x = rng.normal(0, 1, (1, packed.depth)).astype(np.float32) if real else image(packed.shape[0]).reshape(1, -1)
        for threads in dict.fromkeys((1, usable_cores())):
            plan, float_network = Plan(packed, threads=threads), peers.peer("onnxruntime float32", packed, 1, threads)
            ours, theirs = plan.run(x).ravel(), float_network.scores(x).ravel()
            assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max(), f"{case.name}: the {name} gives other numbers"
            found = in_turns(
                {"ours": partial(plan.run, x), FLOAT: partial(float_network.scores, x)},
                seconds,
                settle=SETTLE_SECONDS if threads > 1 else 0.05,
            )
            mine, other = found["ours"], found[FLOAT]
            yield f"| {name} | {threads} | {_text(mine)} | {_text(other)} | {_ratio(mine, other, 2)} |"


@dataclass(frozen=True)
class Kind:
    """Nodes of one kind.  seconds: of one image, all of them together; floors: the least by what bounds them."""

    name: str
    nodes: int
    seconds: float
    floors: dict[str, float]

    @property
    def floor(self) -> float:
        """Seconds that the core needs for them at least."""
        return sum(self.floors.values())


def kinds_of(packed: PackedModel, profile: Profile) -> list[Kind]:
    """The nodes of a network by kind, those first that take longest above their roofline."""
    found: dict[str, list[NodeTime]] = {}
    layers = describe(packed)["layers"]
    for node, layer, time in zip(packed.layers, layers, profile.nodes[-len(layers) :], strict=True):
        depthwise = isinstance(node.op, Dot) and 1 < node.op.groups == node.op.neurons
        found.setdefault(kind_text(layer) + ", depthwise" * depthwise, []).append(time)
    kinds = []
    for name, nodes in found.items():
        floors: dict[str, float] = {}
        for node in nodes:
            assert node.floor is not None
            floors[node.floor.bound] = floors.get(node.floor.bound, 0.0) + node.floor.seconds
        kinds.append(Kind(name, len(nodes), sum(node.timing.median for node in nodes), floors))
    return sorted(kinds, key=lambda kind: kind.floor - kind.seconds)


def profile_lines(case: Case, seconds: float) -> Iterator[str]:
    """Where the time of a network goes, in Markdown: each kind of node by itself, then the whole run."""
    found = profile(Plan(case.packed, threads=1), image(case.net.shape[0]).reshape(1, -1), seconds)
    yield f"| {case.name}, one thread | nodes | time | share | of roofline | bound by | above it |"
    yield f"|{'---|' * 7}"
    for kind in kinds_of(case.packed, found):
        bounds = ", ".join(sorted(kind.floors, key=lambda bound: -kind.floors[bound]))
        yield (
            f"| {kind.name} | {kind.nodes} | {kind.seconds * 1e3:.3f} ms | {kind.seconds / found.sum:.0%} "
            f"| {kind.floor / kind.seconds:.0%} | {bounds} | {(kind.seconds - kind.floor) * 1e3:.3f} ms |"
        )
    unstable = sum(node.timing.unstable for node in found.nodes)
    yield ""
    yield (
        f"{found.sum * 1e3:.2f} ms node by node ({unstable} of {len(found.nodes)} unstable); "
        f"the whole run {_text(found.whole)}, {whole_text(found)}"
    )


def _ratio(ours: Timing, theirs: Timing, digits: int = 1) -> str:
    return "unstable" if ours.unstable or theirs.unstable else f"{theirs.median / ours.median:.{digits}f} x"


def _text(timing: Timing) -> str:
    digits = 2 if timing.median >= 1e-3 else 4
    return f"{timing.median * 1e3:.{digits}f} ms +-{timing.spread:.0%}"


def main() -> None:
    """Print what the networks are, and the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.branches", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--larq", metavar="FOLDER", type=Path, help="where Larq Compute Engine's environment is or shall be")
    parser.add_argument("--seconds", type=float, default=5.0, help="time per network and threads, at least five rounds (5)")
    parser.add_argument("--only", choices=NETWORKS, action="append", help="this network only (repeatable)")
    parser.add_argument("--profile", action="store_true", help="where the time goes, by kind of node, instead")
    parser.add_argument("--ends", action="store_true", help="the float layers at both ends alone, instead")
    options = parser.parse_args()
    if options.ends and (reason := peers.why_left_out("onnxruntime float32")):
        raise SystemExit(f"skipped: {reason}")
    python = None
    if options.larq is not None:
        python = options.larq / "bin" / "python"
        if reason := install(options.larq):
            print(f"skipped: Larq Compute Engine cannot be installed for Python {sys.version.split()[0]}: {reason}")
            python = None
    cases = []
    for name in options.only or NETWORKS:
        cases.append(Case.of(name))
        print(f"{name}: {cases[-1].text()}", flush=True)
        if options.profile:
            print("\n".join(["", *profile_lines(cases[-1], options.seconds), ""]), flush=True)
        if options.ends:
            print("\n".join(["", *end_lines(cases[-1], options.seconds), ""]), flush=True)
    for line in () if options.profile or options.ends else lines(cases, options.seconds, python):
        print(line, flush=True)


if __name__ == "__main__":
    main()
