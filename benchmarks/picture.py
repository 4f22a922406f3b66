"""One picture of a table: how many times faster each comparison is, with its range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

COLOUR = "#0072B2"


def draw(ratios: Sequence[tuple[str, float, float, float, bool]], title: str, path: Path) -> None:
    """A line from the least to the most of each ratio, and a point where it is not unstable.

    ratios: (what, least, middle, most, whether it is unstable).
    """
    figure = Figure(figsize=(9, 1 + 0.2 * len(ratios)), layout="constrained")
    axes = figure.subplots()
    for place, (_, low, middle, high, unstable) in enumerate(ratios):
        axes.hlines(place, low, high, color=COLOUR)
        if not unstable:
            axes.plot(middle, place, "o", color=COLOUR)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(ratios)), [what for what, *_ in ratios], fontsize=7)
    axes.set(xscale="log", xlabel="times faster: medians, and lines by the quartiles", title=title)
    axes.margins(y=0.01)
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=150)
