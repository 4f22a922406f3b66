"""Training curves as an SVG picture, drawn from the histories that the `mnist` command writes."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from xnorinfer.errors import InputError, MissingExtraError

#: Okabe & Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
#: Errors in percent that get a line and a number.
TICKS = (0.5, 1, 2, 5, 10, 20, 50)
#: The least error in percent that is drawn.
LEAST = 0.01


@dataclass(frozen=True)
class Curve:
    """One training run: validation errors in percent, epoch by epoch."""

    label: str
    errors: tuple[float, ...]


def read_history(path: Path) -> Curve:
    """The curve of a `.history.json`.  Raises InputError if it is something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        errors = tuple(100 * float(epoch["validation_error"]) for epoch in content["epochs"])
        recipe, shape, summary = content["recipe"], content["shape"], content["summary"]
        label = (
            f"{summary['network']}, dropout {shape['dropout_input']:g} and {shape['dropout_hidden']:g}, "
            f"{recipe['epochs']} epochs: test error {100 * summary['test_error']:.2f} %"
        )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is no training history, which `mnist` writes as OUT.history.json ({error})") from error
    if not errors or not all(0 <= error <= 100 for error in errors):
        raise InputError(f"{path}: holds no validation errors from 0 to 1")
    return Curve(label, errors)


def draw(curves: list[Curve]) -> bytes:
    """An SVG document: validation error (logarithmic) over epochs, one line for each run; text stays text, and the same curves
    with the same matplotlib give the same bytes.

    Raises MissingExtraError without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
        from matplotlib.ticker import NullFormatter
    except ImportError:
        raise MissingExtraError("drawing curves", "matplotlib", "train") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for index, curve in enumerate(curves):
        # An error of 0 has no logarithm; the line goes down to the edge.
        heights = [max(error, LEAST) for error in curve.errors]
        axes.plot(range(1, len(heights) + 1), heights, color=COLOURS[index % len(COLOURS)], label=curve.label)
    least = min(0.9 * min(min(curve.errors) for curve in curves), 1.0)
    axes.set(xlabel="epoch", ylabel="validation error", yscale="log")
    axes.set_yticks(TICKS, [f"{tick:g} %" for tick in TICKS])
    axes.set_ylim(max(least, LEAST), max(2.0, *(max(curve.errors) for curve in curves)))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    stream = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "xnorinfer"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()
