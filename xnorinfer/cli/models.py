"""`xnorinfer models`: the packed models that ship with the package, and their cards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, TypeAlias

import click

from xnorinfer.budget import size_text
from xnorinfer.cli import screen
from xnorinfer.cli.options import JSON
from xnorinfer.oneline import lines

EPILOG = """\b
Examples:
  xnorinfer models                                       what ships
  xnorinfer models mnist-conv                            its card
  xnorinfer run mnist-conv t10k-images-idx3-ubyte.gz
  xnorinfer models mnist-conv --samples digits.npz
  xnorinfer run mnist-conv digits.npz:x --labels digits.npz:y
"""


@click.command("models", epilog=EPILOG)
@click.argument("name", required=False)
@click.option("--path", "show_path", is_flag=True, help="Print where the model's file is.")
@click.option(
    "--samples",
    type=click.Path(path_type=Path),
    metavar="OUT.npz",
    help="Write 400 images for the model, x and y: 8x8 digits that ship too, brought to the model's format.",
)
@JSON
def command(name: str | None, show_path: bool, samples: Path | None, as_json: bool) -> None:
    """List the packed models that ship with xnorinfer, or show the card of one.

    Into a file or pipe a card is Markdown.

    A model's NAME can be given to every command, and to xnorinfer.load in Python, where a model file is expected.  An
    existing file of that name comes first.
    """
    from xnorinfer import shipped

    if name is None:
        if show_path or samples is not None:
            raise click.UsageError("--path and --samples need the NAME of a model")
        _list([shipped.card(one) for one in shipped.names()], as_json)
        return
    card = shipped.card(name)
    if samples is not None:
        _write_samples(samples)
    if show_path:
        click.echo(str(shipped.path(name)))
    elif as_json:
        click.echo(json.dumps(card, indent=2, ensure_ascii=False))
    elif samples is None:
        if sys.stdout.isatty():
            show(card)
        else:
            click.echo(lines(markdown(card)), nl=False)


def _list(cards: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(cards, indent=2, ensure_ascii=False))
        return
    rows = [
        [
            card["name"],
            card["network"],
            size_text(card["size"]["file_bytes"]),
            f"{card['accuracy']['packed_correct'] / card['accuracy']['images']:.2%}",
            card["data"]["name"],
            card["licence"],
        ]
        for card in cards
    ]
    columns = [("name", False), ("layers", False), ("size", True), ("accuracy", True), ("data", False), ("licence", False)]
    screen.table(columns, rows)


def _write_samples(output: Path) -> None:
    import numpy as np

    from xnorinfer.files import replacing, require_writable
    from xnorinfer.shipped import sample_digits

    require_writable(output)
    images, classes = sample_digits()
    with replacing(output) as stream:
        np.savez_compressed(stream, x=images, y=classes)
    screen.say(f"wrote {output}: x {images.shape} and y {classes.shape}, uint8")


#: A part of a card: a paragraph, items, or facts with their names.
Part: TypeAlias = "str | list[str] | list[tuple[str, str]]"


def sections(card: dict[str, Any]) -> list[tuple[str, list[Part]]]:
    """A card as headings, the first of which is the model's name, and what stands under them."""
    data, training, accuracy, size, samples = (card[key] for key in ("data", "training", "accuracy", "size", "samples"))

    def share(correct: int, images: int) -> str:
        return f"{correct / images:.2%} ({correct} of {images})"

    facts = [
        ("task", card["task"]),
        ("layers", card["network"]),
        ("input", card["input"]),
        ("output", card["output"]),
        ("accuracy, packed", share(accuracy["packed_correct"], accuracy["images"])),
        ("accuracy, float32 in PyTorch", share(accuracy["framework_correct"], accuracy["images"])),
        (
            "size",
            f"{size['file_bytes']:,} bytes, {size['float32_bytes'] / size['packed_bytes']:.1f} times smaller than float32",
        ),
        ("licence of the model", card["licence"]),
    ]
    recipe = [(name.replace("_", " "), json.dumps(value)) for name, value in {**card["shape"], **card["recipe"]}.items()]
    digests = [
        ("content", card["content_digest"]),
        ("file, SHA-256", card["file_sha256"]),
        ("trained checkpoint, SHA-256", card["checkpoint_sha256"]),
    ]
    return [
        (card["name"], [facts]),
        ("Data", [f"{data['name']}, {data['authors']}, <{data['source']}>, licence {data['licence']}. {data['use']}"]),
        (
            "Training",
            [
                f"{card['method']} Best of {training['epochs']} epochs by validation error: epoch {training['best_epoch']}, "
                f"{training['validation_error']:.2%}; {training['seconds'] / 60:.0f} minutes.",
                recipe,
            ],
        ),
        (
            "Use and limits",
            [[*card["limits"], f"On {samples['what']} it is right in {share(samples['correct'], samples['images'])}."]],
        ),
        ("Digests", [digests]),
    ]


def markdown(card: dict[str, Any]) -> str:
    """A card as Markdown."""
    parts = []
    for number, (title, content) in enumerate(sections(card)):
        parts.append(f"{'##' if number else '#'} {title}\n")
        for part in content:
            if isinstance(part, str):
                parts.append(f"{part}\n")
            elif isinstance(part[0], str):
                parts.append("".join(f"- {item}\n" for item in part))
            else:
                parts.append("\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in part), ""]))
    return "\n".join(parts)


def show(card: dict[str, Any]) -> None:
    """A card on a terminal."""
    for title, content in sections(card):
        screen.heading(title)
        for part in content:
            if isinstance(part, str):
                screen.say(part)
            elif isinstance(part[0], str):
                for item in part:
                    screen.say(f"- {item}", later="  ")
            else:
                screen.table([("what", False), ("value", False)], part)
