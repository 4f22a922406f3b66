"""`xnorinfer run`: classify the samples of a file."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from xnorinfer.cli import screen
from xnorinfer.cli.options import JSON, MAX_MEMORY, MODEL, THREADS
from xnorinfer.errors import InputError, OptionError
from xnorinfer.oneline import one_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from xnorinfer.engine.margins import Margins
    from xnorinfer.engine.model import Model
    from xnorinfer.files import RowWriter
    from xnorinfer.samples.dataio import Samples

EPILOG = """\b
Examples:
  xnorinfer run mnist.safetensors t10k-images-idx3-ubyte.gz --labels t10k-labels-idx1-ubyte.gz
  xnorinfer run mnist.safetensors images.npy -o classes.npy
  xnorinfer run mnist.safetensors images.npy --scores -o answers.csv       a table: row, class, score_0, score_1, ...
  xnorinfer run mnist.safetensors data.npz:x --scores -o scores.npy
  xnorinfer run mnist.safetensors images.npy --margins       how sure each answer is
  xnorinfer run mnist.safetensors photos/                    a folder of images
  xnorinfer run mnist.safetensors scans/ --resize --invert   dark digits on white paper, of any size
  xnorinfer run mnist.safetensors images.npy | sort | uniq -c
  zcat images.npy.gz | xnorinfer run mnist.safetensors -
"""

#: What is wanted -> its type.
DTYPES = {"scores": "float32", "margins": "float64", "classes": "int64"}
#: Endings of tables that answers are written to.
TABLES = (".csv", ".parquet")
#: Rows of a table of predictions on a terminal.
HEAD = 20


@click.command("run", epilog=EPILOG)
@MODEL
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write the predictions: OUT.npy, an array (rows,) int64; OUT.csv or OUT.parquet (needs pyarrow: pip install "
    "'xnorinfer[score]'), a table with the row or the image's file, and the class.",
)
@click.option(
    "--scores",
    is_flag=True,
    help="Give the scores of all classes instead, (rows, classes) float32; in a table beside the class.",
)
@click.option(
    "--margins",
    is_flag=True,
    help="Give how sure each answer is: class, gap to the second best score, and for each hidden layer the smallest distance "
    "of a count to its threshold, (rows, 2 + hidden layers) float64.",
)
@click.option(
    "--resize",
    is_flag=True,
    help="Scale image files to the model's size: each pixel becomes an average of those around its place (bilinear), and width "
    "and height are stretched apart where their ratio differs.  Without it an image of another size is an error.",
)
@click.option(
    "--invert",
    is_flag=True,
    help="Make pixels p (uint8) into 255 - p, before everything else the model does: for dark digits on white paper, where the "
    "model learned light ones on black.",
)
@click.option(
    "--labels", metavar="LABELS", help="True classes: .npy, .npz, IDX, .txt, or the file of CIFAR itself; prints the accuracy."
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1024, show_default=True, metavar="N", help="Samples computed at once."
)
@MAX_MEMORY
@THREADS
@JSON
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    inputs: tuple[str, ...],
    output: Path | None,
    scores: bool,
    margins: bool,
    resize: bool,
    invert: bool,
    labels: str | None,
    batch: int,
    max_memory: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Classify samples with a model.

    INPUT is a .npy or .npz array, an IDX file (these may be .gz), a binary file of CIFAR, or images: a folder (its image
    files, sorted by name) or a list of files (needs Pillow: pip install 'xnorinfer[images]'), grey or in colours as the
    model takes them, and of its size.  Arrays are (rows, values), (rows, height, width) or (rows, height, width,
    channels); (rows, channels, height, width) where the network's framework has them so.  From an .npz of several arrays
    choose one by name: data.npz:x.  With - an array file (.npy, .npz of one array, IDX, also .gz) comes from standard
    input.

    Files are read in batches and may be larger than memory.  Without -o and --labels the predictions are printed: a
    short table on a terminal; into a pipe or file one class per line (with --scores all scores of a sample per line,
    with --margins class, gap and margins, separated by tabs), of image files behind the file's name and a tab.  --json
    gives them, or the accuracy, as one JSON object.
    """
    from xnorinfer.engine.model import Model
    from xnorinfer.files import require_writable
    from xnorinfer.packing import modelfile
    from xnorinfer.samples import dataio, standardinput

    if scores and margins:
        raise OptionError("--scores and --margins exclude each other")
    table = output is not None and output.suffix.lower() in TABLES
    packed = modelfile.load(model)
    if table:
        packed.require_one_class("a table has")
    if margins or labels is not None:
        packed.require_one_class("--margins has" if margins else "--labels has")
    if output is not None:  # before anything is read, which may take long or cannot be read again
        require_writable(output, model, *(dataio.split_member(one)[0] for one in (*inputs, *([labels] if labels else []))))
        _require_ending(output)
    if inputs == ("-",):
        if resize:
            raise InputError(f"{standardinput.NAME}: is no image file; --resize scales those")
        samples = ctx.with_resource(standardinput.standard_input(max_memory))
    else:
        samples = dataio.open_samples(inputs, max_memory, packed.shape, resize=resize)
    samples.require_shape(packed.shape, channels_first=packed.channels_first)
    samples.require_pixels(packed.input.kind, packed.input.describe())
    if invert:
        samples = samples.inverted(packed.input.kind, packed.input.describe())
    truth = None if labels is None else dataio.read_labels(labels, samples.rows, packed.classes, max_memory)
    with screen.waiting("preparing kernels (the first use compiles them)"):
        ready = Model(packed, threads=threads)
    job = Job(samples, ready, batch, "scores" if scores else "margins" if margins else "classes", truth)
    found: list[Any] | None = None
    if output is not None:
        (_write_table if table else _write)(job, output)
    elif as_json and truth is None:
        found = [row for result in job.results() for row in result.tolist()]
    elif truth is None:
        _print(job)
        return
    else:
        for _ in job.results():
            pass
    job.summary()
    if as_json:
        files = {"files": list(samples.names)} if samples.names else {}
        screen.give({**job.to_json(), "output": None if output is None else str(output), **files, job.wanted: found})


