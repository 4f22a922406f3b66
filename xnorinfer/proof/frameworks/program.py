"""What the frameworks' openers share: packages that may be missing, shapes of inputs, and what a program gives."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.reading import Reading
from xnorinfer.errors import MissingExtraError, XnorinferError
from xnorinfer.float32 import F32
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.net.reference import mapped_input
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, ThresholdInput
from xnorinfer.proof.answers import Answers, Progress, Run

Array = NDArray[Any]


class Wanted(NamedTuple):
    """Which values on the way of a run are wanted.  rows: numbers of its samples.  widths: how many numbers a sample has."""

    rows: NDArray[np.int64]
    widths: frozenset[int]

    def of(self, values: Iterable[Any], among: int) -> list[Array]:
        """Copies of those of a framework's values that hold so many real numbers a sample, of the wanted samples (rows, ...).
        among: how many samples the run has."""
        found = []
        for value in values:
            one = np.asarray(value)
            if one.dtype.kind == "f" and one.ndim > 1 and len(one) == among and math.prod(one.shape[1:]) in self.widths:
                found.append(one[self.rows])
        return found


#: Samples computed at once.
ROWS = 256


class NotRunnable(Exception):
    """Why a file cannot be run by its framework, as the end of a sentence: "it holds weights only"."""


@dataclass(frozen=True)
class Program:
    """A network that a framework runs.

    framework, version: what runs it.  input: what enters it, before steps of its own.  batch: samples at once, None for any.
    shape: of a sample.  call: (batch, *shape) float32 -> scores (batch, classes), or integers, classes (batch,) or (batch, 1).
    signs: the same -> what its first sign gives, (batch, neurons), where it tells.
    inner: the same, and what is wanted -> what `call` gives of the wanted samples, then values that the same run computes on
    the way, (rows, ...) each, in one order for all runs; where it shows them.
    whole: whether the file itself is run, not the layers as they were read.  original: whether by the framework that the file
    comes from.
    """

    framework: str
    version: str
    input: InputMapping
    batch: int | None
    shape: tuple[int, ...]
    call: Callable[[F32], Array]
    signs: Callable[[F32], Array] | None = None
    whole: bool = True
    original: bool = True
    inner: Callable[[F32, Wanted], list[Array]] | None = None

    def run(self, x: Array) -> Array:
        """Raw inputs (rows, depth) -> scores (rows, classes), or classes (rows,) of integers.  Raises NotRunnable."""
        answer = self._run(self.call, x)
        return answer[:, 0] if answer.dtype.kind in "iu" and answer.ndim == 2 else answer

    def answers(self, name: str, x: Array, report: Progress = lambda what, done, total: None) -> Answers:
        """What it gives for raw inputs (rows, depth).  name: of the file.  Raises NotRunnable."""
        values, signs = [], []
        for start in range(0, len(x), ROWS):
            report(f"running {self.framework}", start, len(x))
            values.append(self.run(x[start : start + ROWS]))
            if self.signs is not None:
                signs.append(self._run(self.signs, x[start : start + ROWS]).astype(np.int8))
        report(f"running {self.framework}", len(x), len(x))
        run = Run(self.framework, self.version, self.whole, self.original)
        nothing = np.empty(0, np.int64)
        inner = None if self.inner is None else lambda rows, widths: self.shown(x, rows, widths)
        signs_or_none = np.concatenate(signs) if signs else None
        return Answers(name, x, np.concatenate(values or [nothing]), signs_or_none, run, inner=inner)

    def shown(self, x: Array, rows: NDArray[np.int64], widths: frozenset[int], together: int = ROWS) -> list[Array]:
        """What it gives for some rows, in order, of the raw inputs (all, depth), and the values of so many numbers a sample
        that the same run computes on the way, (rows, ...) each; nothing where it does not show them.

        together: so many samples were run at once, as sums of others may be rounded otherwise.
        """
        assert self.inner is not None
        found: list[list[Array]] = []
        try:
            for start in range(0, len(x), together):
                inside = rows[(rows >= start) & (rows < start + together)] - start
                found += self._inside(x[start : start + together], inside, widths) if inside.size else []
        except NotRunnable:
            return []
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def _inside(self, x: Array, rows: NDArray[np.int64], widths: frozenset[int]) -> Iterator[list[Array]]:
        assert self.inner is not None
        with quiet(), self._refusing():
            for start, given, _ in self._batches(x):
                inside = rows[(rows >= start) & (rows < start + len(given))] - start
                if inside.size:
                    yield self.inner(given, Wanted(inside, widths))

    def _run(self, call: Callable[[F32], Array], x: Array) -> Array:
        with quiet(), self._refusing():
            return np.concatenate([np.asarray(call(given))[:count] for _, given, count in self._batches(x)])

    def _refusing(self) -> contextlib.AbstractContextManager[None]:
        return refusing(self.framework) if self.whole else contextlib.nullcontext()

    def _batches(self, x: Array) -> Iterator[tuple[int, F32, int]]:
        """Where a batch begins, its samples as they enter, and how many of them are there."""
        values = mapped_input(self.input, x)
        batch = self.batch or len(x)
        for start in range(0, len(x), batch):
            rows = values[start : start + batch]
            padded = np.concatenate([rows, np.repeat(rows[:1], batch - len(rows), axis=0)])
            yield start, np.ascontiguousarray(padded.reshape(batch, *self.shape)), len(rows)


def require(program: Program, net: Net) -> None:
    """Run a few samples.  Raises NotRunnable if it cannot be run, gives neither scores nor classes, or is not in inference.

    In training BatchNorm takes the moments of the batch, so that a sample's scores depend on those beside it, and Dropout is
    random.
    """
    scores = net.values[-1].width
    x = np.random.default_rng(0).integers(0, 2, (8, net.depth), dtype=np.uint8)
    x[:, 1::2] *= 255 if isinstance(net.input, PixelInput | ChannelInput | ThresholdInput) else 1
    together, again = program.run(x), program.run(x)
    classes = together.ndim == 1 and together.dtype.kind in "iu"
    if len(together) != 8 or (together.shape != (8, scores) and not classes):
        raise NotRunnable(f"for 8 samples it gives {together.dtype} {together.shape}, needed are scores (8, {scores})")
    # With others beside them, but as many: sums of fewer rows are rounded otherwise, and bits next to ties move with that.
    beside = program.run(np.concatenate([x[:4], np.roll(x[4:], 1, axis=1)]))
    near = in_rows(np.asarray(np.isclose(together, beside, rtol=1e-3, atol=1e-3 * float(np.abs(together).max()))))
    if not np.array_equal(together, again) or near[:4].all(axis=1).sum() < 3:
        raise NotRunnable("its scores are random or depend on the samples beside them, as in training")


def framework(name: str, path: Path) -> Any:
    """A package of a framework.  Raises MissingExtraError.

    Larq and tf.layers need the Keras 2 in the package tf_keras, which TensorFlow takes if it is told so before its import.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if importlib.util.find_spec("tf_keras") is not None:
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise MissingExtraError(f"--framework for {path.name}", name.partition(".")[0]) from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the frameworks' warnings, and with what they print on stderr: stdout is for results."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def refusing(framework: str) -> Iterator[None]:
    """Turn whatever a framework raises about a file into NotRunnable: they have no common class."""
    try:
        yield
    except (NotRunnable, XnorinferError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        cause = next((line for line in lines if line.startswith("Exception encountered:")), lines[0])  # as Keras ends
        raise NotRunnable(f"{framework} refuses it: {type(error).__name__}: {cause[:300]}") from None


def sample_of(dims: Sequence[int | None], reading: Reading) -> tuple[int | None, tuple[int, ...]]:
    """Batch (None: any) and shape of a sample, of an input that a program declares so; what it leaves open, the reading knows.

    Raises NotRunnable.
    """
    sample = reading.sample or ()
    return input_shape([dims[0], *sample] if len(sample) == len(dims) - 1 else dims, reading.net.depth)


def input_shape(dims: Sequence[int | None], depth: int) -> tuple[int | None, tuple[int, ...]]:
    """Batch (None: any) and shape of a sample, of an input that a program declares with up to one unknown length for a sample.

    Raises NotRunnable.
    """
    known = [dim if dim is not None and dim > 0 else None for dim in dims]
    size = math.prod(dim for dim in known[1:] if dim is not None)
    inner = tuple(depth // size if dim is None else dim for dim in known[1:])
    if not inner or known[1:].count(None) > 1 or math.prod(inner) != depth:
        raise NotRunnable(f"its input has the shape {tuple(dims)}, which samples of {depth} values do not fill")
    return known[0], inner
