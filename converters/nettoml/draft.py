"""`convert SOURCE --write-net net.toml` for what cannot be converted as it is: a net.toml to be completed by hand.

It holds what a source understood before it gave up, of graphs past the nodes that are not known, or else every array (or file
of a folder) with its shape, the matrices as layers.  What is not known stands in comments, or is `open` in a node; nothing is
put under `ignore` that no source knows to be idle.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import Entry
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.converters.containers.textfile import looks_like_base_two, read_bits, read_numbers, read_text
from xnorinfer.converters.nettoml.document import network_arrays, understood_of
from xnorinfer.converters.nettoml.tomltext import toml_key, toml_string
from xnorinfer.converters.nettoml.writer import UNPLACED, Writer
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import NetworkError, SourceError, XnorinferError
from xnorinfer.net.ties import PROFILES
from xnorinfer.oneline import one_line

#: A net.toml with this line is refused until somebody has looked at it.
DRAFT = "draft = true  # take this line out when the file says all"
_WHITE = str.maketrans("\n\r\t", "   ")
#: Kinds of containers whose kernels are (neurons, inputs).
_OUT_IN = ("torch", "safetensors", "onnx")


def draft_text(path: Path, error: XnorinferError, options: ConvertOptions) -> str:
    """A net.toml for SOURCE, which `error` refused.  Raises SourceError where nothing in it can be named."""
    with budget.reading(path, options.max_memory):
        return _draft_text(path, error, options)


def _draft_text(path: Path, error: XnorinferError, options: ConvertOptions) -> str:
    understood = understood_of(error)
    head = ["# A draft, to be completed: xnorinfer could not convert this file as it is, because", *_reasons(error)]
    known = None if understood is None or not understood.net.linears else understood
    try:
        kind, entries = open_container(path)
    except SourceError:  # programs, which only their source can read
        if known is None or not known.open:
            raise
        kind, entries = "files", {}
    text = None
    if known is not None and kind != "files":
        text = Writer(known, kind, entries, {}, is_draft=True).text()
    if known is not None and known.open and text is None:
        reader = {**options.to_json(), "format": known.source}
        text = Writer(known, "network", network_arrays(known.net), reader, is_draft=True).text()
    if text is not None:
        return "\n".join([*head, DRAFT]) + "\n" + text
    layout = _layout(kind, entries)
    body = list(_arrays(layout, entries) if entries else _files(path))
    if not body:
        raise SourceError(f"--write-net: {path} holds neither arrays nor files to name in a draft")
    head += [
        DRAFT,
        "# What is not said here is for you to say: `pydoc xnorinfer.converters.nettoml.document` describes the file.",
        f'profile = "ge-zero"  # or {", ".join(name for name in PROFILES if name != "ge-zero")}',
        f"layout = {toml_string(layout)}  # {_meaning(layout)}, or the other way round",
        "",
        "[input]",
        "range = [-1, 1]  # or normalize = [MEAN, STD], threshold = T, signs = true, reals = true",
    ]
    if any(_is_kernel(entry) for entry in entries.values()):
        head.append("# shape = [HEIGHT, WIDTH, CHANNELS]  # of an image, which the file does not say")
    return "\n".join([*head, *body]) + "\n"


def _meaning(layout: str) -> str:
    return "kernels are (neurons, inputs)" if layout == "out_in" else "kernels are (inputs, neurons)"


def _reasons(error: XnorinferError) -> Iterator[str]:
    for problem in error.problems if isinstance(error, NetworkError) else (str(error),):
        yield f"#   - {one_line(problem)}"


def _layout(kind: str, entries: dict[str, Entry]) -> str:
    """The layout under which more matrices take what the one before gives; else the usual one of this kind of file."""
    matrices = [entry.shape for entry in entries.values() if len(entry.shape) == 2 and min(entry.shape) > 1]
    links = {
        "out_in": sum(after[1] == before[0] for before, after in itertools.pairwise(matrices)),
        "in_out": sum(after[0] == before[1] for before, after in itertools.pairwise(matrices)),
    }
    usual = "out_in" if kind in _OUT_IN else "in_out"
    return usual if links["out_in"] == links["in_out"] else max(links, key=lambda layout: links[layout])


def _arrays(layout: str, entries: dict[str, Entry]) -> Iterator[str]:
    """Matrices and kernels as layers in the file's order, each with the vectors that stand behind it; then what is neither."""
    axis = 0 if layout == "out_in" else 1
    sizes: tuple[int, ...] = ()
    behind_kernel = False
    others: list[str] = []
    for name, entry in entries.items():
        wide = [number for number in entry.shape if number != 1]
        about = f"{toml_string(name)}  # {' x '.join(map(str, entry.shape)) or 'one number'}, {one_line(entry.dtype)}"
        if len(entry.shape) == 2 and len(wide) == 2:
            sizes = (entry.shape[axis],)
            yield from ("", "[[layers]]", f"weight = {about}")
            if behind_kernel:
                yield '# flatten = "channels_first"  # PyTorch, Lasagne; or "channels_last": TensorFlow, Keras'
            behind_kernel = False
        elif _is_kernel(entry):
            sizes, behind_kernel = (entry.shape[0], entry.shape[-1]), True
            yield from ("", "[[layers]]", f"weight = {about}")
            yield '# layout = "OIHW"  # PyTorch, ONNX, Lasagne (with flipped = true); or "HWIO": TensorFlow, Keras'
            yield from UNPLACED
        elif len(wide) == 1 and wide[0] in sizes:
            yield f"# bias, scale, prelu, or of norm: {about}"
        else:
            others.append(f"#   {about}")
    if others:
        yield from (
            "",
            "# What these are is not told by their shapes; each needs a place, or its name in ignore = [...]:",
            *others,
        )


