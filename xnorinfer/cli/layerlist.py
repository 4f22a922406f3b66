"""The layers of a packed network on the screen: a table, and beside the names of a network that branches its lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from xnorinfer.budget import size_text
from xnorinfer.cli import screen
from xnorinfer.cli.lanes import Row, lanes_of
from xnorinfer.cli.layout import wrapped
from xnorinfer.oneline import one_line

if TYPE_CHECKING:
    from xnorinfer.speed.layertimes import NodeTime, Profile

UNSTABLE = "unstable"
#: What stands for lines where the screen has ASCII alone.
_PLAIN = str.maketrans("●│─├┤┼┴╯╰", "*|-|||'''")


def show_layers(info: dict[str, Any], profile: Profile | None = None) -> None:
    """The layers of a packed network (`Model.info`) with their sizes, and how long each takes."""
    layers = info["layers"]
    times = [None] * len(layers) if profile is None else profile.nodes[len(profile.nodes) - len(layers) :]
    if branches(info):
        _show_graph(info, times, profile)
    else:
        columns = [
            ("layer", False),
            ("weights", False),
            *((name, True) for name in ("reads", "gives", "packed", "as float32")),
            *([] if profile is None else _TIMES),
        ]
        rows = [
            [
                layer["name"],
                kind_text(layer),
                reads_text(layer),
                gives_text(layer),
                size_text(layer["packed_bytes"]),
                size_text(layer["float32_bytes"]),
                *_time_cells(time, profile),
            ]
            for layer, time in zip(layers, times, strict=True)
        ]
        screen.table(columns, rows)
    smaller = info["float32_bytes"] / info["packed_bytes"]
    packed, as_float = size_text(info["packed_bytes"]), size_text(info["float32_bytes"])
    screen.say(f"{packed} packed, {as_float} as float32: {smaller:.1f} times smaller")
    if profile is not None:
        _show_profile(profile, len(layers))


def kind_text(layer: dict[str, Any]) -> str:
    """'binary', 'float32', 'binary, 3 x 3', 'largest of 2 x 2', 'steps', 'side by side'."""
    kind = {"float": "float32", "bits": "compared", "concat": "side by side"}.get(layer["kind"], layer["kind"])
    window = screen.shape_text(layer["window"]["size"]) if "window" in layer else ""
    if kind == "pool":
        return f"{'largest' if layer['of'] == 'max' else 'average'} of {window}"
    return f"{kind}, {window}" if window else str(kind)


def reads_text(layer: dict[str, Any]) -> str:
    """'576 bits', of one neuron."""
    return f"{layer['inputs']} {layer['reads']}"


def gives_text(layer: dict[str, Any]) -> str:
    """'28 x 28 x 64 reals'."""
    return f"{screen.shape_text(layer.get('shape', [layer['neurons']]))} {layer['gives']}"


def rate_text(node: NodeTime) -> str:
    """Operations a second, 1.53 T, or that there is no such number."""
    if node.timing.unstable:
        return UNSTABLE
    factor, unit = next((pair for pair in ((1e12, "T"), (1e9, "G")) if node.rate >= pair[0]), (1e6, "M"))
    return f"{node.rate / factor:.3g} {unit}"


def reached_text(node: NodeTime) -> str:
    """Which share of the roofline a node reaches, and what bounds it: '61 % binary'."""
    if node.floor is None or node.reached is None:
        return ""
    return UNSTABLE if node.timing.unstable else f"{node.reached:.0%} {node.floor.bound}"


def whole_text(profile: Profile) -> str:
    """The same of the whole run, with the time for which each bounds it; "" where nothing was measured."""
    if profile.reached is None:
        return ""
    parts = ", ".join(f"{floor.bound} {screen.time_text(floor.seconds / profile.batch)}" for floor in profile.floors)
    return f"{profile.reached:.0%} of the roofline: {parts}"


def branches(info: dict[str, Any]) -> bool:
    """Whether some layer reads another value than that of the one before alone."""
    return any("from" in layer for layer in info["layers"])


def rows_of(info: dict[str, Any]) -> list[Row]:
    """Every layer among the lanes."""
    return lanes_of([layer.get("from", [index - 1]) for index, layer in enumerate(info["layers"])])


_TIMES = [("time", True), ("op/s", True), ("share", True), ("of roofline", True)]


def _time_cells(node: NodeTime | None, profile: Profile | None) -> list[str]:
    if node is None or profile is None:
        return []
    return [
        screen.time_text(node.timing.median / profile.batch),
        rate_text(node),
        f"{profile.share(node):.0%}",
        reached_text(node),
    ]


def _show_graph(info: dict[str, Any], times: Sequence[NodeTime | None], profile: Profile | None) -> None:
    """A table where it fits as it is, else two lines or more for each layer."""
    rows, layers = rows_of(info), info["layers"]
    lanes = max(row.width for row in rows)
    plain = _PLAIN if screen.console().options.ascii_only else {}
    names = [one_line(layer["name"]) for layer in layers]
    columns = [
        ("layer", False),
        ("weights", False),
        *((name, True) for name in ("reads", "gives", "its size", "packed", "as float32")),
        *([] if profile is None else _TIMES),
    ]
    cells = [
        [
            f"{row.text(lanes)}  {name}".translate(plain),
            kind_text(layer),
            reads_text(layer),
            gives_text(layer),
            size_text(layer["gives_bytes"]),
            size_text(layer["packed_bytes"]),
            size_text(layer["float32_bytes"]),
            *_time_cells(time, profile),
        ]
        for row, name, layer, time in zip(rows, names, layers, times, strict=True)
    ]
    if screen.fits(columns, cells):
        screen.table(columns, cells)
        return
    for row, name, cell in zip(rows, names, cells, strict=True):
        screen.lines([f"{row.text()}  {name}".translate(plain)], "bold")
        below = f"{row.after()}  ".translate(plain)
        screen.lines(_whole_words(_said(*cell[1:]), below))


def _said(kind: str, reads: str, gives: str, size: str, packed: str, as_float: str, *timed: str) -> Iterator[str]:
    """The cells of a row as text."""
    yield f"{kind} of {reads}"
    yield f"{gives}, {size}"
    if packed != size_text(0):
        yield f"packed {packed}, float32 {as_float}"
    if timed:
        time, rate, share, reached = timed
        yield f"{time}, {share}, {rate if rate == UNSTABLE else f'{rate}op/s, of roofline {reached}'}"


def _whole_words(texts: Iterable[str], begin: str) -> list[str]:
    """Lines for the screen that begin so and break between what commas and semicolons part."""
    joined = "; ".join(text.replace(" ", "\0").replace(",\0", ", ") for text in texts)
    return [line.replace("\0", " ") for line in wrapped(joined, screen.width(), begin, begin)]


def _show_profile(profile: Profile, layers: int) -> None:
    """What the whole run takes, and what stands before the layers."""
    before = "".join(
        f", {screen.time_text(node.timing.median / profile.batch)} for {node.name}"
        for node in profile.nodes[: len(profile.nodes) - layers]
    )
    screen.say(
        f"Times of one sample, {profile.threads} thread{'s' * (profile.threads > 1)}, each layer called by itself: "
        f"{screen.time_text(profile.sum / profile.batch)} together{before}; "
        f"the whole run {screen.time_text(profile.whole.median / profile.batch)}, {whole_text(profile)}.  "
        "op/s: 2 for a multiply-accumulate.  Roofline: what this core does at most, of such operations "
        "or of bytes of such a cache."
    )
