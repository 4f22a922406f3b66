"""From a flat list of named tensors in PyTorch's style to layer parts.

Tensors are grouped by module (`fc1.weight`, `fc1.bias` -> `fc1`).  What a module is follows from its tensors alone, names of
modules do not matter: a 2-d tensor makes it a dense layer, running statistics make it a BatchNorm.
"""

from __future__ import annotations

from collections.abc import Sequence

from xnorinfer.converters.arrays import RawTensor, as_float32
from xnorinfer.converters.assemble import LayerPart, NormPart
from xnorinfer.converters.base import Assumption, ConvertOptions, Notes, TensorUse, net_line
from xnorinfer.converters.pairing import Module, pair
from xnorinfer.netspec import F32, SignInput, ThresholdInput

#: Prefixes that wrappers put before every name (DataParallel, torch.compile, Lightning's usual attribute).
WRAPPERS = ("module.", "_orig_mod.")

#: What to do with a network of Brevitas, whose tensors do not say how they are quantized.
BREVITAS_WAY = "export it with brevitas.export.export_qonnx(net, args=..., export_path='net.onnx') and convert net.onnx"


def brevitas_problems(modules: Sequence[str], first: str | None, options: ConvertOptions) -> list[str]:
    """What a state dict of Brevitas does not say.  modules: names of all modules, in order; first: name of the first layer.

    A constant scale is in no tensor, and the number of bits is in code alone: --h says that all is binary, and the scale.
    """
    quantized = [name for name in modules if name.rpartition(".")[2] == "weight_quant"]
    if not quantized:
        return []
    problems = []
    if options.h is None:
        problems.append(
            f"{quantized[0]} is a quantizer of Brevitas, and a state dict says neither to how many bits it quantizes nor a "
            f"constant scale: {BREVITAS_WAY}; or, if all weights and activations are binary, give --h, the scale of weights "
            "times that of activations (1 in Brevitas' own examples)"
        )
    before = modules[: modules.index(first)] if first in modules else []
    binarized = next((name for name in before if name.rpartition(".")[2] == "act_quant"), None)
    if binarized is not None and not isinstance(options.input, ThresholdInput | SignInput):
        problems.append(
            f"{binarized} quantizes the inputs before the first layer: say which pixels become +1 with --input-threshold "
            "(128 where 2*x - 1 is binarized, as in Brevitas' own examples)"
        )
    return problems


def strip_wrappers(names: Sequence[str]) -> str:
    """The prefix of wrappers (`module.`, possibly several) that all names share; "" if there is none."""
    prefix = ""
    while names:
        found = next((w for w in WRAPPERS if all(name.startswith(prefix + w) for name in names)), None)
        if found is None:
            break
        prefix += found
    return prefix


def group(tensors: Sequence[RawTensor], notes: Notes, problems: list[str], where: str = "") -> list[LayerPart]:
    """Layer parts from tensors in order of execution; every tensor is noted once under `where` + its name.

    What cannot be understood goes to `problems`: nothing is left out silently.
    """
    prefix = strip_wrappers([tensor.name for tensor in tensors])
    if prefix:
        notes.assumptions.append(Assumption("prefix left out of layer names", prefix, "file"))
    modules: dict[str, Module] = {}
    for tensor in tensors:
        name, _, leaf = tensor.name[len(prefix) :].rpartition(".")
        modules.setdefault(name, Module(name)).tensors[leaf] = tensor
    for module in modules.values():
        _classify(module, notes, problems, where)
    return pair([m for m in modules.values() if m.part or m.norm], notes, problems)


def _classify(module: Module, notes: Notes, problems: list[str], where: str) -> None:
    tensors = dict(module.tensors)
    counter = tensors.pop("num_batches_tracked", None)
    if counter is not None:
        _note(notes, where, counter, "counts training batches, no part of inference", ignored=True)
    label = module.name or "(top level)"
    matrices = {leaf: t for leaf, t in tensors.items() if t.array.ndim == 2}
    if any(t.array.ndim in (3, 4, 5) for t in tensors.values()):
        kernel = next(t for t in tensors.values() if t.array.ndim in (3, 4, 5))
        problems.append(f"{kernel} is a convolution; only dense networks can be converted")
    elif "running_mean" in tensors and "running_var" in tensors:
        _classify_norm(module, tensors, label, notes, problems, where)
    elif matrices:
        if len(matrices) > 1:
            problems.append(
                f"module {label} holds {len(matrices)} matrices ({', '.join(map(str, matrices.values()))}): "
                "it is not clear which are the latent weights"
                + net_line(*(f'weight = "{where}{tensor.name}"' for tensor in matrices.values()))
            )
        extra = ", ".join(str(t) for leaf, t in tensors.items() if leaf not in matrices and leaf != "bias")
        if extra:
            name = where + next(t.name for leaf, t in tensors.items() if leaf not in matrices and leaf != "bias")
            problems.append(
                f"module {label} holds beside weights and bias: {extra}; what they do is not known"
                + net_line(f'scale = "{name}"', f'ignore = ["{name}"]')
            )
        matrix = next(iter(matrices.values()))
        bias = tensors.get("bias")
        module.part = LayerPart(
            module.name or matrix.name,
            _take(matrix, f"{label}: weights, (neurons, inputs)", notes, where),
            None if bias is None else _take(bias, f"{label}: bias", notes, where),
        )
    elif set(tensors) <= {"weight", "bias"} and tensors:
        kept = ", ".join(map(str, tensors.values()))
        problems.append(
            f"module {label} ({kept}) is neither a dense layer nor a BatchNorm with running statistics"
            + net_line(f'ignore = ["{where}{module.name}.*"]')
        )
    elif tensors and ".tensor_quant." in f".{module.name}.":
        problems.append(f"{', '.join(map(str, tensors.values()))} belongs to a quantizer of Brevitas: {BREVITAS_WAY}")
    elif tensors:
        what = f"what {', '.join(map(str, tensors.values()))} in module {label} do is not known"
        problems.append(what + net_line(f'ignore = ["{where}{module.name}.*"]'))


def _classify_norm(
    module: Module, tensors: dict[str, RawTensor], label: str, notes: Notes, problems: list[str], where: str
) -> None:
    extra = [str(t) for leaf, t in tensors.items() if leaf not in ("weight", "bias", "running_mean", "running_var")]
    if extra:
        problems.append(f"BatchNorm {label} holds tensors that no BatchNorm has: {', '.join(extra)}")
        return
    taken = {
        leaf: _take(tensors[leaf], f"{label}: BatchNorm {meaning}", notes, where)
        for leaf, meaning in (("running_mean", "mean"), ("running_var", "variance"), ("weight", "gamma"), ("bias", "beta"))
        if leaf in tensors
    }
    module.norm = NormPart(
        module.name,
        taken["running_mean"],
        variance=taken["running_var"],
        gamma=taken.get("weight"),
        beta=taken.get("bias"),
    )


def _take(tensor: RawTensor, use: str, notes: Notes, where: str) -> F32:
    _note(notes, where, tensor, use)
    return as_float32(tensor, notes.warnings)


def _note(notes: Notes, where: str, tensor: RawTensor, use: str, *, ignored: bool = False) -> None:
    notes.tensors.append(TensorUse(where + tensor.name, tensor.shape, tensor.dtype, use, ignored))