def _is_kernel(entry: Entry) -> bool:
    """Whether an array may be the kernel of a convolution."""
    return len(entry.shape) in (3, 4) and sum(number != 1 for number in entry.shape) > 1


# ---------------------------------------------------------------- loose files


def _files(path: Path) -> Iterator[str]:
    """A declaration for every file of a folder, or for the one file, and the matrices among them as layers."""
    files = sorted(one for one in path.iterdir() if one.is_file()) if path.is_dir() else [path]
    names: dict[str, list[Path]] = {}
    for file in files:
        names.setdefault(file.stem, []).append(file)
    layers: list[str] = []
    for file in files:
        base = file.stem if len(names[file.stem]) == 1 else file.name
        for name, lines, matrix in _declarations(file, base):
            where = [f"file = {toml_string(file.name)}"] if path.is_dir() else []
            yield from ("", f"[arrays.{toml_key(name)}]", *where, *lines)
            if matrix:
                layers += ["", "[[layers]]", f"weight = {toml_string(name)}"]
    yield from layers or (["", "[[layers]]", 'weight = "..."'] if files else [])


def _declarations(file: Path, base: str) -> Iterator[tuple[str, list[str], bool]]:
    """(name, lines of its table, whether it is a matrix) of the arrays in a file."""
    try:
        kind, entries = open_container(file)
    except XnorinferError as error:
        yield base, [f"# cannot be read: {one_line(str(error))}"], False
        return
    for name, entry in entries.items():
        shape = f"  # {' x '.join(map(str, entry.shape)) or 'one number'}, {one_line(entry.dtype)}"
        label = base if len(entries) == 1 else f"{base}/{name}"
        yield label, [f"array = {toml_string(name)}{shape}"], len(entry.shape) == 2 and min(entry.shape) > 1
    if kind == "files":
        yield base, *_declaration(file)


def _declaration(file: Path) -> tuple[list[str], bool]:
    """How a file of text or raw numbers may be read, and whether it then is a matrix."""
    size = file.stat().st_size
    try:
        text = read_text(file)
        if not text.translate(_WHITE).isprintable():
            raise SourceError(f"{file.name} is no text")
        if re.fullmatch(r"[01\s]+", text) and max(map(len, text.split())) > 1:
            shape = read_bits(file, "lsb").shape
            other = ', or format = "numbers" with base = 2' if looks_like_base_two(file) else ""
            said = f'format = "bits"  # {shape[0]} rows of {shape[1]} values{other}'
            return [said, 'order = "lsb"  # or "msb": the rightmost is the first value'], min(shape) > 1
        numbers = read_numbers(file)
        return [f'format = "numbers"  # {" x ".join(map(str, numbers.shape))}'], numbers.ndim == 2 and min(numbers.shape) > 1
    except XnorinferError:
        pass
    try:
        shape = read_bits(file, "lsb", is_hexadecimal=True).shape
        said = f'format = "hex"  # {shape[0]} rows of {shape[1]} bits, or format = "numbers" with base = 16'
        return [said, 'order = "lsb"  # or "msb"'], min(shape) > 1
    except XnorinferError:
        item = 4 if size % 4 == 0 else 1
        dtype = "float32" if item == 4 else "uint8"
        return [
            'format = "raw"',
            f"dtype = {toml_string(dtype)}  # of {size} bytes; or another",
            f"shape = [{size // item}]",
        ], False
