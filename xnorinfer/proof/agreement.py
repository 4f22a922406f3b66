"""Answers of a network against those of the packed one, each difference explained by rounding or not.

Classes must be equal, but for rows that lie so near to a tie that the rounding of a framework decides them (see
`frameworks.rounding`); scores must be equal within that rounding.  Where the user's own answers are not, `elimination` looks
for the reading of the file that they prove.
"""

from __future__ import annotations

import dataclasses
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.engine.model import Model, inputs_of
from xnorinfer.errors import InputError, UnusableInputError
from xnorinfer.memory import in_rows
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Pool
from xnorinfer.packing.packed import PackedModel
from xnorinfer.proof.answers import Answers, Progress, Run, best_of
from xnorinfer.proof.frameworks.rounding import TRIES, Bounded, Left, RoundedNet, scores_of
from xnorinfer.proof.frameworks.stepwise import walk
from xnorinfer.proof.squashed import ORDER, SQUASHING, within

#: Samples computed at once, and values that windows hold of them.
ROWS, MOST_VALUES = 256, 1 << 24
#: Random samples of a network, however large, and products in all of them together, which take seconds.
FEWEST, MOST_PRODUCTS = 8, 1 << 34
#: So many unexplained samples say that it is another network: no explanation is searched for the others that do not agree.
ENOUGH = 20
#: Samples that agree and are walked along the framework's own values nevertheless.
WALKED = 4
#: Classes that rounding decides at most: so many, or this share.
FEW, SHARE = 3, 0.03
#: How the answer to a sample compares: it agrees with our bits, once bits next to a tie are taken otherwise, step by step from
#: the framework's own values on, perhaps (bits that nobody shows decide it), or not at all.
FITS, OTHER_BITS, STEPWISE, UNDETERMINED, UNEXPLAINED, NOT_SHOWN = range(6)


