"""`xnorinfer demo`: the whole main job on data that comes with the package."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import click

from xnorinfer.cli import screen
from xnorinfer.errors import OutputError

CHECKPOINT = "digits-64-256-256-10.npz"
DATA = "digits-test.npz"
MODEL = "digits.safetensors"
#: Images for the networks that ship.
SAMPLES = "mnist-samples.npz"

#: What each step shows, and its command line; the first is followed by the files of the demo's folder.
STEPS = (
    ("Convert: pack the trained checkpoint into bits and integer thresholds", ("convert", CHECKPOINT, "-o", MODEL)),
    (
        "Verify: prove that the packed model computes what was read from the checkpoint",
        ("verify", MODEL, CHECKPOINT, "--data", f"{DATA}:x"),
    ),
    ("Run: classify images that the network has never seen", ("run", MODEL, f"{DATA}:x", "--labels", f"{DATA}:y")),
    ("Bench: time it against the same network in float32", ("bench", MODEL, "--batch", "1,64,1024", "--seconds", "0.5")),
    (
        "Networks that ship, trained on MNIST: write digits of other writers in MNIST's format",
        ("models", "mnist-conv", "--samples", SAMPLES),
    ),
    ("The dense one reads them", ("run", "mnist-784-1024x3", f"{SAMPLES}:x", "--labels", f"{SAMPLES}:y")),
    ("The convolutional one reads them", ("run", "mnist-conv", f"{SAMPLES}:x", "--labels", f"{SAMPLES}:y")),
)

EPILOG = """\b
Examples:
  xnorinfer demo
  xnorinfer demo --keep demo-files     keep the files, to repeat the steps by hand
"""


@click.command("demo", epilog=EPILOG)
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Work in this folder and leave the files there.")
@click.pass_context
def command(ctx: click.Context, keep: Path | None) -> None:
    """Do the whole job once, on data that comes with the package.

    A network that was trained on 8x8 images of handwritten digits (64-256-256-10, binary weights) is converted, proven
    equal, run on held-out images and timed.  Then the two larger networks that ship read digits in MNIST's format.  Every step
    shows the command that does the same.
    """
    from xnorinfer.cli import main

    begin = time.monotonic()
    with _folder(keep) as folder:
        for number, (title, arguments) in enumerate(STEPS, 1):
            screen.heading(f"{number}. {title}")
            placed = [_place(folder, one) for one in arguments]
            screen.command(f"xnorinfer {shlex.join(placed)}")
            code = main.main(placed, prog_name="xnorinfer", standalone_mode=False)
            if code:
                ctx.exit(code)
    screen.heading(f"Done in {screen.time_text(time.monotonic() - begin)}.")
    if keep is None:
        screen.say("The files are gone again; 'xnorinfer demo --keep DIR' leaves them in DIR, to repeat the steps by hand.")
    else:
        screen.say(f"The files are in {keep}; copy any of the commands above and change it.")


@contextlib.contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """A folder that holds the checkpoint and the data: `keep`, or for the block a temporary one that is the current one."""
    from xnorinfer.files import write_bytes

    with contextlib.ExitStack() as stack:
        folder = Path() if keep is None else keep
        try:
            if keep is None:
                temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="xnorinfer-demo-"))
                stack.callback(os.chdir, Path.cwd())
                os.chdir(temporary)
            else:
                folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as undo:
                for name in (CHECKPOINT, DATA):
                    write_bytes(folder / name, (resources.files("xnorinfer") / "data" / name).read_bytes())
                    undo.callback((folder / name).unlink)
                undo.pop_all()  # both are there
        except OSError as error:
            place = keep or tempfile.gettempdir()
            raise OutputError(f"{place}: cannot hold the files of the demo: {error.strerror or error}") from None
        yield folder


def _place(folder: Path, argument: str) -> str:
    """File names of the demo get the folder; everything else stays."""
    named = argument.split(":")[0]
    return str(folder / argument) if named in (CHECKPOINT, DATA, MODEL, SAMPLES) else argument
