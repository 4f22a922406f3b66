"""`xnorinfer convert`: a trained checkpoint becomes a packed model file."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xnorinfer.budget import size_text
from xnorinfer.cli import screen
from xnorinfer.cli.layerlist import show_layers
from xnorinfer.cli.options import EXPECT, JSON, MAX_MEMORY, GlorotOrNumber, LazyChoice, Pair, PairOfLists, Sizes
from xnorinfer.errors import DoesNotHoldError, NetworkError, OptionError, SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xnorinfer.conversion import Conversion
    from xnorinfer.converters.reading import ConvertOptions

EPILOG = """\b
Examples:
  xnorinfer convert mnist.npz -o mnist.safetensors
  xnorinfer convert model.pth -o model.safetensors --float-layer fc4 --input-normalize 0.1307:0.3081
  xnorinfer convert model.pth --dry-run                 look first, write nothing
  xnorinfer convert arrays.h5 -o model.safetensors --net net.toml
  xnorinfer convert model.pth -o model.safetensors --expect expected.npz     and be sure: classes must be the network's own

\b
Such a file is written beside the trained network, from some 100 inputs x (uint8, or as they enter it), in PyTorch
  net.eval()
  y = net(transform(x)).detach().numpy()
  np.savez("expected.npz", x=x, scores=y)
or in Keras
  y = model.predict(transform(x))
  np.savez("expected.npz", x=x, scores=y)
Where the classes differ, the options that would make them equal are named.
"""


TIES = """A tie is a value of exactly 0, of a weight or before an activation: its sign is -1, +1 or 0, as the code that trained
the network has it. A tie profile is the rule of one such code:"""


def _profiles() -> Iterable[str]:
    from xnorinfer.net.ties import PROFILES

    return PROFILES


def _sources() -> Iterable[str]:
    from xnorinfer.converters import sources

    return [source.name for source in sources()]


def _scales() -> Iterable[str]:
    from xnorinfer.converters.latents import SCALES

    return SCALES


class _Command(click.Command):
    """Adds the tables of formats and profiles to the help, taken from where they are defined."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from xnorinfer.converters import sources
        from xnorinfer.net.ties import PROFILES

        with formatter.section("Formats (--format)"):
            formatter.write_dl([(source.name, source.meaning) for source in sources()])
        with formatter.section("Tie profiles (--profile)"):
            formatter.write_text(TIES)
            formatter.write_paragraph()
            formatter.write_dl([(name, profile.meaning) for name, profile in PROFILES.items()])
        super().format_epilog(ctx, formatter)


