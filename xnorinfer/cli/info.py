"""`xnorinfer info`: what a model file holds."""

from __future__ import annotations

import json
from typing import Any

import click

from xnorinfer.cli import screen
from xnorinfer.cli.options import MODEL

EPILOG = """\b
Examples:
  xnorinfer info mnist.safetensors
  xnorinfer info mnist.safetensors --json | jq .layers
"""


@click.command("info", epilog=EPILOG)
@MODEL
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def command(model: str, as_json: bool) -> None:
    """Show what a model file holds.

    Layers, sizes, tie rules, and where the model came from.  The file is validated completely, its digests included.
    """
    from xnorinfer import modelfile
    from xnorinfer.model import describe

    info = describe(modelfile.load(model))
    if as_json:
        click.echo(json.dumps(info, indent=2))
        return
    screen.heading(f"{model}: {info['inputs']} inputs, {info['classes']} classes")
    screen.layers_table(info)
    screen.heading("Meaning")
    screen.table([("what", False), ("value", False)], _facts(info))
    _provenance(info["provenance"])


def _facts(info: dict[str, Any]) -> list[list[str]]:
    from xnorinfer.netspec import PROFILES

    bits = sum(layer["weight_bits"] for layer in info["layers"] if layer["kind"] == "binary")
    return [
        ["input", info["input_meaning"]],
        ["profile", f"{info['profile']}: {PROFILES[info['profile']].meaning}"],
        ["binary weights", f"{bits:,} bits"],
        ["format version", str(info["format_version"])],
        ["content digest", info["content_digest"]],
    ]


def _provenance(provenance: dict[str, Any]) -> None:
    """Where the model came from.  The file is not trusted to hold the fields that `convert` writes."""
    screen.heading("Provenance")
    rows = [
        [name, value if isinstance(value, str) else json.dumps(value)]
        for name, value in provenance.items()
        if name != "assumptions" and value not in (None, {}, "")
    ]
    screen.table([("what", False), ("value", False)], rows)
    assumptions = provenance.get("assumptions")
    if isinstance(assumptions, list) and assumptions:
        screen.heading("Assumed at conversion")
        rows = [[str(part) for part in one] if isinstance(one, list) else [str(one)] for one in assumptions]
        screen.table([("what", False), ("value", False), ("from", False)], [row[:3] for row in rows])
