"""`xnorinfer score`: the answers for much data, as Parquet."""

from __future__ import annotations

import contextlib
import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xnorinfer.cli import screen
from xnorinfer.cli.options import JSON, MAX_MEMORY, MODEL, THREADS
from xnorinfer.errors import OptionError

if TYPE_CHECKING:
    from xnorinfer.packing.packed import PackedModel
    from xnorinfer.scoring.parts import Job, Part

EPILOG = """\b
Examples:
  xnorinfer score mnist.safetensors images.npy -o answers/
  xnorinfer score mnist.safetensors 2024/*.parquet --column 'pixel*' --keep id -o answers/
  xnorinfer score mnist.safetensors scans/ more-scans/ --scores --margins -o answers/
  xnorinfer score mnist.safetensors table.parquet -o /shared/answers/ --engine ray --address auto
"""


@click.command("score", epilog=EPILOG)
@MODEL
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT/",
    help="Folder for the answers; made if needed.",
)
@click.option("--scores", is_flag=True, help="Give the scores of all classes, too.")
@click.option(
    "--margins", is_flag=True, help="Give how sure each answer is, too: gap of the scores, margin of every hidden layer."
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME",
    help="Column of Parquet files that holds inputs: one of lists or bytes, or many of numbers, which "
    "a pattern like 'pixel*' names; may be repeated.  [default: the one column of lists, or all of numbers where they are as "
    "many as the model's inputs]",
)
@click.option(
    "--keep", multiple=True, metavar="NAME", help="Column of Parquet files to copy to the answers, an id, say; may be repeated."
)
@click.option(
    "--rows-per-part", type=click.IntRange(min=1), metavar="N", help="Rows of one file of answers.  [default: 131072]"
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1024, show_default=True, metavar="N", help="Samples computed at once."
)
@click.option("--replace", is_flag=True, help="Parts in OUT/ that are of another model, input or choice are computed again.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True, help="Where it is computed.")
@click.option(
    "--address", metavar="ADDRESS", help="Ray cluster to use.  [default: one that is started here and ends with the job]"
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Workers of Ray, with --threads cores each.  [default: one a core]",
)
@MAX_MEMORY
@THREADS
@JSON
def command(
    model: str,
    inputs: tuple[str, ...],
    output: Path,
    scores: bool,
    margins: bool,
    columns: tuple[str, ...],
    keep: tuple[str, ...],
    rows_per_part: int | None,
    batch: int,
    replace: bool,
    engine: str,
    address: str | None,
    workers: int | None,
    max_memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score much data with a model, and go on where a stopped run ended.

    An INPUT is a Parquet file or a folder with some, a .npy or .npz array, an IDX file (these may be .gz), an image, or a
    folder of images.  Pixels are whole numbers 0..255; floats are what enters the network.

    OUT/ gets Parquet files, the parts: one row of answers for each row of the inputs, with the columns input and row (which row
    of which input; of images the file), those of --keep, class, and scores, gap and margins if they are asked for.  A part is
    there complete or not at all.  The same command again computes the parts that are missing, and no others.

    With --engine ray the parts are computed by workers on one machine or a cluster, where every machine must see INPUT and OUT/
    under these paths; the model is sent to them.
    """
    from xnorinfer.files import make_folders, require_writable
    from xnorinfer.packing import modelfile
    from xnorinfer.packing.description import describe
    from xnorinfer.scoring import parts as partwise
    from xnorinfer.scoring.inputs import find_inputs
    from xnorinfer.scoring.results import Wanted
    from xnorinfer.scoring.tables import require_pyarrow

    if engine == "local" and (address is not None or workers is not None):
        raise OptionError(f"{'--address' if address is not None else '--workers'} is for --engine ray")
    packed = modelfile.load(model, mapped=True)
    packed.require_one_class("scoring gives")
    require_pyarrow()
    job = partwise.Job(
        tuple(find_inputs(inputs, columns, keep, max_memory)), os.path.abspath(output), Wanted(scores, margins), batch
    )
    with screen.waiting("looking at the inputs"):
        parts = partwise.plan(job, packed, describe(packed)["content_digest"], rows_per_part or partwise.PART_ROWS)
    make_folders([output / "part"])
    require_writable(output / "part-00000-000000.parquet")
    wanted = partwise.missing(job, parts, replace=replace)
    begin = time.perf_counter()
    _compute(job, packed, parts, wanted, engine, address, workers, threads)
    seconds = time.perf_counter() - begin
    rows, computed = (sum(part.rows for part in some) for some in (parts, wanted))
    if len(wanted) < len(parts):
        screen.say(f"of {_parts(len(parts))} {len(parts) - len(wanted)} were there already")
    screen.say(f"{computed} rows in {screen.time_text(seconds)}; {output} holds {rows} rows in {_parts(len(parts))}")
    if as_json:
        screen.give(
            {
                "output": str(output),
                "rows": rows,
                "parts": len(parts),
                "computed_rows": computed,
                "computed_parts": len(wanted),
                "seconds": seconds,
                "engine": engine,
            }
        )


def _parts(count: int) -> str:
    return f"{count} part{'' if count == 1 else 's'}"


def _compute(
    job: Job,
    packed: PackedModel,
    parts: list[Part],
    wanted: list[Part],
    engine: str,
    address: str | None,
    workers: int | None,
    threads: int | None,
) -> None:
    from xnorinfer.engine.model import Model
    from xnorinfer.scoring.parts import compute, runs_of

    runs = runs_of(job, wanted, packed)
    if not runs:
        return
    with contextlib.ExitStack() as stack:
        if engine == "ray":
            from xnorinfer.ray import Workers

            with screen.waiting("starting Ray" if address is None else "connecting to Ray"):
                run_all = stack.enter_context(Workers(job, packed, address, workers, threads or 1)).compute
        else:
            with screen.waiting("preparing kernels (the first use compiles them)"):
                run_all = partial(compute, job, Model(packed, threads=threads))
        total = sum(part.rows for part in parts)
        advance = stack.enter_context(screen.progress("scoring", total))
        advance(total - sum(part.rows for part in wanted))
        run_all(runs, advance)