@dataclass
class Agreement:
    """How answers compare with those of a packed network.

    name, run: of the answers.  compared: what was, "scores", "softmax" or "log_softmax" of them, another function of them
    (`squashed`), or "classes" where there are only those.
    different: samples whose class differs; by_rounding: those of them that rounding explains.
    other_bits: samples that agree once bits next to a tie are taken otherwise.  stepwise: samples that agree once the
    framework's own values, each within rounding of ours, are taken on the way (`frameworks.stepwise`).  undetermined: samples
    of which bits within rounding of a tie that nobody shows may decide so much that nothing can be said.  unexplained: samples
    whose answer no rounding explains, whether the class differs or only a score.
    first: the first sample whose class nothing explains, else the first that differs: its number, the class that was given,
    and ours.
    different_stepwise, different_undetermined: of those whose class differs.
    walked: samples that were walked step by step; shown, same: values of nodes that the framework showed of them, and how many
    are ours bit for bit given what enters; parted: the last such value of the first of them that is unexplained; other: the
    first one of that sample that is beside ours, further off than rounding explains.
    largest_score_difference: of scores, among samples that agree with the bits as they are.
    first_bits: of `first_bits_of`, bits behind the first sign that are not ours, where they are known.
    """

    name: str
    rows: int
    compared: str = "classes"
    different: int = 0
    by_rounding: int = 0
    other_bits: int = 0
    unexplained: int = 0
    first: tuple[int, int, int] | None = None
    largest_score_difference: float | None = None
    first_bits: int | None = None
    first_bits_of: int | None = None
    run: Run | None = None
    stepwise: int = 0
    undetermined: int = 0
    different_stepwise: int = 0
    different_undetermined: int = 0
    walked: int = 0
    shown: int = 0
    same: int = 0
    parted: str | None = None
    other: str | None = None

    @property
    def holds(self) -> bool:
        """Whether rounding explains every class that differs, or may, in a few.

        It decides one in hundreds; where it would have to decide more, and nobody shows how, all scores lie at ties, and the
        answers say nothing.  Of a program its scores, too: they are what was read, while a user's answers may be others.
        """
        if self.run is not None and self.run.program and self.unexplained:
            return False
        shown = self.different_stepwise
        return self.different == self.by_rounding + self.different_undetermined <= shown + max(FEW, SHARE * self.rows)

    @property
    def complete(self) -> bool:
        """Whether scores are the same ones, too."""
        return self.holds and not self.unexplained and self.undetermined <= max(FEW, SHARE * self.rows)

    @property
    def subject(self) -> str:
        """What the packed network is compared with."""
        if self.run is None:
            return f"the {self.rows} answers of {self.name}"
        return f"{self.name} itself, run by {self.run.framework} on {self.rows} samples"

    @property
    def _scores(self) -> str:
        """What was compared, in words."""
        if self.compared in SQUASHING:
            return f"scores behind {self.compared}"
        return "orders of the scores" if self.compared == ORDER else self.compared.replace("_", "-")

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        data = {"holds": self.holds, **asdict(self)}
        return data | (data.pop("run") or {})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Agreement:
        """What `to_json` wrote."""
        run = Run(**_known(Run, data)) if "framework" in data else None
        return cls(**_known(cls, data) | {"run": run})

    def text(self) -> str:
        """In one sentence."""
        scores = self._scores
        if self.run is not None:
            return self._run_text(self.run, scores)
        if not self.holds:
            row, theirs, ours = self.first or (0, 0, 0)
            return (
                f"{self.different} of {self.rows} classes are not those of {self.name}, the first in row {row}: {theirs} is "
                f"expected, the packed network gives {ours}"
            )
        text = f"all {self.rows} classes are those of {self.name}"
        if self.by_rounding:
            text += f", but for {self.by_rounding} that the framework's rounding decides"
        if self.different_undetermined:
            text += f", but for {self.different_undetermined} that its rounding may decide"
        return text + (f", all {scores} within rounding" if self.compared != "classes" and self.complete else "")

    def _run_text(self, run: Run, scores: str) -> str:
        text = f"{run.framework} {run.version} ran the file itself"
        if not run.program:
            text = "" if run.instead is None else f"not possible for the file itself: {run.instead}; layer by layer, "
            origin = "the framework of the checkpoint" if run.original else "not the framework of the checkpoint"
            text += f"{run.framework} {run.version} ({origin}; it runs the reading, and tells nothing about it)"
        text += f" on {self.rows} samples: {self.different} predictions differ"
        if self.different:
            text += f", {self.by_rounding} of them by its rounding"
        if self.first_bits_of is not None:
            text += f"; {self.first_bits} of {self.first_bits_of:,} bits of the first layer differ"
        others = self.other_bits + self.stepwise + self.undetermined + self.unexplained
        text += f"; the {scores} agree within rounding in {self.rows - others} samples"
        if self.other_bits:
            text += f", in {self.other_bits} more once bits within rounding of a tie are taken otherwise"
        if self.stepwise:
            text += f", in {self.stepwise} more step by step, from its own values on"
        text += f"; {self.unexplained} unexplained"
        if self.undetermined:
            text += f", {self.undetermined} undetermined: bits within rounding of a tie may decide them"
        if self.shown:
            text += f"; of {self.shown:,} values on the way of {self.walked} samples {self.same:,} are ours bit for bit"
            text += ", the others within rounding" if self.same < self.shown else ""
        text += "" if self.parted is None else f"; the last one that agrees is that of {self.parted}"
        return text if self.other is None else f"{text}; that of {self.other} is another"

    def warning(self) -> str | None:
        """What is odd although the classes are equal."""
        if not self.holds or not self.unexplained:
            return None
        return (
            f"the classes are those of {self.name}, but in {self.unexplained} of {self.rows} rows the "
            f"{self._scores} differ by more than rounding: the last layer is read otherwise, or the file "
            "holds something else than its scores"
        )


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    return {field.name: data[field.name] for field in dataclasses.fields(kind) if field.name in data}


