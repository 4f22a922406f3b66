"""The commands of `python -m xnorinfer.training`."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress as Bar

from xnorinfer.training import digits as digits_recipe
from xnorinfer.training.loop import Epoch

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
