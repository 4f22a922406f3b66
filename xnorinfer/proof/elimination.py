"""Which reading of a checkpoint the user's own answers prove, where they contradict the one that was taken.

Each of `alternatives` is tried, on the float network and by the oracle, and then every two of them together.  A reading that
gives the expected classes is confirmed on all rows, with the options that say it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.engine.model import Model, inputs_of
from xnorinfer.errors import InputError, NetworkError, XnorinferError
from xnorinfer.memory import in_rows
from xnorinfer.net.check import values_of
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear
from xnorinfer.net.reference import forward
from xnorinfer.net.values import InputMapping, RealInput
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import PackedModel
from xnorinfer.proof.agreement import Agreement, compare
from xnorinfer.proof.alternatives import Alternative, every, forms
from xnorinfer.proof.answers import Answers, Progress, best_of

#: Rows that a reading is tried on first, and then; of the first, and of all, so many may be decided by rounding.
FIRST_ROWS, MORE_ROWS = 8, 64
SPARED = 0.03
#: Weights binarized in all tries together: about a minute's work.
MOST_WEIGHTS = 20_000_000_000
MOST_TRIES = 6000
#: Bits of information in the expected classes without which one of so many readings gives them by chance.
NEEDED_BITS = 24
#: Readings that fit on few rows and are confirmed on all of them, at most.
MOST_CONFIRMED = 24


@dataclass(frozen=True)
class Explanation:
    """Alternatives that together give what is expected, and how well."""

    alternatives: tuple[Alternative, ...]
    agreement: Agreement

    @property
    def option(self) -> str:
        """What to type on the command line."""
        options = " ".join(one.said for one in self.alternatives if one.option is not None)
        return " and ".join([*filter(None, [options]), *(one.line for one in self.alternatives if one.option is None)])


@dataclass
class Elimination:
    """explanations: what makes all rows equal, those with the fewest changes alone.  tried: number of readings.

    nearest: else the reading that is equal in most of the rows that were tried on, as (reading, equal, of).  few: whether there
    were too few rows to try.  branches: whether values meet again in the network, so that its layers and what stands between
    them are taken as its graph has them.
    """

    explanations: list[Explanation] = field(default_factory=list)
    tried: int = 0
    nearest: tuple[Explanation, int, int] | None = None
    few: bool = False
    branches: bool = False

    def text(self) -> str:
        """In a sentence or two."""
        if self.explanations:
            ways = " or ".join(one.option for one in self.explanations[:4])
            verb = "makes all rows equal" if len(self.explanations) == 1 else "make all rows equal, each of them"
            return f"{ways} {verb}"
        if self.few:
            return "other readings are not tried on so few rows; give some 100"
        text = f"none of {self.tried} other readings explains it (tie rules, epsilons, H and scales, mappings of the input, "
        chains = "float layers, functions before BatchNorm, orders of arrays and of layers"
        text += f"{'orders of arrays' if self.branches else chains}, and two of these together"
        text += (
            ")" if not self.branches else "; layers, their order and what stands between them are taken as the graph has them)"
        )
        if self.nearest is not None:
            nearest, equal, of = self.nearest
            text += f"; the nearest, {nearest.option}, is right in {equal} of {of} rows"
        return text


def eliminate(
    expected: Answers,
    reading: Reading,
    options: ConvertOptions,
    read: Callable[[ConvertOptions], Reading] | None = None,
    report: Progress = lambda what, done, total: None,
) -> Elimination:
    """Find the reading that gives what is expected.

    read: reads the source again with other options, to confirm that these say what was found.
    """
    found = Elimination(branches=reading.net.branches)
    if len(expected.x) * math.log2(max(2, expected.classes.max() + 1)) < NEEDED_BITS:
        found.few = True
        return found
    trial = _Trial(expected, reading.net)
    others = _others(reading.net, options, expected.x)
    most = min(MOST_TRIES, max(2 * len(others), MOST_WEIGHTS // max(1, trial.weights)))
    groups: list[list[tuple[Alternative, ...]]] = [
        [(one,) for one in others],
        [pair for pair in itertools.combinations(others, 2) if pair[0].about != pair[1].about],
    ]
    total = min(most, sum(map(len, groups)))
    for group in groups:
        good: list[tuple[int, tuple[Alternative, ...]]] = []
        for changes in group:
            if found.tried >= most:
                break
            report("trying other readings", found.tried, total)
            found.tried += 1
            equal = trial.fitting(changes)
            if equal is not None:
                good.append((equal, changes))
        good.sort(key=lambda one: -one[0])
        tested = (_confirm(expected, reading, options, read, changes) for _, changes in good[:MOST_CONFIRMED])
        confirmed = [one for one in tested if one is not None]
        complete = [one for one in confirmed if one.agreement.complete]
        # Where scores are expected, a reading that gives the classes alone is no match for two that give the scores, too.
        if complete or not found.explanations:
            found.explanations = complete or confirmed
        if complete or (confirmed and expected.values.ndim == 1):
            break
    report("trying other readings", total, total)
    found.nearest = trial.nearest
    return found


def _confirm(
    expected: Answers,
    reading: Reading,
    options: ConvertOptions,
    read: Callable[[ConvertOptions], Reading] | None,
    changes: tuple[Alternative, ...],
) -> Explanation | None:
    """An explanation that holds on all rows, of the network as it is read with the options that say it."""
    keywords = {name: value for one in changes for name, value in one.keywords.items()}
    try:
        net = reading.net
        if read is not None and keywords:
            net = read(dataclasses.replace(options, **keywords)).net
        for one in changes:
            if read is None or one.option is None:
                net = one.change(net)
        net.require_valid()
        agreement = compare(expected, net, lower(net).packed)
    except XnorinferError:
        return None
    return Explanation(changes, agreement) if agreement.holds else None


def exact_form(given: Answers, net: Net, packed: PackedModel, agreement: Agreement) -> str | None:
    """The order of BatchNorm's operations (`Norm.form`) that gives every answer bit for bit, where the network's does not.

    agreement: of the packed network, which holds: such orders differ in the last bits of float32, which rounding explains.
    """
    scored, per = agreement.compared == "scores", given.per_class(net)
    if agreement.holds and (scored or agreement.different) and not _is_exact(given, packed, scored, per):
        return next((one.value for one in forms(net) if _is_exact(given, lower(one.change(net)).packed, scored, per)), None)
    return None


def _is_exact(given: Answers, packed: PackedModel, scored: bool, per: int) -> bool:
    """Whether a packed network gives every class that is given, and every score."""
    scores = in_rows(Model(packed).scores(inputs_of(packed.input, packed.shape, given.x)))
    return bool((scores == given.values).all() if scored else (best_of(scores, per) == given.classes_of(per)).all())


class _Trial:
    """Readings, tried on few rows: those where the first reading is wrong before others."""

    def __init__(self, expected: Answers, net: Net) -> None:
        self.expected = expected
        self.per = expected.per_class(net)
        self.net = net
        # Those of a convolution count at every place.
        places = (math.prod(value.shape[:-1]) for value in values_of(net))
        weights = (node.op.weight.size if isinstance(node.op, Linear) else 0 for node in net.nodes)
        self.weights = sum(count * number for count, number in zip(places, weights, strict=True))
        self.nearest: tuple[Explanation, int, int] | None = None
        few = np.arange(min(len(expected.x), 4 * MORE_ROWS))
        right = self._right(net, few)
        order = few if right is None else np.concatenate([few[~right], few[right]])
        wrong = 0 if right is None else int((~right).sum())
        # Half of the rows are those where the first reading is right, if there are so many.
        half = order[: max(MORE_ROWS // 2, MORE_ROWS - (len(order) - wrong))]
        rest = order[max(wrong, len(half)) :]
        self.rows = np.concatenate([half, rest])[:MORE_ROWS]
        self.equal = 0 if right is None else int(right[self.rows].sum())

    def _right(self, net: Net, rows: NDArray[Any]) -> NDArray[np.bool_] | None:
        """Rows whose class is the expected one; None where these cannot be inputs of the network."""
        try:
            x = inputs_of(net.input, net.shape, self.expected.x[rows])
        except InputError:
            return None
        with np.errstate(all="ignore"):
            found = best_of(forward(net, x), self.per) == self.expected.classes_of(self.per)[rows]
        return np.asarray(found.all(axis=1))

    def fitting(self, changes: tuple[Alternative, ...]) -> int | None:
        """In how many rows a changed network gives the expected class, if that is better and in all but a few, which rounding
        may decide; else None."""
        try:
            net = self.net
            for one in changes:
                net = one.change(net)
            net.require_valid()
            right = self._right(net, self.rows[:FIRST_ROWS])
            if right is None or (~right).sum() > 1:
                return None
            right = self._right(net, self.rows)
        except NetworkError:
            return None
        assert right is not None
        equal = int(right.sum())
        if equal > max(self.equal, self.nearest[1] if self.nearest else 0):
            self.nearest = (Explanation(changes, Agreement("", len(right))), equal, len(right))
        return equal if equal > self.equal and len(right) - equal <= max(1, int(SPARED * len(right))) else None


def _others(net: Net, options: ConvertOptions, x: NDArray[Any]) -> list[Alternative]:
    """Every other usual reading; an option that was given is one that the user may have wrong, too."""
    possible = (one for one in every(net) if "input" not in one.keywords or _can_be(one.keywords["input"], net, x))
    return [one if options.net is None else one.in_toml for one in possible]


def _can_be(mapping: InputMapping, net: Net, x: NDArray[Any]) -> bool:
    """Whether rows can be inputs under a mapping; only floats are real ones."""
    try:
        inputs_of(mapping, net.shape, x[:MORE_ROWS])
    except InputError:
        return False
    return not isinstance(mapping, RealInput) or x.dtype.kind == "f"
