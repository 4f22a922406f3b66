"""PyTorch: state dicts (`.pt`, `.pth`, `.pth.tar`, `.safetensors`), bare or inside a training dict, and live modules.

Nothing in a file is executed: pickles are loaded with `weights_only=True`, which admits tensors and plain containers; a few
inert types that training scripts store beside the weights (numpy scalars, argparse.Namespace) are admitted too.
`.safetensors` needs no torch.  Archives that hold a program, of TorchScript or torch.export, are read without torch, too, and
without running it: as graphs (`torchscript`, `torchexport`).

A state dict keeps the order in which modules were registered; this is taken as the order of execution.  A `.safetensors` file
keeps no order: names are sorted, digits as numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xnorinfer.converters.arrays import ZIP_DAMAGE, RawTensor, check_zip, natural_key, require_shape
from xnorinfer.converters.assemble import Defaults, LayerPart, assemble
from xnorinfer.converters.base import Assumption, ConvertOptions, Notes, Reading, TensorUse, without_ignored
from xnorinfer.converters.graph import read_graph
from xnorinfer.converters.onnxfile import OnnxGraph
from xnorinfer.converters.statedict import BREVITAS_WAY, brevitas_problems, group
from xnorinfer.converters.torchexport import is_export, read_export
from xnorinfer.converters.torchscript import is_script, read_script
from xnorinfer.converters.torchtensor import widen_bfloat16
from xnorinfer.errors import MissingExtraError, NetworkError, SourceError

if TYPE_CHECKING:
    import torch

DEFAULTS = Defaults(
    "torch-sign",
    "torch",
    1e-5,
    "torch.nn.BatchNorm1d's default, not stored in state dicts",
    input_warning=(
        "the file does not say how pixels enter the network: -1..1 is used; scripts that follow BinaryNet.pytorch use "
        "--input-normalize 0.1307:0.3081"
    ),
)

#: First bytes of torch.save before version 1.6: a pickled magic number.
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SUFFIXES = (".pt", ".pt2", ".pth", ".tar", ".ckpt", ".bin", ".pkl")

#: safetensors' dtype codes; BF16 is widened by hand.
_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
}


class TorchSource:
    """State dicts in PyTorch's or safetensors' container, and archives of whole programs."""

    name = "torch"
    meaning = (
        "PyTorch state dict or training checkpoint (.pt, .pth, .pth.tar), TorchScript, torch.export (.pt2), or .safetensors"
    )

    def sniff(self, path: Path) -> bool:
        """True for torch zips, old torch pickles, any pickle under a usual suffix, and safetensors."""
        try:
            with path.open("rb") as stream:
                start = stream.read(16)
            if start.startswith(b"PK\x03\x04"):
                with zipfile.ZipFile(path) as archive:
                    names = archive.namelist()
                    return any(name.endswith("data.pkl") for name in names) or is_export(names)
        except ZIP_DAMAGE:
            return path.suffix in _SUFFIXES and path.is_file()
        return start.startswith(_LEGACY_MAGIC) or start[:1] == b"\x80" or _is_safetensors(path, start)

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the file.  Raises SourceError, OptionError, NetworkError or MissingExtraError (torch)."""
        with path.open("rb") as stream:
            start = stream.read(16)
        notes = Notes()
        problems: list[str] = []
        modules: list[str] = []
        if _is_safetensors(path, start):
            tensors, where = load_safetensors(path), ""
            tensors.sort(key=lambda tensor: natural_key(tensor.name))
            value = "sorted by name, digits as numbers (a safetensors file keeps no order)"
            notes.assumptions.append(Assumption("order of layers", value, "default"))
        else:
            graph = _graph_of(path)
            if graph is not None:
                return read_graph(self.name, graph, path.name, options, "torch")
            tensors, where, modules = _tensors_of(path, load_checkpoint(path), notes)
            notes.assumptions.append(Assumption("order of layers", "as in the state dict", "file"))
        parts = group(without_ignored(tensors, options, notes, where), notes, problems, where)
        defaults = DEFAULTS
        if any(name.endswith(".weight_quant") for name in modules):
            defaults = dataclasses.replace(DEFAULTS, profile="ge-zero", profile_origin="file")
            problems[:0] = brevitas_problems(modules, parts[0].name if parts else None, options)
        return assemble(self.name, path.name, parts, options, defaults, notes, problems)