def compare(
    given: Answers,
    net: Net,
    packed: PackedModel,
    threads: int | None = None,
    report: Progress = lambda what, done, total: None,
) -> Agreement:
    """Run a packed network on the inputs of answers.  net: the float network, to bound what rounding can do.

    Raises InputError where inputs or answers cannot be those of this network.
    """
    given.require(net.values[-1].width)
    try:
        x = inputs_of(packed.input, packed.shape, given.x, channels_first=packed.channels_first)
    except InputError as error:
        raise UnusableInputError(f"{given.name}: {error}") from None
    per = given.per_class(net)
    predicted, wanted = best_of(in_rows(Model(packed, threads=threads).scores(x)), per), given.classes_of(per)
    compared = "classes" if given.values.ndim == 1 else given.function or kind_of(given.values, per)
    if compared in (*SQUASHING, ORDER):  # which may make the largest scores equal
        every = given.values.reshape(len(x), -1, per)
        ours = np.take_along_axis(every, predicted[:, :, None], axis=2)[:, :, 0]
        wanted = np.where(ours == every.max(axis=2), predicted, wanted)
    result = Agreement(given.name, len(x), compared, run=given.run)
    wrong = (predicted != wanted).any(axis=1)
    different = np.flatnonzero(wrong)
    rounded = RoundedNet(net)
    how = np.full(len(x), FITS)
    how[different] = _how(given, x, rounded, different, result, report)
    if compared != "classes":
        how[~wrong] = _how(given, x, rounded, np.flatnonzero(~wrong), result, report)
    if given.run is not None and given.inner is not None and given.signs is None:
        # Bounds over a whole network are wide; from one of its own values to the next they are not.
        some = np.flatnonzero(how == FITS)[: min(WALKED, _rows_shown(net))]
        how[some[_stepwise(given, x, rounded, some, result, compared) == UNEXPLAINED]] = UNEXPLAINED
    result.other_bits, result.stepwise, result.undetermined, result.unexplained = (
        int((how == kind).sum()) for kind in (OTHER_BITS, STEPWISE, UNDETERMINED, UNEXPLAINED)
    )
    # Scores that a program gives must be ours.  The user's may be others, which then say nothing of the classes.
    if given.run is None and compared != "classes" and 2 * result.unexplained >= len(x):
        how[different] = _how(given, x, rounded, different, result, report, "classes")
    result.different, result.by_rounding = len(different), int((how[different] < UNDETERMINED).sum())
    result.different_stepwise, result.different_undetermined = (
        int((how[different] == kind).sum()) for kind in (STEPWISE, UNDETERMINED)
    )
    if len(different):
        row = next((row for row in different if how[row] == UNEXPLAINED), different[0])
        pixel = int(np.argmax(predicted[row] != wanted[row]))
        result.first = int(row), int(wanted[row, pixel]), int(predicted[row, pixel])
    report("comparing answers", len(x), len(x))
    return result


