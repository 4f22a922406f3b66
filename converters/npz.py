"""numpy `.npz` archives: BinaryNet's own dumps (Lasagne order), arrays under documented names, and dumped state dicts.

Lasagne order
    `np.savez(file, *lasagne.layers.get_all_param_values(net))` gives arr_0, arr_1, ...: for each layer W (inputs, neurons),
    then b, beta, gamma, mean, inv_std, all (neurons,).  What a network does not have shifts the numbers, so the vectors after
    each W are counted: 5 is all of them, 4 is no b, 2 is mean and inv_std alone, 1 is b without BatchNorm, 0 is neither.
    Three can be several things and are refused, unless the first is all zeros and so changes nothing.
    inv_std is 1/sqrt(variance + epsilon) already, averaged during training.

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
is read as the PyTorch source reads it.
"""

from __future__ import annotations

import re
import tokenize
import warnings
import zipfile
from collections.abc import Sequence
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
    default_warning,
    ignore_line,
    net_line,
    without_ignored,
)
from xnorinfer.converters.statedict import group
from xnorinfer.converters.torch import DEFAULTS as TORCH_DEFAULTS
from xnorinfer.errors import SourceError
from xnorinfer.netspec import F32

LASAGNE = Defaults("theano", "lasagne", 0.0, "inv_std contains it")
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

#: Names of the vectors after W, by how many there are.
_LASAGNE_VECTORS: dict[int, tuple[str, ...]] = {
    0: (),
    1: ("b",),
    2: ("mean", "inv_std"),
    4: ("beta", "gamma", "mean", "inv_std"),
    5: ("b", "beta", "gamma", "mean", "inv_std"),
}


class NpzSource:
    """`.npz` archives; see the module's text for the layouts."""

    name = "npz"
    meaning = "numpy .npz: BinaryNet (Lasagne order) or arrays named 0.weight, 0.bn.mean, ..."

    def sniff(self, path: Path) -> bool:
        """True for zip archives of .npy entries, and for damaged ones called .npz."""
        try:
            with path.open("rb") as stream:
                if stream.read(4) not in (b"PK\x03\x04", b"PK\x05\x06"):
                    return False
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except ZIP_DAMAGE:
            return path.suffix == ".npz" and path.is_file()
        return (bool(names) and all(name.endswith(".npy") for name in names)) or path.suffix == ".npz"

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the archive.  Raises SourceError, OptionError or NetworkError."""
        notes = Notes()
        problems: list[str] = []
        every = load_npz(path)
        tensors = without_ignored(every, options, notes)
        names = [tensor.name for tensor in tensors]
        if names and all(_NUMBERED.fullmatch(name) for name in names):
            tensors.sort(key=lambda tensor: natural_key(tensor.name))
            parts = _lasagne_parts(tensors, len(every), notes, problems)
            return assemble(self.name, path.name, parts, options, LASAGNE, notes, problems)
        if any(name.endswith("running_mean") for name in names):
            notes.assumptions.append(Assumption("layout", "a PyTorch state dict", "file"))
            grouped = group(tensors, notes, problems, epsilon=options.bn_epsilon)
            return assemble(self.name, path.name, grouped.parts, options, TORCH_DEFAULTS, notes, problems, grouped.leading)
        unknown = [name for name in names if not _NAMED.fullmatch(name)]
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


def load_npz(path: Path) -> list[RawTensor]:
    """All arrays in the archive's order.  Pickled objects are refused, sizes checked before anything is allocated."""
    try:
        with reading(path), zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            return [load_entry(path, archive, entry) for entry in archive.infolist()]
    except ZIP_DAMAGE as error:
        raise SourceError(f"{path.name} is a damaged or truncated .npz archive: {error}") from None