@dataclass
class Job:
    """One pass over the samples, and what is counted on the way."""

    samples: Samples
    model: Model
    batch: int
    wanted: Literal["classes", "scores", "margins"]
    truth: NDArray[np.int64] | None
    correct: int = 0
    seconds: float = 0.0
    done: int = field(default=0, init=False)

    @property
    def columns(self) -> tuple[int, ...]:
        """Shape of one row of the result."""
        from xnorinfer.engine.margins import deciding

        packed = self.model.packed
        if self.wanted == "margins":
            return (2 + len(deciding(packed)),)
        return packed.score_shape if self.wanted == "scores" else packed.score_shape[:-1]

    def _compute(self, x: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Classes of a batch, and what is wanted."""
        if self.wanted == "margins":
            found = self.model.margins(x)
            return found.classes, _margin_columns(found)
        scores = self.model.scores(x)
        classes = scores.argmax(axis=-1)
        return classes, scores if self.wanted == "scores" else classes

    def results(self) -> Iterator[NDArray[Any]]:
        """What is wanted, batch by batch.  Raises InputError that says where in the input."""
        batches = self.samples.batches(self.batch)
        with screen.progress("classifying", self.samples.rows) as advance, contextlib.closing(batches):  # type: ignore[type-var]
            for x in batches:
                begin = time.perf_counter()
                try:
                    classes, result = self._compute(x)
                except InputError as error:
                    raise InputError(f"{self.samples.source}, rows from {self.done} on: {error}") from None
                self.seconds += time.perf_counter() - begin
                if self.truth is not None:
                    self.correct += int((classes == self.truth[self.done : self.done + len(x)]).sum())
                self.done += len(x)
                advance(len(x))
                yield result

    def to_json(self) -> dict[str, Any]:
        """What was done, JSON-able."""
        return {
            "input": self.samples.source,
            "rows": self.done,
            "seconds": self.seconds,
            "kernel": self.model.kernel,
            "threads": self.model.threads,
            "batch": self.batch,
            "correct": None if self.truth is None else self.correct,
            "accuracy": None if self.truth is None or not self.done else self.correct / self.done,
        }

    def summary(self) -> None:
        """What was done, in two lines."""
        if self.truth is not None:
            share = f": {self.correct / self.done:.2%}" if self.done else ""
            screen.say(f"accuracy{share} ({self.correct} of {self.done} correct)", "bold")
        each = f", {screen.time_text(self.seconds / self.done)} each" if self.done else ""
        screen.say(
            f"{self.done} samples in {screen.time_text(self.seconds)}{each} "
            f"(kernel {self.model.kernel}, {self.model.threads} threads, batch {self.batch})"
        )


def _require_ending(output: Path) -> None:
    """Raise OptionError for a file of another kind than those that are written, MissingExtraError where a package lacks."""
    from xnorinfer.scoring.answerfiles import require_table

    if output.suffix.lower() not in ("", ".npy", *TABLES):
        raise OptionError(f"{output}: predictions are written as .npy, .csv or .parquet; give a name that ends so")
    require_table(output)


def _write(job: Job, output: Path) -> None:
    import numpy as np

    from xnorinfer.files import npy_writer

    shape = (job.samples.rows, *job.columns)
    dtype = np.dtype(DTYPES[job.wanted])
    with npy_writer(output, shape, dtype) as writer:
        _copy(job, writer, dtype)
    screen.say(f"wrote {output}: {job.wanted} of shape {shape}, {dtype}")


def _write_table(job: Job, output: Path) -> None:
    """File or row, class, and what else is wanted or known, one row for each sample."""
    import numpy as np

    from xnorinfer.scoring.answerfiles import Columns, table_writer

    def columns_of(result: NDArray[Any], start: int) -> Columns:
        stop = start + len(result)
        names = job.samples.names[start:stop]
        columns: Columns = {"file": np.array(names)} if job.samples.names else {"row": np.arange(start, stop)}
        columns["class"] = np.asarray(_classes_of(result, job.wanted))
        if job.truth is not None:
            columns["label"] = job.truth[start:stop]
        if job.wanted == "scores":
            columns["scores"] = result
        elif job.wanted == "margins":
            columns |= {"gap": result[:, 1], "margins": result[:, 2:]}
        return columns

    with table_writer(output) as write:
        begun = 0
        for result in job.results():
            write(columns_of(result, begun))
            begun += len(result)
        if not begun:  # a table of no rows has columns, too
            write(columns_of(np.empty((0, *job.columns), DTYPES[job.wanted]), 0))
    screen.say(f"wrote {output}: {job.wanted} of {begun} samples")


def _copy(job: Job, writer: RowWriter, dtype: np.dtype[Any]) -> None:
    for result in job.results():
        writer.write(result.astype(dtype, copy=False))


def _print(job: Job) -> None:
    if not sys.stdout.isatty():  # not rich's judgement: FORCE_COLOR must not change what a pipe gets
        names = iter(job.samples.names)
        for result in job.results():
            rows = (_row_text(row, job.wanted) for row in result)
            if job.samples.names:
                rows = (f"{one_line(next(names))}\t{row}" for row in rows)
            click.echo("".join(line + "\n" for line in rows), nl=False)
        return
    import numpy as np

    counts = np.zeros(job.model.packed.classes, np.int64)
    head: list[list[str]] = []
    for result in job.results():
        classes = _classes_of(result, job.wanted)
        counts += np.bincount(classes.reshape(-1), minlength=len(counts))
        for row, best in zip(result[: HEAD - len(head)], classes[: HEAD - len(head)], strict=True):
            name = job.samples.names[len(head)] if job.samples.names else str(len(head))
            head.append([name, _class_cell(best), *_extra_cell(row, job.wanted)])
    titles = {"scores": "best scores", "margins": "gap of the scores, margins of the layers"}
    extra = [(titles[job.wanted], False)] if job.wanted in titles else []
    screen.table([("sample", not job.samples.names), ("class", True), *extra], head)
    if job.done > len(head):
        screen.say(f"and {job.done - len(head)} more; -o OUT.npy writes all of them")
        screen.say("per class: " + ", ".join(f"{c}: {n}" for c, n in enumerate(counts.tolist()) if n))
    job.summary()


def _margin_columns(found: Margins) -> NDArray[np.float64]:
    """(rows, 2 + hidden layers): class, gap, margins; infinite where a layer cannot change."""
    import numpy as np

    from xnorinfer.engine.margins import NO_MARGIN

    columns: list[NDArray[Any]] = [found.classes, found.gaps]
    columns += [np.where(layer.smallest == NO_MARGIN, np.inf, layer.smallest) for layer in found.layers]
    return np.stack(columns, axis=1).astype(np.float64)


def _row_text(row: Any, wanted: str) -> str:
    """A row of results for a pipe: one number, or several with tabs between them."""
    if wanted in ("classes", "scores"):
        return "\t".join(map(str, row.reshape(-1)))
    return "\t".join(str(int(value)) if float(value).is_integer() else repr(float(value)) for value in row)


def _classes_of(result: NDArray[Any], wanted: str) -> NDArray[np.int64]:
    if wanted == "classes":
        return result
    classes: NDArray[np.int64] = result.argmax(axis=-1) if wanted == "scores" else result[:, 0].astype("int64")
    return classes


def _class_cell(best: Any) -> str:
    """A class, or how many pixels have which."""
    import numpy as np

    found = [(int(c), int(n)) for c, n in zip(*np.unique(best, return_counts=True), strict=True)]
    return str(found[0][0]) if best.ndim == 0 else ", ".join(f"{c}: {n}" for c, n in found)


def _extra_cell(row: Any, wanted: str) -> list[str]:
    """What a table on a terminal says of a sample beside its class."""
    if wanted == "classes":
        return []
    return [_best_scores(row) if wanted == "scores" else _row_text(row[1:], wanted).replace("\t", ", ")]


def _best_scores(row: NDArray[np.float32]) -> str:
    """The three highest scores with their classes, the first class first where they tie."""
    if row.ndim > 1:
        return "of every pixel"
    order = (-row).argsort(kind="stable")[:3].tolist()
    return ", ".join(f"{c}: {row[c]:.4g}" for c in order)
