"""`xnorinfer info`: what a model file holds."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xnorinfer.cli import screen
from xnorinfer.cli.layerlist import show_layers
from xnorinfer.cli.options import JSON, MODEL

if TYPE_CHECKING:
    from xnorinfer.packing.packed import PackedModel
    from xnorinfer.speed.layertimes import Profile

EPILOG = """\b
Examples:
  xnorinfer info mnist.safetensors
  xnorinfer info mnist.safetensors --json | jq .layers
  xnorinfer info mnist.safetensors --stats t10k-images-idx3-ubyte.gz     which neurons do nothing
  xnorinfer info resnet.safetensors --profile image.npy --svg resnet.svg   where the time goes
"""


@click.command("info", epilog=EPILOG)
@MODEL
@JSON
@click.option("--stats", metavar="INPUT", help="Also run the samples (as for 'run') and tell how often every neuron fires.")
@click.option(
    "--profile",
    metavar="INPUT",
    help="Also time every layer on the first sample, by itself and on one thread, against what the core does at most.",
)
@click.option("--svg", type=click.Path(path_type=Path), metavar="OUT.svg", help="Also draw the layers as a picture.")
def command(model: str, as_json: bool, stats: str | None, profile: str | None, svg: Path | None) -> None:
    """Show what a model file holds.

    Layers, sizes, tie rules, and where the model came from.  The file is validated completely, its digests included.  Beside
    the layers of a network that branches stand lanes: each value has one, down to the last layer that reads it.
    """
    from xnorinfer.files import require_writable, write_bytes
    from xnorinfer.packing import modelfile
    from xnorinfer.packing.description import describe

    packed = modelfile.load(model)
    if svg is not None:
        require_writable(svg, model)
    info = describe(packed)
    if stats is not None:
        info["stats"] = _stats(packed, stats)
    times = None if profile is None else _profile(packed, profile)
    if times is not None:
        info["times"] = times.to_json()
    if svg is not None:
        from xnorinfer.cli.svg import picture

        write_bytes(svg, picture(info, times).encode())
    if as_json:
        screen.give(info)
        return
    screen.heading(f"{model}: {info['inputs']} inputs, {info['classes']} classes")
    show_layers(info, times)
    screen.heading("Meaning")
    screen.table([("what", False), ("value", False)], _facts(info))
    _provenance(info["provenance"])
    if stats is not None:
        _show_stats(info["stats"])
    if svg is not None:
        screen.say(f"wrote {svg}")


def _stats(packed: PackedModel, text: str) -> dict[str, Any]:
    """How often the neurons of every hidden layer fire on the samples, JSON-able."""
    from xnorinfer.engine.margins import Activity
    from xnorinfer.engine.model import Model, canonical_input
    from xnorinfer.samples import dataio

    samples = dataio.open_samples([text], shape=packed.shape)
    samples.require_shape(packed.shape, channels_first=packed.channels_first)
    activity = Activity(packed)
    with screen.waiting("preparing kernels (the first use compiles them)"):
        model = Model(packed)
    with screen.progress("counting", samples.rows) as advance:
        for x in samples.batches(BATCH):
            activity.add(model.plan.trace(canonical_input(packed, x)))
            advance(len(x))
    return {"data": samples.source, "rows": activity.rows, "layers": activity.describe()}


#: Samples computed at once.
BATCH = 1024
#: How long layers are timed, at least.
PROFILE_SECONDS = 2.0


def _profile(packed: PackedModel, text: str) -> Profile:
    """How long each layer takes for the first of the samples."""
    from xnorinfer.engine.model import canonical_input
    from xnorinfer.engine.plan import Plan
    from xnorinfer.errors import InputError
    from xnorinfer.samples import dataio
    from xnorinfer.speed.layertimes import profile

    samples = dataio.open_samples([text], shape=packed.shape)
    samples.require_shape(packed.shape, channels_first=packed.channels_first)
    first = next(iter(samples.batches(1)), None)
    if first is None or not len(first):
        raise InputError(f"{samples.source}: no samples; --profile times the first one")
    with screen.waiting("preparing kernels (the first use compiles them), timing"):
        return profile(Plan(packed, threads=1), canonical_input(packed, first), PROFILE_SECONDS)


def _show_stats(stats: dict[str, Any]) -> None:
    screen.heading(f"Activity on {stats['data']}, {stats['rows']} samples")
    rows = []
    for layer in stats["layers"]:
        rate = layer["firing_rate"]
        rows.append(
            [
                layer["name"],
                str(layer["neurons"]),
                f"{rate['smallest']:.1%} / {rate['mean']:.1%} / {rate['largest']:.1%}",
                f"{layer['flip_rate']:.1%}",
                f"{layer['never_on_data']} / {layer['always_on_data']}",
                f"{layer['provably_never']} / {layer['provably_always']}",
            ]
        )
    columns = [
        ("layer", False),
        ("neurons", True),
        ("fires: least / mean / most", True),
        ("sign flips", True),
        ("dead here: never / always", True),
        ("on any input", True),
    ]
    screen.table(columns, rows)
    screen.say("Sign flips: share of the pairs of samples between which a neuron's sign differs, mean of the layer's neurons.")


def _facts(info: dict[str, Any]) -> list[list[str]]:
    from xnorinfer.net.ties import PROFILES

    bits = sum(layer["weight_bits"] for layer in info["layers"] if layer["kind"] == "binary")
    return [
        ["input", info["input_meaning"]],
        ["profile", f"{info['profile']}: {PROFILES[info['profile']].meaning}"],
        ["binary weights", f"{bits:,} bits"],
        ["format version", str(info["format_version"])],
        ["content digest", info["content_digest"]],
    ]


def _typed(options: Any) -> str:
    """Options of a conversion as they are typed, but for the text of a --net file; what is none as JSON."""
    from xnorinfer.converters.evidence.inputmapping import option_of
    from xnorinfer.converters.reading import ConvertOptions
    from xnorinfer.errors import XnorinferError

    try:
        read = ConvertOptions.from_json(options)
    except (XnorinferError, TypeError, ValueError):
        return json.dumps(options)
    words = [] if read.input is None else [option_of(read.input)]
    for name, value in read.to_json().items():
        option = f"--{name.replace('_', '-').removesuffix('s')}" if name == "float_layers" else f"--{name.replace('_', '-')}"
        if name == "net":
            words.append(f"--net ({len(value.splitlines())} lines of TOML)")
        elif name == "answered":
            words.append("--expect (answers)")
        elif name == "input_shape":
            words.append(f"{option} {','.join(map(str, value))}")
        elif isinstance(value, list):
            words += [f"{option} {shlex.quote(one)}" for one in value]
        elif name != "input":
            words.append(option if value is True else f"{option} {shlex.quote(str(value))}")
    return " ".join(words)


def _provenance(provenance: dict[str, Any]) -> None:
    """Where the model came from.  The file is not trusted to hold the fields that `convert` writes."""
    screen.heading("Provenance")
    rows = [
        [name, value if isinstance(value, str) else _typed(value) if name == "options" else json.dumps(value)]
        for name, value in provenance.items()
        if name not in ("tensors", "assumptions", "warnings", "expected") and value not in (None, {}, "")
    ]
    screen.table([("what", False), ("value", False)], rows)
    assumptions = provenance.get("assumptions")
    if isinstance(assumptions, list) and assumptions:
        screen.heading("Assumed at conversion")
        rows = [[str(part) for part in one] if isinstance(one, list) else [str(one)] for one in assumptions]
        screen.table([("what", False), ("value", False), ("from", False)], [row[:3] for row in rows])
    warnings = provenance.get("warnings")
    for text in warnings if isinstance(warnings, list) else ():
        screen.warn(str(text))
    expected = provenance.get("expected")
    if isinstance(expected, dict):
        screen.say(
            f"compared at conversion with {expected.get('rows')} answers of the trained network ({expected.get('name')})"
        )
