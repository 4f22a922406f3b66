"""The table of the README: `python -m benchmarks.table [--json OUT] [--seconds S] [--only SECTION]`.

All comparisons of a row are measured in turns in one process, with the same number of threads, and their results are checked
for equality first.  Numbers without a peer say what they are.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from benchmarks import processes, roofline
from benchmarks.layer_cases import first_layer, hidden_layer
from benchmarks.networks import REFERENCE, random_network, random_pixels
from xnorinfer import kernels
from xnorinfer.benchmark import environment
from xnorinfer.cores import usable_cores
from xnorinfer.engine.model import Model
from xnorinfer.engine.plan import Plan
from xnorinfer.floatnetwork import FloatNetwork, exact_predict
from xnorinfer.timing import REFILL_SECONDS, SETTLE_SECONDS, in_turns

BATCHES = (1, 2, 4, 7, 8, 16, 32, 63, 64, 65, 128, 256, 257, 512, 1024)


@dataclass(frozen=True)
class Row:
    """One line: what was measured, seconds of ours and of the peer (0: none), and the number that counts."""

    what: str
    peer: str
    ours: float
    theirs: float
    value: float
    unit: str = "x"


def layers(seconds: float) -> Iterator[Row]:
    """One layer against other libraries, one thread."""
    with threadpool_limits(1, "blas"):
        for rows in (256, 1):
            calls, missing = hidden_layer(4096, rows)
            times = in_turns(calls, seconds)
            for peer in [name for name in times if name != "xnorinfer"]:
                ours, theirs = times["xnorinfer"].median / rows, times[peer].median / rows
                yield Row(f"hidden layer 4096x4096, {rows} rows", peer, ours, theirs, theirs / ours)
            for reason in missing:
                print(f"skipped: {reason}", file=sys.stderr)
        times = in_turns(first_layer(784, 4096, 256), seconds)
        ours, theirs = times["xnorinfer"].median / 256, times["numpy float32"].median / 256
        yield Row("first layer 784->4096, uint8, 256 rows", "numpy float32", ours, theirs, theirs / ours)


def networks(seconds: float) -> Iterator[Row]:
    """Whole networks from pixels to scores against float32 numpy, one thread and all."""
    threads = tuple(dict.fromkeys((1, usable_cores())))
    shapes = {
        REFERENCE: (1, 256),
        (784, 1000, 500, 10): (1, 16, 256),
        (100, 300, 2): (1, 16, 256),
        (65, 65, 65, 2): (1, 256),
        (784, 1, 2): (1, 256),
    }
    for widths, batches in shapes.items():
        packed = random_network(widths)
        for count in threads:
            model = Model(packed, threads=count)
            for batch in batches:
                x, network = random_pixels(batch, widths[0]), FloatNetwork(packed, batch)
                with threadpool_limits(count, "blas"):
                    differ = model.predict(x) != network.predict(x)
                    # Float32 sums may round to another class; exact sums may not.
                    assert (exact_predict(packed, x[differ]) == model.predict(x)[differ]).all(), "predictions differ"
                    calls = {"ours": partial(model.scores, x), "theirs": partial(network.predict, x)}
                    times = in_turns(calls, seconds, settle=SETTLE_SECONDS if count > 1 else REFILL_SECONDS)
                ours, theirs = times["ours"].median / batch, times["theirs"].median / batch
                what = f"{'-'.join(map(str, widths))}, batch {batch}, {count} threads"
                yield Row(what, "numpy float32", ours, theirs, theirs / ours)


def batch_one(seconds: float) -> Iterator[Row]:
    """The reference network at batch 1 against reading its panels once."""
    model = Model(random_network(REFERENCE), threads=1)
    size = sum(node.op.weights.nbytes for node in model.packed.layers if node.op.binary)
    buffer = np.ones(size // 8, np.uint64)
    x = random_pixels(1, REFERENCE[0])
    times = in_turns({"scores": lambda: model.scores(x), "read": roofline.read_once(buffer)}, seconds)
    ours, theirs = times["scores"].median, times["read"].median
    yield Row("batch 1, 1 thread", "reading the packed weights once", ours, theirs, ours / theirs, "x its time")


def scaling(seconds: float) -> Iterator[Row]:
    """All cores over one, and time per sample over batch sizes."""
    packed, cores = random_network(REFERENCE), usable_cores()
    plans = {count: Plan(packed, threads=count) for count in dict.fromkeys((1, cores))}
    for batch in (64, 256, 1024):
        x = random_pixels(batch, REFERENCE[0])
        times = in_turns({str(count): (lambda p=plan, v=x: p.run(v)) for count, plan in plans.items()}, seconds, settle=0.05)
        ours, theirs = times[str(cores)].median / batch, times["1"].median / batch
        yield Row(f"batch {batch}, {cores} threads", "1 thread", ours, theirs, theirs / ours)
    inputs = {batch: random_pixels(batch, REFERENCE[0]) for batch in BATCHES}
    for count, plan in plans.items():
        times = in_turns({str(batch): (lambda p=plan, v=x: p.run(v)) for batch, x in inputs.items()}, 4 * seconds)
        for batch in BATCHES:
            each = times[str(batch)].median / batch
            yield Row(f"time per sample, batch {batch}, {count} threads", "", each, 0.0, each * 1e6, "us")


def older(seconds: float) -> Iterator[Row]:
    """The hidden layer as AVX2 and as plain x86-64 would have it."""
    for name in ("haswell", "generic"):
        times = processes.older_cpu(name, seconds)
        ours, theirs = times["xnorinfer"]["median"] / 256, times["numpy float32"]["median"] / 256
        peer = f"numpy float32 ({', '.join(times['blas'])})"
        yield Row(f"hidden layer, NUMBA_CPU_NAME={name} ({times['kernel']})", peer, ours, theirs, theirs / ours)


def start(seconds: float) -> Iterator[Row]:
    """Processes: start-up and memory; and the roofline."""
    found = processes.start_up()
    for key, what in (("first_start_seconds", "very first start"), ("later_start_seconds", "later starts")):
        yield Row(f"import, load, first scores: {what}", "", found[key], 0.0, found[key], "s")
    if "memory_growth_bytes" in found:
        yield Row("memory above the imports, batch 256", "", 0.0, 0.0, found["memory_growth_bytes"] / 1e6, "MB")
    for kernel in kernels.usable():
        line = roofline.roofline(seconds, kernel.name)
        count = line["instructions_per_512_bits"]
        yield Row(f"instructions per 512 bits in the hot loop ({kernel.name})", "", 0.0, 0.0, count, "")
        if "share" in line:
            what = f"hidden layer, share of its instructions' speed in registers ({kernel.name})"
            yield Row(what, "", 0.0, 0.0, 100 * line["share"], "%")


SECTIONS = {
    "layers": layers,
    "networks": networks,
    "batch-one": batch_one,
    "scaling": scaling,
    "older-cpus": older,
    "start": start,
}


def main() -> None:
    """Print the table, section by section."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all rows to a file, too")
    parser.add_argument("--seconds", type=float, default=2.0, help="time per comparison (default 2)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section only (repeatable)")
    options = parser.parse_args()
    blas = ", ".join(f"{i['internal_api']} {i.get('architecture', '')}" for i in threadpool_info() if i["user_api"] == "blas")
    surroundings = {**environment(), "blas_in_use": blas}
    print(", ".join(f"{key} {value}" for key, value in surroundings.items()))
    print("\n| what | ours, per sample | against | theirs | ratio |\n|---|---|---|---|---|")
    rows: list[Row] = []
    for name in options.only or SECTIONS:
        for row in SECTIONS[name](options.seconds):
            rows.append(row)
            ours, theirs = (f"{t * 1e6:.2f} us" if t else "" for t in (row.ours, row.theirs))
            print(
                f"| {row.what} | {ours} | {row.peer} | {theirs} | {row.value:.2f} {row.unit} |".replace("  ", " "), flush=True
            )
    if options.json:
        options.json.write_text(json.dumps({"environment": surroundings, "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()
