"""The picture of the README, `python -m benchmarks.overview -o docs/overview.svg`: accuracy, size and time beside others.

Every number comes from the committed results: the cards of the networks that ship, and `benchmarks/results`.
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
INSTALLED, FASTER = "epyc-zen5-2-cores.json", "epyc-zen5-2-cores-avx512-blas.json"
NETWORKS = {"mnist-784-1024x3": "784-1024x3-10", "mnist-conv": "convolutional"}
LAYER = "hidden layer 4096x4096, 256 rows"
REFERENCE = "784-4096-4096-4096-10"
OTHERS = "#999999"

#: A label, its value, and whether it is ours; None leaves a gap.
Bar = tuple[str, float, bool] | None


def results(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of a file, by what was measured against whom."""
    rows = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
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


def layer_times() -> list[Bar]:
    """Microseconds a row of a hidden layer: this and other engines."""
    installed, faster = results(INSTALLED), results(FASTER)
    ours = installed[LAYER, "numpy float32"]["ours"]
    return [
        ("float32 numpy, OpenBLAS", 1e6 * installed[LAYER, "numpy float32"]["theirs"], False),
        ("the same with AVX-512", 1e6 * faster[LAYER, "numpy float32"]["theirs"], False),
        ("int8 PyTorch", 1e6 * installed[LAYER, "torch int8 _int_mm"]["theirs"], False),
        ("1 bit NumKong", 1e6 * installed[LAYER, "NumKong hammings_packed"]["theirs"], False),
        ("xnorinfer", 1e6 * ours, True),
    ]


def network_times() -> list[Bar]:
    """Microseconds a sample of the reference network, from pixels to scores."""
    bars: list[Bar] = []
    for batch in (1, 256):
        row = results(INSTALLED)[f"{REFERENCE}, batch {batch}, 1 threads", "numpy float32"]
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


def draw(path: Path) -> None:
    """Write the picture, text as text; the same file for the same results and the same matplotlib."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "xnorinfer"}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        (left_top, right_top), (left, right) = figure.subplots(2, 2)
        panel(left_top, "Accuracy, MNIST's 10,000 test images", accuracy(), percent)
        panel(right_top, "Size of the weights", sizes(), megabytes)
        panel(left, f"Time of a row, {LAYER}, 1 thread", layer_times(), microseconds)
        panel(right, f"Time of a sample, {REFERENCE}, 1 thread", network_times(), microseconds)
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overview", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the picture, OUT.svg")
    draw(parser.parse_args().output)
