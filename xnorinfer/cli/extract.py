"""`xnorinfer extract`: the numbers of a model for other programs, as arrays or as C."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xnorinfer.budget import size_text
from xnorinfer.cli import screen
from xnorinfer.cli.options import JSON, MODEL
from xnorinfer.errors import OptionError, OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from xnorinfer.packing.packed import PackedModel

EPILOG = """\b
Examples:
  xnorinfer extract mnist.safetensors -o mnist.npz --signs        arrays for numpy
  xnorinfer extract mnist.safetensors -o fc2.npz --layer fc2      one layer
  xnorinfer extract mnist.safetensors -o mnist.h                  C99 to #include: mnist_predict, mnist_scores
  xnorinfer extract mnist.safetensors -o mnist.h --runner --data t10k-images-idx3-ubyte.gz
  xnorinfer extract mnist.safetensors -o mnist --arduino --data t10k-images-idx3-ubyte.gz
  cc -std=c99 -O3 -march=native mnist_runner.c -o mnist_runner && ./mnist_runner mnist_vectors.txt
"""

#: Rows of test vectors where the user says nothing.
ROWS = 16
#: Seed of random test vectors.
SEED = 0


@click.command("extract", epilog=EPILOG)
@MODEL
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="OUT",
    help="The file to write: OUT.npz or OUT.safetensors (arrays), OUT.h (C99); with --arduino, a folder.",
)
@click.option("--signs", is_flag=True, help="Arrays: also all binary weights as plain -1/+1, int8.")
@click.option(
    "--layer", "layers", multiple=True, metavar="LAYER", help="Arrays: only this layer, by name or number from 0.  Repeatable."
)
@click.option("--name", metavar="NAME", help="C: what all names begin with.  [default: made of the name of OUT]")
@click.option(
    "--runner",
    is_flag=True,
    help="C: also write OUT_runner.c, a program that runs the network, and OUT_vectors.txt, samples with their scores.",
)
@click.option(
    "--arduino",
    is_flag=True,
    help="C: write an Arduino library, a folder with library.properties, src/NAME.h and a sketch that runs one sample.",
)
@click.option(
    "--data",
    metavar="INPUT",
    help="C: take the samples from here (as for 'run') instead of random ones; --arduino takes the first.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"C: take so many samples.  [default: {ROWS}]",
)
@JSON
def command(
    model: str,
    output: Path,
    signs: bool,
    layers: tuple[str, ...],
    name: str | None,
    runner: bool,
    arduino: bool,
    data: str | None,
    rows: int | None,
    as_json: bool,
) -> None:
    """Get the bits, thresholds and head of a model, for other programs.

    Arrays: for every layer N its weights as words of bits (layers.N.bits), its thresholds (layers.N.limits: a neuron is +1
    where at most so many weights and inputs differ; layers.N.min_matches: where at least so many are equal) or the float32
    steps of its scores (layers.N.steps).  'pydoc xnorinfer.export.plainarrays' describes every name, the order of the bits and
    what is compared with what; it takes 20 lines of numpy to run the network from them.

    C: one header without dependencies that holds the network and computes it, to the last bit as xnorinfer does.  Compile it
    with -O3, and for the machine at hand with -march=native.
    """
    from xnorinfer.export.plainarrays import ARRAY_SUFFIXES
    from xnorinfer.packing import modelfile

    suffix = output.suffix.lower()
    only_arrays = {"--signs": signs, "--layer": bool(layers)}
    only_files = {"--runner": runner, "--rows": rows is not None}
    only_c = {"--name": name is not None, "--data": data is not None, **only_files}
    if arduino:
        if suffix in (*ARRAY_SUFFIXES, ".h"):
            raise OptionError(f"{output}: --arduino writes a folder; give a name without {output.suffix}")
        if wrong := [option for option, given in (only_arrays | only_files).items() if given]:
            raise OptionError(f"{' and '.join(wrong)}: not with --arduino, which writes a library with one sample")
    elif suffix not in (*ARRAY_SUFFIXES, ".h"):
        raise OptionError(f"{output}: its ending says what is written; give a name that ends in .npz, .safetensors or .h")
    elif wrong := [option for option, given in (only_arrays if suffix == ".h" else only_c).items() if given]:
        kinds = "arrays (.npz, .safetensors)" if suffix == ".h" else "C (.h)"
        raise OptionError(f"{' and '.join(wrong)}: only for {kinds}, but the output is {output}")
    elif not runner and (data is not None or rows is not None):
        raise OptionError("--data and --rows choose samples for --runner, which is not given")
    packed = modelfile.load(model)
    if arduino:
        result = _write_arduino(packed, output, name, data)
    elif suffix == ".h":
        result = _write_c(packed, model, output, name, runner, data, rows)
    else:
        result = _write_arrays(packed, model, output, signs, layers)
    if as_json:
        screen.give(result)


def _write_arrays(packed: PackedModel, model: str, output: Path, signs: bool, layers: tuple[str, ...]) -> dict[str, Any]:
    from xnorinfer.export.plainarrays import arrays, choose_layers, write_arrays
    from xnorinfer.files import require_writable

    chosen = choose_layers(packed, layers) if layers else None
    require_writable(output, model)
    found = arrays(packed, chosen, signs=signs)
    write_arrays(packed, output, chosen, signs=signs)
    screen.table(
        [("array", False), ("shape", True), ("type", False)],
        [[name, screen.shape_text(array.shape), str(array.dtype)] for name, array in found.items()],
    )
    _wrote(output)
    described = {name: {"shape": list(array.shape), "dtype": str(array.dtype)} for name, array in found.items()}
    return {"written": [str(output)], "arrays": described}


def _write_c(
    packed: PackedModel, model: str, output: Path, name: str | None, runner: bool, data: str | None, rows: int | None
) -> dict[str, Any]:
    from xnorinfer.export import ccode
    from xnorinfer.files import require_writable, write_bytes

    prefix = ccode.identifier(output.stem) if name is None else name
    texts = {output: ccode.header(packed, prefix)}
    if runner:
        texts[output.with_name(f"{output.stem}_runner.c")] = ccode.runner(packed, prefix, output.stem)
    vectors = output.with_name(f"{output.stem}_vectors.txt")
    for path in (*texts, *([vectors] if runner else [])):
        require_writable(path, model, *_files(data))
    if runner:
        texts[vectors] = _vectors(packed, data, ROWS if rows is None else rows)
    for path, text in texts.items():
        write_bytes(path, text.encode())
        _wrote(path)
    return {"written": [str(path) for path in texts], "prefix": prefix}


def _write_arduino(packed: PackedModel, output: Path, name: str | None, data: str | None) -> dict[str, Any]:
    from xnorinfer.engine.model import Model
    from xnorinfer.export import ccode
    from xnorinfer.files import make_folders, write_bytes

    if output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; --arduino writes a folder")
    if not output.resolve().parent.is_dir():
        raise OutputError(f"{output}: cannot be written: there is no folder {output.parent}")
    prefix = ccode.identifier(output.resolve().name) if name is None else name
    inputs = _samples(packed, data, 1)
    with screen.waiting("preparing kernels (the first use compiles them)"):
        predicted = Model(packed).predict(inputs)[0]
    texts = {output / path: text for path, text in ccode.arduino_library(packed, prefix, inputs[0], predicted).items()}
    make_folders(texts)
    for path, text in texts.items():
        write_bytes(path, text.encode())
        _wrote(path)
    return {"written": [str(path) for path in texts], "prefix": prefix}


def _files(data: str | None) -> list[Path]:
    from xnorinfer.samples.dataio import split_member

    return [] if data is None else [split_member(data)[0]]


def _vectors(packed: PackedModel, data: str | None, rows: int) -> str:
    """Samples of a file or random ones, with the scores that the model has for them."""
    from xnorinfer.engine.model import Model
    from xnorinfer.export import ccode

    inputs = _samples(packed, data, rows)
    with screen.waiting("preparing kernels (the first use compiles them)"):
        return ccode.vectors(packed, inputs, Model(packed).scores(inputs))


def _samples(packed: PackedModel, data: str | None, rows: int) -> NDArray[Any]:
    from xnorinfer.engine.model import canonical_input, random_inputs
    from xnorinfer.samples import dataio

    if data is None:
        return random_inputs(packed, rows, SEED)
    samples = dataio.open_samples([data], shape=packed.shape)
    samples.require_shape(packed.shape, channels_first=packed.channels_first)
    return canonical_input(packed, samples.read(rows))


def _wrote(path: Path) -> None:
    screen.say(f"wrote {path}, {size_text(path.stat().st_size)}", "bold")
