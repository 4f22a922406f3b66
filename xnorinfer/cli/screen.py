"""What the commands have in common on the screen: results on stdout, progress on stderr, tables that survive a pipe.

With --json stdout holds one JSON object and nothing else; warnings are then on stderr.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from xnorinfer.cli.layout import fitted, wrapped
from xnorinfer.oneline import one_line

#: Columns of a table: heading, and whether numbers stand in it (aligned right).
Columns: TypeAlias = Iterable[tuple[str, bool]]

#: Advance a progress bar by so many units.
Advance: TypeAlias = Callable[[int], None]

#: Seconds of work before a progress bar appears; quick work shows none.
PATIENCE_SECONDS = 0.4

#: Files and pipes have no width, whatever COLUMNS says: a line stays one line, for grep, and a path stays whole.
PIPE_WIDTH = 1_000_000


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: names from files are never taken for markup."""
    plain = _Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)
    if not plain.file.isatty():  # not rich's judgement, which FORCE_COLOR changes
        plain.width = PIPE_WIDTH
    return plain


#: Whether stdout is for JSON alone.
_json_only = False


@contextlib.contextmanager
def json_only() -> Iterator[None]:
    """Nothing for people on stdout, for the block."""
    global _json_only
    before, _json_only = _json_only, True
    try:
        yield
    finally:
        _json_only = before


