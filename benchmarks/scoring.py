"""Scoring much data: `python -m benchmarks.scoring`, rows a second of what `xnorinfer score` does, and the share of its time
that is not the engine's.

From one file to parts of Parquet, by one and two cores: here with as many threads, on Ray with as many workers of one thread.
The engine's time is that of the same rows in memory, in the same batches, by as many threads; what a job takes longer is
reading, writing and waiting.  Ray's start is not in it; that of its workers is told, for any number of rows takes the same.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from numpy.typing import NDArray
from pyarrow import parquet

from benchmarks.networks import REFERENCE, random_network, random_pixels
from xnorinfer.engine.model import Model
from xnorinfer.packing.packed import PackedModel
from xnorinfer.scoring.inputs import find_inputs
from xnorinfer.scoring.parts import Job, compute, plan, runs_of
from xnorinfer.scoring.results import Wanted

BATCH = 1024
WORKERS = (1, 2)
#: Parts of a job, so that two workers of Ray have some each.
PARTS = 8
#: Rows of a row group of the Parquet files.
GROUP = 8192


def write_inputs(folder: Path, x: NDArray[np.uint8]) -> dict[str, str]:
    """The same rows as a Parquet file of lists, one of bytes, and an array; paths by kind."""
    rows, depth = x.shape
    columns = {
        "Parquet, lists": pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.reshape(-1)), depth),
        "Parquet, bytes": pyarrow.array([row.tobytes() for row in x], pyarrow.binary()),
    }
    paths = {}
    for kind, column in columns.items():
        paths[kind] = str(folder / f"{kind[9:]}.parquet")
        table = pyarrow.table({"id": np.arange(rows), "image": column})
        parquet.write_table(table, paths[kind], row_group_size=GROUP, compression="zstd")
    paths["array (.npy)"] = str(folder / "rows.npy")
    np.save(paths["array (.npy)"], x)
    return paths


def engine_seconds(packed: PackedModel, x: NDArray[np.uint8], threads: int) -> float:
    """The rows through the engine alone."""
    model = Model(packed, threads=threads)
    model.scores(x[:BATCH])
    begin = time.perf_counter()
    for start in range(0, len(x), BATCH):
        model.scores(x[start : start + BATCH])
    return time.perf_counter() - begin


def reading_seconds(job: Job, packed: PackedModel) -> float:
    """The rows read, and nothing else."""
    source = job.inputs[0].open(packed)
    begin = time.perf_counter()
    for _ in source.batches(BATCH, 0, source.rows):
        pass
    return time.perf_counter() - begin


def scoring_seconds(job: Job, packed: PackedModel, engine: str, workers: int) -> dict[str, float]:
    """A whole job: `seconds`, and after how many of them the first worker was `ready` to compute."""
    parts = plan(job, packed, "", -(-job.inputs[0].open(packed).rows // PARTS))
    runs = runs_of(job, parts, packed)
    if engine == "local":
        model = Model(packed, threads=workers)
        return {"seconds": _timed(lambda: compute(job, model, runs)), "ready": 0.0}
    from xnorinfer.ray import Workers

    ends: list[float] = []
    with Workers(job, packed, None, workers, 1) as cluster:
        begin = time.perf_counter()
        cluster.compute(runs, lambda rows: ends.append(time.perf_counter() - begin))
    # Parts take the same time each, so that of those computed at once says when the first began.
    each = (ends[-1] - ends[0]) / (len(ends) - 1) * workers
    ready = max(0.0, ends[0] - each)
    return {"seconds": ends[-1] - ready, "ready": ready}


def _timed(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--widths", default=",".join(map(str, REFERENCE)), help="of the network")
    parser.add_argument("--engines", default="local,ray")
    parser.add_argument("--output", type=Path, help="a JSON file for the numbers")
    options = parser.parse_args()
    packed = random_network([int(width) for width in options.widths.split(",")])
    x = random_pixels(options.rows, packed.depth)
    results = []
    print(f"{'':16}{'':>8}{'workers':>9}{'rows/s':>10}{'engine alone':>14}{'reading alone':>15}{'outside':>9}{'ready s':>9}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = write_inputs(folder, x)
        alone = {workers: engine_seconds(packed, x, workers) for workers in WORKERS}
        for number, (kind, engine, workers) in enumerate(itertools.product(paths, options.engines.split(","), WORKERS)):
            columns = ("image",) if kind.startswith("Parquet") else ()
            (folder / str(number)).mkdir()
            job = Job(tuple(find_inputs([paths[kind]], columns)), str(folder / str(number)), Wanted(), BATCH)
            reading = reading_seconds(job, packed)
            found = scoring_seconds(job, packed, engine, workers)
            row = {"input": kind, "engine": engine, "workers": workers, "rows": len(x), "widths": options.widths, **found}
            row |= {"engine_seconds": alone[workers], "reading_seconds": reading}
            row["outside"] = max(0.0, 1 - alone[workers] / found["seconds"])
            results.append(row)
            print(
                f"{kind:16}{engine:>8}{workers:9}{len(x) / found['seconds']:10.0f}{len(x) / alone[workers]:14.0f}"
                f"{len(x) / reading:15.0f}{row['outside']:9.0%}{found['ready']:9.1f}",
                flush=True,
            )
    if options.output is not None:
        options.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
