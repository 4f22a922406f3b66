"""What the frameworks' openers share: packages that may be missing, shapes of inputs, and what a program gives."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.reading import Reading
from xnorinfer.errors import MissingExtraError, XnorinferError
from xnorinfer.float32 import F32
from xnorinfer.net.network import Net
from xnorinfer.net.reference import mapped_input
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput, ThresholdInput
from xnorinfer.proof.answers import Answers, Progress, Run

Array = NDArray[Any]

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
        return Answers(name, x, np.concatenate(values or [nothing]), np.concatenate(signs) if signs else None, run)

    def _run(self, call: Callable[[F32], Array], x: Array) -> Array:
        values = mapped_input(self.input, x)
        batch = self.batch or len(x)
        found = []
        with quiet(), refusing(self.framework) if self.whole else contextlib.nullcontext():
            for start in range(0, len(x), batch):
                rows = values[start : start + batch]
                padded = np.concatenate([rows, np.repeat(rows[:1], batch - len(rows), axis=0)])
                given = np.asarray(call(np.ascontiguousarray(padded.reshape(batch, *self.shape))))
                found.append(given[: len(rows)])
        return np.concatenate(found)


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
    alone = np.concatenate([program.run(row[None]) for row in x])
    # Sums of a matrix product may be rounded otherwise for one row, and a bit next to a tie moves with that, in few samples.
    near = np.isclose(together, alone, rtol=1e-3, atol=1e-3 * float(np.abs(together).max())).reshape(8, -1).all(axis=1)
    if not np.array_equal(together, again) or near.sum() < 6:
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
