"""`info --svg`: a packed network as a picture, a box for each layer in the lane of its value, lines from box to box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from xnorinfer.budget import size_text
from xnorinfer.cli.lanes import Row
from xnorinfer.cli.layerlist import gives_text, kind_text, rate_text, reached_text, reads_text, rows_of
from xnorinfer.cli.screen import shape_text, time_text
from xnorinfer.graph import INPUT
from xnorinfer.oneline import one_line

if TYPE_CHECKING:
    from xnorinfer.speed.layertimes import NodeTime, Profile

#: Pixels: from lane to lane, from row to row, a box, and around everything.
ACROSS, DOWN, WIDTH, HEIGHT, MARGIN = 280, 84, 250, 62, 24
#: Characters that a box has room for.
ROOM = 32

_STYLE = """\
text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #1b1f24 }
.name { font-weight: bold }
.edge { fill: none; stroke: #59636e; stroke-width: 1.5 }
rect { stroke: #59636e; fill: #eef1f4 }
.binary rect { fill: #cfe3ff }
.float rect { fill: #ffe2c2 }
.bits rect { fill: #d6f5d6 }
rect.network { fill: #fff; stroke: none }
g rect.share { fill: #cf222e; stroke: none }"""
_ARROW = (
    '<marker id="arrow" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0L8 4L0 8z" fill="#59636e"/></marker>'
)


def picture(info: dict[str, Any], profile: Profile | None = None) -> str:
    """SVG of a packed network (`Model.info`); with a profile each box says how long it takes, and a bar which share."""
    layers = info["layers"]
    reads = [layer.get("from", [index - 1]) for index, layer in enumerate(layers)]
    rows = rows_of(info)
    lane = {INPUT: 0, **{index: row.lane for index, row in enumerate(rows)}}
    times: Sequence[NodeTime | None] = (
        [None] * len(layers) if profile is None else profile.nodes[len(profile.nodes) - len(layers) :]
    )
    across = MARGIN * 2 + ACROSS * (max(row.width for row in rows) - 1) + WIDTH
    down = MARGIN * 2 + DOWN * len(layers) + HEIGHT
    title = f"{info['inputs']} inputs, {info['classes']} classes, {size_text(info['packed_bytes'])}"
    source = shape_text(info.get("shape", [info["inputs"]]))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{across}" height="{down}" viewBox="0 0 {across} {down}">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_STYLE}\n</style>",
        f'<rect class="network" width="{across}" height="{down}"/>',
        f"<defs>{_ARROW}</defs>",
        *_edges(rows, reads, lane),
        *_box(INPUT, 0, "input", ["the input", source], f"the input: {info['input_meaning']}"),
    ]
    for index, (row, layer, time) in enumerate(zip(rows, layers, times, strict=True)):
        name = one_line(layer["name"])
        said = size_text(layer["packed_bytes"]) if layer["packed_bytes"] else ""
        details = [name, f"{kind_text(layer)} of {reads_text(layer)}", f"gives {gives_text(layer)}"]
        details.append(f"{size_text(layer['gives_bytes'])} of values, {size_text(layer['packed_bytes'])} packed")
        share = None
        if time is not None and profile is not None:
            share = profile.share(time)
            said = f"{time_text(time.timing.median / profile.batch)}, {share:.0%}"
            details.append(f"{said} of all layers, {rate_text(time)}, of roofline {reached_text(time)}")
        kind = f"{kind_text(layer)}{', ' if said else ''}{said}"
        parts += _box(index, row.lane, layer["kind"], [name, kind, gives_text(layer)], "\n".join(details), share)
    return "\n".join([*parts, "</svg>", ""])


def _left(lane: int) -> int:
    return MARGIN + ACROSS * lane


def _middle(lane: int) -> int:
    return _left(lane) + WIDTH // 2


def _top(index: int) -> int:
    return MARGIN + DOWN * (index + 1)


def _edges(rows: Sequence[Row], reads: Sequence[Sequence[int]], lane: dict[int, int]) -> Iterator[str]:
    """Down the lane of a value, then across to the box that reads it."""
    for index, numbers in enumerate(reads):
        to = rows[index].lane
        for read in dict.fromkeys(numbers):
            begin, at = _top(read) + HEIGHT, lane[read]
            if at == to:
                path = f"M{_middle(at)} {begin}V{_top(index)}"
            else:
                path = f"M{_middle(at)} {begin}V{_top(index) + HEIGHT // 2}H{_left(to) + WIDTH * (at > to)}"
            yield f'<path class="edge" marker-end="url(#arrow)" d="{path}"/>'


def _box(index: int, lane: int, kind: str, texts: Sequence[str], details: str, share: float | None = None) -> Iterator[str]:
    left, top = _left(lane), _top(index)
    yield f'<g class="{escape(kind)}"><title>{escape(details)}</title>'
    yield f'<rect x="{left}" y="{top}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
    if share is not None:
        yield f'<rect class="share" x="{left}" y="{top + HEIGHT - 4}" width="{WIDTH * share:.1f}" height="4"/>'
    for line, text in enumerate(texts):
        kept = text if len(text) <= ROOM else f"{text[: ROOM - 3]}..."
        name = ' class="name"' if line == 0 else ""
        yield f'<text{name} x="{left + 8}" y="{top + 18 + 16 * line}">{escape(kept)}</text>'
    yield "</g>"
