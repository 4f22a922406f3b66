"""Arrays under names of someone's own: fc1w, W1 and b1, layer1/kernel, gamma_2, moving_mean1.

A name is a key and a role, in either order.  Which axis of a matrix is which follows from the shapes: (neurons, inputs) or
(inputs, neurons), whichever makes each layer's neurons the next one's inputs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from xnorinfer.converters.containers.arrays import RawTensor, natural_key
from xnorinfer.converters.evidence.layerorder import chains, family
from xnorinfer.converters.naming.pairing import Module
from xnorinfer.converters.reading import Assumption, Notes, default_warning, net_line

#: Last names that PyTorch gives; a dict with one of them is a state dict.
_OF_TORCH = ("weight", "running_mean", "running_var", "original", "weight_org", "weight_orig", "weight_v", "weight_g")
_ROLES = {
    "weight": "w|weights?|kernels?|wt",
    "bias": "b|bias(?:es)?",
    "gamma": "gamma",
    "beta": "beta",
    "running_mean": "(?:running_|moving_)?mean",
    "running_var": "(?:running_|moving_)?var(?:iance)?",
}
_ANY = "|".join(f"(?P<{role}>{words})" for role, words in _ROLES.items())
_BEHIND = re.compile(rf"(?P<key>.+?)[_./-]?(?:{_ANY})(?::0)?", re.IGNORECASE)
_BEFORE = re.compile(rf"(?:{_ANY})[_./-]?(?P<key>[0-9]\w*|[_./-]\w+|)(?::0)?", re.IGNORECASE)
#: What a BatchNorm's tensors are called in PyTorch.
_NORM = {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}


def is_loose(tensors: Sequence[RawTensor]) -> bool:
    """Whether no name is one that PyTorch gives."""
    return not any(tensor.name.rpartition(".")[2] in _OF_TORCH for tensor in tensors)


def loose_modules(tensors: Sequence[RawTensor], notes: Notes, problems: list[str], *, ordered: bool) -> dict[str, Module]:
    """Tensors by the key in their names; a BatchNorm under its layer's key is a module of its own behind it.

    ordered: they stand in someone's order, and not in that of their names.
    """
    modules: dict[str, Module] = {}
    for tensor in tensors:
        key, role = _split(tensor)
        if role in _NORM and not _is_norm_key(key, tensors):
            key = f"{key}.bn"
        leaf = _NORM.get(role, role)
        module = modules.setdefault(key, Module(key))
        if leaf in module.tensors:
            problems.append(
                f"{module.tensors[leaf]} and {tensor} are the same tensor of {key or 'the only layer'}"
                + net_line("weight = ...")
            )
        module.tensors[leaf] = tensor
    return _lay_out(modules, notes, problems, ordered)


def _split(tensor: RawTensor) -> tuple[str, str]:
    for pattern in (_BEHIND, _BEFORE):
        match = pattern.fullmatch(tensor.name)
        if match:
            role = next(name for name, value in match.groupdict().items() if value is not None and name != "key")
            return match["key"].strip("_./-"), role
    return tensor.name, "weight" if tensor.array.ndim == 2 else "value"


def _says_weight(name: str) -> bool:
    return any((match := pattern.fullmatch(name)) and match["weight"] for pattern in (_BEHIND, _BEFORE))


def _is_norm_key(key: str, tensors: Sequence[RawTensor]) -> bool:
    """Whether a key is a BatchNorm's own: no matrix has it."""
    return not any(tensor.array.ndim == 2 and _split(tensor)[0] == key for tensor in tensors)


def _lay_out(modules: dict[str, Module], notes: Notes, problems: list[str], ordered: bool) -> dict[str, Module]:
    """Turn matrices to (neurons, inputs); the modules, in the order in which they fit: as given, or sorted by name."""
    dense = [m for m in modules.values() if "weight" in m.tensors and m.tensors["weight"].array.ndim == 2]
    if not dense:
        return modules
    wide = [all(_as_wide(m, modules, turned) for m in dense) for turned in (False, True)]
    for sorting in (modules, dict(sorted(modules.items(), key=lambda item: natural_key(item[0])))):
        dense = [m for m in sorting.values() if m in dense]
        as_is, turned = (wide[turned] and _chained(dense, turned) for turned in (False, True))
        if as_is or turned:
            break
    else:  # no order that is at hand: whoever puts the layers together finds one, or says what does not fit
        sorting, (as_is, turned) = modules, wide
    # Turned, matrices fit in the reverse order.
    counted = ordered or len({family(m.name) for m in dense}) == 1
    untold = (as_is and turned) or (all(wide) and not counted)
    listed = ", ".join(str(m.tensors["weight"]) for m in dense)
    if len(dense) == 1 and not _says_weight(dense[0].tensors["weight"].name):
        line = f'[[layers]] weight = "{dense[0].tensors["weight"].name}"'
        problems.append(f"{listed} is the only matrix, and its name does not say that it holds weights" + net_line(line))
    if untold and len(dense) > 1 and chains([_shape(m, False) for m in dense]):
        lines = ('layout = "in_out"', 'layout = "out_in"')
        problems.append(f"which axis of {listed} is that of the neurons cannot be told" + net_line(*lines))
    elif as_is and turned:
        notes.assumptions.append(Assumption("layout of weights", "(neurons, inputs)", "default"))
        notes.warnings.append(default_warning(f"{listed} is taken to be (neurons, inputs)", 'layout = "in_out"'))
    elif turned:
        notes.assumptions.append(Assumption("layout of weights", "(inputs, neurons): only so do they fit", "file"))
        for module in dense:
            tensor = module.tensors["weight"]
            module.tensors["weight"] = RawTensor(tensor.name, tensor.array.T, tensor.dtype)
    return sorting


def _shape(module: Module, turned: bool) -> tuple[int, int]:
    """(neurons, inputs) of a layer, where its matrix is not, or is, (inputs, neurons)."""
    first, second = module.tensors["weight"].shape
    return (second, first) if turned else (first, second)


def _chained(dense: Sequence[Module], turned: bool) -> bool:
    """Whether matrices (neurons, inputs) fit one behind the other."""
    shapes = [_shape(m, turned) for m in dense]
    return all(before[0] == after[1] for before, after in itertools.pairwise(shapes))


def _as_wide(module: Module, modules: Mapping[str, Module], turned: bool) -> bool:
    """Whether the bias and the BatchNorm under a layer's key are as long as it has neurons."""
    neurons, _ = _shape(module, turned)
    norm = modules.get(f"{module.name}.bn", Module("")).tensors.values()
    vectors = [tensor for leaf, tensor in module.tensors.items() if leaf == "bias"]
    return all(t.array.size == neurons for t in vectors) and all(t.array.size in (neurons, 1) for t in norm)
