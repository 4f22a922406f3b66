"""Which BatchNorm belongs to which layer, where a file says so only by the order of its names."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from xnorinfer.converters.arrays import RawTensor
from xnorinfer.converters.assemble import LayerPart, NormPart
from xnorinfer.converters.base import Assumption, Notes, default_warning, net_line


@dataclass(eq=False)
class Module:
    """The tensors of one module (one scope) by their last name, and what they turned out to be."""

    name: str
    tensors: dict[str, RawTensor] = field(default_factory=dict)
    part: LayerPart | None = None
    norm: NormPart | None = None


def pair(modules: Sequence[Module], notes: Notes, problems: list[str], *, ordered: bool = True) -> list[LayerPart]:
    """Give each dense layer its BatchNorm.

    Usual: each BatchNorm directly follows its layer.  Else, where a class registers all layers first and all BatchNorms after
    them (or the other way round): the first BatchNorm belongs to the first layer and so on, the last layer may be without.
    ordered=False: the order of modules is that of their names, so that what follows what means nothing.
    """
    dense = [m for m in modules if m.part]
    norms = [m for m in modules if m.norm]
    follows = [(before, m) for before, m in zip([None, *modules], modules, strict=False) if m.norm]
    followed = {before.name for before, _ in follows if before is not None and before.part}
    adjacent = len(followed) == len(norms) and ordered
    # Layers registered together leave hidden ones without a BatchNorm behind them, which cannot be meant.
    in_blocks = _in_blocks(modules) and len(norms) in (len(dense), len(dense) - 1)
    pairs: dict[str, NormPart] = {}
    if not norms or (adjacent and not (in_blocks and any(m.name not in followed for m in dense[:-1]))):
        for before, m in follows:
            if before is not None and m.norm is not None:
                pairs[before.name] = m.norm
    elif in_blocks:
        for layer, m in zip(dense, norms, strict=False):
            assert m.norm is not None
            pairs[layer.name] = m.norm
        value = ", ".join(f"{norm.name} after {name}" for name, norm in pairs.items())
        notes.assumptions.append(Assumption("order of BatchNorms, by their names' order", value, "default"))
        what = "the n-th BatchNorm by name is taken to follow the n-th layer by name"
        notes.warnings.append(default_warning(what, "norm = {...} in each [[layers]]"))
    else:
        order = ", ".join(f"{m.name} ({'BatchNorm' if m.norm else 'dense'})" for m in modules)
        problems.append(
            f"it is not clear which BatchNorm belongs to which layer; in the file they stand as {order}"
            + net_line("norm = {mean = ..., variance = ...} in each [[layers]]")
        )
        return []
    return [dataclasses.replace(m.part, norm=pairs.get(m.name)) for m in dense if m.part]


def _in_blocks(modules: Sequence[Module]) -> bool:
    """True if all dense layers stand together and all BatchNorms stand together."""
    changes = sum(bool(a.norm) != bool(b.norm) for a, b in itertools.pairwise(modules))
    return changes == 1
