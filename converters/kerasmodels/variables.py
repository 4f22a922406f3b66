"""A Keras file of weights alone: layers by the names and shapes of their arrays.

A matrix makes a dense layer, moving mean and variance make a BatchNorm.  Files that list their layers are in that order.
Others are put in the one order in which the matrices fit, each layer's neurons the next one's inputs; where several orders fit,
the numbers in names decide if the names differ in nothing else.  Layers that Keras called `dense` among others
called `quant_dense` or `binary_dense` are taken as float layers.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from xnorinfer.converters.containers.arrays import Entry, as_float32, natural_key
from xnorinfer.converters.evidence.layerorder import chains, family
from xnorinfer.converters.finding import ORDER
from xnorinfer.converters.kerasmodels.kerasweights import BIAS, KERNEL, NORM_ROLES, Weights, kernel_layout
from xnorinfer.converters.kernelaxes import arranged, axes_of
from xnorinfer.converters.naming.pairing import Module, pair, with_norm
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.converters.reading import Assumption, Notes, default_warning, net_line
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Norm
from xnorinfer.net.windows import Window


class ByNames:
    """One file's layers.

    kept: the names of the arrays that count.  why: nothing lists the layers, as the start of a sentence.  config: what beside
    the file would; None if nothing can.
    """

    def __init__(
        self,
        weights: Weights,
        kept: Collection[str],
        notes: Notes,
        problems: list[str],
        why: str,
        config: str | None,
    ) -> None:
        self.weights = weights
        self.kept = kept
        self.why = why
        self.beside = f"; put {config} beside it" if config else ""
        self.says = f", and {config} beside it says everything" if config else ""
        self.notes = notes
        self.problems = problems

    def parts(self) -> list[LayerPart]:
        """The layer parts in order; everything that is used is noted, what is not clear becomes a problem."""
        scopes = {
            scope: {role: entry for role, entry in found.items() if entry.name in self.kept}
            for scope, found in self.weights.scopes().items()
        }
        modules = [module for scope, found in scopes.items() if (module := self._module(scope, found)) is not None]
        if self.problems:  # counting what is left would pair the wrong ones
            return []
        if self.weights.ordered():
            self.notes.assumptions.append(Assumption(ORDER, "as listed in the file", "default"))
            parts = pair(modules, self.notes, self.problems)
        else:
            parts = self._in_order(modules)
        return self._mark_float(parts)

    # ---------------------------------------------------------------- order

    def _in_order(self, modules: Sequence[Module]) -> list[LayerPart]:
        dense = sorted((m for m in modules if m.part), key=self._key)
        norms = sorted((m for m in modules if m.norm), key=self._key)
        found = chains([(m.part.depth, m.part.neurons) for m in dense if m.part])
        if any(m.part.unplaced for m in dense if m.part):
            dense.sort(key=lambda m: m.part is None or not m.part.unplaced)
            value = "convolutions before dense layers, each by the numbers in their names"
            self.notes.assumptions.append(Assumption(ORDER, value, "default"))
        elif len(found) == 1:
            dense = [dense[i] for i in found[0]]
            value = "the only one in which the shapes of the matrices fit"
            self.notes.assumptions.append(Assumption(ORDER, value, "file"))
        else:
            value = "by the numbers in their names" if self.weights.named() else "by class, then by the numbers in their names"
            names = ", ".join(m.name for m in dense)
            alike = not self.weights.named() or len({family(m.name, "") for m in dense if self._doubtful(m, dense)}) <= 1
            alike &= all(one.part.neurons == other.part.depth for one, other in pairwise(dense) if one.part and other.part)
            if not alike and found:
                self.problems.append(
                    f"the file does not tell the order of the layers {names}, several fit{self.beside}"
                    + net_line('[[layers]] weight = "...", in their order')
                )
                return []
            self.notes.assumptions.append(Assumption(ORDER, value, "default"))
        return self._with_norms(dense, norms)

    def _key(self, module: Module) -> tuple[bool, object]:
        return self.weights.label(module.name).startswith("dense"), natural_key(module.name)

    @staticmethod
    def _doubtful(module: Module, dense: Sequence[Module]) -> bool:
        """Whether another layer has the same shape."""
        assert module.part is not None
        shape = module.part.weight.shape
        return sum(other.part is not None and other.part.weight.shape == shape for other in dense) > 1

    def _with_norms(self, dense: Sequence[Module], norms: Sequence[Module]) -> list[LayerPart]:
        """Give each layer its BatchNorm: of its number of neurons, where several layers have it by the names' order."""
        pairs: dict[str, Module] = {}
        guessed = False
        for width in {m.norm.mean.size for m in norms if m.norm}:
            mine = [m for m in norms if m.norm and m.norm.mean.size == width]
            layers = [m for m in dense if m.part and m.part.neurons == width and not m.part.after]
            if len(layers) == len(mine) + 1 and dense and layers[-1] is dense[-1]:
                layers.pop()  # scores without a BatchNorm
                guessed = True
            if len(layers) != len(mine) or len({family(m.name, "") for m in mine}) > 1:
                shown = ", ".join(f"{m.name} ({'BatchNorm' if m.norm else 'dense'})" for m in [*dense, *norms])
                self.problems.append(
                    f"it is not clear which BatchNorm belongs to which layer; in the file there are {shown}{self.beside}"
                    + net_line("norm = {mean = ..., variance = ...} in each [[layers]]")
                )
                return []
            guessed |= len(mine) > 1
            pairs |= {layer.name: m for layer, m in zip(layers, mine, strict=True)}
        value = ", ".join(f"{pairs[m.name].name} after {m.name}" for m in dense if m.name in pairs)
        if guessed:
            self.notes.assumptions.append(Assumption("order of BatchNorms, by their names' order", value, "default"))
            what = f"BatchNorms of one width are taken in the order of their names ({value})"
            self.notes.warnings.append(default_warning(what, "norm = {...} in each [[layers]]"))
        elif pairs:
            self.notes.assumptions.append(Assumption("order of BatchNorms, by their widths", value, "file"))
        return [with_norm(m.part, pairs.get(m.name)) for m in dense if m.part]

    # ---------------------------------------------------------------- layers

    def _norm(self, scope: str, found: dict[str, Entry]) -> Norm:
        taken = {role: self._take(scope, entry, f"BatchNorm {role.removeprefix('moving_')}") for role, entry in found.items()}
        mean, variance = taken["moving_mean"], taken["moving_variance"]
        return Norm(mean, variance, gamma=taken.get("gamma"), beta=taken.get("beta"))

    def _module(self, scope: str, found: dict[str, Entry]) -> Module | None:
        module = Module(scope)
        moments = set(found) >= {"moving_mean", "moving_variance"}
        normed = {role: entry for role, entry in found.items() if moments and role in NORM_ROLES}
        described = ", ".join(f"{entry.name} {entry.shape}" for entry in found.values())
        if KERNEL in found and len(found[KERNEL].shape) in (2, 3, 4) and set(found) - set(normed) <= {KERNEL, BIAS}:
            shape = found[KERNEL].shape
            layout = kernel_layout(f"{self.weights.label(scope)} {found[KERNEL].name}", shape)
            kernel = arranged(self._take(scope, found[KERNEL], f"latent weights, {axes_of(layout)}"), layout)
            bias = self._take(scope, found[BIAS], "bias") if BIAS in found else None
            after = ((f"{scope}, BatchNorm", self._norm(scope, normed)),) if normed else ()  # in one layer of their own
            module.part = LayerPart(scope, kernel, bias, after=after)
            if kernel.ndim == 4:
                module.part = dataclasses.replace(module.part, window=Window(kernel.shape[1:3]), unplaced=True)
        elif normed and set(found) == set(normed):
            module.norm = self._norm(scope, normed)
        elif len(found) == 3 and all(len(entry.shape) == 1 for entry in found.values()):
            self.problems.append(
                f"{scope} ({described}) is a BatchNorm without gamma or without beta, which the file does not tell "
                f"apart{self.beside}" + net_line("norm = {...}")
            )
        elif found:
            name = next(iter(found.values())).name
            lines = [f'steps = [{{prelu = "{name}"}}] in the layer before, if it is a PReLU', f'steps = [{{mul = "{name}"}}]']
            if any(len(entry.shape) == 2 for entry in found.values()):
                lines = [f'[[layers]] weight = "{name}"']
            self.problems.append(f"{scope}: what {described} do is not known" + net_line(*lines))
        return module if module.part or module.norm else None

    def _mark_float(self, parts: list[LayerPart]) -> list[LayerPart]:
        """Plain Dense layers among quantized ones, told by the names that Keras gives by default."""
        plain = [part.name for part in parts if _is_plain(self.weights.label(part.name))]
        if len(plain) == len(parts):
            plain = []
        self.notes.warnings.append(
            f"{self.why}: nothing says how layers binarize; all weights"
            + (f" but those of {', '.join(plain)}" if plain else "")
            + " are taken as latents that are binarized in use, without a scale, and a sign as all that stands between layers; "
            f"float layers are named by --float-layer{self.says}"
        )
        if plain:
            self.notes.assumptions.append(Assumption("float layers, by their names", ", ".join(plain), "default"))
        return [dataclasses.replace(part, is_float=True) if part.name in plain else part for part in parts]

    def _take(self, scope: str, entry: Entry, use: str) -> F32:
        self.notes.use(entry, f"{scope}: {use}")
        return as_float32(entry.tensor(), self.notes.warnings)


def _is_plain(label: str) -> bool:
    """Whether a layer's name is one that Keras gives to a plain Dense: dense, dense_1, ..."""
    return re.fullmatch(r"dense(_\d+)?", label.rpartition("/")[2]) is not None
