"""PyTorch: state dicts (`.pt`, `.pth`, `.pth.tar`, `.safetensors`), bare or inside a training dict, modules that were saved
whole, plain pickles of arrays, and live modules.

Files are read without torch, and nothing in them runs: pickles become plain data (`pickled`, `torchpickle`, `torchfile`), in
which the state dict is looked for (`checkpointtree`).  What else a training script stored - arguments, losses, optimizers - is
listed and ignored.  Archives that hold a program, of TorchScript or torch.export, are read as graphs (`torchscript`,
`torchexport`).

A state dict keeps the order in which modules were registered; this is taken as the order of execution, see `layerorder`.  A
`.safetensors` file keeps no order.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xnorinfer.converters.assemble import assemble
from xnorinfer.converters.containers.arrays import RawTensor, natural_key, widened
from xnorinfer.converters.containers.checkpointtree import (
    NOWHERE,
    Contents,
    Leaf,
    ModuleFacts,
    StateDict,
    describe,
    walk,
)
from xnorinfer.converters.containers.onnxfile import OnnxGraph
from xnorinfer.converters.containers.safetensorsfile import load_safetensors
from xnorinfer.converters.containers.signatures import PICKLE, ZIP, is_safetensors, start_of
from xnorinfer.converters.containers.torchfile import OLD_MAGIC, is_export, is_script, load_checkpoint
from xnorinfer.converters.containers.ziparchive import names_in
from xnorinfer.converters.finding import ORDER
from xnorinfer.converters.graphs.walk import read_graph
from xnorinfer.converters.naming.averages import choose_state, split_averages
from xnorinfer.converters.naming.numbered import read_numbered
from xnorinfer.converters.naming.statedict import BREVITAS_WAY, brevitas_problems, group, strip_wrappers
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Reading, TensorUse, without_ignored
from xnorinfer.converters.torchgraphs.torchexport import read_export
from xnorinfer.converters.torchgraphs.torchmodules import refine
from xnorinfer.converters.torchgraphs.torchscript import read_script
from xnorinfer.converters.usual import PYTORCH
from xnorinfer.errors import NetworkError, SourceError

if TYPE_CHECKING:
    import torch

_SUFFIXES = (".pt", ".pt2", ".pth", ".tar", ".ckpt", ".bin", ".pkl", ".pickle")
#: Under these, pickles of the first protocols, which are text.
_PICKLE_SUFFIXES = (".pkl", ".pickle")


class TorchSource:
    """State dicts in PyTorch's or safetensors' container, and archives of whole programs."""

    name = "torch"
    meaning = (
        "PyTorch state dict, training checkpoint or module (.pt, .pth, .pth.tar), TorchScript, torch.export (.pt2), "
        ".safetensors, or pickled arrays (.pkl)"
    )

    def sniff(self, path: Path) -> bool:
        """True for torch zips, pickles, and safetensors."""
        start = start_of(path)
        if start.startswith(ZIP):
            names = names_in(path)
            if names is None:
                return path.suffix in _SUFFIXES
            return any(name.endswith("data.pkl") for name in names) or is_export(names)
        if start.startswith(OLD_MAGIC) or start.startswith(PICKLE) or is_safetensors(path, start):
            return True
        return path.suffix in _PICKLE_SUFFIXES and start[:1] in (b"(", b"c", b"]", b"}")

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the file.  Raises SourceError, OptionError or NetworkError."""
        if is_safetensors(path, start_of(path)):
            notes = Notes()
            state = StateDict("", {tensor.name: tensor for tensor in load_safetensors(path)})
            return read_state(self.name, path.name, state, options, notes, ordered=False)
        graph = _graph_of(path)
        if graph is not None:
            return read_graph(self.name, graph, path.name, options, "torch")
        return read_contents(self.name, path.name, load_checkpoint(path), options)


def read_contents(source: str, about: str, root: Any, options: ConvertOptions) -> Reading:
    """Read what a checkpoint holds.  Raises SourceError, OptionError or NetworkError."""
    notes = Notes()
    try:
        contents = walk(root)
    except SourceError as error:
        raise _about(about, error) from None
    if not contents.states:
        return _read_list(source, about, contents, root, options)
    state = choose_state(contents, options, notes, about)
    _remark_objects(contents, notes)
    return read_state(source, about, state, options, notes, ordered=True)


def _about(about: str, error: SourceError) -> SourceError:
    """The error with the file's name, once."""
    return error if str(error).startswith(about) else SourceError(f"{about}: {error}")


def read_state(source: str, about: str, state: StateDict, options: ConvertOptions, notes: Notes, *, ordered: bool) -> Reading:
    """Read one state dict.  ordered: it keeps the order in which modules were registered."""
    problems: list[str] = []
    if ordered:
        notes.assumptions.append(Assumption(ORDER, "as in the state dict", "default"))
    state = split_averages(state, options, notes)
    try:
        tensors = [leaf.tensor(name) for name, leaf in state.tensors.items()]
    except SourceError as error:
        raise _about(about, error) from None
    tensors = without_ignored(tensors, options, notes, state.where)
    grouped = group(tensors, notes, problems, state.where, ordered=ordered, epsilon=options.bn_epsilon)
    parts = grouped.parts
    defaults = PYTORCH
    if any(name.endswith(".weight_quant") for name in state.kept):
        defaults = dataclasses.replace(PYTORCH, profile="ge-zero", profile_origin="file")
        quantized = brevitas_problems(state.kept, parts[0].name if parts else None, options)
        if quantized and options.h is None:
            raise NetworkError(quantized, about=about)  # whatever else is odd follows from that
        problems[:0] = quantized
    if state.facts is not None:
        prefix = strip_wrappers(list(state.tensors))
        facts = {path[len(prefix) :]: fact for path, fact in state.facts.items() if path.startswith(prefix)}
        parts = refine(parts, facts, notes, problems, options)
    maps = any(part.window is not None for part in parts)
    return assemble(source, about, parts, options, defaults, notes, problems, grouped.leading, channels_first=maps)


