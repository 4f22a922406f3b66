"""Draws a benchmark: time per sample, and how much faster than float32, against the batch size."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer.errors import MissingExtraError, OptionError
from xnorinfer.files import write_bytes
from xnorinfer.speed.benchmark import Report
from xnorinfer.speed.timing import Timing

FORMATS = (".png", ".svg", ".pdf")

#: One colour a thread count, in the order of the report (Okabe and Ito's, which colour-blind people tell apart).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def require_drawable(path: Path) -> None:
    """Raise OptionError for a file type that is not drawn, MissingExtraError without matplotlib."""
    if path.suffix.lower() not in FORMATS:
        raise OptionError(f"--plot {path}: ends in {path.suffix or 'nothing'}; needed is one of {', '.join(FORMATS)}")
    _figure_class()


def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("drawing a benchmark", "matplotlib", "bench") from None
    return Figure


def draw(report: Report, path: Path) -> None:
    """Write the drawing of a report, complete or not at all.  Raises OutputError and what `require_drawable` raises."""
    require_drawable(path)
    figure = _figure_class()(figsize=(10, 4.2), layout="constrained")
    times, ratio = figure.subplots(1, 2)
    counts = tuple(dict.fromkeys(case.threads for case in report.cases))
    for colour, threads in zip((COLOURS * len(counts))[: len(counts)], counts, strict=True):
        cases = sorted((case for case in report.cases if case.threads == threads), key=lambda case: case.batch)
        label = f"{threads} thread{'s' * (threads > 1)}"
        batches = [case.batch for case in cases]
        theirs, ours = ([case.baseline.timing for case in cases], [case.packed for case in cases])
        _draw_times(times, batches, theirs, fmt="s--", color=colour, alpha=0.6, label=f"fastest other, {label}")
        _draw_times(times, batches, ours, fmt="o-", color=colour, label=f"xnorinfer, {label}")
        # An unstable ratio is a range without a point.
        ratio.plot(batches, [case.speedup or math.nan for case in cases], "o-", color=colour, label=label)
        ratio.vlines(batches, *zip(*(case.range_over(case.baseline) for case in cases), strict=True), color=colour, alpha=0.5)
    times.set(ylabel="microseconds per sample", title="Time per sample, packing included", yscale="log")
    ratio.set(ylabel="times faster", title="Against the fastest other, same threads", ylim=(0, None))
    for axes in (times, ratio):
        axes.set(xlabel="batch size", xscale="log")
        axes.set_xticks(sorted({case.batch for case in report.cases}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(_no_ticks())
        axes.grid(alpha=0.3)
        axes.legend()
    around = report.environment
    figure.suptitle(f"{report.model} on {around['cpu']}, kernel {report.kernel}, BLAS {around['blas_in_use']}", fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:].lower(), dpi=150)
    write_bytes(path, stream.getvalue())


def _draw_times(axes: Any, batches: list[int], timings: list[Timing], **style: Any) -> None:
    """Microseconds per sample, the quartiles as bars."""
    low, median, high = (
        np.array([getattr(timing, name) for timing in timings]) / batches * 1e6 for name in ("low", "median", "high")
    )
    axes.errorbar(batches, median, (median - low, high - median), capsize=2, **style)


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
