"""A program's answers against the exact reference, each difference explained by rounding or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.netspec import NetSpec
from xnorinfer.programs.base import Program
from xnorinfer.programs.rounding import Bounded, RoundedNet
from xnorinfer.reference import layer_outputs

Progress = Callable[[str, int, int], None]
F64 = NDArray[np.float64]

#: Samples computed at once.
ROWS = 256
#: So many unexplained samples say that it is another network: no explanation is searched for the others that do not agree.
ENOUGH = 20
#: Classes that rounding decides at most: so many, or this share.
FEW, SHARE = 3, 0.03


@dataclass
class ProgramRun:
    """What the file answers when its framework runs it, against the exact reference.

    compared: what was, "scores", "softmax" or "log_softmax" of them, or "classes" where the program gives only those.
    different: samples whose class differs; by_rounding: those of them that rounding explains.  other_bits: samples that agree
    once bits next to a tie are taken otherwise.  unexplained: samples whose answer no rounding explains, whether the class
    differs or only a score.  largest_score_difference: of scores, among samples that agree with the bits as they are.
    """

    framework: str
    version: str
    compared: str = "classes"
    original: bool = True
    program: bool = True
    rows: int = 0
    different: int = 0
    by_rounding: int = 0
    other_bits: int = 0
    unexplained: int = 0
    largest_score_difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the classes are the reference's, but for a few that rounding explains."""
        return decided_by_rounding(self.rows, self.different, self.by_rounding)

    def to_json(self) -> dict[str, Any]:
        """Everything, JSON-able."""
        return asdict(self)


def decided_by_rounding(rows: int, different: int, by_rounding: int) -> bool:
    """Whether rounding explains every class that differs.

    It decides one in hundreds; where it would have to decide more, all scores lie at ties, and the answers say nothing.
    """
    return different == by_rounding <= max(FEW, SHARE * rows)


def run_program(
    program: Program, net: NetSpec, x: NDArray[Any], report: Progress = lambda what, done, total: None
) -> ProgramRun:
    """Run raw inputs x (rows, depth) in a program and compare.  Raises NotRunnable."""
    result = ProgramRun(program.framework, program.version)
    rounded = RoundedNet(net)
    what = f"running {program.framework}"
    for start in range(0, len(x), ROWS):
        report(what, start, len(x))
        rows = x[start : start + ROWS]
        answer = program.run(rows)
        if start == 0:
            result.compared = kind_of(answer)
        compare_rows(result, rounded, rows, answer)
    report(what, len(x), len(x))
    return result


def kind_of(answer: NDArray[Any]) -> str:
    """What answers are, as far as their values tell: see `ProgramRun.compared`."""
    if answer.ndim == 1:
        return "classes"
    with np.errstate(over="ignore"):
        sums = {"softmax": answer.sum(axis=1), "log_softmax": np.exp(answer.astype(np.float64)).sum(axis=1)}
    signs = {"softmax": (answer >= 0).all(), "log_softmax": (answer <= 0).all()}
    return next((name for name in sums if signs[name] and np.allclose(sums[name], 1, atol=1e-4)), "scores")


def compare_rows(result: ProgramRun, rounded: RoundedNet, x: NDArray[Any], answer: NDArray[Any]) -> None:
    """Count how answers of the kind `result.compared` to raw inputs x (rows, depth) compare with the reference."""
    outputs = [value for _, value in layer_outputs(rounded.net, x)]
    wanted = outputs[-1].argmax(axis=1)
    different = (answer if answer.ndim == 1 else answer.argmax(axis=1)) != wanted
    exact = rounded.finish(outputs[rounded.last_sign]) if rounded.last_sign >= 0 else next(rounded.tried(x))
    fits = agree(result.compared, exact, answer)
    result.rows += len(x)
    result.different += int(different.sum())
    for row in np.flatnonzero(~fits):
        ways = rounded.tried(x[row : row + 1]) if result.unexplained < ENOUGH else ()
        if any(agree(result.compared, way, answer[row : row + 1])[0] for way in ways):
            result.other_bits += 1
            result.by_rounding += int(different[row])
        else:
            result.unexplained += 1
    result.by_rounding += int((different & fits).sum())
    if result.compared == "scores" and fits.any():
        distance = float(np.abs(answer[fits].astype(np.float64) - outputs[-1][fits]).max())
        result.largest_score_difference = max(result.largest_score_difference or 0.0, distance)


def agree(kind: str, ours: Bounded, answer: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether an answer lies within the rounding of scores, sample by sample."""
    value, error = ours.value, ours.error
    if kind == "classes":
        rows = np.arange(len(answer))
        return np.asarray((value + error)[rows, answer] >= (value - error).max(axis=1))
    theirs = answer.astype(np.float64)
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