def give(result: Any) -> None:
    """A result as JSON on stdout; numbers that JSON lacks (infinite, NaN) are null."""
    click.echo(json.dumps(_finite(result), indent=2, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print(text: str, style: str = "", *, lead: str = "", later: str = "", stderr: bool = False) -> None:
    """Wrapped at words on a terminal; one that is longer than it is the terminal's to break, and stays whole when copied.

    lead: what the text begins with, as a warning does.  later: what further lines begin with.
    """
    if _json_only and not stderr:
        return
    out = console(stderr=stderr)
    lines = wrapped(lead + one_line(text), out.width, later=later)
    shown = "\n".join(lines)
    out.print(Text.assemble((shown[: len(lead)], "bold yellow"), (shown[len(lead) :], style)), overflow="ignore", crop=False)


def say(text: str, style: str | None = None, *, later: str = "") -> None:
    """One line on stdout, wrapped at words on a terminal.  later: what further lines begin with."""
    _print(text, style or "", later=later)


def command(text: str) -> None:
    """A command line with a prompt before it; on a terminal it goes on in lines that can be copied together."""
    lines = fitted([one_line(text)], console().width - 2, "  ")
    for line in ["$ " + lines[0].lstrip(), *lines[1:]]:
        if not _json_only:
            console().print(Text(line, "cyan"), overflow="ignore", crop=False)


def heading(text: str) -> None:
    """A heading with an empty line before it."""
    _print("")
    _print(text, "bold")


def warn(text: str) -> None:
    """A warning, on stdout because it belongs to the result; with --json, which has it, too, on stderr."""
    _print(text, lead="warning: ", later="  ", stderr=_json_only)


def width() -> int:
    """Columns of stdout; of what is no terminal as many as one likes."""
    return console().width


def lines(texts: Iterable[str], style: str = "") -> None:
    """Lines on stdout as they are."""
    if not _json_only:
        console().print(Text("\n".join(texts), style), overflow="ignore", crop=False)


def table(columns: Columns, rows: Iterable[Iterable[str | Text]]) -> None:
    """A table on stdout.  Cells of text wrap between words and numbers stay whole; what is too wide for the terminal even so is
    shown row by row, a line for each cell.  Nothing is cut off."""
    if _json_only:
        return
    columns, cells = list(columns), _texts(rows)
    out = console()
    least, most = zip(
        *(_widths(name, number, [row[at] for row in cells]) for at, (name, number) in enumerate(columns)), strict=True
    )
    room = out.width - COLUMN_GAP * (len(columns) - 1)
    if sum(least) > room:
        _print_rows(out, columns, cells)
        return
    made = [
        Column(name, justify="right" if number else "left", overflow="fold", width=width)
        for (name, number), width in zip(columns, _shared(least, most, room), strict=True)
    ]
    grid = Table(*made, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for row in cells:
        grid.add_row(*row)
    out.print(grid)


#: Between the columns of a table.
COLUMN_GAP = 2


def _texts(rows: Iterable[Iterable[str | Text]]) -> list[list[Text]]:
    return [[cell if isinstance(cell, Text) else Text(one_line(cell)) for cell in row] for row in rows]


def fits(columns: Columns, rows: Iterable[Iterable[str | Text]]) -> bool:
    """Whether a table stands on stdout without a cell that wraps."""
    columns, cells = list(columns), _texts(rows)
    most = [max(_widths(name, True, [row[at] for row in cells])) for at, (name, _) in enumerate(columns)]
    return sum(most) + COLUMN_GAP * (len(columns) - 1) <= console().width


def _widths(name: str, number: bool, cells: Iterable[Text]) -> tuple[int, int]:
    """The width at which no word of a column breaks, and no number; and the one at which nothing wraps."""
    whole = [name, *(cell.plain for cell in cells)]
    words = [*name.split(), *(whole[1:] if number else " ".join(whole[1:]).split())]
    return max(map(cell_len, words), default=0), max(map(cell_len, whole))


def _shared(least: Sequence[int], most: Sequence[int], room: int) -> list[int]:
    """Widths of columns: room beyond what they need at least goes to those that want little first."""
    widths = list(least)
    left = room - sum(least)
    order = sorted(range(len(least)), key=lambda index: most[index] - least[index])
    for done, index in enumerate(order):
        more = min(most[index] - least[index], left // (len(order) - done))
        widths[index] += more
        left -= more
    return widths


def _print_rows(out: Console, columns: list[tuple[str, bool]], rows: Iterable[list[Text]]) -> None:
    """Each row as its first cell, and the others below with their headings."""
    longest = max((len(name) for name, _ in columns[1:]), default=0)
    for row in rows:
        title = row[0].plain if len(columns) == 2 else f"{columns[0][0]} {row[0].plain}"
        out.print(Text("\n".join(wrapped(title, out.width)), "bold"), overflow="ignore", crop=False)
        for (name, _), cell in zip(columns[1:], row[1:], strict=True):
            lead = "  " if len(columns) == 2 else f"  {name.ljust(longest)}  "
            lines = wrapped(cell.plain, out.width, lead, " " * len(lead))
            out.print(Text("\n".join(lines), cell.style), overflow="ignore", crop=False)


@contextlib.contextmanager
def progress(what: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on stderr for the block, if that is a terminal and the work is not quick."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda units: None
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=out, transient=True
    )
    task = bar.add_task(what, total=total)
    begin = time.monotonic()

    def advance(units: int) -> None:
        bar.advance(task, units)
        if not bar.live.is_started and time.monotonic() - begin > PATIENCE_SECONDS:
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """A spinner on stderr for work of unknown length, if that is a terminal."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield
        return
    with out.status(Text(what)):
        yield


def time_text(seconds: float) -> str:
    """A duration for people: '12.3 us', '4.56 ms', '1.2 s'."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}" if seconds * factor < 100 else f"{seconds * factor:.0f} {unit}"
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def shape_text(shape: Iterable[Any]) -> str:
    """(256, 784) -> '256 x 784'; a single number -> 'scalar'."""
    return " x ".join(str(n) for n in shape) or "scalar"


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, int, int], None]]:
    """Like `progress` for work in several stages: the function takes (what, done, total)."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda what, done, total: None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=out, transient=True) as bar:
        tasks: dict[str, TaskID] = {}
        first = bar.add_task("preparing (the first use compiles kernels)", total=None)

        def report(what: str, done: int, total: int) -> None:
            if not tasks:
                bar.remove_task(first)
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield report
