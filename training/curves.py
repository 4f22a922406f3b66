"""Training curves as an SVG picture, drawn from the histories that the `mnist` command writes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from xnorinfer.errors import InputError

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 44
#: Okabe & Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
#: Errors in percent that get a line and a number.
TICKS = (0.5, 1, 2, 5, 10, 20, 50)


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


def draw(curves: list[Curve]) -> str:
    """An SVG document: validation error (logarithmic) over epochs, one line for each run."""
    epochs = max(len(curve.errors) for curve in curves)
    low = min(0.9 * min(min(curve.errors) for curve in curves), 1.0)
    low, high = max(low, 0.01), max(2.0, *(max(curve.errors) for curve in curves))

    def across(epoch: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(epochs - 1, 1)

    def down(error: float) -> float:
        share = (math.log(max(error, low)) - math.log(low)) / (math.log(high) - math.log(low))
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * share

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for tick in TICKS:
        if low <= tick <= high:
            y = down(tick)
            parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
            parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g} %</text>')
    step = max(1, 10 ** math.floor(math.log10(epochs)) // 2)
    parts.extend(
        f'<text x="{across(epoch):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{epoch}</text>'
        for epoch in sorted({1, *range(step, epochs + 1, step)})
    )
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>')
    parts.append(f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">validation error</text>')
    for index, curve in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        points = " ".join(f"{across(epoch):.1f},{down(error):.1f}" for epoch, error in enumerate(curve.errors, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        y = TOP + 14 + 18 * index
        parts.append(f'<path d="M{WIDTH - RIGHT - 24} {y - 4}h24" stroke="{colour}" stroke-width="3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT - 32}" y="{y}" text-anchor="end">{escape(curve.label)}</text>')
    return "\n".join([*parts, "</svg>", ""])