@click.command("convert", cls=_Command, epilog=EPILOG)
@click.argument("source", type=click.Path())
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="OUT.safetensors", help="The model file to write.")
@click.option(
    "--format", "format_name", type=LazyChoice("NAME", _sources), help="Kind of checkpoint.  [default: told from its content]"
)
@click.option(
    "--profile",
    type=LazyChoice("NAME", _profiles),
    help="Tie rules of the code that trained it, listed below.  [default: that of the format]",
)
@click.option("--bn-epsilon", type=float, metavar="E", help="Epsilon of BatchNorm, where the checkpoint does not hold it.")
@click.option(
    "--h",
    "magnitude",
    type=GlorotOrNumber(),
    help="Magnitude H of the binary weights, which are -H or +H in the code that trained them; glorot: "
    "sqrt(1.5 / (inputs + neurons)) of each layer, as its H = 'Glorot'.  [default: 1]",
)
@click.option(
    "--input-range",
    type=Pair("LO:HI"),
    help="Pixels 0..255 were mapped linearly to LO..HI.  [default: -1:1, if the format knows no better]",
)
@click.option(
    "--input-normalize",
    type=PairOfLists("MEAN:STD"),
    help="Pixels were mapped by (p/255 - MEAN) / STD, as torchvision does; of colours M,M,M:S,S,S.",
)
@click.option("--input-threshold", type=int, metavar="T", help="Pixels of T and above were +1, others -1.")
@click.option("--input-signs", is_flag=True, help="Inputs are themselves -1 or +1.")
@click.option("--input-real", is_flag=True, help="Inputs are any real numbers, used as they are (slower first layer).")
@click.option(
    "--input-shape",
    type=Sizes("C,H,W"),
    help="Shape of one sample as the network in the file takes it, where it does not say so.",
)
@click.option(
    "--float-layer", "float_layers", multiple=True, metavar="NAME", help="This layer has ordinary float weights.  Repeatable."
)
@click.option(
    "--before-norm",
    metavar="FUNCTION",
    help="What stands between each hidden layer's sum and its BatchNorm: relu, leaky-relu[:SLOPE], tanh, sigmoid, hardtanh or "
    "clip:LOW:HIGH.  [default: nothing, if the checkpoint says no more]",
)
@click.option(
    "--center", is_flag=True, help="Binary weights are the signs of the latents minus each neuron's mean over its inputs."
)
@click.option(
    "--scale-by",
    type=LazyChoice("NAME", _scales),
    help="Magnitude of the binary weights: mean-abs (mean of |latents| of each neuron, as in XNOR-Net) or mean-abs-layer (of "
    "the layer, as in DoReFa-Net).",
)
@click.option("--ema", is_flag=True, help="Use the moving averages of the weights, where the training kept them.")
@click.option(
    "--state",
    metavar="KEY",
    help="Which state dict is the network, where a PyTorch checkpoint holds several: its key ('model', 'ema.module').",
)
@click.option("--output-name", metavar="NAME", help="Which value is the network's, where a graph gives several.")
@click.option(
    "--sign-of-signs", is_flag=True, help="Read a sign of what is signs already, which changes nothing, as those signs."
)
@click.option(
    "--net",
    "net_file",
    type=click.Path(path_type=Path),
    metavar="NET.toml",
    help="A file that says which arrays of SOURCE make which layers, for any container or folder of arrays.",
)
@click.option(
    "--write-net",
    type=click.Path(path_type=Path),
    metavar="NET.toml",
    help="Write what was understood as a file for --net, to be edited.  Never replaces a file.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="PATTERN",
    help="Leave out tensors of this name or pattern ('*', '?', '[...]').  Repeatable.",
)
@click.option(
    "--data",
    metavar="INPUT",
    help="Inputs of the network (as for 'run', no labels needed): with them the first BatchNorm's statistics confirm the input "
    "mapping, or choose it.",
)
@EXPECT
@click.option("--strict", is_flag=True, help="Warnings are errors: exit with 1 and write nothing.")
@MAX_MEMORY
@JSON
@click.option("--dry-run", is_flag=True, help="Show what would be done, write nothing.")
def command(
    source: str,
    output: Path | None,
    format_name: str | None,
    profile: str | None,
    bn_epsilon: float | None,
    magnitude: Any,
    input_shape: tuple[int, ...] | None,
    float_layers: tuple[str, ...],
    before_norm: str | None,
    center: bool,
    scale_by: Any,
    ema: bool,
    state: str | None,
    output_name: str | None,
    sign_of_signs: bool,
    net_file: Path | None,
    write_net: Path | None,
    ignore: tuple[str, ...],
    data: str | None,
    expect: str | None,
    strict: bool,
    as_json: bool,
    max_memory: int | None,
    dry_run: bool,
    **mapping: Any,
) -> None:
    """Pack a trained network into bits.

    SOURCE is a checkpoint: trained latent weights with their BatchNorm tensors.  What is found in it, what is assumed
    about it and what is ignored are printed; a network that cannot be converted exactly is refused with all reasons.
    """
    if output is None and not dry_run:
        raise click.UsageError("give the file to write with -o OUT.safetensors, or --dry-run to look only")
    from xnorinfer.conversion import convert_file, require_expected
    from xnorinfer.converters import read_source
    from xnorinfer.converters.graphs.structure import told_outputs
    from xnorinfer.converters.reading import ConvertOptions
    from xnorinfer.files import require_writable
    from xnorinfer.keywords import input_mapping
    from xnorinfer.packing import modelfile
    from xnorinfer.proof.answers import read_answers

    options = ConvertOptions(
        format=format_name,
        profile=profile,
        bn_epsilon=bn_epsilon,
        h=magnitude,
        input=input_mapping(mapping, lambda name: f"--{name.replace('_', '-')}"),
        input_shape=input_shape,
        float_layers=tuple(float_layers),
        before_norm=before_norm,
        center=center,
        scale_by=scale_by,
        ema=ema,
        state=state,
        output_name=output_name,
        sign_of_signs=sign_of_signs,
        net=None if net_file is None else read_net_file(net_file),
        ignore=tuple(ignore),
        answered=expect is not None,
        max_memory=max_memory,
    )
    if output is not None:
        require_writable(output, source, *(() if net_file is None else (net_file,)))
        modelfile.require_ending(output)
    if write_net is not None:
        require_new(write_net, output)
    expected = None if expect is None else read_answers(expect, max_memory)
    rows = None if data is None else read_rows(data, max_memory)
    try:
        with screen.waiting(f"reading and packing {source}"):
            conversion = convert_file(source, options, rows)
    except (NetworkError, SourceError) as error:
        _require_a_file(output, told_outputs(str(error)))
        if write_net is not None and net_file is None:
            _write_draft(write_net, source, error, options)
        raise
    _require_a_file(output, [*conversion.reading.outputs, output_name])
    show(source, conversion)
    if expected is not None:
        with screen.stages() as report:
            again = require_expected(conversion, expected, lambda other: read_source(Path(source), other), report=report)
        for text in again.warnings[len(conversion.warnings) :]:
            screen.warn(text)
        conversion = again
        assert conversion.agreement is not None
        screen.say(f"as expected: {conversion.agreement.text()}", "green")
    if strict:
        _require_no_warnings(conversion)
    if write_net is not None:
        _write_net(write_net, source, conversion, options)
    written = None if dry_run else output
    if written is None:
        screen.say("nothing written (--dry-run)" if write_net is None else "no model written (--dry-run)")
    else:
        modelfile.save(conversion.packed, written)
        screen.say(f"wrote {written}, {size_text(written.stat().st_size)}", "bold")
    if as_json:
        screen.give(result_of(source, conversion, written, write_net))


