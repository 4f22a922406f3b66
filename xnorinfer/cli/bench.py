"""`xnorinfer bench`: time a model against the same network in float32 numpy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from xnorinfer.cli import screen
from xnorinfer.cli.layerlist import rate_text, reached_text, whole_text
from xnorinfer.cli.options import MODEL, Counts

if TYPE_CHECKING:
    from xnorinfer.speed.benchmark import Case, Report, Side
    from xnorinfer.speed.layertimes import Profile
    from xnorinfer.speed.timing import Timing

EPILOG = """\b
Examples:
  xnorinfer bench mnist.safetensors
  xnorinfer bench mnist.safetensors --batch 1,256 --threads 1 --json times.json
  xnorinfer bench mnist.safetensors --batch 256 --threads 1 --profile
  xnorinfer bench mnist.safetensors --batch 1,64 --threads 1 --peers
  xnorinfer bench mnist.safetensors --batch 1,4,16,64,256,1024 --plot times.png
"""


@click.command("bench", epilog=EPILOG)
@MODEL
@click.option("--batch", "batches", type=Counts(), default="1,16,256,1024", show_default=True, help="Batch sizes.")
@click.option(
    "--threads",
    type=Counts(),
    help="Thread counts, for both sides (needs threadpoolctl: pip install 'xnorinfer[bench]').  [default: 1 and all cores]",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.01), default=2.0, show_default=True, help="Time for each line of the table."
)
@click.option(
    "--profile", "layers", is_flag=True, help="Also time every layer by itself: operations a second, share of the time."
)
@click.option(
    "--peers",
    is_flag=True,
    help="Also time the network in PyTorch, ONNX Runtime (float32 and int8) and OpenVINO, and compare with the fastest; those "
    "that are not installed are named (pip install 'xnorinfer[peers]').",
)
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.png", help="Draw the table (needs matplotlib).")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path),
    is_flag=False,
    flag_value="-",
    metavar="[OUT]",
    help="All numbers as one JSON object on stdout, and nothing else; or written to a file, with the tables on stdout.",
)
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    batches: tuple[int, ...],
    threads: tuple[int, ...] | None,
    seconds: float,
    layers: bool,
    peers: bool,
    plot: Path | None,
    json_file: Path | None,
) -> None:
    """Time a model against the same network in float32 numpy.

    Times are end to end per sample: from uint8 pixels (packing included) to classes.  The float network has the same
    weights as -1/+1 in float32 and computes matmul, affine and sign with equal threads, or with one where that is faster.
    Runs alternate.  Shown are the median of the rounds, its spread (half the distance of the quartiles), and p99, the time
    that 99 of 100 calls stay under.  A line where the spread of either side is more than 25 % is unstable: instead of a
    ratio it gives the range of the quartiles.  Both must give the same classes; rows where float32 rounding decided are
    counted, and any other difference makes the command exit with 1.

    With --peers the ratio is to the fastest library that gives the same classes, at as many threads or one.
    """
    from xnorinfer.files import require_writable, write_json
    from xnorinfer.packing import modelfile
    from xnorinfer.speed.benchmark import bench
    from xnorinfer.speed.plot import draw, require_drawable

    to_stdout = json_file == Path("-")
    if to_stdout:
        ctx.with_resource(screen.json_only())
        json_file = None
    packed = modelfile.load(model)
    for path in (json_file, plot):
        if path is not None:
            require_writable(path, model)
    if plot is not None:
        require_drawable(plot)
    with screen.stages() as report:
        result = bench(
            packed, batches, threads, seconds=seconds, name=Path(model).name, layers=layers, peers=peers, progress=report
        )
    show(result)
    if peers:
        show_sides(result)
    for profile in result.profiles:
        show_profile(profile)
    if json_file is not None:
        write_json(json_file, result.to_json())
        screen.say(f"wrote {json_file}")
    if to_stdout:
        screen.give(result.to_json())
    if plot is not None:
        draw(result, plot)
        screen.say(f"wrote {plot}")
    if not result.holds:
        ctx.exit(1)


def show(result: Report) -> None:
    """The table of times, and what it was measured on."""
    from xnorinfer.speed.timing import UNSTABLE_SPREAD

    around = result.environment
    names = ", ".join(dict.fromkeys(side.name for case in result.cases for side in case.sides))
    against = "float32 numpy" if names == "numpy float32" else f"the fastest of {names}"
    screen.heading(f"{result.model} (kernel {result.kernel}) against {against}")
    several = any(side.name != "numpy float32" for case in result.cases for side in case.sides)
    rows = [
        [
            str(case.batch),
            str(case.threads),
            _time(case.packed, case.batch),
            screen.time_text(case.packed.p99 / case.batch),
            *([_side(case.baseline, case.threads)] if several else []),
            _time(case.baseline.timing, case.batch),
            _faster(case, case.baseline),
            _equality(case.rows_compared, case.differences, case.unexplained),
        ]
        for case in result.cases
    ]
    columns = [(name, True) for name in ("batch", "threads", "xnorinfer", "p99")]
    columns += [("fastest other", False), ("its time", True)] if several else [("float32", True)]
    screen.table([*columns, ("faster", False), ("same classes", False)], rows)
    screen.say(
        "Time per sample: median of alternating rounds, +- half the distance of the quartiles; p99: of 100 calls 99 are faster."
    )
    fewer = [f"{case.batch} on {case.threads}" for case in result.cases if case.baseline.threads != case.threads]
    if fewer and not several:
        screen.say(f"float32 numpy is faster on 1 thread, and shown so, at batch {', '.join(fewer)} threads.")
    if any(case.speedup is None for case in result.cases):
        screen.say(f"unstable: a spread of more than {UNSTABLE_SPREAD:.0%}; the range of the quartiles instead of a ratio.")
    screen.say(f"{around['cpu']}, {around['usable_cores']} usable cores, numpy {around['numpy']} ({around['blas']})")
    for remark in result.remarks:
        screen.warn(remark)
    if any(case.differences > case.unexplained for case in result.cases):
        screen.say(
            "Where classes differ by rounding, float32 matmul rounded a sum across a threshold or a tie of scores; "
            "with exact sums the float network agrees with xnorinfer."
        )
    if not result.holds:
        screen.say("does not hold: classes differ where float32 rounding is not the reason", "bold red")


def show_sides(result: Report) -> None:
    """Every side of every case."""
    screen.heading("each of them")
    rows = [
        [
            str(case.batch),
            str(case.threads),
            _side(side, case.threads),
            *_times(side.timing, case.batch),
            _faster(case, side),
            _same(case.rows_compared, side.differences),
        ]
        for case in result.cases
        for side in case.sides
    ]
    columns = [("batch", True), ("threads", True), ("what", False)]
    columns += [(name, True) for name in ("time", "spread", "p99")]
    screen.table([*columns, ("xnorinfer faster", False), ("same classes", False)], rows)
    found = ", ".join(f"{name} {version}" for name, version in result.environment["peers"].items())
    screen.say(found or "no other library is installed")


def show_profile(profile: Profile) -> None:
    """The layers of one batch size and thread count, and the whole run."""
    screen.heading(f"layers, batch {profile.batch}, {profile.threads} thread{'s' * (profile.threads > 1)}")
    rows = [
        [
            node.name,
            node.takes,
            node.gives,
            *_times(node.timing, profile.batch),
            rate_text(node),
            f"{profile.share(node):.0%}",
            *([] if profile.peaks is None else [reached_text(node)]),
        ]
        for node in profile.nodes
    ]
    names = ["reads", "gives", "time", "spread", "p99", "op/s", "share", *([] if profile.peaks is None else ["of roofline"])]
    whole = ["the whole run", "", "", *_times(profile.whole, profile.batch)]
    rows.append([*whole, *[""] * (len(names) + 1 - len(whole))])
    screen.table([("layer", False), *((name, True) for name in names)], rows)
    screen.say(
        f"Time per sample, each layer called by itself, {screen.time_text(profile.sum / profile.batch)} together; "
        "op/s: 2 for a multiply-accumulate."
    )
    if profile.peaks is not None:
        screen.say(f"The whole run reaches {whole_text(profile)}.")
    if any(node.timing.unstable for node in profile.nodes):
        screen.say("unstable: a layer whose spread is that large has no rate.")


def _time(timing: Timing, batch: int) -> str:
    """Median and spread, for one sample."""
    return f"{screen.time_text(timing.median / batch)} +-{timing.spread:.0%}"


def _times(timing: Timing, batch: int) -> list[str]:
    """Median, spread and p99, for one sample."""
    return [screen.time_text(timing.median / batch), f"+-{timing.spread:.0%}", screen.time_text(timing.p99 / batch)]


def _side(side: Side, threads: int) -> str:
    """Which one it is, in a case of so many threads."""
    return side.name if side.threads == threads else f"{side.name}, {side.threads} thread{'s' * (side.threads > 1)}"


def _faster(case: Case, side: Side) -> str:
    """How much faster than a side xnorinfer is."""
    speedup = case.speedup_over(side)
    if speedup is not None:
        return f"{speedup:.1f} x"
    low, high = case.range_over(side)
    return f"unstable: {low:.1f} to {high:.1f} x"


def _same(rows: int, differences: int) -> str:
    return f"{rows - differences} of {rows}" if differences else f"all {rows}"


def _equality(rows: int, differences: int, unexplained: int) -> str:
    text = _same(rows, differences)
    if differences > unexplained:
        text += f", {differences - unexplained} by rounding"
    return text + (f", {unexplained} WRONG" if unexplained else "")
