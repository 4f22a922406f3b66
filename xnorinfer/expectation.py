"""The user's own answers: inputs, and what the trained network gives for them in its own framework.

A checkpoint seldom says all that its network computes; its answers do.  They are compared with those of the packed network:
classes must be equal, but for rows that lie so near to a tie that the rounding of the framework decides them (see
`programs.rounding`); scores must be equal within that rounding.  Where they are not, `elimination` looks for the reading of
the file that they prove.  `xnorinfer convert --help` shows how such a file is written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import dataio
from xnorinfer.errors import InputError, UnusableInputError
from xnorinfer.model import Model, canonical_input, inputs_of
from xnorinfer.netspec import NetSpec
from xnorinfer.packed import PackedModel
from xnorinfer.programs.compare import ProgramRun, compare_rows, decided_by_rounding, kind_of
from xnorinfer.programs.rounding import RoundedNet

Progress = Callable[[str, int, int], None]

#: Arrays of an archive.
INPUTS, SCORES, CLASSES = "x", "scores", "classes"
#: Samples computed at once.
ROWS = 256
NEEDED = (
    f"needed is an .npz with the arrays {INPUTS} (rows, ...) and {SCORES} (rows, classes) or {CLASSES} (rows,), "
    "or two files X.npy:SCORES.npy"
)


@dataclass(frozen=True, eq=False)
class Expectation:
    """x: (rows, ...) as `Model` takes them, pixels or mapped floats.  answers: (rows, classes) float64, or (rows,) int64."""

    name: str
    x: NDArray[Any]
    answers: NDArray[Any]

    @classmethod
    def of(cls, x: Any, answers: Any, name: str = "expect") -> Expectation:
        """From array-likes.  Raises InputError."""
        try:
            x, answers = np.asarray(x), np.asarray(answers)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name}: {error}") from None
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

    @classmethod
    def of_pair(cls, pair: Any) -> Expectation:
        """From (inputs, answers).  Raises InputError."""
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError("expect must be a pair: inputs (rows, ...), and scores (rows, classes) or classes (rows,)")
        return cls.of(*pair)

    @property
    def classes(self) -> NDArray[np.int64]:
        """The class of each row, the first one where scores tie."""
        return self.answers if self.answers.ndim == 1 else np.asarray(self.answers.argmax(axis=1), np.int64)

    def require(self, classes: int) -> None:
        """Raise InputError unless these can be answers of a network of so many classes."""
        if self.answers.ndim == 2 and self.answers.shape[1] != classes:
            raise InputError(f"{self.name}: holds scores of {self.answers.shape[1]} classes, the network has {classes}")
        wrong = (self.classes < 0) | (self.classes >= classes)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise InputError(
                f"{self.name}: class {self.classes[row]} in row {row}; the network has the classes 0..{classes - 1}"
            )


def read_expectation(text: str, max_memory: int | None = None) -> Expectation:
    """Read 'FILE.npz', or 'X.npy:SCORES.npy', two files of any kind that `dataio.open_array` opens.  Raises InputError."""
    pair = _split_pair(text)
    if pair is not None:
        x, answers = (dataio.open_array(part, max_memory).read() for part in pair)
        return Expectation.of(x, answers, text)
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
    return Expectation.of(x, answers, text)


def _split_pair(text: str) -> tuple[str, str] | None:
    """'a.npy:b.npy' -> both; None where it is one file."""
    if Path(text).exists():
        return None
    cuts = [place for place, character in enumerate(text) if character == ":"]
    pairs = [(text[:cut], text[cut + 1 :]) for cut in cuts]
    return next((pair for pair in pairs if all(dataio.split_member(part)[0].is_file() for part in pair)), None)


@dataclass
class Agreement:
    """How a packed network compares with expected answers.

    compared: what they are, see `ProgramRun.compared`.  different: rows whose class differs; by_rounding: those of them that
    the framework's rounding explains.  first: the first row that nothing explains, else the first that differs, with the
    expected class and ours.
    other_scores: rows with scores that no rounding explains, None where there are only classes.
    largest_score_difference: among rows of equal scores.
    """

    name: str
    rows: int
    compared: str
    different: int = 0
    by_rounding: int = 0
    first: tuple[int, int, int] | None = None
    other_scores: int | None = None
    largest_score_difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether every class is the expected one, but for a few that rounding decides."""
        return decided_by_rounding(self.rows, self.different, self.by_rounding)

    @property
    def complete(self) -> bool:
        """Whether scores are the expected ones, too."""
        return self.holds and not self.other_scores

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return {"holds": self.holds, **asdict(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Agreement:
        """What `to_json` wrote."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})

    def text(self) -> str:
        """In one sentence."""
        if not self.holds:
            row, theirs, ours = self.first or (0, 0, 0)
            return (
                f"{self.different} of {self.rows} classes are not those of {self.name}, the first in row {row}: {theirs} is "
                f"expected, the packed network gives {ours}"
            )
        text = f"all {self.rows} classes are those of {self.name}"
        if self.by_rounding:
            text += f", but for {self.by_rounding} that the framework's rounding decides"
        if self.other_scores is not None:
            scores = self.compared.replace("_", "-")
            text += f", all {scores} within rounding" if not self.other_scores else ""
        return text

    def warning(self) -> str | None:
        """What is odd although the classes are equal."""
        if not self.holds or not self.other_scores:
            return None
        return (
            f"the classes are those of {self.name}, but in {self.other_scores} of {self.rows} rows the "
            f"{self.compared.replace('_', '-')} differ by more than rounding: the last layer is read otherwise, or the file "
            "holds something else than its scores"
        )


def compare(
    expected: Expectation,
    net: NetSpec,
    packed: PackedModel,
    threads: int | None = None,
    report: Progress = lambda what, done, total: None,
) -> Agreement:
    """Run a packed network on the inputs of an expectation.  net: the float network, to bound what rounding can do.

    Raises InputError where inputs or answers cannot be those of this network.
    """
    expected.require(packed.classes)
    try:
        x = inputs_of(packed.input, packed.depth, expected.x)
    except InputError as error:
        raise UnusableInputError(f"{expected.name}: {error}") from None
    model, rounded = Model(packed, threads=threads), RoundedNet(net)
    result = Agreement(expected.name, len(x), kind_of(expected.answers))
    scores = ProgramRun("", "", compared=result.compared)
    predicted = np.empty(len(x), np.int64)
    for start in range(0, len(x), ROWS):
        report("comparing with what is expected", start, len(x))
        part = slice(start, start + ROWS)
        predicted[part] = model.plan.run(canonical_input(packed, x[part])).argmax(axis=1)
        if result.compared != "classes":
            compare_rows(scores, rounded, x[part], expected.answers[part])
    # Where the scores are comparable, they say whether rounding explains a class, too: in a row of ties anything would.
    scored = result.compared != "classes" and 2 * scores.unexplained < len(x)
    answers = expected.answers if scored else expected.classes
    for row in np.flatnonzero(predicted != expected.classes):
        explained = ProgramRun("", "", compared=result.compared if scored else "classes")
        if result.different - result.by_rounding < ENOUGH:
            compare_rows(explained, rounded, x[row : row + 1], answers[row : row + 1])
        result.different += 1
        unexplained = not explained.rows or bool(explained.unexplained)
        result.by_rounding += not unexplained
        # The first row that nothing explains, else the first that differs.
        if result.first is None or (unexplained and result.different - result.by_rounding == 1):
            result.first = int(row), int(expected.classes[row]), int(predicted[row])
    report("comparing with what is expected", len(x), len(x))
    if result.compared != "classes":
        result.other_scores = scores.unexplained
        result.largest_score_difference = scores.largest_score_difference
    return result


#: So many rows that nothing explains say that it is another network.
ENOUGH = 20
