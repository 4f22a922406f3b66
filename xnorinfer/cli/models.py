"""`xnorinfer models`: the packed models that ship with the package, and their cards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
    """List the packed models that ship with xnorinfer, or show the card of one, in Markdown.

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


def markdown(card: dict[str, Any]) -> str:
    """A card as Markdown."""
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
    parts = [
        f"# {card['name']}\n",
        _table(facts),
        f"## Data\n\n{data['name']}, {data['authors']}, <{data['source']}>, licence {data['licence']}. {data['use']}\n",
        f"## Training\n\n{card['method']} Best of {training['epochs']} epochs by validation error: epoch "
        f"{training['best_epoch']}, {training['validation_error']:.2%}; {training['seconds'] / 60:.0f} minutes.\n",
        _table(recipe),
        "## Use and limits\n\n" + "\n".join(f"- {line}" for line in card["limits"]),
        f"- On {samples['what']} it is right in {share(samples['correct'], samples['images'])}.\n",
        "## Digests\n",
        _table(digests),
    ]
    return "\n".join(parts)


def _table(rows: list[tuple[str, str]]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""])