def _require_a_file(output: Path | None, names: Collection[str | None]) -> None:
    """Raise OptionError where --output names a value that the graph gives, as others have options of that name."""
    if output is not None and str(output) in names and output.suffix != ".safetensors":
        raise OptionError(
            f"--output {output}: is a value that the graph gives, and --output takes the file to write: give "
            f"-o OUT.safetensors, and --output-name {output} where the graph gives several values"
        )


def _write_net(path: Path, source: str, conversion: Conversion, options: ConvertOptions) -> None:
    from xnorinfer.converters.nettoml.writer import net_text
    from xnorinfer.files import write_bytes

    with screen.waiting(f"writing {path}"):
        text = net_text(Path(source), conversion.reading, options)
        write_bytes(path, text.encode(errors="replace"))
    screen.say(f"wrote {path}; edit it and give it back with --net {path}")


def _write_draft(path: Path, source: str, error: NetworkError | SourceError, options: ConvertOptions) -> None:
    """What can be said of a refused file; the refusal is shown as ever."""
    from xnorinfer.converters.nettoml.draft import draft_text
    from xnorinfer.files import write_bytes

    try:
        text = draft_text(Path(source), error, options)
    except SourceError:  # it cannot be opened at all, as `error` says
        return
    write_bytes(path, text.encode(errors="replace"))
    screen.say(f"wrote {path}, a draft: complete it and give it back with --net {path}")


def result_of(source: str, conversion: Conversion, written: Path | None, net: Path | None) -> dict[str, Any]:
    """A conversion for --json: what was found, assumed and made."""
    from xnorinfer.packing.description import describe

    reading = conversion.reading
    return {
        "source": source,
        "format": reading.source,
        "output": None if written is None else str(written),
        "net": None if net is None else str(net),
        "tensors": [dataclasses.asdict(use) for use in reading.tensors],
        "assumptions": [dataclasses.asdict(one) for one in reading.assumptions],
        "warnings": list(conversion.warnings),
        "expected": None if conversion.agreement is None else conversion.agreement.to_json(),
        "model": describe(conversion.packed),
    }


def _require_no_warnings(conversion: Conversion) -> None:
    """As `Conversion.require_no_warnings`, where they stand on the screen already."""
    count = len(conversion.warnings)
    if count:
        raise DoesNotHoldError(f"--strict: {count} warning{'' if count == 1 else 's'}; nothing written")


#: Rows of --data that are read: statistics of more are no better.
DATA_ROWS = 16384


def read_rows(data: str, max_memory: int | None) -> NDArray[Any]:
    """The first samples of --data.  Raises InputError."""
    from xnorinfer.samples import dataio

    return dataio.open_samples([data], max_memory).read(DATA_ROWS)


def read_net_file(path: Path) -> str:
    """The text of a net.toml.  Raises OptionError."""
    from xnorinfer.converters.nettoml.table import MAX_TOML_BYTES

    try:
        if not path.is_file():
            raise OptionError(f"--net: there is no file {path}")
        if path.stat().st_size > MAX_TOML_BYTES:
            raise OptionError(f"--net: {path} has {path.stat().st_size} bytes, at most {MAX_TOML_BYTES} are read")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise OptionError(f"--net: {path} is no text in UTF-8, as TOML must be") from None
    except OSError as error:
        raise OptionError(f"--net: {path} cannot be read: {error.strerror}") from None


def require_new(path: Path, output: Path | None) -> None:
    """Raise OptionError or OutputError unless a new file can be made: a net.toml may hold somebody's edits."""
    from xnorinfer.files import require_writable

    if path.exists():
        raise OptionError(f"--write-net: {path} exists already; it may hold your edits, so choose another name")
    if output is not None and path.resolve() == output.resolve():
        raise OptionError(f"--write-net and -o both name {path}")
    require_writable(path)


def show(source: str, conversion: Conversion) -> None:
    """What was found, assumed and made."""
    from xnorinfer.cli.tensors import show_tensors
    from xnorinfer.packing.description import describe

    reading = conversion.reading
    screen.heading(f"Found in {source} (format {reading.source})")
    show_tensors(reading.tensors)
    harmless = {default.what for default in conversion.defaults if default.alternatives and not default.changing}
    screen.heading("Assumed")
    screen.table(
        [("what", False), ("value", False), ("from", False)],
        [[one.what, one.value, one.origin + (", of no effect" if one.what in harmless else "")] for one in reading.assumptions],
    )
    for text in conversion.warnings:
        screen.warn(text)
    screen.heading("Packed network")
    show_layers(describe(conversion.packed))
