"""Keras and Larq models without TensorFlow: `.h5` with and without config, `.weights.h5`, `.keras`.

The config says what every layer does: `kerasgraph` makes nodes of them, which `walk` understands.  A file of weights alone is
read with the config that lies beside it, `model.to_json()` saved as `net.json` beside `net.h5`, `net.weights.h5` or
`net_weights.h5`, else by the names in it (`variables`); so is a subclassed model, whose config does not list its layers.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from copy import copy
from functools import partial
from pathlib import Path

from xnorinfer.budget import JSON_BYTES, add_file, spend_bytes
from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.containers.arrays import Entry
from xnorinfer.converters.containers.hdf5 import CONFIG, WEIGHTS, open_h5
from xnorinfer.converters.containers.onnxfile import OnnxGraph
from xnorinfer.converters.containers.signatures import HDF5, ZIP, start_of
from xnorinfer.converters.containers.ziparchive import names_in
from xnorinfer.converters.finding import ORDER
from xnorinfer.converters.graphs.problems import Problems
from xnorinfer.converters.graphs.walk import Walk, drafted
from xnorinfer.converters.kerasmodels.config import NoLayers, class_name, lists_functional, read_config
from xnorinfer.converters.kerasmodels.kerasgraph import PROFILE_OF, KerasGraph
from xnorinfer.converters.kerasmodels.kerasweights import Weights, apart, find_weights
from xnorinfer.converters.kerasmodels.variables import ByNames
from xnorinfer.converters.networkparts import Becomes, LayerPart, Sign, Wired, layers_of
from xnorinfer.converters.reading import (
    Assumption,
    ConvertOptions,
    Notes,
    Reading,
    ignore_line,
    net_line,
    without_ignored,
)
from xnorinfer.converters.usual import KERAS
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.net.ties import Rule

#: How people call the config beside weights, behind the name of the weights.
_CONFIG_ENDINGS = tuple(f"{dash}{word}" for word in ("config", "model", "architecture", "arch", "structure") for dash in "_-.")


class KerasSource:
    """Models and weights saved by Keras 2 or 3, Larq among them."""

    name = "keras"
    meaning = "Keras or Larq model or weights (.h5, .weights.h5, .keras)"

    def sniff(self, path: Path) -> bool:
        """True for HDF5 files and for zips with a Keras config, and for damaged ones called so."""
        start = start_of(path)
        if start.startswith(ZIP[:2]) and (names := names_in(path)) is not None:
            return {CONFIG, WEIGHTS} <= set(names)
        return start.startswith(HDF5) or (path.suffix in (".keras", ".h5", ".hdf5") and path.is_file())

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the file.  Raises SourceError, OptionError, NetworkError or MissingExtraError (h5py)."""
        with open_h5(path) as file:
            reader = Reader(find_weights(file), file.entries, path.name, options)
            own = file.config()
            if own is not None:
                return reader.read(own, path.name)
            beside, name = _config_beside(path)
            if beside is not None:
                return reader.read(beside, name)
            stem = path.name.removesuffix(path.suffix).removesuffix(".weights")
            return reader.by_names("the file has no config", f"model.to_json(), saved as {stem}.json,")