def rows_at_once(net: Net) -> int:
    """How many samples are computed at once: windows hold values many times."""
    largest, shapes = 1, [net.shape, *(value.shape for value in net.values)]
    for node, given in zip(net.nodes, shapes[1:], strict=True):
        window = node.op.window if isinstance(node.op, Linear | Pool) else None
        if window is not None:
            largest = max(largest, given[0] * given[1] * window.taps * shapes[node.inputs[0] + 1][2])
    return max(1, min(ROWS, MOST_VALUES // largest))


def _flat(computed: tuple[list[NDArray[Any]], Bounded]) -> tuple[list[NDArray[Any]], Bounded]:
    """What nodes give, and scores, each as (rows, all values)."""
    outputs, scores = computed
    return [in_rows(output) for output in outputs], scores_of(scores)


def kind_of(values: NDArray[Any], per: int) -> str:
    """What answers are, as far as their values tell: see `Agreement.compared`.  per: so many scores belong together."""
    if values.ndim == 1:
        return "classes"
    values = values.reshape(-1, per)
    with np.errstate(over="ignore"):
        sums = {"softmax": values.sum(axis=1), "log_softmax": np.exp(values.astype(np.float64)).sum(axis=1)}
    signs = {"softmax": (values >= 0).all(), "log_softmax": (values <= 0).all()}
    return next((name for name in sums if signs[name] and np.allclose(sums[name], 1, atol=1e-4)), "scores")


def _how(
    given: Answers,
    x: NDArray[Any],
    rounded: RoundedNet,
    rows: NDArray[np.int64],
    result: Agreement,
    report: Progress,
    compared: str | None = None,
) -> NDArray[np.int64]:
    """How each of these rows compares, FITS, OTHER_BITS or UNEXPLAINED; the result notes what is measured.

    compared: "classes" for those alone.
    """
    how = np.full(len(rows), UNEXPLAINED)
    compared = compared or result.compared
    per = given.per_class(rounded.net)
    classes = given.classes_of(per)
    values = classes if compared == "classes" else given.values
    step = rows_at_once(rounded.net)
    for start in range(0, len(rows), step):
        report("comparing answers", start, len(rows))
        part = rows[start : start + step]
        outputs, scores = _flat(rounded.exact(x[part]))
        bits: Any = FITS
        known: Any = True
        if given.signs is not None:
            # They may differ from ours where ours are open; from them on only float sums may differ, and no class.
            other = given.signs[part] != outputs[rounded.first_sign]
            result.first_bits = (result.first_bits or 0) + int(other.sum())
            result.first_bits_of = (result.first_bits_of or 0) + other.size
            outputs, scores = _flat(rounded.behind.exact(given.signs[part]))
            bits = np.where(other.any(axis=1), OTHER_BITS, FITS)
            open_ = in_rows(rounded.first_open(x[part]))
            known = (~other | open_).all(axis=1) & (classes[part] == best_of(outputs[-1], per)).all(axis=1)
        agreeing = agree(compared, scores, values[part], per) & known
        how[start : start + step] = np.where(agreeing, bits, UNEXPLAINED)
        fits = how[start : start + step] == FITS
        if compared == "scores" and fits.any():
            distance = float(np.abs(values[part][fits].astype(np.float64) - outputs[-1][fits]).max())
            result.largest_score_difference = max(result.largest_score_difference or 0.0, distance)
    if given.signs is None:
        left = np.flatnonzero(how == UNEXPLAINED)
        how[left] = _how_otherwise(given, x, rounded, rows[left], values, result, compared, report)
    return how


def _how_otherwise(
    given: Answers,
    x: NDArray[Any],
    rounded: RoundedNet,
    rows: NDArray[np.int64],
    values: NDArray[Any],
    result: Agreement,
    compared: str,
    report: Progress,
) -> NDArray[np.int64]:
    """The same of rows that do not agree with our bits."""
    net, per = rounded.net, given.per_class(rounded.net)
    how = np.full(len(rows), UNEXPLAINED)
    for start in range(0, len(rows), step := _rows_shown(net)):
        if (how[:start] == UNEXPLAINED).sum() >= ENOUGH:
            break
        how[start : start + step] = _stepwise(given, x, rounded, rows[start : start + step], result, compared)
        for at in start + np.flatnonzero(how[start : start + step] == NOT_SHOWN):
            report("comparing answers", int(at), len(rows))
            row, left = rows[at : at + 1], Left()

            def agrees(scores: Bounded, row: NDArray[np.int64] = row) -> bool:
                return bool(agree(compared, scores_of(scores), values[row], per)[0])

            how[at] = UNEXPLAINED
            if (how[:at] == UNEXPLAINED).sum() < ENOUGH:
                if any(map(agrees, rounded.tried(x[row], affordable_rows(net, TRIES), left))):
                    how[at] = OTHER_BITS
                elif left.choices and agrees(walk(rounded, x[row]).scores):
                    how[at] = UNDETERMINED
    return how


def _rows_shown(net: Net) -> int:
    """Of how many samples all values on the way are taken at once."""
    return max(1, MOST_VALUES // sum(value.width for value in net.values))


def _stepwise(
    given: Answers, x: NDArray[Any], rounded: RoundedNet, rows: NDArray[np.int64], result: Agreement, compared: str
) -> NDArray[np.int64]:
    """How rows compare that are walked along the framework's own values, STEPWISE or UNEXPLAINED; NOT_SHOWN where these do not
    say enough, or are of a run that gives other answers."""
    net, per = rounded.net, given.per_class(rounded.net)
    shown = [] if given.inner is None or not rows.size else given.inner(rows, frozenset(value.width for value in net.values))
    if not shown:
        return np.full(len(rows), NOT_SHOWN)
    answer, *values = shown
    answer, theirs = (np.asarray(one).reshape(len(rows), -1) for one in (answer, given.values[rows]))
    found = walk(rounded, x[rows], values)
    answers = given.classes_of(per)[rows] if compared == "classes" else given.values[rows]
    agrees = agree(compared, scores_of(found.scores), answers, per)
    how = np.where(agrees, np.where(found.open, NOT_SHOWN, STEPWISE), UNEXPLAINED)
    how[[other is not None for other in found.other]] = UNEXPLAINED
    how[(answer != theirs).any(axis=1)] = NOT_SHOWN
    said = how != NOT_SHOWN
    result.walked += int(said.sum())
    result.shown, result.same = result.shown + int(found.values[said].sum()), result.same + int(found.same[said].sum())
    first = next(iter(np.flatnonzero(how == UNEXPLAINED)), None)
    if result.parted is None and first is not None:
        result.parted, result.other = found.last[first], found.other[first]
    return how


def agree(kind: str, ours: Bounded, answer: NDArray[Any], per: int) -> NDArray[np.bool_]:
    """Whether an answer lies within the rounding of scores, sample by sample.  per: so many scores belong together."""
    rows, pixels = len(answer), ours.value.shape[1] // per
    parts = Bounded(ours.value.reshape(-1, per), ours.error.reshape(-1, per))
    found = _agree(kind, parts, answer.reshape(-1) if kind == "classes" else answer.reshape(-1, per))
    return np.asarray(found.reshape(rows, pixels).all(axis=1))


def _agree(kind: str, ours: Bounded, answer: NDArray[Any]) -> NDArray[np.bool_]:
    value, error = ours.value, ours.error
    if kind == "classes":
        rows = np.arange(len(answer))
        return np.asarray((value + error)[rows, answer] >= (value - error).max(axis=1))
    theirs = answer.astype(np.float64)
    if kind in (*SQUASHING, ORDER):
        return within(kind, value - error, value + error, theirs)
    if kind == "scores":
        return np.asarray((np.abs(theirs - value) <= error).all(axis=1))
    # A softmax moves by a factor of exp(2 e) at most if scores move by e, and is rounded to float32, as the exponents are.
    spread = value - value.max(axis=1, keepdims=True)
    logs = spread - np.log(np.exp(spread).sum(axis=1, keepdims=True))
    bound = 2 * error.max(axis=1, keepdims=True) + 2.0**-20 * (1 + np.abs(spread))
    if kind == "log_softmax":
        return np.asarray((np.abs(theirs - logs) <= bound).all(axis=1))
    low, high = np.exp(logs - bound), np.exp(logs + bound)
    return np.asarray(((theirs >= low - 1e-37) & (theirs <= high + 1e-37)).all(axis=1))


def affordable_rows(net: Net, most: int, products: int = MOST_PRODUCTS) -> int:
    """How many random samples are computed: `most`, but of large networks as many as take so many products together."""
    each = 1
    for node, value in zip(net.nodes, net.values, strict=True):
        if isinstance(node.op, Linear):
            each += value.width * node.op.depth
    return max(FEWEST, min(most, products // each))
