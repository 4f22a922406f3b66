"""The tables of docs/results.md: `python -m benchmarks.table [--full] [--output NAME] [--only SECTION] [--isa ISA]`.

All sides of a row are measured in turns in one process, with the same number of threads, on one core where that is one, and
their results are checked for equality first.  Every time has its spread, half the distance of the quartiles over the rounds;
where one is more than 25 %, the row is unstable and has the range of the quartiles instead of a ratio.  Numbers without a peer
say what they are.

The default takes less than five minutes while two cores are free; --full adds small and odd networks, all batch sizes and
kernels.  --isa holds every library to the instructions of machines that have less (`instructions`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import branches, convolution_cases, instructions, picture, processes
from benchmarks.layer_cases import first_layer, hidden_layer
from benchmarks.networks import REFERENCE, random_network, random_pixels
from benchmarks.openvino_binary import OPENVINO
from benchmarks.roofline import roofline
from xnorinfer import kernels
from xnorinfer.cli import screen
from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model
from xnorinfer.engine.plan import Plan
from xnorinfer.kernels.shapes import CHUNK
from xnorinfer.speed import peers
from xnorinfer.speed.benchmark import bench, environment
from xnorinfer.speed.roofline import moving
from xnorinfer.speed.timing import Timing, in_turns

BATCHES = (1, 8, 64, 256, 1024)
ALL_BATCHES = (1, 2, 4, 7, 8, 16, 32, 63, 64, 65, 128, 256, 257, 512, 1024)

#: Widths -> batch sizes; the second on one thread only, unless everything is measured.
NETWORKS = {REFERENCE: (1, 256), (784, 1000, 500, 10): (1, 256)}
MORE_NETWORKS = {
    (784, 1000, 500, 10): (16,),
    (100, 300, 2): (1, 16, 256),
    (65, 65, 65, 2): (1, 256),
    (784, 1, 2): (1, 256),
}


@dataclass(frozen=True)
class Row:
    """One line.  ours, theirs: seconds of a call for so many samples; without them, `value` in `unit` is what was measured.
    inverted: whether what counts is ours over theirs."""

    what: str
    peer: str = ""
    ours: Timing | None = None
    theirs: Timing | None = None
    samples: int = 1
    value: float = 0.0
    unit: str = "x"
    inverted: bool = False

    @property
    def unstable(self) -> bool:
        return any(timing is not None and timing.unstable for timing in (self.ours, self.theirs))

    @property
    def ratio(self) -> tuple[float, float, float] | None:
        """By the lower quartiles, the medians and the upper ones; None without a peer."""
        if self.ours is None or self.theirs is None:
            return None
        over, under = (self.ours, self.theirs) if self.inverted else (self.theirs, self.ours)
        return over.low / under.high, over.median / under.median, over.high / under.low

    def text(self) -> str:
        """A line of a Markdown table."""
        cells = [self.what, *self._time(self.ours), self.peer, *self._time(self.theirs), self._result()]
        return f"| {' | '.join(cells)} |".replace("  ", " ")

    def _time(self, timing: Timing | None) -> tuple[str, str]:
        return ("", "") if timing is None else (f"{timing.median / self.samples * 1e6:.2f} us", f"+-{timing.spread:.0%}")

    def _result(self) -> str:
        if self.ratio is None:
            return f"{self.value:.2f} {self.unit}" if self.ours is None else ""
        low, middle, high = self.ratio
        return f"unstable: {low:.2f} to {high:.2f} {self.unit}" if self.unstable else f"{middle:.2f} {self.unit}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "unstable": self.unstable, "ratio": self.ratio}


#: Rows of one comparison, for about so many seconds.
Comparison = Callable[[float], Iterable[Row]]


def _pinned(comparison: Comparison) -> Comparison:
    """All sides on one core, where the system lets a process choose."""

    def run(seconds: float) -> list[Row]:
        if not hasattr(os, "sched_setaffinity"):
            return list(comparison(seconds))
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {max(cores)})
        try:
            return list(comparison(seconds))
        finally:
            os.sched_setaffinity(0, cores)

    return run


def layers(full: bool) -> Iterator[Comparison]:
    """One layer against other libraries, one thread."""
    yield from (_pinned(partial(_hidden, rows)) for rows in (256, 1))
    yield _pinned(_first)


def _hidden(rows: int, seconds: float) -> Iterator[Row]:
    with threadpool_limits(1, "blas"):
        calls, missing = hidden_layer(4096, rows)
        times = _in_turns(calls, seconds)
    for reason in missing:
        print(f"skipped: {reason}", file=sys.stderr)
    yield from _against_all(f"hidden layer 4096x4096, {rows} rows", times, rows)


def _first(seconds: float) -> Iterator[Row]:
    with threadpool_limits(1, "blas"):
        times = in_turns(first_layer(784, 4096, 256), seconds)
    yield from _against_all("first layer 784->4096, uint8, 256 rows", times, 256)


def _in_turns(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """`in_turns`; of OpenVINO what its call gives, in rounds by itself, as many as take a second at most."""
    alone = calls.pop(OPENVINO, None)
    times = in_turns(calls, seconds)
    if alone is not None:
        begin = time.perf_counter()
        rounds = [np.array([float(str(alone())) for _ in range(9)])]
        while len(rounds) < 5 or (len(rounds) < 41 and time.perf_counter() - begin < seconds):
            rounds.append(np.array([float(str(alone())) for _ in range(9)]))
        times[OPENVINO] = Timing.of(rounds)
    return times


def _against_all(what: str, times: dict[str, Timing], rows: int) -> Iterator[Row]:
    ours = times["xnorinfer"]
    yield from (Row(what, peer, ours, timing, rows) for peer, timing in times.items() if peer != "xnorinfer")


def convolutions(full: bool) -> Iterator[Comparison]:
    """3x3 layers against other libraries, the dense layer of as many operations, a pool behind and no border; VGG-small."""
    names = [kernel.name for kernel in kernels.usable()] if full else [kernels.choose().name]
    for compared in (_convolution, _beside):
        yield from (_pinned(partial(compared, *layer, name)) for name in names for layer in convolution_cases.LAYERS)
    yield from (_pinned(partial(_vgg, batch, 1)) for batch in (1, 64))
    yield partial(_vgg, 1, usable_cores())


def _convolution(channels: int, size: int, kernel: str, seconds: float) -> Iterator[Row]:
    calls, missing = convolution_cases.convolution(channels, size, kernel=kernel)
    for reason in missing:
        print(f"skipped: {reason}", file=sys.stderr)
    times = _in_turns(calls, seconds)
    yield from _against_all(f"3x3, {channels} channels, {size}x{size} ({kernel})", times, 1)


def _beside(channels: int, size: int, kernel: str, seconds: float) -> Iterator[Row]:
    times = in_turns(convolution_cases.variants(channels, size, kernel), seconds)
    layer = times["layer"]
    for name in ("dense layer of as many operations", "the same without padding"):
        yield Row(
            f"3x3, {channels} channels, {size}x{size} ({kernel})", name, layer, times[name], unit="x its time", inverted=True
        )
    what = f"3x3, {channels} channels, {size}x{size} and pool of 2x2 ({kernel})"
    yield Row(what, "without the pool", times["pooled"], layer, unit="x its time", inverted=True)


def _vgg(batch: int, threads: int, seconds: float) -> Iterator[Row]:
    report = bench(convolution_cases.vgg_small(), [batch], [threads], seconds=seconds, peers=True)
    assert report.holds, "predictions differ"
    (case,) = report.cases
    for side in case.sides:
        name = side.name if side.threads == threads else f"{side.name}, {_threads(side.threads)}"
        yield Row(f"VGG-small, batch {batch}, {_threads(threads)}", name, case.packed, side.timing, batch)


def branching(full: bool) -> Iterator[Comparison]:
    """Published networks that branch, batch 1, one thread and all; against Larq Compute Engine: `benchmarks.branches`."""
    for name in branches.NETWORKS if full else tuple(branches.NETWORKS)[:3]:
        yield _pinned(partial(_branching, name, 1))
        if usable_cores() > 1:
            yield partial(_branching, name, usable_cores())


def _branching(name: str, threads: int, seconds: float) -> Iterator[Row]:
    case = branches.Case.of(name)
    assert not case.differences, "scores differ"
    for peer, timing in (found := branches.times(case, threads, seconds)).items():
        if peer != "xnorinfer":
            yield Row(f"{name} ({case.text()}), {_threads(threads)}", peer, found["xnorinfer"], timing)


def networks(full: bool) -> Iterator[Comparison]:
    """Whole networks from pixels to classes against every library that is installed, one thread and all."""
    for shapes in (NETWORKS, MORE_NETWORKS) if full else (NETWORKS,):
        for widths, batches in shapes.items():
            for threads in dict.fromkeys((1, usable_cores() if full or widths == REFERENCE else 1)):
                for batch in batches:
                    one = partial(_network, widths, batch, threads)
                    yield _pinned(one) if threads == 1 else one


def _network(widths: tuple[int, ...], batch: int, threads: int, seconds: float) -> Iterator[Row]:
    report = bench(random_network(widths), [batch], [threads], seconds=seconds, peers=True)
    assert report.holds, "predictions differ"
    (case,) = report.cases
    what = f"{'-'.join(map(str, widths))}, batch {batch}, {_threads(threads)}"
    for side in case.sides:
        name = side.name if side.threads == threads else f"{side.name}, {_threads(side.threads)}"
        yield Row(what, name + " (fastest)" * (side is case.baseline), case.packed, side.timing, batch)


def _threads(count: int) -> str:
    return f"{count} thread{'s' * (count > 1)}"


def batch_one(full: bool) -> Iterator[Comparison]:
    """The reference network at batch 1 against reading its panels once."""
    yield _pinned(_batch_one)


def _batch_one(seconds: float) -> Iterator[Row]:
    model = Model(random_network(REFERENCE), threads=1)
    size = sum(node.op.weights.nbytes for node in model.packed.layers if node.op.binary)
    x = random_pixels(1, REFERENCE[0])
    read, _ = moving(size // CHUNK * CHUNK, least=1)
    times = in_turns({"scores": lambda: model.scores(x), "read": read}, seconds)
    peer = "reading the packed weights once"
    yield Row("batch 1, 1 thread", peer, times["scores"], times["read"], unit="x its time", inverted=True)


def scaling(full: bool) -> Iterator[Comparison]:
    """All cores over one, and time per sample over batch sizes."""
    yield from (partial(_scaling, batch) for batch in (64, 256, 1024))
    yield from (partial(_batches, ALL_BATCHES if full else BATCHES, count) for count in dict.fromkeys((1, usable_cores())))


def _scaling(batch: int, seconds: float) -> Iterator[Row]:
    packed, cores = random_network(REFERENCE), usable_cores()
    x = random_pixels(batch, REFERENCE[0])
    plans = {count: Plan(packed, threads=count) for count in (1, cores)}
    times = in_turns({count: partial(plan.run, x) for count, plan in plans.items()}, seconds, settle=0.05)
    yield Row(f"batch {batch}, {_threads(cores)}", "1 thread", times[cores], times[1], batch)


def _batches(batches: Iterable[int], threads: int, seconds: float) -> Iterator[Row]:
    plan = Plan(random_network(REFERENCE), threads=threads)
    times = in_turns({batch: partial(plan.run, random_pixels(batch, REFERENCE[0])) for batch in batches}, 2 * seconds)
    yield from (Row(f"batch {batch}, {_threads(threads)}", "", each, samples=batch) for batch, each in times.items())


def start(full: bool) -> Iterator[Comparison]:
    """Processes: start-up and memory; and the roofline."""
    yield _start
    yield from (partial(_roofline, kernel.name) for kernel in (kernels.usable() if full else [kernels.choose()]))


def _start(seconds: float) -> Iterator[Row]:
    found = processes.start_up()
    for key, what in (("first_start_seconds", "very first start"), ("later_start_seconds", "later starts")):
        yield Row(f"import, load, first scores: {what}", value=found[key], unit="s")
    if "memory_growth_bytes" in found:
        yield Row("memory above the imports, batch 256", value=found["memory_growth_bytes"] / 1e6, unit="MB")


def _roofline(kernel: str, seconds: float) -> Iterator[Row]:
    line = roofline(seconds, kernel)
    count = line["instructions_per_512_bits"]
    yield Row(f"instructions per 512 bits in the hot loop ({kernel})", value=count, unit="")
    what = f"hidden layer, share of its instructions' speed in registers ({kernel})"
    yield Row(what, value=100 * line["share"], unit="%")


SECTIONS: dict[str, Callable[[bool], Iterator[Comparison]]] = {
    "layers": layers,
    "convolutions": convolutions,
    "networks": networks,
    "branches": branching,
    "batch-one": batch_one,
    "scaling": scaling,
    "start": start,
}

HEADINGS = "| what | ours, per sample | spread | against | theirs | spread | ratio |\n|---|---|---|---|---|---|---|"


def main() -> None:
    """Print the table, section by section."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.table", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="everything, some 15 minutes")
    parser.add_argument("--output", metavar="NAME", help="also write NAME.md, NAME.json and the picture NAME.png")
    parser.add_argument("--seconds", type=float, default=1.0, help="time per comparison, at least five rounds (default 1)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section only (repeatable)")
    parser.add_argument("--isa", choices=instructions.SWITCHES, help="as on machines with these instructions and no more")
    options = parser.parse_args()
    held = os.environ.get(instructions.KEY)
    if options.isa and not held:
        raise SystemExit(instructions.run_held(options.isa, "benchmarks.table", sys.argv[1:]))
    told = instructions.hold(held) if held else []
    blas = ", ".join(f"{i['internal_api']} {i.get('architecture', '')}" for i in threadpool_info() if i["user_api"] == "blas")
    surroundings = {**environment(), "blas_in_use": blas, "peers": peers.versions(), "full": options.full, "held_to": held}
    lines = [
        ", ".join(f"{key} {value}" for key, value in surroundings.items()),
        *told,
        *(line for line in peers.left_out() if not (held and line.startswith(instructions.LEFT_OUT))),
        "",
        *HEADINGS.split("\n"),
    ]
    print("\n".join(lines), flush=True)
    rows: list[Row] = []
    names = options.only or list(SECTIONS)
    for number, name in enumerate(names, 1):
        comparisons = list(SECTIONS[name](options.full))
        found: list[Row] = []
        with screen.stages() as report:
            for done, comparison in enumerate(comparisons):
                report(f"{name} (section {number} of {len(names)})", done, len(comparisons))
                found += comparison(options.seconds)
        print("\n".join(row.text() for row in found), flush=True)
        rows += found
    if options.output:
        place = Path(options.output)
        text = "\n".join([*lines, *(row.text() for row in rows)])
        place.with_name(f"{place.name}.md").write_text(f"{text}\n", encoding="utf-8")
        written = {"environment": surroundings, "rows": [row.to_json() for row in rows]}
        place.with_name(f"{place.name}.json").write_text(json.dumps(written, indent=1), encoding="utf-8")
        ratios = [
            (f"{row.what} | {row.peer}", *row.ratio, row.unstable) for row in rows if row.ratio is not None and row.unit == "x"
        ]
        picture.draw(ratios, surroundings["cpu"], place.with_name(f"{place.name}.png"))


if __name__ == "__main__":
    main()
