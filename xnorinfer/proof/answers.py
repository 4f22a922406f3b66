"""What a network answers outside of this package: a framework that runs it, a live module, the arrays that the user gives.

A checkpoint seldom says all that its network computes; its answers do.  `agreement` compares them with those of the packed
network.  `xnorinfer convert --help` shows how a file of them is written.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.model import array_of
from xnorinfer.errors import InputError
from xnorinfer.imageaxes import Shape, are_channels_first
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.samples import dataio

Progress = Callable[[str, int, int], None]

#: Arrays of an archive.
INPUTS, SCORES, CLASSES = "x", "scores", "classes"
NEEDED = (
    f"needed is an .npz with the arrays {INPUTS} (rows, ...) and {SCORES} (rows, classes) or {CLASSES} (rows,), "
    "or two files X.npy:SCORES.npy"
)


@dataclass(frozen=True)
class Run:
    """Who ran a network.

    program: whether the file itself was run, not the layers as they were read.  original: whether by the framework that the
    checkpoint comes from.  instead: why the program that files of this kind hold could not be run itself, None where there is
    none.
    """

    framework: str
    version: str
    program: bool = True
    original: bool = True
    instead: str | None = None


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network gives.

    name: of the file that holds them, or the network.  x: (rows, ...) as `Model` takes them, pixels or mapped floats.
    values: scores (rows, classes) float, or classes (rows,) of integers.  signs: (rows, neurons), what the first sign gives,
    where that is known; then all behind it must be computed in the operations of `reference`.  run: None for the user's own.
    function: what stands between our scores and these values (`squashed`), where they are none themselves.
    inner: (numbers of rows, in order, and how many numbers of a sample are wanted) -> the answers to those rows once more, and
    what that run computes on the way, (rows, ...) each, channels first or last; nothing, or None, where it does not show that.
    """

    name: str
    x: NDArray[Any]
    values: NDArray[Any]
    signs: NDArray[Any] | None = None
    run: Run | None = None
    function: str | None = None
    inner: Callable[[NDArray[np.int64], frozenset[int]], Sequence[NDArray[Any]]] | None = None

    @classmethod
    def of(cls, x: Any, answers: Any, name: str = "expect") -> Answers:
        """From array-likes.  Raises InputError."""
        x, answers = array_of(x, f"{name}[0]"), array_of(answers, f"{name}[1]")
        if x.ndim < 2 or not len(x):
            raise InputError(f"{name}: the inputs have shape {x.shape}, needed are (rows, ...) with a row at least")
        if x.dtype.kind not in "iuf":
            raise InputError(f"{name}: the inputs have dtype {x.dtype}, needed are numbers")
        if answers.dtype.kind not in "iuf" or answers.ndim not in (1, 2) or len(answers) != len(x):
            raise InputError(
                f"{name}: the answers are {answers.dtype} {answers.shape} for inputs {x.shape}; needed are scores "
                f"({len(x)}, classes) or classes ({len(x)},) of whole numbers"
            )
        if answers.ndim == 2 and answers.shape[1] == 1 and answers.dtype.kind in "iu":
            answers = answers[:, 0]
        if answers.ndim == 1:
            if answers.dtype.kind == "f" and not (np.isfinite(answers).all() and (answers == np.floor(answers)).all()):
                raise InputError(f"{name}: the classes are no whole numbers; scores have shape ({len(x)}, classes)")
            answers = answers.astype(np.int64)
        elif not np.isfinite(answers).all():
            row = int(np.argwhere(~np.isfinite(answers))[0, 0])
            raise InputError(f"{name}: a score of row {row} is NaN or infinite")
        else:
            answers = answers.astype(np.float64)
        return cls(name, x, answers)

    def per_class(self, net: Net) -> int:
        """How many scores of a network there are for each class: those of a pixel where they are a map.

        Where only one number of each sample is known, every score counts as a class of its own.
        """
        return net.classes if self.values.ndim == 2 else net.values[-1].width

    def classes_of(self, per: int) -> NDArray[np.int64]:
        """The classes of each row, one of every `per` scores: (rows, pixels)."""
        return self.classes[:, None] if self.values.ndim == 1 else best_of(self.values, per)

    @classmethod
    def of_pair(cls, pair: Any) -> Answers:
        """From (inputs, answers).  Raises InputError."""
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError("expect must be a pair: inputs (rows, ...), and scores (rows, classes) or classes (rows,)")
        return cls.of(*pair)

    @property
    def classes(self) -> NDArray[np.int64]:
        """The class of each row, the first one where scores tie."""
        return np.asarray(self.values if self.values.ndim == 1 else self.values.argmax(axis=1), np.int64)

    def placed(self, shape: Shape, *, source_first: bool) -> Answers:
        """With images in the order of axes of a network, (height, width, channels); as they are where they are none of its
        source.  source_first: whether that has channels first."""
        with contextlib.suppress(InputError):  # whoever runs them says what is wrong
            if len(shape) == 3 and are_channels_first(self.name, shape, self.x.shape, source_first=source_first):
                return dataclasses.replace(self, x=in_rows(np.moveaxis(self.x, 1, -1)))
        return self

    def require(self, classes: int) -> None:
        """Raise InputError unless these can be answers of a network of so many classes."""
        if self.values.ndim == 2 and self.values.shape[1] != classes:
            raise InputError(f"{self.name}: holds scores of {self.values.shape[1]} classes, the network has {classes}")
        wrong = (self.classes < 0) | (self.classes >= classes)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{self.name}: class {self.classes[row]} in row {row}; the network has the classes 0..{classes - 1}"
            )


def best_of(scores: NDArray[Any], per: int) -> NDArray[np.int64]:
    """The number of the highest of every `per` scores, the first one where they tie: (rows, scores) -> (rows, pixels)."""
    return np.asarray(scores.reshape(len(scores), scores.shape[1] // per, per).argmax(axis=2), np.int64)


def read_answers(text: str, max_memory: int | None = None) -> Answers:
    """Read 'FILE.npz', or 'X.npy:SCORES.npy', two files of any kind that `dataio.open_array` opens.  Raises InputError."""
    pair = _split_pair(text)
    if pair is not None:
        x, answers = (dataio.open_array(part, max_memory).read() for part in pair)
        return Answers.of(x, answers, text)
    path = Path(text)
    if not path.exists():
        raise InputError(f"{text}: no such file; {NEEDED}")
    names = dataio.names_in(path)
    chosen = next(
        ([INPUTS, answer] for answer in (SCORES, CLASSES) if names and {INPUTS, answer} <= set(names)),
        list(names or ()) if names == ["arr_0", "arr_1"] else [],
    )
    if not chosen:
        held = "is no .npz archive" if names is None else f"holds {', '.join(names) or 'no arrays'}"
        raise InputError(f"{text}: {held}; {NEEDED}")
    x, answers = (dataio.open_array(text, max_memory, name).read() for name in chosen)
    return Answers.of(x, answers, text)


def _split_pair(text: str) -> tuple[str, str] | None:
    """'a.npy:b.npy' -> both; None where it is one file."""
    if Path(text).exists():
        return None
    cuts = [place for place, character in enumerate(text) if character == ":"]
    pairs = [(text[:cut], text[cut + 1 :]) for cut in cuts]
    return next((pair for pair in pairs if all(dataio.split_member(part)[0].is_file() for part in pair)), None)
