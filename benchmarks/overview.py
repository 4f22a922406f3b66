"""The picture of the README, `python -m benchmarks.overview -o docs/overview.svg`: accuracy, size and time beside others.

Every number comes from the committed results: the cards of the networks that ship, and `benchmarks/results`; times from others
with `--results FILE`, the JSON that `python -m benchmarks.table --output PLACE` wrote.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.picture import COLOUR
from xnorinfer import shipped

RESULTS = Path(__file__).parent / "results"
#: As BLAS comes, and told to use all that the processor has.
INSTALLED, FASTER = RESULTS / "epyc-zen5-2-cores.json", RESULTS / "epyc-zen5-2-cores-avx512-blas.json"
NETWORKS = {"mnist-784-1024x3": "784-1024x3-10", "mnist-conv": "convolutional"}
LAYER = "hidden layer 4096x4096, 256 rows"
REFERENCE = "784-4096-4096-4096-10"
OTHERS = "#999999"

#: Rows of results by what was measured against whom.
Rows = dict[tuple[str, str], dict[str, Any]]
#: A label, its value, and whether it is ours; None leaves a gap.
Bar = tuple[str, float, bool] | None


def results(path: Path) -> Rows:
    """The rows of a file, by what was measured against whom."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["what"], row["peer"]): row for row in rows}


def accuracy() -> list[Bar]:
    """Percent of MNIST's test images, the trained network and the packed one."""
    bars: list[Bar] = []
    for name, title in NETWORKS.items():
        card = shipped.card(name)["accuracy"]
        for who, key in (("PyTorch", "framework_correct"), ("packed", "packed_correct")):
            bars.append((f"{title}, {who}", 100 * card[key] / card["images"], who == "packed"))
        bars.append(None)
    return bars[:-1]


def sizes() -> list[Bar]:
    """MB of the same networks; a weight in int8 takes a byte, a quarter of float32."""
    bars: list[Bar] = []
    for name, title in NETWORKS.items():
        size = shipped.card(name)["size"]
        whole = size["float32_bytes"] / 1e6
        bars += [(f"{title}, float32", whole, False), ("int8", whole / 4, False), ("packed", size["packed_bytes"] / 1e6, True)]
        bars.append(None)
    return bars[:-1]


def layer_times(installed: Rows, faster: Rows) -> list[Bar]:
    """Microseconds a row of a hidden layer: this and the other engines that were measured.  faster: with all that BLAS has."""
    rows = [
        ("float32 numpy, OpenBLAS", installed.get((LAYER, "numpy float32"))),
        ("the same with AVX-512", faster.get((LAYER, "numpy float32"))),
        ("int8 PyTorch", installed.get((LAYER, "torch int8 _int_mm"))),
        ("1 bit NumKong", installed.get((LAYER, "NumKong hammings_packed"))),
    ]
    bars: list[Bar] = [(label, 1e6 * row["theirs"], False) for label, row in rows if row is not None]
    return [*bars, ("xnorinfer", 1e6 * installed[LAYER, "numpy float32"]["ours"], True)]


def network_times(installed: Rows) -> list[Bar]:
    """Microseconds a sample of the reference network, from pixels to scores."""
    bars: list[Bar] = []
    for batch in (1, 256):
        row = installed[f"{REFERENCE}, batch {batch}, 1 threads", "numpy float32"]
        bars += [(f"batch {batch}, float32 numpy", 1e6 * row["theirs"], False), ("xnorinfer", 1e6 * row["ours"], True), None]
    return bars[:-1]


def percent(value: float) -> str:
    return f"{value:.2f} %"


def megabytes(value: float) -> str:
    return f"{value:.3g} MB" if value >= 1 else f"{1000 * value:.3g} kB"


def microseconds(value: float) -> str:
    return f"{float(f'{value:.3g}'):g} us"


def panel(axes: Axes, title: str, bars: Sequence[Bar], text: Callable[[float], str]) -> None:
    """Horizontal bars, each with its number behind it."""
    shown = [(place, bar) for place, bar in enumerate(bars) if bar is not None]
    longest = max(value for _, (_, value, _) in shown)
    for place, (_, value, ours) in shown:
        axes.barh(place, value, color=COLOUR if ours else OTHERS, height=0.8)
        axes.text(value + longest / 50, place, text(value), va="center", fontsize=8, weight="bold" if ours else "normal")
    axes.set_yticks([place for place, _ in shown], [label for _, (label, _, _) in shown], fontsize=8)
    axes.set_xlim(0, 1.25 * longest)
    axes.set_xticks([])
    axes.set_title(title, fontsize=9, loc="left")
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def draw(path: Path, installed: Path = INSTALLED, faster: Path | None = FASTER) -> None:
    """Write the picture, text as text; the same file for the same results and the same matplotlib.  faster: None: without."""
    times, more = results(installed), {} if faster is None else results(faster)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xnorinfer"}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        (left_top, right_top), (left, right) = figure.subplots(2, 2)
        panel(left_top, "Accuracy, MNIST's 10,000 test images", accuracy(), percent)
        panel(right_top, "Size of the weights", sizes(), megabytes)
        panel(left, f"Time of a row, {LAYER}, 1 thread", layer_times(times, more), microseconds)
        panel(right, f"Time of a sample, {REFERENCE}, 1 thread", network_times(times), microseconds)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overview", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, OUT.svg")
    parser.add_argument("--results", type=Path, metavar="FILE.json", help="times of another run, not the committed ones")
    parser.add_argument("--faster", type=Path, metavar="FILE.json", help="of one with all that BLAS has; without, no such bar")
    options = parser.parse_args()
    if options.results is None:
        draw(options.output)
    else:
        draw(options.output, options.results, options.faster)


if __name__ == "__main__":
    main()
