"""numpy `.npz` archives, and `.npy` files of pickled dicts and lists: BinaryNet's own dumps, arrays under documented names,
dumped state dicts, and arrays under any names.

Numbered arrays
    `np.savez(file, *arrays)` gives arr_0, arr_1, ...: the lists of Lasagne (BinaryNet), Keras and PyTorch, see `numbered`.

Named layout (dump it with `np.savez(file, **arrays)`)
    ========================== =================== =====================================================================
    `I.weight`                 (neurons, inputs)   latent weights of layer I = 0, 1, 2, ... in order of execution
    `I.bias`                   (neurons,)          optional: added to the dot before BatchNorm
    `I.scale`                  (neurons,)          optional: the dot times this, before the bias
    `I.bn.mean`                (neurons,)          BatchNorm's moving mean; hidden binary layers need BatchNorm
    `I.bn.var` or `I.bn.inv_std` (neurons,)        variance (epsilon is added), or 1/sqrt(variance + epsilon) as Lasagne has it
    `I.bn.gamma`, `I.bn.beta`  (neurons,)          optional: default 1 and 0
    `I.bn.epsilon`             one number          optional: else --bn-epsilon, else 1e-5 under torch-sign, 1e-4 otherwise
    ========================== =================== =====================================================================
    Between layers stands a sign under the tie profile (default `tf1-round`); BatchNorm is computed as in that profile's
    framework.  A float last layer is named with --float-layer I and reads hardtanh of what comes before.

A state dict dumped as is (`np.savez(file, **{k: v.numpy() for k, v in net.state_dict().items()})`: names with `running_mean`)
is read as the PyTorch source reads it, and so are arrays under names of someone's own (`loose`).  Arrays of objects, which
numpy pickles, are read as plain data (`pickled`); nothing in them runs.
"""

from __future__ import annotations

import re
import tokenize
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xnorinfer.budget import reading, shape_problem, spend_bytes
from xnorinfer.converters.arrays import ZIP_DAMAGE, RawTensor, as_float32, check_zip, element_count, natural_key
from xnorinfer.converters.assemble import Defaults, LayerPart, NormPart, assemble
from xnorinfer.converters.base import (
    NORM_ORDER,
    Assumption,
    ConvertOptions,
    Notes,
    Reading,
    TensorUse,
    ignore_line,
    net_line,
    without_ignored,
)
from xnorinfer.converters.checkpointtree import StateDict, tensors_of
from xnorinfer.converters.numbered import read_numbered
from xnorinfer.converters.pickled import unpickle
from xnorinfer.converters.pickledarrays import ARRAYS
from xnorinfer.converters.torch import DEFAULTS as TORCH_DEFAULTS
from xnorinfer.converters.torch import read_contents, read_state
from xnorinfer.errors import SourceError
from xnorinfer.netspec import F32

NAMED_TF = Defaults(
    "tf1-round",
    "tf",
    1e-4,
    "as in the BinaryNet scripts",
    "the file does not say BatchNorm's epsilon: 1e-4 is used; other training code has 1e-3, 1e-5, ..., so check --bn-epsilon",
)
NAMED_TORCH = Defaults("torch-sign", "torch", 1e-5, "PyTorch's default")

_NAMED = re.compile(r"(\d{1,9})\.(weight|bias|scale|bn\.(?:gamma|beta|mean|var|inv_std|epsilon))")
_NUMBERED = re.compile(r"arr_(\d{1,9})")


