"""The commands of `python -m xnorinfer.training`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.progress import Progress as Bar

from xnorinfer.errors import OptionError
from xnorinfer.files import require_writable, write_bytes
from xnorinfer.training import digits as digits_recipe
from xnorinfer.training import mnist as mnist_recipe
from xnorinfer.training import publish as publishing
from xnorinfer.training.architecture import Hidden, Shape, parse_layers
from xnorinfer.training.curves import draw, read_history
from xnorinfer.training.data import MNIST_VARIABLE, mnist_folder
from xnorinfer.training.loop import Epoch, Recipe

console = Console(stderr=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def commands() -> None:
    """Train binarized networks by the BinaryNet recipe and write checkpoints that `xnorinfer convert` reads."""


@commands.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("xnorinfer/data"),
    show_default=True,
    help="Existing folder for the two files.",
)
def digits(output: Path) -> None:
    """Train 64-256-256-10 on the UCI 8x8 digits, the network that ships inside the package (half a minute)."""
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("training", total=digits_recipe.RECIPE.epochs)

        def advance(epoch: Epoch) -> None:
            bar.update(task, advance=1, description=f"loss {epoch.loss:.4f}, validation error {epoch.validation_error:.2%}")

        result = digits_recipe.write(output, advance)
    click.echo(f"best epoch {result.best_epoch}, validation error {result.validation_error:.2%}")
    click.echo(f"accuracy on {result.test_rows} held-out images {1 - result.test_error:.2%}")
    click.echo(f"wrote {output / digits_recipe.CHECKPOINT} and {output / digits_recipe.HELD_OUT}")


class Widths(click.ParamType):
    """256,256 -> (256, 256)"""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 256,256,256", param, ctx)


class Layers(click.ParamType):
    """64C3-P2-256-10 -> hidden layers and classes"""

    name = "NCK-PK-...-10"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[tuple[Hidden, ...], int]:
        if isinstance(value, tuple):
            return value
        try:
            return parse_layers(value)
        except OptionError as error:
            self.fail(str(error), param, ctx)


class Magnitude(click.ParamType):
    """A number, or glorot."""

    name = "VALUE|glorot"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return value if value == "glorot" else float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor 'glorot'", param, ctx)


@commands.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT", help="OUT.npz, .pt, .pth or .ckpt (TF1)."
)
@click.option("--hidden", type=Widths(), help="Neurons of the hidden layers.  [default: 4096,4096,4096]")
@click.option("--layers", type=Layers(), help="All layers in the place of --hidden, such as 64C3-P2-128C3-P2-256-10.")
@click.option("--epochs", type=int, default=1000, show_default=True, help="Passes over the 50,000 training images.")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help=f"MNIST's IDX files.  [default: ${MNIST_VARIABLE}]"
)
@click.option("--download", is_flag=True, help="Fetch files that DIR lacks from a mirror (needs pooch).")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of latents, order and dropout.")
@click.option("--batch", type=int, default=100, show_default=True, help="Images of one update.")
@click.option("--lr-start", type=float, default=3e-3, show_default=True, help="Learning rate of the first epoch.")
@click.option("--lr-end", type=float, default=3e-7, show_default=True, help="Learning rate that the decay ends at.")
@click.option("--dropout-input", type=float, default=0.2, show_default=True, help="Share of pixels left out in training.")
@click.option(
    "--dropout-hidden", type=float, default=0.5, show_default=True, help="Share of hidden neurons left out in training."
)
@click.option("--shift", type=float, default=0.0, help="Move training images by up to so many pixels, anew each time.")
@click.option("--rotate", type=float, default=0.0, help="Turn them by up to so many degrees.")
@click.option("--zoom", type=float, default=0.0, help="Scale them by up to this share: 0.1 is 0.9 to 1.1 times.")
@click.option("--h", "magnitude", type=Magnitude(), default=1.0, show_default=True, help="Magnitude of the binary weights.")
@click.option("--stochastic", is_flag=True, help="Draw the binary weights while training instead of rounding.")
@click.option("--mixed", is_flag=True, help="Integer sums and bfloat16 gradients: faster where the CPU has AVX-512 BF16.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: PyTorch's choice]")
@click.option("--finish", is_flag=True, help="Train no further: write the best network of an interrupted training.")
@click.option("--restart", is_flag=True, help="Forget an interrupted training of the same OUT.")
def mnist(
    output: Path,
    hidden: tuple[int, ...] | None,
    layers: tuple[tuple[Hidden, ...], int] | None,
    epochs: int,
    data: Path | None,
    download: bool,
    seed: int,
    batch: int,
    lr_start: float,
    lr_end: float,
    dropout_input: float,
    dropout_hidden: float,
    shift: float,
    rotate: float,
    zoom: float,
    magnitude: Any,
    stochastic: bool,
    mixed: bool,
    threads: int | None,
    finish: bool,
    restart: bool,
) -> None:
    """Train 784-...-10 on MNIST, or with --layers a convolutional network.

    64C3 is a convolution of 64 neurons with 3x3 kernels, padded with zeros so that the map keeps its size, 64C3V one that is
    not padded, P2 a 2x2 max-pool behind it, a number a dense layer; every layer ends with BatchNorm.

    The defaults are the recipe of BinaryNet's MNIST network.  Of the 60,000 training images the last 10,000 choose the
    best epoch; the test images are used once, at the end.  After an interruption the same command goes on with the epoch
    that was cut short, or with --finish ends there.  Beside OUT appear OUT.history.json (every epoch) and, until the end,
    OUT.state.
    """
    if layers is None:
        layers = hidden or (4096, 4096, 4096), mnist_recipe.CLASSES
    elif hidden is not None:
        raise OptionError("--layers says all layers, --hidden those of a dense network: give one of them")
    shape = Shape(mnist_recipe.inputs_of(*layers), *layers, magnitude, stochastic, True, dropout_input, dropout_hidden)
    recipe = Recipe(epochs, batch, lr_start, lr_end, seed, mixed, shift, rotate, zoom)
    if threads is not None:
        torch.set_num_threads(threads)
    job = mnist_recipe.Job(output, shape, recipe)
    job.prepare(mnist_folder(data, download, lambda url: click.echo(f"downloading {url}")), restart)
    if finish and not job.finished_epochs:
        raise OptionError(f"--finish: there is no interrupted training of {output}")
    if job.finished_epochs:
        click.echo(f"{'finishing' if finish else 'going on'} after epoch {job.finished_epochs} of {epochs}")
    try:
        if not finish:
            _train(job)
    except KeyboardInterrupt:
        click.echo(f"interrupted after epoch {job.finished_epochs} of {epochs}; the same command goes on from there", err=True)
        sys.exit(130)
    summary = job.finish()
    click.echo(f"best epoch {summary['best_epoch']}, validation error {summary['validation_error']:.2%}")
    click.echo(f"accuracy on the 10,000 test images {1 - summary['test_error']:.2%}")
    click.echo(f"wrote {output} and {job.history_path}")
    click.echo(f"next: {job.convert_command()}")


def _train(job: mnist_recipe.Job) -> None:
    total = job.progress.recipe.epochs
    with Bar(console=console, transient=True) as bar:
        task = bar.add_task("", total=job.batches_per_epoch)
        while not job.progress.done:
            number = job.finished_epochs + 1
            bar.reset(task, description=f"epoch {number} of {total}", total=job.batches_per_epoch)
            epoch = job.run_epoch(lambda: bar.advance(task))
            best = " (best)" if job.progress.best_epoch == epoch.epoch else ""
            bar.console.print(
                f"epoch {epoch.epoch:4}  loss {epoch.loss:.4f}  validation error {epoch.validation_error:.2%}{best}  "
                f"{epoch.seconds:.1f} s",
                highlight=False,
            )


@commands.command()
@click.argument("histories", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="OUT.history.json...")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT.svg", help="The picture.")
def curves(histories: tuple[Path, ...], output: Path) -> None:
    """Draw the validation errors of finished trainings, epoch by epoch, as an SVG picture."""
    require_writable(output, *histories)
    write_bytes(output, draw([read_history(path) for path in histories]))
    click.echo(f"wrote {output}")


@commands.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("name")
@click.option(
    "--data", type=click.Path(path_type=Path), metavar="DIR", help=f"MNIST's IDX files.  [default: ${MNIST_VARIABLE}]"
)
@click.option(
    "--history", type=click.Path(path_type=Path), metavar="FILE", help="Its history.  [default: CHECKPOINT.history.json]"
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=Path("xnorinfer/data/models"),
    show_default=True,
    help="Existing folder for the two files.",
)
def publish(checkpoint: Path, name: str, data: Path | None, history: Path | None, output: Path) -> None:
    """Pack a CHECKPOINT of `mnist` as the model NAME that ships inside the package, with its card.

    The packed model is verified against the checkpoint and run on the test images; every number of the card comes from
    the files.
    """
    card = publishing.publish(checkpoint, name, mnist_folder(data), output, history)
    accuracy = card["accuracy"]
    click.echo(f"{accuracy['packed_correct']} of {accuracy['images']} right packed, {accuracy['framework_correct']} in PyTorch")
    click.echo(f"wrote {output / name}.safetensors ({card['size']['file_bytes']:,} bytes) and {name}.json")
