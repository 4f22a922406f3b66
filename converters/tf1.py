"""TensorFlow checkpoints (`tf.train.Saver`), V2 and V1, SavedModels and frozen graphs, without TensorFlow.

A path may be the folder with its `checkpoint` file, the prefix (`model.ckpt-100`), any file of the checkpoint, a folder of a
SavedModel, the single file of a V1 checkpoint, or the `.pb` of a graph that holds its constants.

What the graph computes (`.meta`, `saved_model.pb`) is read where variables' names do not tell (`tfmodel`).

Variables are grouped by scope: a kernel makes a layer, `moving_mean` and `moving_variance` make a BatchNorm.  Suffixes
count creation order, none before `_1`, `_2` before `_10`.  Where the graph (`.meta`) lies beside the checkpoint, it says the
order, each BatchNorm's epsilon and how kernels are binarized.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from xnorinfer.budget import spend_steps
from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.containers.arrays import Entry, RawTensor, as_float32, natural_key
from xnorinfer.converters.containers.tfcheckpoint import find_checkpoint, read_variables
from xnorinfer.converters.finding import ORDER
from xnorinfer.converters.kerasmodels.kerasweights import kernel_layout
from xnorinfer.converters.kernelaxes import arranged, axes_of
from xnorinfer.converters.naming.pairing import Module, pair
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.converters.reading import Assumption, ConvertOptions, Notes, Reading, net_line, without_ignored
from xnorinfer.converters.tfgraphs.tfgraph import Graph
from xnorinfer.converters.tfgraphs.tfmodel import (
    by_graph_alone,
    is_frozen,
    read_frozen_graph,
    read_objects,
    saved_model,
    with_graph,
)
from xnorinfer.converters.tfgraphs.tfnodes import read_meta, read_saved_model
from xnorinfer.converters.tfgraphs.tfobjects import is_object_based
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Norm
from xnorinfer.net.windows import Window

DEFAULTS = Defaults(
    "tf1-round",
    "tf",
    1e-4,
    "as in the BinaryNet scripts",
    "no .meta graph beside the checkpoint says BatchNorm's epsilon: 1e-4 is used, as in the BinaryNet scripts; TensorFlow's "
    "own default is 1e-3, so check --bn-epsilon",
    epsilon_origin="graph",
)

#: The layers of the TF1 port hold a variable of this name that is never trained: latent weights are in `kernel`.
DECOY = "binary_weight"
#: Last names of moving averages of a variable, made by tf.train.ExponentialMovingAverage or an averaging optimizer.
AVERAGES = ("ExponentialMovingAverage", "average")
_SLOT = re.compile(r"(Adam|AdaMax|Nadam|AMSGrad|Momentum|RMSProp|Adagrad|Adadelta|Ftrl|FtrlLinear|AdagradDA)(_\d+)?")
_COUNTER = re.compile(r"((beta\d_power|Variable|global_step|learning_rate|lr|epoch|step|decay)(_\d+)?)", re.IGNORECASE)
_NORM_FIELDS = {"gamma": "gamma", "beta": "beta", "moving_mean": "mean", "moving_variance": "variance"}
#: What makes a BatchNorm of them.
_MOMENTS = {"moving_mean", "moving_variance"}
_BIASES = ("bias", "biases", "b")


class Tf1Source:
    """Checkpoints of tf.train.Saver and of TensorFlow 2, SavedModels, frozen graphs."""

    name = "tf1"
    meaning = "TensorFlow checkpoint (folder, prefix, .index file, V1 file), SavedModel folder, or frozen graph (.pb)"

    def sniff(self, path: Path) -> bool:
        """True for everything that leads to an .index file or a SavedModel, for V1 files and for `.pb` files."""
        try:
            return find_checkpoint(path) is not None or saved_model(path) is not None or is_frozen(path)
        except SourceError:
            return True
        except OSError:
            return False

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the checkpoint.  Raises SourceError, OptionError or NetworkError."""
        model = saved_model(path)
        if model is None and is_frozen(path):
            return read_frozen_graph(self.name, path, options)
        prefix = find_checkpoint(path)
        if prefix is None and model is None:
            raise SourceError(f"{path} is no TensorFlow checkpoint: there is neither {path.name}.index nor is it a V1 file")
        notes = Notes()
        entries: dict[str, Entry] = {}
        if prefix is not None:
            entries = read_variables(prefix)
            notes.assumptions.append(Assumption("checkpoint", prefix.name, "file"))
        about = path.name if prefix is None or model is not None else prefix.name
        entries = {entry.name: entry for entry in without_ignored(entries.values(), options, notes)}
        if prefix is None or is_object_based(entries):
            return read_objects(self.name, about, prefix, model, entries, options, notes)
        meta = prefix.with_name(prefix.name + ".meta")
        graph, beside = (read_meta(meta), meta) if meta.is_file() else (None, model)
        problems: list[str] = []
        written = graph is not None
        reader = _Reader(entries, None if graph is None else Graph(graph.nodes), options, notes, problems)
        if graph is None and model is not None and by_graph_alone(options):
            graph = read_saved_model(model)
        if graph is None or beside is None or not by_graph_alone(options):
            graph = beside = None
        found: Reading | NetworkError
        named = options if graph is None else replace(options, input_shape=None, output_name=None, sign_of_signs=False)
        try:
            parts = reader.parts()
            found = assemble(self.name, about, parts, named, reader.defaults(parts), notes, problems)
        except NetworkError as error:
            if graph is None:
                raise _with_hint(error, about, meta.name, written=written) from None
            found = error
        if graph is None or beside is None:
            assert isinstance(found, Reading)
            return found
        return with_graph(self.name, about, graph, beside.name, entries, options, reader.ignored, found)