class NpzSource:
    """`.npz` archives; see the module's text for the layouts."""

    name = "npz"
    meaning = "numpy .npz: BinaryNet (Lasagne order) or arrays named 0.weight, 0.bn.mean, ...; .npy of a dict or list of arrays"

    def sniff(self, path: Path) -> bool:
        """True for zip archives of .npy entries, for damaged ones called .npz, and for .npy files of objects."""
        try:
            with path.open("rb") as stream:
                start = stream.read(6)
                if start == b"\x93NUMPY":
                    stream.seek(0)
                    return read_header(path.name, stream)[2].hasobject
                if start[:4] not in (b"PK\x03\x04", b"PK\x05\x06"):
                    return False
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except SourceError:
            return False
        except ZIP_DAMAGE:
            return path.suffix == ".npz" and path.is_file()
        return (bool(names) and all(name.endswith(".npy") for name in names)) or path.suffix == ".npz"

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the file.  Raises SourceError, OptionError or NetworkError."""
        every = load_arrays(path)
        notes = Notes()
        if isinstance(every, Pickled):
            plain = every.without_objects(notes)
            if plain is None:
                return read_contents(self.name, path.name, every.root, options)
            every = plain
        problems: list[str] = []
        tensors = without_ignored(every, options, notes)
        names = [tensor.name for tensor in tensors]
        if names and all(_NUMBERED.fullmatch(name) for name in names):
            tensors.sort(key=lambda tensor: natural_key(tensor.name))
            present = {int(use.name[4:]) for use in notes.tensors if _NUMBERED.fullmatch(use.name)}
            missing = set(range(len(every))) - present - {int(tensor.name[4:]) for tensor in tensors}
            if missing:
                what = f"arr_{min(missing)} is missing: the arrays must be numbered without gaps"
                problems.append(what + net_line("weight", "norm"))
            return read_numbered(self.name, path.name, tensors, options, notes, problems, TORCH_DEFAULTS)
        named = [name for name in names if _NAMED.fullmatch(name)]
        matrices = any(tensor.array.ndim == 2 for tensor in tensors)
        if any(name.endswith("running_mean") for name in names) or (matrices and not named):
            state = any(name.endswith("running_mean") for name in names)
            notes.assumptions.append(Assumption("layout", "a PyTorch state dict" if state else "arrays by their names", "file"))
            content = StateDict("", {tensor.name: tensor for tensor in tensors})
            # Names in alphabetical order were sorted by whoever wrote them, so that what follows what means nothing.
            return read_state(self.name, path.name, content, options, notes, ordered=names != sorted(names))
        unknown = [name for name in names if name not in named]
        if unknown or not names:
            found = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "") if unknown else "nothing"
            raise SourceError(
                f"{path.name} holds {found}: neither numbered arrays in BinaryNet's order (arr_0, arr_1, ...) nor the named "
                "layout (0.weight, 0.bias, 0.scale, 0.bn.mean, 0.bn.var or 0.bn.inv_std, 0.bn.gamma, 0.bn.beta, 1.weight, ...)"
                + net_line('[[layers]] weight = "..."')
            )
        parts = _named_parts(tensors, notes, problems)
        defaults = NAMED_TORCH if options.profile == "torch-sign" else NAMED_TF
        if any(part.norm is not None and part.norm.variance is not None for part in parts):
            value = f"{defaults.form}, as the tie profile's framework has it"
            notes.assumptions.append(Assumption(NORM_ORDER, value, "option" if options.profile else "default"))
        return assemble(self.name, path.name, parts, options, defaults, notes, problems)


# ---------------------------------------------------------------- the container


@dataclass(frozen=True, eq=False)
class Pickled:
    """Objects that numpy pickled, as plain data; numbers that stand beside them are arrays."""

    root: Any

    def without_objects(self, notes: Notes) -> list[RawTensor] | None:
        """The arrays beside objects that hold none, such as Chainer's None, which are noted; None where objects hold arrays."""
        if not isinstance(self.root, dict) or not any(isinstance(value, RawTensor) for value in self.root.values()):
            return None
        objects = {name: value for name, value in self.root.items() if not isinstance(value, RawTensor)}
        if any(next(tensors_of(value), None) for value in objects.values()):
            return None
        notes.tensors += [TensorUse(name, (), "object", "holds no numbers", ignored=True) for name in objects]
        return [value for value in self.root.values() if isinstance(value, RawTensor)]


def load_arrays(path: Path) -> list[RawTensor] | Pickled:
    """All arrays in the archive's order, or what pickled objects hold.  Sizes are checked before anything is allocated.

    Raises SourceError.
    """
    with path.open("rb") as stream:
        single = stream.read(6) == b"\x93NUMPY"
        if single:
            stream.seek(0)
            return Pickled(load_objects(path.name, stream))
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            found = {entry.filename: _load(path, archive, entry) for entry in archive.infolist()}
    except ZIP_DAMAGE as error:
        raise SourceError(f"{path.name} is a damaged or truncated .npz archive: {error}") from None
    if all(isinstance(value, RawTensor) for value in found.values()):
        return list(found.values())
    return Pickled({name.removesuffix(".npy"): value for name, value in found.items()})


