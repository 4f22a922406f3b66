"""From a flat list of named tensors in PyTorch's style to layer parts.

Tensors are grouped by module (`fc1.weight`, `fc1.bias` -> `fc1`; `statenames` knows the names of parametrizations, pruning and
latents).  What a module is follows from its tensors alone, names of modules do not matter: a 2-d tensor makes it a dense layer,
one of three or four dimensions a convolution, running statistics make it a BatchNorm, both make it a layer and the BatchNorm
behind it.  Where convolutions look (stride, padding, pools) no tensor says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor, as_float32, merge_rounding, natural_key
from xnorinfer.converters.kernelaxes import arranged, axes_of
from xnorinfer.converters.naming.loose import is_loose, loose_modules
from xnorinfer.converters.naming.pairing import Module, leading_norm, pair, pair_by_names, with_norm
from xnorinfer.converters.naming.statenames import KERNELS, counts_instead, from_bits, modules_of, settle
from xnorinfer.converters.networkparts import Follower, LayerPart
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, TensorUse, ignore_line, net_line
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Function, Norm, Steps
from xnorinfer.net.values import SignInput, ThresholdInput
from xnorinfer.net.windows import Window

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


@dataclass(frozen=True)
class Grouped:
    """Layer parts in order of execution, and the BatchNorms of the inputs themselves (None if they are not normalized)."""

    parts: list[LayerPart]
    leading: list[Follower] | None = None


def group(
    tensors: Sequence[RawTensor],
    notes: Notes,
    problems: list[str],
    where: str = "",
    *,
    ordered: bool = True,
    epsilon: float | None = None,
) -> Grouped:
    """Layer parts from tensors; every tensor is noted once under `where` + its name.

    ordered: the tensors stand in the order in which their modules were registered.  epsilon: what --bn-epsilon says.
    What cannot be understood goes to `problems`: nothing is left out silently.
    """
    prefix = strip_wrappers([tensor.name for tensor in tensors])
    if prefix:
        notes.assumptions.append(Assumption("prefix left out of layer names", prefix, "file"))
    volumes = [tensor for tensor in tensors if tensor.array.ndim > 4]
    if volumes:
        problems.append(f"{volumes[0]} is a convolution over volumes, which cannot be converted")
        return Grouped([])
    if is_loose(tensors) and any(tensor.array.ndim in KERNELS for tensor in tensors):
        kernels = [tensor for tensor in tensors if tensor.array.ndim in KERNELS[1:]]
        if kernels:
            more = f" (and {len(kernels) - 1} more)" if len(kernels) > 1 else ""
            problems.append(
                f"{kernels[0]}{more} is a convolution, and nothing says which axis is which, nor how it goes over images"
                + net_line("[[layers]] with layout, stride, padding, pool")
                + "; --write-net drafts it"
            )
            return Grouped([])
        if not ordered:
            tensors = sorted(tensors, key=lambda tensor: natural_key(tensor.name))
        modules = loose_modules(tensors, notes, problems, ordered=ordered)
    else:
        modules = modules_of(tensors, prefix)
    reader = _Reader(notes, problems, where, epsilon)
    whole = [reader.classify(module) for module in modules.values()]
    reader.remark()
    if not all(whole):  # pairing what is left would blame the wrong ones
        return Grouped([])
    known = [m for m in modules.values() if m.part or m.norm]
    if not ordered:
        parts, leading = pair_by_names(known, notes, problems)
    else:
        leading, known = leading_norm(known, notes)
        parts = pair(known, notes, problems)
    return Grouped(parts, leading)


class _Reader:
    """Tells what each module is."""

    def __init__(self, notes: Notes, problems: list[str], where: str, epsilon: float | None) -> None:
        self.notes = notes
        self.problems = problems
        self.where = where
        self.epsilon = TENSOR_NORM_EPSILON if epsilon is None else epsilon
        self.bits: list[str] = []
        self.rounded: list[str] = []

    def classify(self, module: Module) -> bool:
        """Find out what a module is; False where a layer or a BatchNorm is lost, which is a problem then."""
        label = module.name or "(top level)"
        counter = module.tensors.pop("num_batches_tracked", None)
        if counter is not None:
            self._note(counter, "counts training batches, no part of inference", ignored=True)
        if not settle(module, self._note, self.notes, self.problems):
            return False
        tensors = module.tensors
        matrix = next((t for t in tensors.values() if t.array.ndim in KERNELS), None)
        if {"running_mean", "running_var"} <= set(tensors) and matrix is not None:
            self._layer_with_norm(module, label, matrix)
        elif {"running_mean", "running_var"} <= set(tensors):
            self._norm(module, label)
        elif matrix is not None:
            self._layer(module, label, matrix)
        elif tensors and ".tensor_quant." in f".{module.name}.":
            self.problems.append(f"{', '.join(map(str, tensors.values()))} belongs to a quantizer of Brevitas: {BREVITAS_WAY}")
        elif tensors:
            self._unknown(label, list(tensors.values()))
        return bool(module.norm or module.part) or "running_mean" not in tensors

    def remark(self) -> None:
        """One warning for all layers whose weights were bits, and one for all tensors that were rounded."""
        merge_rounding(self.rounded, self.notes.warnings)
        if self.bits:
            names = ", ".join(self.bits)
            self.notes.assumptions.append(Assumption(f"weights of {names}", "bits: 1 is +1, 0 is -1", "default"))
            what = f"{names}: all weights are 0 or 1, so they are read as bits: 1 is +1, 0 is -1"
            self.notes.warnings.append(what + net_line('values = "bits"', 'values = "bits-inverted"'))

    def _layer(self, module: Module, label: str, matrix: RawTensor) -> None:
        rest = [t for leaf, t in module.tensors.items() if t is not matrix and leaf != "bias"]
        if rest:
            self.problems.append(
                f"module {label} holds beside weights and bias: {', '.join(map(str, rest))}; what they do is not known"
                + net_line(*(f'scale = "{self.where}{t.name}"' for t in rest if t.array.ndim <= 1))
            )
        counts = counts_instead(matrix)
        self.problems += [counts] if counts else []
        weight, bits = from_bits(matrix)
        self.bits += [label] if bits else []
        layout = "out_in" if matrix.array.ndim == 2 else "OIHW"
        taken = arranged(self._take(weight, f"{label}: weights, {axes_of(layout)}"), layout)
        bias = module.tensors.get("bias")
        module.part = LayerPart(module.name or matrix.name, taken, None if bias is None else self._take(bias, f"{label}: bias"))
        if taken.ndim == 4:
            module.part = replace(module.part, window=Window(taken.shape[1:3]), unplaced=True)

    def _layer_with_norm(self, module: Module, label: str, matrix: RawTensor) -> None:
        """A module of someone's own that holds both, where names tell whose each vector is."""
        tensors = module.tensors
        names = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
        unclear = [t for leaf, t in tensors.items() if t is not matrix and leaf not in names]
        if len(unclear) > ("beta" in tensors and "bias" in tensors):
            self.problems.append(
                f"module {label} holds a layer and its BatchNorm: {', '.join(map(str, tensors.values()))}; it is not known to "
                f"which of the two {' and '.join(t.name for t in unclear)} belong"
                + net_line("bias = ...", "norm = {gamma = ..., beta = ...}")
            )
            return
        norm = Module(f"{label}, BatchNorm", {names[leaf]: tensors.pop(leaf) for leaf in [*tensors] if leaf in names})
        self._norm(norm, label)
        self._layer(module, label, matrix)
        assert module.part is not None
        module.part = with_norm(module.part, norm)

    def _norm(self, module: Module, label: str) -> None:
        tensors = module.tensors
        extra = [str(t) for leaf, t in tensors.items() if leaf not in ("weight", "bias", "running_mean", "running_var")]
        if extra:
            self.problems.append(f"BatchNorm {label} holds tensors that no BatchNorm has: {', '.join(extra)}")
            return
        taken = {
            leaf: self._take(tensors[leaf], f"{label}: BatchNorm {meaning}")
            for leaf, meaning in (("running_mean", "mean"), ("running_var", "variance"), ("weight", "gamma"), ("bias", "beta"))
            if leaf in tensors
        }
        module.norm = Norm(
            taken["running_mean"],
            variance=taken["running_var"],
            gamma=taken.get("weight"),
            beta=taken.get("bias"),
        )
        if taken["running_mean"].size == 1:
            module.tensor_norm = self._tensor_norm(module.norm)

    def _tensor_norm(self, norm: Norm) -> Steps:
        """Brevitas' TensorNorm: one mean and variance for all neurons, `(x - mean) / (var + eps).pow(0.5) * weight + bias`."""
        assert norm.variance is not None
        deviation = np.sqrt(norm.variance + np.float32(self.epsilon))
        steps: list[tuple[Function, F32 | None]] = [
            ("sub", norm.mean),
            ("div", deviation),
            ("mul", norm.gamma),
            ("add", norm.beta),
        ]
        return Steps.of(*((op, vector.reshape(())) for op, vector in steps if vector is not None))

    def _unknown(self, label: str, tensors: list[RawTensor]) -> None:
        """A module without a matrix and without statistics: what takes part is never proposed to be left out."""
        held = ", ".join(map(str, tensors))
        names = [f"{self.where}{t.name}" for t in tensors]
        leaves = {name.rpartition(".")[2] for name in names}
        if len(tensors) == 1 and tensors[0].array.ndim == 1:
            self.problems.append(
                f"module {label} holds one vector, {held}: the slopes of a PReLU or a scale, which take part in the network"
                + net_line(f'prelu = "{names[0]}"', f'steps = [{{mul = "{names[0]}"}}, ...]')
                + " in the [[layers]] that it follows"
            )
        elif leaves == {"weight", "bias"}:
            self.problems.append(
                f"module {label} ({held}) is neither a dense layer nor a BatchNorm with running statistics; what LayerNorm and "
                "its like compute from each input cannot be converted. One that only multiplies and adds"
                + net_line(f'steps = [{{mul = "{names[0]}"}}, {{add = "{names[-1]}"}}, ...]').replace("; a net", ": a net")
            )
        else:
            self.problems.append(
                f"module {label} ({held}) is no part of a network that is known"
                + net_line("steps = [...]", "scale = ...")
                + ignore_line(names[0] if len(names) == 1 else f"'{self.where}{label}.*'")
            )

    def _take(self, tensor: RawTensor, use: str) -> F32:
        self._note(tensor, use)
        return as_float32(tensor, self.rounded)

    def _note(self, tensor: RawTensor, use: str, *, ignored: bool = False) -> None:
        self.notes.tensors.append(TensorUse(self.where + tensor.name, tensor.shape, tensor.dtype, use, ignored))


#: The default of Brevitas' TensorNorm, which no file holds.
TENSOR_NORM_EPSILON = 1e-4
