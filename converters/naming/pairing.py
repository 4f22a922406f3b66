"""Which BatchNorm belongs to which layer, where a file says so only by the order of its names."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor, natural_key
from xnorinfer.converters.evidence.layerorder import chains, family
from xnorinfer.converters.finding import ORDER
from xnorinfer.converters.networkparts import Follower, LayerPart
from xnorinfer.converters.reading import Assumption, Notes, default_warning, net_line
from xnorinfer.net.ops import Norm, Steps


@dataclass(eq=False)
class Module:
    """The tensors of one module (one scope) by their last name, and what they turned out to be.

    tensor_norm: what `norm` computes, one step after the other, where it has one mean for all neurons.
    """

    name: str
    tensors: dict[str, RawTensor] = field(default_factory=dict)
    part: LayerPart | None = None
    norm: Norm | None = None
    tensor_norm: Steps | None = None


def pair(modules: Sequence[Module], notes: Notes, problems: list[str], *, ordered: bool = True) -> list[LayerPart]:
    """Give each dense layer its BatchNorm.

    Usual: each BatchNorm directly follows its layer.  Else, where a class registers all layers first and all BatchNorms after
    them (or the other way round): the first BatchNorm belongs to the first layer and so on, the last layer may be without.
    ordered=False: the order of modules is that of their names, so that what follows what means nothing.
    """
    layers = [m for m in modules if m.part]
    if not layers:
        return []  # that there is no layer is what is wrong
    lacking = [m for m in modules if not _has_norm(m)]
    dense = [m for m in lacking if m.part]
    norms = [m for m in lacking if m.norm]
    follows = [(before, m) for before, m in zip([None, *modules], modules, strict=False) if m.norm]
    followed = {before.name for before, _ in follows if before is not None and before.part and not _has_norm(before)}
    adjacent = len(followed) == len(norms) and ordered
    # Layers registered together leave hidden ones without a BatchNorm behind them, which cannot be meant.
    in_blocks = _in_blocks(lacking) and len(norms) in (len(dense), len(dense) - 1)
    if ordered and any(before is not None and _has_norm(before) for before, _ in follows):
        adjacent = in_blocks = False  # a second one of a layer, or one of another layer
    pairs: dict[str, Module] = {}
    if not norms or (adjacent and not (in_blocks and any(m.name not in followed for m in dense[:-1]))):
        for before, m in follows:
            if before is not None:
                pairs[before.name] = m
    elif in_blocks:
        pairs = {layer.name: m for layer, m in zip(dense, norms, strict=False)}
        value = ", ".join(f"{norm.name} after {name}" for name, norm in pairs.items())
        notes.assumptions.append(Assumption("order of BatchNorms, by their names' order", value, "default"))
        what = "the n-th BatchNorm by name is taken to follow the n-th layer by name"
        notes.warnings.append(default_warning(what, "norm = {...} in each [[layers]]"))
    else:
        problems.append(
            f"it is not clear which BatchNorm belongs to which layer; in the file they stand as {_listed(modules)}"
            + net_line("norm = {mean = ..., variance = ...} in each [[layers]]")
        )
        # Of convolutions more is missing, which is told at once.
        parts = [m.part for m in layers if m.part]
        return parts if any(part.unplaced for part in parts) else []
    return [with_norm(m.part, pairs.get(m.name)) for m in layers if m.part]


def _has_norm(module: Module) -> bool:
    """Whether it is a layer that has its BatchNorm, in its own scope."""
    return module.part is not None and bool(module.part.after)


def _listed(modules: Sequence[Module]) -> str:
    def kind(module: Module) -> str:
        layer = "convolution" if _is_convolution(module) else "dense"
        return f"{layer} and BatchNorm" if _has_norm(module) else "BatchNorm" if module.norm else layer

    return ", ".join(f"{m.name} ({kind(m)})" for m in modules)


def with_norm(part: LayerPart, found: Module | None) -> LayerPart:
    """A layer and the BatchNorm that a module turned out to be, if there is one."""
    if found is None or found.norm is None:
        return part
    op: Norm | Steps = found.norm
    if found.tensor_norm is not None and part.neurons > 1:
        steps = found.tensor_norm.steps
        op = Steps.of(*((step.function, *(np.full(part.neurons, number) for number in step.parameters)) for step in steps))
    return dataclasses.replace(part, after=(*part.after, (found.name, op)))


def leading_norm(modules: Sequence[Module], notes: Notes) -> tuple[list[Follower] | None, list[Module]]:
    """A BatchNorm before the first layer, as wide as its inputs: of the inputs, which a sign follows then; and the rest."""
    first, *rest = modules if modules else [Module("")]
    if first.norm is None or not rest or rest[0].part is None or _in_blocks(modules):
        return None, list(modules)
    if first.norm.mean.size != rest[0].part.channels:
        return None, list(modules)
    _remark_leading(first.name, rest[0].name, notes)
    return [(first.name, first.norm)], rest


def _remark_leading(norm: str, layer: str, notes: Notes) -> None:
    value = f"{norm}, before {layer}; then a sign"
    notes.assumptions.append(Assumption("BatchNorm of the inputs", value, "default"))
    what = f"{norm} stands before the first layer: the inputs are taken to be normalized by it and binarized"
    notes.warnings.append(default_warning(what, "[input] norm = {...}"))


def pair_by_names(
    modules: Sequence[Module], notes: Notes, problems: list[str]
) -> tuple[list[LayerPart], list[Follower] | None]:
    """The same for a container without order: by the shapes of the layers, the numbers in names, and the words they share.

    Names that differ in numbers alone (0, 1, 3, 4) are in the order of their numbers.
    """
    modules = sorted(modules, key=lambda m: natural_key(m.name))
    dense = [m for m in modules if m.part]
    norms = [m for m in modules if m.norm]
    if not dense:
        return [], None
    if len({family(m.name) for m in modules}) == 1:
        notes.assumptions.append(Assumption(ORDER, "by the numbers in their names", "file"))
        before, rest = leading_norm(modules, notes)
        return pair(rest, notes, problems), before
    ordered = order_layers(dense, notes, problems)
    if ordered is None:
        return [m.part for m in dense if m.part], None
    pairs: dict[str, Module] = {}
    left = list(norms)
    by_words = _by_words([m for m in ordered if not _has_norm(m)], norms)
    for layer, norm in by_words.items():
        pairs[layer] = norm
        left.remove(norm)
    leading: list[Follower] | None = None
    for norm in list(left):
        assert norm.norm is not None
        width = norm.norm.mean.size
        alone = [m for m in ordered if m.part and not _has_norm(m) and m.name not in pairs and m.part.neurons == width]
        rivals = [m for m in left if m.norm and m.norm.mean.size == width]
        first = ordered[0].part if ordered else None
        if len(alone) == 1 == len(rivals) and not (first is not None and first.channels == width):
            pairs[alone[0].name] = norm
            left.remove(norm)
        elif not alone and first is not None and first.channels == width and len(rivals) == 1:
            leading = [(norm.name, norm.norm)]
            _remark_leading(norm.name, ordered[0].name, notes)
            left.remove(norm)
    if left:
        problems.append(
            "it is not clear which BatchNorm belongs to which layer; the file keeps no order and holds "
            f"{_listed([*ordered, *norms])}" + net_line("norm = {mean = ..., variance = ...} in each [[layers]]")
        )
    elif pairs:
        value = ", ".join(f"{norm.name} after {name}" for name, norm in pairs.items())
        widths = [m.part.neurons for m in ordered if m.part]
        proven = all(norm.norm is not None and widths.count(norm.norm.mean.size) == 1 for norm in pairs.values())
        notes.assumptions.append(Assumption("BatchNorms, by their names and widths", value, "file" if proven else "default"))
        if not proven:
            what = f"BatchNorms are taken to follow the layers whose names they share ({value})"
            notes.warnings.append(default_warning(what, "norm = {...} in each [[layers]]"))
    return [with_norm(m.part, pairs.get(m.name)) for m in ordered if m.part], leading


def _by_words(dense: Sequence[Module], norms: Sequence[Module]) -> dict[str, Module]:
    """Layers and the BatchNorms of the same number or word (fc1 and bn1, fc_one and bn_one), as wide as they are."""
    found: dict[str, Module] = {}
    keys: dict[tuple[str, ...], list[Module]] = {}
    for m in norms:
        keys.setdefault(_words(m.name), []).append(m)
    for layer in dense:
        mine = keys.get(_words(layer.name), [])
        rivals = [m for m in dense if _words(m.name) == _words(layer.name)]
        if len(mine) == 1 == len(rivals) and mine[0].norm and layer.part and mine[0].norm.mean.size in (layer.part.neurons, 1):
            found[layer.name] = mine[0]
    return found


#: Words that say what a module is, and not which.
_KINDS = {
    "fc",
    "linear",
    "lin",
    "dense",
    "layer",
    "binary",
    "bin",
    "quant",
    "binarize",
    "bn",
    "norm",
    "batch",
    "batchnorm",
    "l",
}


def _words(name: str) -> tuple[str, ...]:
    """The words and numbers of a name but those that say the kind of module."""
    words = re.findall(r"[a-z]+|[0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    return tuple(word for word in words if word not in _KINDS)


def order_layers(dense: Sequence[Module], notes: Notes, problems: list[str]) -> list[Module] | None:
    """Layers in the only order in which their shapes fit and their numbers rise; None, and a problem, if there are several.

    dense: sorted by their names.
    """
    parts = [m.part for m in dense if m.part]
    if any(part.unplaced for part in parts):
        notes.assumptions.append(
            Assumption(ORDER, "convolutions before dense layers, each by name, digits as numbers", "default")
        )
        return [*(m for m in dense if _is_convolution(m)), *(m for m in dense if not _is_convolution(m))]
    families = [family(m.name) for m in dense]
    free = chains([(part.depth, part.neurons) for part in parts])
    found = free if len(free) == 1 else chains([(part.depth, part.neurons) for part in parts], families)
    if len(found) == 1:
        value = "the only one in which the shapes of the matrices fit" + ("" if found == free else " and their numbers rise")
        notes.assumptions.append(Assumption(ORDER, value, "file"))
        return [dense[index] for index in found[0]]
    names = ", ".join(m.name for m in dense)
    if found:
        problems.append(
            f"the file keeps no order, and neither the shapes nor the names of its layers tell it ({names}): several fit; a "
            ".pt file keeps the order" + net_line('[[layers]] weight = "...", in their order')
        )
        return None
    notes.assumptions.append(Assumption(ORDER, "by name, digits as numbers", "default"))
    return list(dense)


def _is_convolution(module: Module) -> bool:
    """Whether it is a convolution."""
    return module.part is not None and module.part.window is not None


def _in_blocks(modules: Sequence[Module]) -> bool:
    """True if all dense layers stand together and all BatchNorms stand together."""
    changes = sum(bool(a.norm) != bool(b.norm) for a, b in itertools.pairwise(modules))
    return changes == 1