def _load(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Any:
    name = entry.filename.removesuffix(".npy")
    if name != entry.filename:
        with archive.open(entry) as stream:
            if read_header(f"{path.name}, array {name}", stream)[2].hasobject:
                spend_bytes(entry.file_size, f"array {name}")
                return unpickle(f"{path.name}, array {name}", stream.read(), ARRAYS)
    return load_entry(path, archive, entry)


def load_objects(where: str, stream: Any) -> Any:
    """The objects of a .npy file or entry, as plain data.  Raises SourceError."""
    _, _, dtype = read_header(where, stream)
    if not dtype.hasobject:
        raise SourceError(f"{where} is a single array")
    return unpickle(where, stream.read(), ARRAYS)


def load_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> RawTensor:
    """One array of an archive.  Raises SourceError, or what a damaged zip raises (`ZIP_DAMAGE`)."""
    name = entry.filename.removesuffix(".npy")
    where = f"{path.name}, array {name}"
    if name == entry.filename:
        raise SourceError(f"{path.name} holds {entry.filename!r}, which is no .npy array")
    with archive.open(entry) as stream:
        shape, fortran, dtype = read_header(where, stream)
        if dtype.hasobject:
            raise SourceError(f"{where} holds objects, needed are real numbers")
        size = element_count(shape) * dtype.itemsize
        left = entry.file_size - stream.tell()
        if size != left:
            raise SourceError(f"{where} says {shape} {dtype}, which is {size} bytes, but {left} follow")
        spend_bytes(size, f"{where}, {shape} {dtype},")
        data = stream.read(size)
    if len(data) != size:
        raise SourceError(f"{where} is truncated: {len(data)} of {size} bytes")
    array = np.frombuffer(data, dtype) if dtype.itemsize else np.empty(0, dtype)
    return RawTensor(name, array.reshape(shape, order="F" if fortran else "C"), str(dtype))


def read_header(where: str, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, column order and type of a .npy array; the stream then stands at its numbers.  Raises SourceError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about deprecated names of types, which no array that converts has
            shape, fortran, dtype = _read_any_header(stream)
        problem = shape_problem(shape, dtype.itemsize)
        if problem is not None:
            raise ValueError(f"it says {problem}")
    except (*ZIP_DAMAGE, SyntaxError, TypeError, tokenize.TokenError, RecursionError, MemoryError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise SourceError(f"{where}: has a damaged or unusable header ({reason})") from None
    return shape, fortran, dtype


def _read_any_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f".npy format version {version[0]}.{version[1]} is not for arrays of numbers")


# ---------------------------------------------------------------- the layouts


def _named_parts(tensors: Sequence[RawTensor], notes: Notes, problems: list[str]) -> list[LayerPart]:
    layers: dict[int, dict[str, RawTensor]] = {}
    for tensor in tensors:
        match = _NAMED.fullmatch(tensor.name)
        assert match is not None
        fields = layers.setdefault(int(match[1]), {})
        if match[2] in fields:
            what = f"{fields[match[2]].name} and {tensor.name} are the same array of layer {int(match[1])}"
            problems.append(what + ignore_line(tensor.name))
        fields[match[2]] = tensor
    parts = []
    for index in sorted(layers):
        part = _named_layer(str(index), layers[index], notes, problems)
        if part is not None:
            parts.append(part)
    missing = set(range(len(layers))) - set(layers)
    if missing:
        what = f"{min(missing)}.weight is missing: layers must be numbered 0, 1, 2, ... without gaps"
        problems.append(what + net_line("weight"))
    return parts


_MEANINGS = {
    "weight": "latent weights, (neurons, inputs)",
    "bias": "bias",
    "scale": "scale",
    "bn.mean": "BatchNorm mean",
    "bn.var": "BatchNorm variance",
    "bn.inv_std": "BatchNorm inv_std",
    "bn.gamma": "BatchNorm gamma",
    "bn.beta": "BatchNorm beta",
}


def _named_layer(name: str, fields: dict[str, RawTensor], notes: Notes, problems: list[str]) -> LayerPart | None:
    epsilon = None
    stored = fields.pop("bn.epsilon", None)
    if stored is not None:
        notes.tensors.append(TensorUse(stored.name, stored.shape, stored.dtype, f"layer {name}: BatchNorm epsilon"))
        epsilon = float(stored.array.reshape(-1)[0]) if stored.array.size == 1 and stored.array.dtype.kind in "fiu" else None
        if epsilon is None:
            problems.append(f"{stored} must be one number; --ignore {stored.name} with --bn-epsilon EPSILON says it instead")
    arrays: dict[str, F32] = {}
    for key, tensor in fields.items():
        notes.tensors.append(TensorUse(tensor.name, tensor.shape, tensor.dtype, f"layer {name}: {_MEANINGS[key]}"))
        arrays[key] = as_float32(tensor, notes.warnings)
    if "weight" not in arrays:
        problems.append(f"{name}.weight is missing" + net_line("ignore = [...]"))
        return None
    if arrays["weight"].ndim == 4:
        problems.append(f"{fields['weight']} is a convolution; only dense networks can be converted")
        return None
    return LayerPart(
        name, arrays["weight"], arrays.get("bias"), arrays.get("scale"), _named_norm(name, arrays, epsilon, problems)
    )


def _named_norm(name: str, arrays: dict[str, F32], epsilon: float | None, problems: list[str]) -> NormPart | None:
    given = [key for key in arrays if key.startswith("bn.")]
    if not given:
        return None
    if "bn.mean" not in arrays:
        what = f"{name}.bn.mean is missing, beside {', '.join(f'{name}.{key}' for key in given)}"
        problems.append(what + net_line("mean = 0"))
        return None
    if ("bn.var" in arrays) == ("bn.inv_std" in arrays):
        what = f"layer {name} needs exactly one of {name}.bn.var and {name}.bn.inv_std"
        problems.append(what + net_line(f'ignore = ["{name}.bn.var"]', "variance = 1"))
        return None
    return NormPart(
        f"{name}.bn",
        arrays["bn.mean"],
        arrays.get("bn.var"),
        arrays.get("bn.inv_std"),
        arrays.get("bn.gamma"),
        arrays.get("bn.beta"),
        epsilon,
    )