def _read_list(source: str, about: str, contents: Contents, root: Any, options: ConvertOptions) -> Reading:
    """Arrays in a list, which have numbers instead of names.  Raises SourceError where there is no such list."""
    lists: dict[str, list[tuple[str, Leaf]]] = {}
    others: list[tuple[str, Leaf, str]] = []
    for name, leaf, reason in contents.others:
        above, _, last = name.rpartition(".")
        if last.isdigit() and reason == NOWHERE:
            lists.setdefault(above, []).append((name, leaf))
        else:
            others.append((name, leaf, reason))
    found = {above: leaves for above, leaves in lists.items() if any(len(leaf.shape) == 2 for _, leaf in leaves)}
    if len(found) != 1:
        raise SourceError(f"{about} holds {describe(root)} without any state dict (names and matrices) in it")
    ((above, leaves),) = found.items()
    others += [(name, leaf, NOWHERE) for key, some in lists.items() if key != above for name, leaf in some]
    notes = Notes()
    notes.tensors += [TensorUse(name, leaf.shape, leaf.dtype, reason, ignored=True) for name, leaf, reason in others]
    _remark_objects(contents, notes)
    tensors = sorted((leaf.tensor(name) for name, leaf in leaves), key=lambda tensor: natural_key(tensor.name))
    return read_numbered(source, about, without_ignored(tensors, options, notes), options, notes, [], PYTORCH)


def _remark_objects(contents: Contents, notes: Notes) -> None:
    """List what is neither tensor nor container, and warn of what would run elsewhere."""
    if contents.objects:
        listed = ", ".join(f"{place or 'the top level'} ({kind})" for place, kind in contents.objects[:MAX_LISTED])
        more = f" and {len(contents.objects) - MAX_LISTED} more" if len(contents.objects) > MAX_LISTED else ""
        notes.assumptions.append(Assumption("objects that are no tensors", f"ignored, none was built: {listed}{more}", "file"))
    if contents.runs:
        notes.warnings.append(
            f"loading this file in Python would run {', '.join(contents.runs[:MAX_LISTED])}; nothing of it was run here. Do "
            "not give it to torch.load(weights_only=False) or pickle.load unless you trust it"
        )


#: Objects that are listed by name.
MAX_LISTED = 10


def _graph_of(path: Path) -> OnnxGraph | None:
    """The graph of an archive that holds a program; None for files of tensors."""
    names = names_in(path) or []  # what is damaged is told by those who read it
    if is_export(names):
        return read_export(path)
    return read_script(path) if is_script(names) else None


# ---------------------------------------------------------------- live modules


def raw_tensor(name: str, tensor: torch.Tensor) -> RawTensor:
    """A torch tensor as numpy.  Raises SourceError for anything but ordinary dense tensors of real numbers."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu" or tensor.is_complex():
        kind = "quantized" if tensor.is_quantized else f"{tensor.layout} {tensor.dtype} on {tensor.device}"
        raise SourceError(f"tensor {name} is {kind}, needed is an ordinary dense tensor of real numbers")
    dtype = str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach()
    array = widened(dtype, tensor.view(torch.int16).numpy().view(np.uint16)) if dtype == "bfloat16" else None
    if array is None:
        with contextlib.suppress(TypeError):
            array = tensor.numpy()
    if array is None:
        raise SourceError(f"tensor {name} has type {dtype}, which is not supported")
    return RawTensor(name, array, dtype)


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module in DataParallel and the like, or compiled."""
    import torch

    while isinstance(inner := getattr(module, "_orig_mod", getattr(module, "module", None)), torch.nn.Module) and (
        isinstance(module, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel) or hasattr(module, "_orig_mod")
    ):
        module = inner
    return module


def require_readable(module: torch.nn.Module) -> None:
    """Raise NetworkError for Brevitas' modules: constant scales are in no tensor, and quantizers in code of their own."""
    if any(type(inner).__module__.partition(".")[0] == "brevitas" for inner in module.modules()):
        raise NetworkError([f"it is made of Brevitas' quantized layers: {BREVITAS_WAY}"], about=type(module).__name__)


def from_torch_module(module: torch.nn.Module, options: ConvertOptions) -> Reading:
    """Read a live module: as its state dict is read, but BatchNorm's epsilon comes from each BatchNorm itself.

    A plain `torch.nn.Linear` is a float layer if other layers of the module are not (subclasses such as BinarizeLinear); if
    all are plain, all are taken as binarized in use, unless `options.float_layers` names them.  In a `torch.nn.Sequential` the
    activation before a float layer is known; else hardtanh is assumed.  The module is not changed.
    Raises SourceError, OptionError or NetworkError.
    """
    import torch

    module = unwrapped(module)
    require_readable(module)
    name = type(module).__name__
    notes = Notes(assumptions=[Assumption(ORDER, "as registered in the module", "default")])
    problems: list[str] = []
    tensors = [raw_tensor(key, value.cpu()) for key, value in module.state_dict().items() if isinstance(value, torch.Tensor)]
    grouped = group(without_ignored(tensors, options, notes), notes, problems, epsilon=options.bn_epsilon)
    facts = {
        path: ModuleFacts(f"{type(inner).__module__}.{type(inner).__qualname__}", vars(inner))
        for path, inner in module.named_modules(remove_duplicate=False)
    }
    parts = refine(grouped.parts, facts, notes, problems, options)
    return assemble(name, name, parts, options, PYTORCH, notes, problems, grouped.leading)