def _graph_of(path: Path) -> OnnxGraph | None:
    """The graph of an archive that holds a program; None for files of tensors."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except ZIP_DAMAGE:
        return None  # told by those who read it
    if is_export(names):
        return read_export(path)
    return read_script(path) if is_script(names) else None


# ---------------------------------------------------------------- safetensors


def _is_safetensors(path: Path, start: bytes) -> bool:
    return start[8:9] == b"{" or (path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80")))


def load_safetensors(path: Path) -> list[RawTensor]:
    """All tensors of a safetensors file.  Raises SourceError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:  # validates the header: offsets, sizes, overlaps
            if "xnorinfer" in (file.metadata() or {}):
                raise SourceError(f"{path.name} is an xnorinfer model already, not a checkpoint")
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path.name} is a damaged or truncated safetensors file: {error}") from None
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    if not header:
        return []
    data = np.memmap(path, np.uint8, "r", offset=8 + length) if path.stat().st_size > 8 + length else np.empty(0, np.uint8)
    tensors = []
    for name, entry in header.items():
        code = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if code is None:
            raise SourceError(f"{path.name}, tensor {name} has type {entry['dtype']}, which is not supported")
        begin, end = entry["data_offsets"]
        require_shape(f"{path.name}, tensor {name}", entry["shape"], np.dtype(code).itemsize)
        array: Any = data[begin:end].view(code).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            array = widen_bfloat16(array)
        tensors.append(RawTensor(name, array, entry["dtype"]))
    return tensors


# ---------------------------------------------------------------- torch.save files