class Reader:
    """The weights of one model, of a file or in memory: entries by their names, and where each layer finds its own.

    about: how to call them.
    """

    def __init__(self, weights: Weights, entries: Mapping[str, Entry], about: str, options: ConvertOptions) -> None:
        self.entries = entries
        self.about = about
        self.options = options
        self.notes = Notes()
        self.problems: list[str] = []
        self.weights = weights
        self.left: list[str] = []  # layers that lead to another output

    def read(self, config: str | bytes, about: str) -> Reading:
        """By a config, which is that of `about`.  Raises SourceError or NetworkError."""
        try:
            layers = read_config(config, about, self.problems, self.options.output_name, self.left)
        except NoLayers:
            model = json.loads(config)
            kind = class_name(model)
            if not lists_functional(model.get("config")):
                return self.by_names(f"the config is of a subclassed model ({kind}), whose code is not in the file", None)
            text = json.dumps({**model, "class_name": "Functional"})
            layers = read_config(text, about, self.problems, self.options.output_name, self.left)
            self.notes.warnings.append(
                f"the model is of a class of its own ({kind}), whose code is not in the file: the layers that its config lists "
                "are taken for what it computes; --expect compares with the model's own scores"
            )
        self.notes.assumptions.append(Assumption(ORDER, f"as in the model's config in {about}", "file"))
        config_graph = KerasGraph(self.weights, self.options, self.notes, self.problems)
        graph = config_graph.write(layers)
        if config_graph.kinds:
            raise NetworkError(self.problems, about=self.about)
        # A draft begins here anew, without the file, whose numbers the graph has.
        draft = self._again()
        found, lost = self._walked(config_graph, graph)
        if isinstance(found, Reading):
            return dataclasses.replace(found, outputs=layers[-1].path[:1])
        if not lost:
            raise found
        # What the part that was understood adds up to is not worth checking.
        understood = partial(drafted, partial(draft._drafted, config_graph, graph))
        raise NetworkError(found.problems, about=self.about, understood=understood)

    def _again(self) -> Reader:
        """The same with notes of its own from here on."""
        again = copy(self)
        again.problems, again.notes = [*self.problems], Notes(*([*kept] for kept in vars(self.notes).values()))
        return again

    def _drafted(self, config_graph: KerasGraph, graph: OnnxGraph) -> Reading:
        found, _ = self._walked(config_graph, graph, is_draft=True)
        if isinstance(found, NetworkError):
            raise found
        return found

    def _walked(
        self, config_graph: KerasGraph, graph: OnnxGraph, *, is_draft: bool = False
    ) -> tuple[Reading | NetworkError, bool]:
        """What is read of a graph of layers, and whether a part of it was not: the problems are those of the others then."""
        problems = Problems(graph, config_graph.labels)
        entering = dataclasses.replace(self.options, input=config_graph.input)
        walk = Walk(graph, entering, self.notes, problems, self.about)
        walk.open = {} if is_draft else None
        wired = walk.run()
        self.problems += problems.texts()
        options = self.options
        profile, wired = self._profile(config_graph.rules, wired)
        defaults = dataclasses.replace(KERAS, profile=profile)
        if config_graph.rules and config_graph.rules <= {"ge", "sign"}:
            defaults = dataclasses.replace(defaults, profile_origin="file")
        mapping = walk.entry.mapping
        if config_graph.rescaling or mapping is not config_graph.input:
            defaults = dataclasses.replace(defaults, input=mapping, input_origin="file")
            options = dataclasses.replace(options, input=None)
            if config_graph.rescaling or self.options.input is not None:
                defaults = dataclasses.replace(defaults, input_warning=None)
        found = list(self.problems)
        try:
            with walk.told_open():
                return self._assemble(layers_of(wired), defaults, options, walk, wired), False
        except NetworkError as error:
            if is_draft or not (problems.damaged or config_graph.lost):
                return error, False
            return NetworkError(found, about=self.about), True

    def by_names(self, why: str, config: str | None) -> Reading:
        """By names and shapes.  why: there is no list of layers.  config: what beside the file would be one."""
        kept = {entry.name for entry in without_ignored(self.entries.values(), self.options, self.notes)}
        parts = ByNames(self.weights, kept, self.notes, self.problems, why, config).parts()
        defaults = KERAS
        if not any("quant" in self.weights.label(part.name) for part in parts):
            defaults = dataclasses.replace(KERAS, profile="keras-round")
        return self._assemble(parts, defaults, self.options)

    def _assemble(
        self,
        parts: list[LayerPart],
        defaults: Defaults,
        options: ConvertOptions,
        walk: Walk | None = None,
        wired: list[Wired] | None = None,
    ) -> Reading:
        noted = {tensor.name for tensor in self.notes.tensors}
        left = [entry for entry in self.entries.values() if entry.name not in noted]
        if walk is not None:  # with the config, which tells the weights of layers from what is left
            left = without_ignored(left, self.options, self.notes)
        for entry in left:
            reason = apart(entry.name)
            if any(one in entry.name.split("/") or entry.name.startswith(f"{one}/") for one in self.left):
                reason = "leads to another output"
            if reason is not None:
                self.notes.use(entry, f"{reason}, no part of inference", ignored=True)
            elif not self.problems:
                where = "belongs to no layer of the config; is it that of another model?" if walk else "has no known meaning"
                line = f'[[layers]] weight = "{entry.name}"' if len(entry.shape) > 1 else f'steps = [{{mul = "{entry.name}"}}]'
                way = net_line(line) if entry.shape else ignore_line(entry.name)
                self.problems.append(f"{entry.name} {entry.shape} {where}{way}")
        if walk is None:
            return assemble("keras", self.about, parts, options, defaults, self.notes, self.problems)
        reading = assemble(
            "keras",
            self.about,
            parts,
            dataclasses.replace(options, input_shape=None, output_name=None, sign_of_signs=False),
            defaults,
            self.notes,
            self.problems,
            wired=wired,
            shape=walk.image,
            channels_first=walk.is_first,
        )
        return dataclasses.replace(reading, sample=walk.sample)

    def _profile(self, found: set[Rule], wired: list[Wired]) -> tuple[str, list[Wired]]:
        """The profile of the layers' rules; those that no profile has together stay each its own."""
        profiles = sorted(PROFILE_OF[rule] for rule in found)
        if len(profiles) > 1 and self.options.profile is None:
            rules = [(part.name, {"weights": part.rule, "reads": part.sign_rule}) for part in layers_of(wired)]
            told = (f"{name} {what} {rule}" for name, found in rules for what, rule in found.items() if rule)
            self.notes.assumptions.append(Assumption("ties", f"each as its layer has them: {', '.join(told)}", "file"))
        else:
            wired = [dataclasses.replace(one, what=_of_profile(one.what)) for one in wired]
        return (profiles[0] if profiles else KERAS.profile), wired