def _with_hint(error: NetworkError, about: str, meta: str, *, written: bool) -> NetworkError:
    """The error, and what a graph says of convolutions.  written: it is there, and options had it left unread."""
    reading = error.understood
    if not isinstance(reading, Reading) or not reading.unplaced:
        return error
    hint = f"the graph {meta}, which tf.train.Saver writes beside a checkpoint, says all of it"
    if written:
        hint = (
            f"the graph {meta} says all of it, and is read where no option says a part (--h, --bn-epsilon, --float-layer, ...)"
        )
    *others, last = error.problems
    return NetworkError([*others, f"{last}; {hint}"], about=about, understood=reading)


# ---------------------------------------------------------------- variables


class _Reader:
    """Sorts the variables of one checkpoint into layers."""

    def __init__(
        self, entries: Mapping[str, Entry], graph: Graph | None, options: ConvertOptions, notes: Notes, problems: list[str]
    ) -> None:
        self.entries = entries
        self.graph = graph
        self.options = options
        self.notes = notes
        self.problems = problems
        self.averages = {
            owner: name
            for name in entries
            if name.rpartition("/")[2] in AVERAGES and (owner := self._owner(name.rpartition("/")[0])) is not None
        }
        if options.ema and not self.averages:
            raise OptionError("--ema: the checkpoint holds no moving averages of weights")
        self.epsilons = graph.epsilons() if graph else {}
        self.kernels: dict[str, str] = {}

    def parts(self) -> list[LayerPart]:
        """Layer parts in order; every variable is noted."""
        scopes: dict[str, dict[str, Entry]] = {}
        shadows = {name: owner for owner, name in self.averages.items()}
        for name, entry in self.entries.items():
            if name in shadows:
                continue
            reason = self._ignore(name, entry)
            if reason is not None:
                self.notes.use(entry, reason, ignored=True)
                continue
            scope, _, leaf = name.rpartition("/")
            if not scope:  # no scope of its own: W_1, b_1
                scope, leaf = _top_level(name, entry, self.entries)
            scopes.setdefault(scope, {})[leaf] = entry
        modules = [module for scope, found in scopes.items() if (module := self._module(scope, found)) is not None]
        modules = self._used(modules)
        noted = {tensor.name for tensor in self.notes.tensors}
        for name, owner in shadows.items():
            if name not in noted:
                self.notes.use(self.entries[name], f"moving average of {owner}; --ema would use it", ignored=True)
        self._remark_averages()
        made = self._positions()
        positions = {module.name: made.get(module.name) for module in modules}
        if all(position is not None for position in positions.values()):
            modules.sort(key=lambda module: positions[module.name] or 0)
            kernels = [self.kernels[module.part.name] for module in modules if module.part]
            used = self.graph is not None and self.graph.used_in_order(kernels)
            self.notes.assumptions.append(Assumption(ORDER, "as made in the graph", "graph" if used else "default"))
            return pair(modules, self.notes, self.problems)
        if self.problems:  # counting what is left would pair the wrong ones
            return []
        return pair(self._by_names(modules), self.notes, self.problems, ordered=False)

    def _owner(self, base: str) -> str | None:
        """The variable that a slot or moving average BASE/NAME belongs to: BASE, or BASE without the scope of the optimizer."""
        while base and base not in self.entries:
            spend_steps(1 + len(base) // 64, "looking for the variables of its slots")
            base = base.partition("/")[2]
        return base or None

    def ignored(self, name: str) -> str | None:
        """The reason why a variable is no part of the network; None if it may be one."""
        return self._ignore(name, self.entries[name])

    def _ignore(self, name: str, entry: Entry) -> str | None:
        """The reason why a variable is no part of the network; None if it is."""
        base, _, leaf = name.rpartition("/")
        owner = self._owner(base)
        if owner is not None and (owner == base or _SLOT.fullmatch(leaf)):
            return f"optimizer slot of {owner}"
        if leaf == DECOY:
            kernel = self.entries.get(f"{base}/kernel" if base else "kernel")
            if kernel is not None and kernel.shape == entry.shape:
                return f"never trained; the latent weights are {kernel.name}"
        if entry.shape == () and (_COUNTER.fullmatch(leaf) or entry.dtype.startswith(("int", "uint", "bool"))):
            return "a counter or setting of the training"
        return "no numbers" if entry.dtype == "string" and name.startswith("_") else None

    def _norm(self, found: dict[str, Entry]) -> Norm:
        arrays = {key: self._take(found[leaf], f"BatchNorm {key}") for leaf, key in _NORM_FIELDS.items() if leaf in found}
        epsilon = self.epsilons.get(found["moving_variance"].name)
        return Norm(
            arrays["mean"], variance=arrays["variance"], gamma=arrays.get("gamma"), beta=arrays.get("beta"), epsilon=epsilon
        )

    def _module(self, scope: str, found: dict[str, Entry]) -> Module | None:
        module = Module(scope)
        normed = {leaf: found[leaf] for leaf in _NORM_FIELDS if leaf in found} if set(found) >= _MOMENTS else {}
        found = {leaf: entry for leaf, entry in found.items() if leaf not in normed} or normed
        label = scope or "(top level)"
        described = ", ".join(f"{entry.name} {entry.shape}" for entry in found.values())
        matrices = [entry for entry in found.values() if len(entry.shape) in (2, 3, 4)]
        if found is normed:
            module.norm = self._norm(normed)
        elif len(matrices) == 1:
            (kernel,) = matrices
            biases = [found[leaf] for leaf in _BIASES if leaf in found]
            extra = [f"{e.name} {e.shape}" for leaf, e in found.items() if e is not kernel and leaf not in _BIASES]
            if extra or len(biases) > 1:
                names = [entry.name for leaf, entry in found.items() if entry is not kernel and leaf not in _BIASES] or [
                    entry.name for entry in biases[1:]
                ]
                self.problems.append(
                    f"{label}: what {', '.join(extra or [b.name for b in biases])} do is not known"
                    + net_line(f'scale = "{names[0]}"', f'steps = [{{mul = "{names[0]}"}}]')
                )
            bias = self._take(biases[0], "bias") if biases else None
            layout = kernel_layout(kernel.name, kernel.shape)
            weight = self._take(kernel, f"latent weights, {axes_of(layout)}", layout)
            after = ((f"{label}, BatchNorm", self._norm(normed)),) if normed else ()  # in one scope with its layer
            module.part = LayerPart(scope or kernel.name, weight, bias, after=after)
            if weight.ndim == 4:
                module.part = replace(module.part, window=Window(weight.shape[1:3]), unplaced=True)
            self.kernels[module.part.name] = kernel.name
        else:
            name = next(iter(found.values())).name
            lines = ["norm = {...}", f'steps = [{{mul = "{name}"}}]', f'bias = "{name}"']
            if matrices:
                lines = [f'[[layers]] weight = "{matrices[0].name}"']
            elif not any(entry.shape for entry in found.values()):
                lines = [f'steps = [{{mul = "{name}"}}]']
            self.problems.append(f"{label}: what {described} are is not known" + net_line(*lines))
        return module if module.part or module.norm else None

    def _used(self, modules: list[Module]) -> list[Module]:
        """Without the layers that no product of the graph reads, such as those of a model that was given up."""
        if self.graph is None:
            return modules
        kernels = {m.name: self.kernels[m.part.name] for m in modules if m.part is not None}
        unused = {name for name, kernel in kernels.items() if self.graph.binarization(kernel) is None}
        if len(unused) == len(kernels):  # a graph of another kind, which says nothing
            return modules
        self.notes.tensors = [
            replace(tensor, use="no product of the graph reads it", ignored=True)
            if tensor.name.rpartition("/")[0] in unused and not tensor.ignored
            else tensor
            for tensor in self.notes.tensors
        ]
        return [module for module in modules if module.name not in unused]

    def _take(self, entry: Entry, use: str, layout: str = "out_in") -> F32:
        scope = entry.name.rpartition("/")[0] or entry.name
        source = entry
        if self.options.ema and entry.name in self.averages:
            source = self.entries[self.averages[entry.name]]
            self.notes.use(entry, f"{scope}: {use}, replaced by its moving average", ignored=True)
            if source.shape != entry.shape:
                raise SourceError(f"variable {source.name} has shape {source.shape}, but {entry.name} has {entry.shape}")
        self.notes.use(source, f"{scope}: {use}")
        array = source.load()
        return as_float32(RawTensor(source.name, arranged(array, layout), source.dtype), self.notes.warnings)

    def _remark_averages(self) -> None:
        if self.options.ema:
            self.notes.assumptions.append(Assumption("moving averages", f"used for {len(self.averages)} variables", "option"))
        elif self.averages:
            self.notes.assumptions.append(Assumption("moving averages", "not used", "default"))
            self.notes.warnings.append(
                f"the checkpoint also holds moving averages of {len(self.averages)} variables; the raw ones are used. For "
                "scripts that evaluate with the averages, give --ema"
            )

    def _by_names(self, modules: list[Module]) -> list[Module]:
        """Layers, then BatchNorms, each by their suffixes as numbers."""
        value = "by the numbers in their names, as no .meta file beside the checkpoint tells it"
        self.notes.assumptions.append(Assumption(ORDER, value, "default"))
        return sorted(modules, key=lambda module: (module.norm is not None, scope_key(module.name)))

    def _positions(self) -> dict[str, int]:
        """Where in the graph the first variable of each scope was made."""
        found: dict[str, int] = {}
        for name in self.entries if self.graph else ():
            assert self.graph is not None
            scope, position = name.rpartition("/")[0], self.graph.position(name)
            if position is not None:
                found[scope] = min(position, found.get(scope, position))
        return found

    def defaults(self, parts: list[LayerPart]) -> Defaults:
        """The source's defaults, with what the graph says about binarization; contradictions become problems."""
        found: set[str] = set()
        for part in parts if self.graph else ():
            assert self.graph is not None
            kernel = self.kernels[part.name]
            how = self.graph.binarization(kernel)
            named = part.name in self.options.float_layers
            if how == "none" and not named:
                self.problems.append(
                    f"{part.name}: the graph uses {kernel} without binarizing it; if it is a float layer, give --float-layer "
                    f"{part.name}"
                )
            elif how in ("round", "sign"):
                found.add(how)
                if named:
                    self.problems.append(f"{part.name}: the graph binarizes {kernel}, so that --float-layer is wrong there")
        if found == {"sign"}:
            return replace(DEFAULTS, profile="torch-sign", profile_origin="graph")
        return replace(DEFAULTS, profile_origin="graph") if found == {"round"} else DEFAULTS


def _top_level(name: str, entry: Entry, entries: Mapping[str, Entry]) -> tuple[str, str]:
    """Scope and last name of a variable without a scope: each matrix is a layer, b_1 the bias of W_1."""
    found = re.fullmatch(r"(b|bias|biases)(_?\w*)", name, re.IGNORECASE)
    if len(entry.shape) == 1 and found:
        for other in entries.values():
            owner = re.fullmatch(r"(w|weight|weights|kernel)(_?\w*)", other.name, re.IGNORECASE)
            if owner and owner[2] == found[2] and len(other.shape) == 2 and other.shape[1] == entry.shape[0]:
                return other.name, "bias"
    return name, "kernel" if len(entry.shape) == 2 else name


def scope_key(scope: str) -> tuple[tuple[tuple[tuple[int, int, str], ...], ...], ...]:
    """Sort key of scopes: per component its name, then its `_N` suffix as a number, none before _1."""
    key = []
    for component in scope.split("/"):
        match = re.fullmatch(r"(.*?)(?:_(\d+))?", component, re.DOTALL)
        assert match is not None
        key.append((natural_key(match[1]), natural_key(match[2] or "")))
    return tuple(key)