def load_checkpoint(path: Path) -> Any:
    """What torch.save wrote, without running code.  Raises SourceError and MissingExtraError."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError(f"reading {path.name}", "torch", "torch") from None
    _check_archive(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_inert_globals()):
            warnings.simplefilter("ignore")  # about old file formats; nothing a user could act on
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes make torch.load raise nearly anything; all of it means: not loadable
        raise SourceError(f"{path.name} {_reason(error)}") from None


def _check_archive(path: Path) -> None:
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            if is_script(archive.namelist()) or is_export(archive.namelist()):
                raise SourceError(
                    f"{path.name} holds a program and not tensors alone; save them for this: "
                    "torch.save(torch.jit.load(...).state_dict(), 'net.pt'), or torch.export.load(...).state_dict"
                )
            # torch.save stores without compression, so that nothing it wrote unpacks to more than the file.
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise SourceError(f"{path.name} is compressed, which torch.save never does: refused")
            # torch.load takes an entry that is marked as a folder for an empty one, whatever it holds.
            if any(entry.external_attr & 0x10 for entry in archive.infolist()):
                raise SourceError(f"{path.name} is a damaged archive: an entry is marked as a folder")
            # torch.load compares no checksums, so that a flipped bit would pass for a trained weight.
            damaged = archive.testzip()
            if damaged is not None:
                raise SourceError(f"{path.name} is damaged: {damaged} does not match its checksum")
    except ZIP_DAMAGE as error:
        raise SourceError(f"{path.name} is a damaged or truncated archive: {error}") from None


def _inert_globals() -> list[Any]:
    import argparse

    kinds = [type(np.dtype(code)) for code in "?bBhHiIlLqQefd"]
    scalar = np.float64(0).__reduce__()[0]
    return [argparse.Namespace, np.dtype, *kinds, scalar, (scalar, "numpy.core.multiarray.scalar")]


def _reason(error: Exception) -> str:
    text = str(error)
    wanted = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"(?:class|function|type) ([\w.]+\.[\w.]+)", text)
    if isinstance(error, pickle.UnpicklingError) and wanted:
        return (
            f"wants to run code or to build objects of its own ({wanted[1]}), which is refused; save the weights alone: "
            "torch.save(net.state_dict(), 'net.pt')"
        )
    said = re.search(r"WeightsUnpickler error: (.*)", text)
    sentence = (said[1] if said else text).strip().split("\n")[0].split(". ")[0]
    # A KeyError on byte soup says just "105".
    detail = sentence if " " in sentence else f"unexpected content ({type(error).__name__})"
    return f"is damaged, truncated or no PyTorch checkpoint: {detail[:200]}"


def _tensors_of(path: Path, loaded: Any, notes: Notes) -> tuple[list[RawTensor], str, list[str]]:
    """The tensors of the one state dict in a checkpoint, where it stands in it ("state_dict." or ""), and the names of all its
    modules, as far as it keeps them."""
    import torch

    found: dict[str, Mapping[Any, Any]] = {}
    others: list[tuple[str, torch.Tensor, str]] = []
    for where, mapping, reason in _mappings(loaded):
        tensors = {key: value for key, value in mapping.items() if isinstance(value, torch.Tensor)}
        if not reason and any(isinstance(key, str) and value.ndim >= 2 for key, value in tensors.items()):
            found[where] = mapping
        else:
            others.extend((f"{where}{key}", value, reason or "holds no weights of a layer") for key, value in tensors.items())
    if not found:
        raise SourceError(f"{path.name} holds {type(loaded).__name__} without any state dict (names and matrices) in it")
    if len(found) > 1:
        listed = ", ".join(
            f"{where.rstrip('.') or 'the top level'} ({len(mapping)} entries)" for where, mapping in found.items()
        )
        raise SourceError(
            f"{path.name} holds {len(found)} state dicts: {listed}; save the one you want alone: "
            f"torch.save(checkpoint[...], 'net.pt')"
        )
    ((where, mapping),) = found.items()
    for name, tensor, reason in others:
        notes.tensors.append(TensorUse(name, tuple(tensor.shape), _dtype_name(tensor), reason, ignored=True))
    if where:
        notes.assumptions.append(Assumption("state dict", where.rstrip("."), "file"))
    size = path.stat().st_size
    tensors = {key: value for key, value in mapping.items() if isinstance(value, torch.Tensor)}
    odd = next((type(key).__name__ for key in tensors if not isinstance(key, str)), None)
    if odd is not None:
        raise SourceError(f"{path.name} holds a state dict with a tensor whose name is no text but {odd}")
    kept = getattr(mapping, "_metadata", None)  # of `Module.state_dict`: version numbers by module
    modules = [name for name in kept if isinstance(name, str)] if isinstance(kept, Mapping) else []
    return [raw_tensor(str(key), value, size) for key, value in tensors.items()], where, modules


def _mappings(loaded: Any) -> Iterator[tuple[str, Mapping[Any, Any], str]]:
    """Every mapping in a checkpoint, its path, and the reason to leave it out ("" if there is none)."""
    stack: list[tuple[str, Any, str]] = [("", loaded, "")]
    seen: set[int] = set()
    while stack:
        where, value, reason = stack.pop()
        if id(value) in seen:
            continue
        if isinstance(value, Mapping):
            seen.add(id(value))
            if "param_groups" in value and "state" in value:
                reason = "optimizer state, no part of inference"
            yield where, value, reason
            stack.extend((f"{where}{key}.", inner, reason) for key, inner in value.items() if isinstance(key, str | int))
        elif isinstance(value, list | tuple):
            seen.add(id(value))
            stack.extend((f"{where}{index}.", inner, reason) for index, inner in enumerate(value))


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def raw_tensor(name: str, tensor: torch.Tensor, limit_bytes: int | None = None) -> RawTensor:
    """A torch tensor as numpy.  limit_bytes: the file's size, which no tensor in it can exceed."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or tensor.is_complex():
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} {tensor.dtype} on {tensor.device}"
        raise SourceError(f"tensor {name} is {kind}, needed is an ordinary dense tensor of real numbers")
    if limit_bytes is not None and tensor.numel() * tensor.element_size() > limit_bytes:
        raise SourceError(f"tensor {name} says {tuple(tensor.shape)}, which is more than the whole file holds")
    dtype = _dtype_name(tensor)
    tensor = tensor.detach()
    array = widen_bfloat16(tensor.view(torch.int16).numpy().view(np.uint16)) if dtype == "bfloat16" else None
    if array is None:
        with contextlib.suppress(TypeError):
            array = tensor.numpy()
    if array is None:
        raise SourceError(f"tensor {name} has type {dtype}, which is not supported")
    return RawTensor(name, array, dtype)


# ---------------------------------------------------------------- live modules

#: Layers that do nothing at inference, or nothing that changes which score is largest.
_PASSIVE = ("Dropout", "AlphaDropout", "Identity", "Flatten", "Softmax", "LogSoftmax")