def _of_profile(what: Becomes) -> Becomes:
    """A layer or a sign whose rules are those of the profile."""
    if isinstance(what, LayerPart):
        return dataclasses.replace(what, rule=None, sign_rule=None)
    return Sign() if isinstance(what, Sign) and not what.exact else what


def configs_beside(path: Path) -> list[Path]:
    """The files that can be the config of a file of weights: NAME.json, or NAME_config.json and the like, beside NAME.h5,
    NAME.weights.h5 or NAME_weights.h5."""
    if path.suffix not in (".h5", ".hdf5"):
        return []
    stem = path.name.removesuffix(path.suffix).removesuffix(".weights")
    bare = re.sub(r"[-_.]?weights?$", "", stem, flags=re.IGNORECASE)
    names = [stem, *(f"{base}{end}" for base in dict.fromkeys((bare or stem, stem)) for end in ("", *_CONFIG_ENDINGS))]
    beside = (path.with_name(f"{name}.json") for name in dict.fromkeys(names))
    return [file for file in beside if file.is_file()]


def _config_beside(path: Path) -> tuple[bytes | None, str]:
    """The config beside a file of weights, and its name."""
    found = configs_beside(path)
    for beside in found:
        add_file(beside)
        spend_bytes(JSON_BYTES * beside.stat().st_size, f"the config in {beside.name}")
    contents = [beside.read_bytes() for beside in found]
    if len(set(contents)) > 1:
        names = ", ".join(beside.name for beside in found)
        raise SourceError(f"beside {path.name} lie {names}, which differ: leave only the config of this model there")
    return (contents[0], found[0].name) if found else (None, "")


def companions(path: Path) -> list[Path]:
    """The files beside a Keras file that `KerasSource.read` uses."""
    beside = configs_beside(path)
    if not beside or not path.is_file():
        return []
    if not start_of(path).startswith(HDF5):
        return []
    with open_h5(path) as file:
        return [] if file.config() else beside
