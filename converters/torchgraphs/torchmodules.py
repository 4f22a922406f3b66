"""What the classes and attributes of modules say beyond their tensors: of live modules, and of those saved whole.

A module tells its class (BinarizeLinear or torch.nn.Linear), BatchNorm's epsilon, and which activations it has, in the order in
which they were registered.  What `forward` does with them it does not tell.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from xnorinfer.converters.containers.checkpointtree import ModuleFacts, as_mapping
from xnorinfer.converters.evidence.layerorder import note_order
from xnorinfer.converters.networkparts import Activation, Follower, Follows, LayerPart
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, function_named
from xnorinfer.net.ops import HARDTANH, Function, Norm, Steps

#: Layers that do nothing at inference, or nothing that changes which score is largest.
_PASSIVE = ("Dropout", "AlphaDropout", "Identity", "Flatten", "Softmax", "LogSoftmax")
_LINEAR = ("torch.nn.modules.linear.Linear", "torch.nn.Linear")
_SEQUENTIAL = ("torch.nn.modules.container.Sequential", "torch.nn.Sequential")
_NORM = re.compile(r"torch\.nn\.(modules\.batchnorm\.)?(Sync)?BatchNorm\w*")


def refine(
    parts: Sequence[LayerPart],
    facts: Mapping[str, ModuleFacts],
    notes: Notes,
    problems: list[str],
    options: ConvertOptions,
) -> list[LayerPart]:
    """The parts of a network with what its modules say."""
    leaves = {path: fact for path, fact in facts.items() if path and not as_mapping(fact.attributes.get("_modules"))}
    inner = [fact for path, fact in facts.items() if as_mapping(fact.attributes.get("_modules"))]
    sequential = all(fact.kind in _SEQUENTIAL for fact in inner)
    binary = [part.name for part in parts if not _is_plain(leaves.get(part.name))]
    if parts and not binary and not options.float_layers:
        notes.warnings.append(
            "all layers are plain torch.nn.Linear: their weights are taken as latents that are binarized in use; name as float "
            "layers those that are not"
        )
    if not sequential:
        _check_activations(leaves, problems, options)
    refined = [_refine(part, leaves, bool(binary), notes) for part in parts]
    return _in_sequence(refined, leaves, notes, problems) if sequential and not problems else refined


def _in_sequence(
    parts: Sequence[LayerPart], leaves: Mapping[str, ModuleFacts], notes: Notes, problems: list[str]
) -> list[LayerPart]:
    """The parts with all that stands behind each of them, in order: a torch.nn.Sequential runs its modules one by one."""
    by_name = {part.name: part for part in parts}
    norms = {follower[0]: follower for part in parts for follower in part.after}
    found: list[LayerPart] = []
    after: list[Follower] = []
    signed = False
    for path, leaf in leaves.items():
        kind = _activation_kind(leaf)
        if path in by_name:
            if found:
                found[-1] = dataclasses.replace(found[-1], after=tuple(after))
            found.append(dataclasses.replace(by_name[path], activation="sign" if signed else "none"))
            after, signed = [], False
            continue
        function = _function(leaf)
        if kind == "passive" or kind == "loss":
            continue
        if signed:
            problems.append(f"module {path} ({leaf.name}) stands between a sign and the layer that reads it")
        elif kind == "sign":
            signed = bool(found)
        elif path in norms:
            after.append(norms[path])
        elif function is not None and found:
            after.append((path, function))
        elif found or kind != "norm":  # else it is the BatchNorm of the inputs
            problems.append(f"module {path} is a {leaf.name}{_WAY}")
    if found:
        found[-1] = dataclasses.replace(found[-1], after=tuple(after))
    value = "all modules, as torch.nn.Sequential runs them"
    note_order(notes, "as torch.nn.Sequential runs them", "file")
    notes.assumptions.append(Assumption("between the layers", value, "file"))
    return found


def _function(leaf: ModuleFacts) -> Steps | None:
    """What a module without tensors computes of each value; None for what is not known."""
    attributes = leaf.attributes
    if leaf.name in ("Hardtanh", "ReLU6"):
        low, high = attributes.get("min_val"), attributes.get("max_val")
        if not isinstance(low, int | float) or not isinstance(high, int | float) or not low < high:
            return None
        return Steps.of(("clip", low, high))
    if not leaf.kind.startswith("torch.nn."):
        return HARDTANH if _activation_kind(leaf) == "hardtanh" else None
    if leaf.name == "LeakyReLU" and isinstance(attributes.get("negative_slope"), int | float):
        return Steps.of(("prelu", attributes["negative_slope"]))
    names: dict[str, Function] = {"ReLU": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid"}
    return Steps.of((names[leaf.name],)) if leaf.name in names else None


#: What can be said about functions whose place in `forward` a file does not tell.
_WAY = (
    ": a network of signs and hardtanh -1..1 is needed; --before-norm says which function stands between each hidden sum and "
    "its BatchNorm, and xnorinfer.from_torch(module) runs the module itself"
)


def _is_plain(fact: ModuleFacts | None) -> bool:
    return fact is not None and fact.kind in _LINEAR


def _refine(part: LayerPart, leaves: Mapping[str, ModuleFacts], mixed: bool, notes: Notes) -> LayerPart:
    after = tuple((name, _with_epsilon(op, leaves.get(name))) for name, op in part.after)
    is_float = mixed and _is_plain(leaves.get(part.name))
    if is_float:
        notes.assumptions.append(Assumption("float layer", f"{part.name}, a plain torch.nn.Linear", "file"))
    before = _activation_before(part.name, leaves)
    activation: Activation = before if before is not None else part.activation
    return dataclasses.replace(part, after=after, is_float=is_float, activation=activation)


def _with_epsilon(op: Follows, leaf: ModuleFacts | None) -> Follows:
    epsilon = None if leaf is None else leaf.attributes.get("eps")
    return dataclasses.replace(op, epsilon=float(epsilon)) if isinstance(op, Norm) and isinstance(epsilon, int | float) else op


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


def _check_activations(leaves: Mapping[str, ModuleFacts], problems: list[str], options: ConvertOptions) -> None:
    """Modules without tensors whose effect is not known must not be passed over."""
    said = options.before_norm
    for path, leaf in leaves.items():
        if _activation_kind(leaf) != "unknown" or _NORM.fullmatch(leaf.kind):
            continue
        function = _function(leaf)
        wanted = None if said is None else function_named(said)
        if function is None or wanted is None or not _equal(function, wanted):
            problems.append(f"module {path} is a {leaf.name}{_WAY}")


def _equal(a: Steps, b: Steps) -> bool:
    """Whether two single functions are the same."""
    (one,), (other,) = a.steps, b.steps
    return one.function == other.function and all((x == y).all() for x, y in zip(one.parameters, other.parameters, strict=True))