def load_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> RawTensor:
    """One array of an archive.  Raises SourceError, or what a damaged zip raises (`ZIP_DAMAGE`)."""
    name = entry.filename.removesuffix(".npy")
    where = f"{path.name}, array {name}"
    if name == entry.filename:
        raise SourceError(f"{path.name} holds {entry.filename!r}, which is no .npy array")
    with archive.open(entry) as stream:
        shape, fortran, dtype = read_header(where, stream)
        if dtype.hasobject:
            raise SourceError(f"{where} holds pickled Python objects, which could run code; save plain number arrays")
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


def _lasagne_parts(tensors: Sequence[RawTensor], count: int, notes: Notes, problems: list[str]) -> list[LayerPart]:
    """count: of the file's arrays, those that --ignore names among them."""
    present = {int(use.name[4:]) for use in notes.tensors if _NUMBERED.fullmatch(use.name)}
    missing = set(range(count)) - present - {int(tensor.name[4:]) for tensor in tensors}
    if missing:
        what = f"arr_{min(missing)} is missing: the arrays must be numbered without gaps"
        problems.append(what + net_line("weight", "norm"))
    layers: list[tuple[RawTensor, list[RawTensor]]] = []
    for tensor in tensors:
        if tensor.array.ndim == 2:
            layers.append((tensor, []))
        elif tensor.array.ndim > 2:
            problems.append(f"{tensor} is a convolution; only dense networks can be converted")
        elif tensor.array.ndim == 1 and layers:
            layers[-1][1].append(tensor)
        else:
            what = f"{tensor} stands where weights (inputs, neurons) are expected"
            problems.append(what + ignore_line(tensor.name))
    return [
        part for index, (kernel, rest) in enumerate(layers) if (part := _lasagne_layer(index, kernel, rest, notes, problems))
    ]


def _lasagne_layer(
    index: int, kernel: RawTensor, vectors: Sequence[RawTensor], notes: Notes, problems: list[str]
) -> LayerPart | None:
    name = str(index)
    meanings = _LASAGNE_VECTORS.get(len(vectors))
    listed = ", ".join(map(str, vectors))
    if len(vectors) == 3 and not vectors[0].array.any():
        meanings = ("b", "mean", "inv_std")  # all zeros: b or beta, both add nothing
    if meanings is None:
        what = (
            "could be b or beta or gamma, then mean and inv_std"
            if len(vectors) == 3
            else "are more than b, beta, gamma, mean and inv_std"
        )
        problems.append(
            f"layer {name}: {listed} after {kernel} {what}; give the arrays names (0.weight, 0.bn.mean, ...)"
            + net_line("norm = {...}")
        )
        return None
    neurons = kernel.shape[1]
    wrong = [str(v) for v in vectors if v.shape != (neurons,)]
    if wrong:
        what = f"layer {name}: {kernel} has {neurons} neurons but {', '.join(wrong)} follow; needed is ({neurons},)"
        problems.append(what + net_line('layout = "out_in"'))
        return None
    if len(vectors) == 4:
        value = f"{listed} read as beta, gamma, mean, inv_std: no b"
        notes.assumptions.append(Assumption(f"layer {name}", value, "default"))
        notes.warnings.append(default_warning(f"layer {name}: {value}", "bias", "norm = {...}"))
    notes.tensors.append(TensorUse(kernel.name, kernel.shape, kernel.dtype, f"layer {name}: latent weights, (inputs, neurons)"))
    found: dict[str, F32] = {}
    for meaning, vector in zip(meanings, vectors, strict=True):
        use = f"layer {name}: " + ("bias" if meaning == "b" else f"BatchNorm {meaning}")
        notes.tensors.append(TensorUse(vector.name, vector.shape, vector.dtype, use))
        found[meaning] = as_float32(vector, notes.warnings)
    norm = None
    if "inv_std" in found:
        norm = NormPart(f"{name}.bn", found["mean"], inv_std=found["inv_std"], gamma=found.get("gamma"), beta=found.get("beta"))
    weight = as_float32(RawTensor(kernel.name, kernel.array.T, kernel.dtype), notes.warnings)
    return LayerPart(name, weight, found.get("b"), None, norm)


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
            problems.append(f"{stored} must be one number; --bn-epsilon says it instead")
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
