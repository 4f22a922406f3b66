"""`xnorinfer verify`: prove a model file against the checkpoint it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xnorinfer.cli import screen
from xnorinfer.cli.options import EXPECT, JSON, MAX_MEMORY, MODEL, THREADS
from xnorinfer.oneline import one_line

if TYPE_CHECKING:
    from xnorinfer.proof.sensitivity import Sensitivity
    from xnorinfer.proof.verification import Verification

EPILOG = """\b
Examples:
  xnorinfer verify mnist.safetensors mnist.npz
  xnorinfer verify mnist.safetensors mnist.npz --data t10k-images-idx3-ubyte.gz --rows 1000
  xnorinfer verify mnist.safetensors mnist.npz --certificate proof.json     a document to keep (.txt: as text)
  xnorinfer verify mnist.safetensors mnist.npz --check proof.json           confirm a document that was kept
  xnorinfer verify mnist.safetensors mnist.pt --data t10k-images-idx3-ubyte.gz --framework --sensitivity
"""


@click.command("verify", epilog=EPILOG)
@MODEL
@click.argument("source", type=click.Path())
@click.option("--data", metavar="INPUT", help="Compare on these samples (as for 'run') instead of random ones.")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="Compare on so many samples.  [default: all of --data; 1024 random ones, fewer where one takes much work]",
)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="OUT",
    help="Write what was checked with digests, options, versions and counts: JSON, or text for OUT.txt. Implies --sensitivity.",
)
@click.option(
    "--check",
    "kept_file",
    type=click.Path(path_type=Path),
    metavar="CERTIFICATE",
    help="Verify again, and compare with a certificate (JSON): digests, options, counts, results; versions are told.",
)
@click.option("--sensitivity", is_flag=True, help="Also tell what another epsilon or tie rule would change.")
@click.option(
    "--framework",
    is_flag=True,
    help="Also run the samples in the framework of SOURCE: the file itself where it holds a graph or model (which can run code "
    "that lies in it), else its layers in PyTorch.",
)
@MAX_MEMORY
@EXPECT
@JSON
@THREADS
@click.pass_context
def command(
    ctx: click.Context,
    model: str,
    source: str,
    data: str | None,
    rows: int | None,
    certificate: Path | None,
    kept_file: Path | None,
    sensitivity: bool,
    framework: bool,
    max_memory: int | None,
    expect: str | None,
    as_json: bool,
    threads: int | None,
) -> None:
    """Prove that a model equals its checkpoint as it is read, bit for bit.

    SOURCE is read again with the options recorded in MODEL.  Per layer, every weight bit is compared, and every decision
    is checked against the float32 expression of the training framework.  Then both networks run on data, and all layers
    are compared.  The first difference is named.  Exits with 1 if anything differs.

    What the file does not say is a part of the reading, and printed with it.  That the reading is the trained network is
    proved by answers of the network itself (--expect), or by the file where it holds a program (--framework).
    """
    from xnorinfer.files import require_writable
    from xnorinfer.packing import modelfile
    from xnorinfer.proof import certificate as document
    from xnorinfer.proof.answers import read_answers
    from xnorinfer.proof.equal import verify
    from xnorinfer.samples import dataio

    if certificate is not None:
        require_writable(certificate, model, source, *([] if data is None else [dataio.split_member(data)[0]]))
    kept = None if kept_file is None else document.check(kept_file, model, source)
    if kept is not None and rows is None and data is None and kept["comparison"].get("data") == "random":
        rows = kept["comparison"].get("rows")
    chosen = None
    if data is not None:
        packed = modelfile.load(model)
        samples = dataio.open_samples([data], max_memory, packed.shape)
        samples.require_shape(packed.shape, channels_first=packed.channels_first)
        chosen = samples.read(rows)
    with screen.stages() as report:
        result = verify(
            model,
            source,
            chosen,
            rows=rows,
            threads=threads,
            max_memory=max_memory,
            with_sensitivity=sensitivity or certificate is not None or kept is not None,
            with_framework=framework,
            expected=None if expect is None else read_answers(expect, max_memory),
            progress=report,
        )
    show(result)
    if as_json:
        screen.give(result.to_json())
    fresh = None if certificate is None and kept is None else document.build(result, model, data=data)
    if certificate is not None and fresh is not None:
        document.write(fresh, certificate)
        screen.say(f"wrote the certificate {certificate}")
    confirmed = kept is None or fresh is None or _confirm(str(kept_file), kept, fresh)
    if not result.holds or not confirmed:
        ctx.exit(1)


def _confirm(name: str, kept: dict[str, Any], fresh: dict[str, Any]) -> bool:
    """Say whether a kept certificate agrees with a fresh one; on stderr, as --json has stdout for itself."""
    from xnorinfer.proof import certificate as document

    def say(text: str) -> None:
        click.echo(one_line(f"{name}: {text}"), err=True)

    found = document.differences(kept, fresh)
    for line in found:
        say(line)
    for line in document.other_versions(kept, fresh):
        say(f"made with another {line}")
    compared = kept["comparison"]
    if compared.get("data_sha256") != fresh["comparison"]["data_sha256"]:
        say(f"its comparison on {compared.get('data')} was not repeated; --data gives other samples")
    proof = fresh["proof"]
    say(
        f"{'DOES NOT AGREE' if found else 'confirmed'}, {proof['weights']:,} weights and {proof['values']:,} values "
        f"were compared again; it was written {kept['date']}"
    )
    return not found


def show(result: Verification) -> None:
    """What is proved, of which reading, the proof per layer, the comparison on data, and the verdict."""
    from rich.text import Text

    screen.heading(result.proves)
    screen.heading(f"The reading of {result.source} (format {result.source_format})")
    for line in result.reading:
        screen.say(line)
    screen.table([("assumed", False), ("value", False), ("from", False)], result.assumptions)
    screen.heading("Checked")
    rows: list[list[str | Text]] = [
        [
            layer.name,
            layer.kind,
            str(layer.neurons),
            f"{layer.values:,}",
            layer.method,
            Text(str(layer.differences), "bold red" if layer.differences else "green"),
        ]
        for layer in result.layers
    ]
    columns = [
        ("layer", False),
        ("kind", False),
        ("neurons", True),
        ("values each", True),
        ("checked", False),
        ("differences", True),
    ]
    screen.table(columns, rows)
    if result.rows:
        screen.say(
            f"compared on {result.rows} {result.data} samples, every layer: {result.differing_rows} samples differ, "
            f"{result.differing_predictions} predictions differ (kernel {result.kernel}, {result.threads} threads)"
        )
    if result.tie_rows:
        screen.warn(
            f"{result.tie_rows} samples reach exactly 0 before a sign, where torch.sign has no bit; they are not compared"
        )
    if result.sensitivity is not None:
        _show_sensitivity(result.sensitivity)
    if result.framework is not None:
        screen.say(result.framework.text())
    if result.input_evidence is not None:
        (screen.say if result.input_fits else screen.warn)(f"input: {result.input_evidence}")
    if result.expected is not None:
        screen.say(
            f"as expected: {result.expected.text()}"
            if result.expected.holds
            else f"not as expected: {result.expected.text()}; convert --expect says which reading gives them"
        )
        odd = result.expected.warning()
        if odd is not None:
            screen.warn(odd)
    if not result.source_unchanged:
        screen.warn(f"{result.source} is not byte for byte the file that {result.model} was made from")
    if result.holds:
        screen.say(f"holds: {result.proves}", "bold green")
    else:
        screen.say(f"does not hold: {result.first_difference or result.proves}", "bold red")


def _show_sensitivity(found: Sensitivity) -> None:
    """Ties, and what every other assumption would change."""
    screen.heading("What other assumptions would change")
    rows = []
    for other in found.alternatives:
        numbers = [
            f"{other.weight_bits:,}",
            f"{other.thresholds:,}",
            f"{other.head_values:,}",
            f"{other.changed_predictions or 0}",
        ]
        if other.impossible is not None:
            numbers = ["", "", "", f"not possible: {other.impossible}"]
        rows.append([other.what, other.value, *numbers])
    predictions = f"predictions of {found.rows}"
    columns = [("assumption", False), ("instead", False), ("weights", True), ("thresholds", True), ("head", True)]
    screen.table([*columns, (predictions, True)], rows)
    for layer in found.layers:
        if layer.latents_zero or layer.neurons_with_zero:
            screen.say(
                f"{layer.name}: {layer.latents_zero} latents are exactly 0; {layer.neurons_with_zero or 0} neurons can reach "
                "exactly 0 before the sign"
            )