def from_torch_module(module: torch.nn.Module, options: ConvertOptions) -> Reading:
    """Read a live module: as its state dict is read, but BatchNorm's epsilon comes from each BatchNorm itself.

    A plain `torch.nn.Linear` is a float layer if other layers of the module are not (subclasses such as BinarizeLinear); if
    all are plain, all are taken as binarized in use, unless `options.float_layers` names them.  In a `torch.nn.Sequential` the
    activation before a float layer is known; else hardtanh is assumed.  The module is not changed.
    Raises SourceError, OptionError or NetworkError.
    """
    import torch

    while isinstance(inner := getattr(module, "_orig_mod", getattr(module, "module", None)), torch.nn.Module) and (
        isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel) or hasattr(module, "_orig_mod")
    ):
        module = inner
    name = type(module).__name__
    if any(type(inner).__module__.partition(".")[0] == "brevitas" for inner in module.modules()):
        # Its constant scales are in no tensor, and what its quantizers do is in code alone.
        raise NetworkError([f"it is made of Brevitas' quantized layers: {BREVITAS_WAY}"], about=name)
    notes = Notes(assumptions=[Assumption("order of layers", "as registered in the module", "file")])
    problems: list[str] = []
    tensors = [raw_tensor(key, value.cpu()) for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)]
    parts = group(without_ignored(tensors, options, notes), notes, problems)
    leaves = {
        path: leaf
        for path, leaf in module.named_modules(remove_duplicate=False)
        if not any(leaf.children()) and leaf is not module
    }
    _check_activations(leaves, problems)
    sequential = all(isinstance(m, torch.nn.Sequential) for m in module.modules() if any(m.children()))
    binary_kinds = [p.name for p in parts if type(leaves.get(p.name)) is not torch.nn.Linear]
    refined = [_refine(part, leaves, bool(binary_kinds), sequential, notes) for part in parts]
    if parts and not binary_kinds and not options.float_layers:
        notes.warnings.append(
            "all layers are plain torch.nn.Linear: their weights are taken as latents that are binarized in use; name as float "
            "layers those that are not"
        )
    return assemble(name, name, refined, options, DEFAULTS, notes, problems)


def _refine(part: LayerPart, leaves: Mapping[str, torch.nn.Module], mixed: bool, sequential: bool, notes: Notes) -> LayerPart:
    """What the live modules say beyond their tensors."""
    import torch

    norm = part.norm
    if norm is not None and norm.name in leaves:
        norm = dataclasses.replace(norm, epsilon=float(leaves[norm.name].eps))
    is_float = mixed and type(leaves.get(part.name)) is torch.nn.Linear
    activation = part.activation
    if is_float:
        notes.assumptions.append(Assumption("float layer", f"{part.name}, a plain torch.nn.Linear", "file"))
    before = _activation_before(part.name, leaves)
    if before is not None:
        activation = before
    elif sequential:
        activation = "none"
    return dataclasses.replace(part, norm=norm, is_float=is_float, activation=activation)


def _activation_before(name: str, leaves: Mapping[str, torch.nn.Module]) -> Any:
    """The last activation registered before a layer and after the layer before it; None if there is none."""
    last = None
    for path, leaf in leaves.items():
        if path == name:
            break
        kind = _activation_kind(leaf)
        if kind in ("hardtanh", "sign"):
            last = kind
        elif kind == "layer":
            last = None
    return last


def _activation_kind(leaf: torch.nn.Module) -> str:
    import torch

    if any(value.ndim >= 2 for value in leaf.state_dict().values() if isinstance(value, torch.Tensor)):
        return "layer"
    if leaf.state_dict():
        return "norm"
    kind = type(leaf).__name__
    if isinstance(leaf, torch.nn.Hardtanh):
        return "hardtanh" if (leaf.min_val, leaf.max_val) == (-1, 1) else "unknown"
    if kind in _PASSIVE:
        return "passive"
    if re.search(r"sign|binar", kind, re.IGNORECASE):
        return "sign"
    if re.search(r"hard_?tanh|htanh", kind, re.IGNORECASE):
        return "hardtanh"
    return "loss" if kind.endswith("Loss") else "unknown"


def _check_activations(leaves: Mapping[str, torch.nn.Module], problems: list[str]) -> None:
    """Modules without tensors whose effect is not known must not be passed over."""
    import torch

    for path, leaf in leaves.items():
        if _activation_kind(leaf) == "unknown" and not isinstance(leaf, torch.nn.BatchNorm1d):
            problems.append(f"module {path} is a {type(leaf).__name__}: a network of signs and hardtanh -1..1 is needed")
