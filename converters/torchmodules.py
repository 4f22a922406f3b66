"""What the classes and attributes of modules say beyond their tensors: of live modules, and of those saved whole.

A module tells its class (BinarizeLinear or torch.nn.Linear), BatchNorm's epsilon, and which activations it has, in the order in
which they were registered.  What `forward` does with them it does not tell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from xnorinfer.converters.assemble import Activation, LayerPart
from xnorinfer.converters.base import Assumption, Notes
from xnorinfer.converters.checkpointtree import ModuleFacts, as_mapping

#: Layers that do nothing at inference, or nothing that changes which score is largest.
_PASSIVE = ("Dropout", "AlphaDropout", "Identity", "Flatten", "Softmax", "LogSoftmax")
_LINEAR = ("torch.nn.modules.linear.Linear", "torch.nn.Linear")
_SEQUENTIAL = ("torch.nn.modules.container.Sequential", "torch.nn.Sequential")
_NORM = re.compile(r"torch\.nn\.(modules\.batchnorm\.)?(Sync)?BatchNorm\w*")


def refine(
    parts: Sequence[LayerPart], facts: Mapping[str, ModuleFacts], notes: Notes, problems: list[str], *, named: bool
) -> list[LayerPart]:
    """The parts of a network with what its modules say.  named: the user names the float layers."""
    leaves = {path: fact for path, fact in facts.items() if path and not as_mapping(fact.attributes.get("_modules"))}
    inner = [fact for path, fact in facts.items() if as_mapping(fact.attributes.get("_modules"))]
    _check_activations(leaves, problems)
    sequential = all(fact.kind in _SEQUENTIAL for fact in inner)
    binary = [part.name for part in parts if not _is_plain(leaves.get(part.name))]
    if parts and not binary and not named:
        notes.warnings.append(
            "all layers are plain torch.nn.Linear: their weights are taken as latents that are binarized in use; name as float "
            "layers those that are not"
        )
    return [_refine(part, leaves, bool(binary), sequential, notes) for part in parts]


def _is_plain(fact: ModuleFacts | None) -> bool:
    return fact is not None and fact.kind in _LINEAR


def _refine(part: LayerPart, leaves: Mapping[str, ModuleFacts], mixed: bool, sequential: bool, notes: Notes) -> LayerPart:
    norm = part.norm
    if norm is not None and norm.name in leaves:
        epsilon = leaves[norm.name].attributes.get("eps")
        if isinstance(epsilon, int | float):
            norm = dataclasses.replace(norm, epsilon=float(epsilon))
    is_float = mixed and _is_plain(leaves.get(part.name))
    if is_float:
        notes.assumptions.append(Assumption("float layer", f"{part.name}, a plain torch.nn.Linear", "file"))
    before = _activation_before(part.name, leaves)
    activation: Activation = before if before is not None else "none" if sequential else part.activation
    return dataclasses.replace(part, norm=norm, is_float=is_float, activation=activation)


def _activation_before(name: str, leaves: Mapping[str, ModuleFacts]) -> Activation | None:
    """The last activation registered before a layer and after the layer before it; None if there is none."""
    last: Activation | None = None
    for path, leaf in leaves.items():
        if path == name:
            break
        kind = _activation_kind(leaf)
        if kind == "hardtanh" or kind == "sign":
            last = "hardtanh" if kind == "hardtanh" else "sign"
        elif kind == "layer":
            last = None
    return last


def _tensors(fact: ModuleFacts) -> list[Any]:
    groups = (as_mapping(fact.attributes.get(name)) or {} for name in ("_parameters", "_buffers"))
    return [value for group in groups for value in group.values() if value is not None]


def _activation_kind(leaf: ModuleFacts) -> str:
    tensors = _tensors(leaf)
    if any(len(getattr(value, "shape", ())) >= 2 for value in tensors):
        return "layer"
    if tensors:
        return "norm"
    kind = leaf.name
    if kind in ("Hardtanh", "ReLU6") and "min_val" in leaf.attributes:
        limits = (leaf.attributes.get("min_val"), leaf.attributes.get("max_val"))
        return "hardtanh" if limits == (-1, 1) else "unknown"
    if kind in _PASSIVE:
        return "passive"
    if re.search(r"sign|binar", kind, re.IGNORECASE):
        return "sign"
    if re.search(r"hard_?tanh|htanh", kind, re.IGNORECASE):
        return "hardtanh"
    return "loss" if kind.endswith("Loss") else "unknown"


def _check_activations(leaves: Mapping[str, ModuleFacts], problems: list[str]) -> None:
    """Modules without tensors whose effect is not known must not be passed over."""
    for path, leaf in leaves.items():
        if _activation_kind(leaf) == "unknown" and not _NORM.fullmatch(leaf.kind):
            problems.append(f"module {path} is a {leaf.name}: a network of signs and hardtanh -1..1 is needed")
