"""TensorFlow networks whose graph tells what they compute: frozen graphs, SavedModels, checkpoints with a `.meta` beside them.

The part of the graph that is the network (`tfnetwork`) is understood as any other graph is (`walk`).  Object-based checkpoints
of TensorFlow 2 without a graph are read by the names of their objects, as Keras's files of weights are (`variables`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.converters.assemble import assemble
from xnorinfer.converters.containers.arrays import Entry
from xnorinfer.converters.containers.tfbundle import read_text
from xnorinfer.converters.containers.tfcheckpoint import SAVED_MODEL
from xnorinfer.converters.graphs.walk import read_graph
from xnorinfer.converters.kerasmodels.variables import ByNames
from xnorinfer.converters.reading import DEFAULT_INPUT, Assumption, ConvertOptions, Notes, Reading, TensorUse
from xnorinfer.converters.tfgraphs.tfnetwork import Network, network_of
from xnorinfer.converters.tfgraphs.tfnodes import TfGraph, read_frozen, read_saved_model, restored
from xnorinfer.converters.tfgraphs.tfobjects import OBJECT_GRAPH, ObjectWeights, full_names
from xnorinfer.converters.tfgraphs.tfvalues import NO_VALUE, NotFollowed
from xnorinfer.converters.usual import KERAS
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net import reference
from xnorinfer.net.network import Net
from xnorinfer.net.values import RealInput, SignInput

#: What makes frozen graphs.
FREEZING = "tf.compat.v1.graph_util.convert_variables_to_constants or convert_variables_to_constants_v2"
#: Random inputs on which two readings are compared.
ROWS = 64


def saved_model(path: Path) -> Path | None:
    """The graph of a SavedModel: its folder or the file in it; None if it is none."""
    file = path / SAVED_MODEL if path.is_dir() else path
    return file if file.name == SAVED_MODEL and file.is_file() and file.stat().st_size else None


def is_frozen(path: Path) -> bool:
    """Whether a file is called as graphs are, and begins as one does: with a node, or with the version of a SavedModel."""
    if path.suffix != ".pb" or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(1) in (b"\x0a", b"\x12", b"\x22")


def by_graph_alone(options: ConvertOptions) -> bool:
    """Whether no option says of layers and signs what the graph says."""
    others = (options.float_layers, options.ema, options.h, options.before_norm, options.center, options.scale_by)
    return not any(others) and options.bn_epsilon is None


def read_frozen_graph(source: str, path: Path, options: ConvertOptions) -> Reading:
    """A graph that holds its constants.  Raises SourceError, OptionError or NetworkError."""
    return frozen_reading(source, path.name, read_frozen(path), options)


def frozen_reading(source: str, about: str, graph: TfGraph, options: ConvertOptions) -> Reading:
    """As `read_frozen_graph`, of a graph that is read."""
    try:
        network = network_of(graph, lambda name: None, options.output_name)
    except NotFollowed as reason:
        way = f"; graphs are frozen with {FREEZING}, at inference"
        wrong = _wrong_with(source, about, reason, options)
        if wrong is not None:
            problems = [one + way if one.endswith(("as in training", NO_VALUE)) else one for one in wrong.problems]
            raise NetworkError(problems, about=about, understood=wrong.understood) from None
        raise SourceError(f"{about}: the network in this graph could not be told: {reason}{way}") from None
    return _named(read_graph(source, network.graph, about, dataclasses.replace(options, output_name=None)), network)


def _wrong_with(source: str, about: str, found: NotFollowed | None, options: ConvertOptions) -> NetworkError | None:
    """All that is wrong with a graph that could not be followed; None where it is not told what its network is."""
    try:
        if found is not None and found.graph is not None:
            read_graph(source, found.graph, about, dataclasses.replace(options, output_name=None))
    except NetworkError as error:
        return error
    except (SourceError, OptionError):
        return None
    return None


def with_graph(
    source: str,
    about: str,
    graph: TfGraph,
    file: str,
    entries: Mapping[str, Entry],
    options: ConvertOptions,
    ignored: Callable[[str], str | None],
    by_names: Reading | NetworkError,
) -> Reading:
    """What variables' names tell of a network, if it is what the graph computes; else what the graph computes.

    file: where the graph is.  by_names: the reading, or why there is none, raised with the reason if the graph cannot be
    followed.  ignored: why a variable is no part of a network, if it is known.
    """
    names = restored(graph)
    try:
        network = _network_of(graph, names, entries, options.output_name)
    except NotFollowed as reason:
        if isinstance(by_names, NetworkError):
            wrong = _wrong_with(source, about, reason, options)
            instead = [
                f"the graph {file} could not be followed instead: {one}" for one in (wrong.problems if wrong else [reason])
            ]
            instead[-1] += "; --net can say everything"
            raise NetworkError([*by_names.problems, *instead], about=about) from None
        warning = (
            f"the graph {file} could not be followed ({reason}): variables' names alone tell that a sign and nothing else "
            "stands between a BatchNorm and the next layer"
        )
        return dataclasses.replace(by_names, warnings=(*by_names.warnings, warning))
    mapping = options.input or DEFAULT_INPUT
    inner = dataclasses.replace(options, output_name=None)
    if not isinstance(by_names, NetworkError):
        inner = dataclasses.replace(inner, input=mapping)
    reading = _named(read_graph(source, network.graph, about, inner), network)
    if isinstance(by_names, Reading):
        if _equal(reading.net, by_names.net):
            told = Assumption("structure", f"as {file} computes it: equal on {ROWS} random inputs", "graph")
            return dataclasses.replace(by_names, assumptions=(*by_names.assumptions, told))
        warning = f"the names of the variables suggest another network than the graph {file} computes; the graph is followed"
        reading = dataclasses.replace(reading, warnings=(*reading.warnings, warning))
    return _noted(reading, network, names, entries, ignored, about)


def _equal(one: Net, other: Net) -> bool:
    """Whether two networks give the same scores for random inputs, but for the order of float operations."""
    if (one.depth, one.classes) != (other.depth, other.classes) or type(one.input) is not type(other.input):
        return False
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (ROWS, one.depth), dtype=np.uint8)
    if isinstance(one.input, SignInput):
        x = np.where(x < 128, np.int8(-1), np.int8(1))
    elif isinstance(one.input, RealInput):
        x = rng.standard_normal((ROWS, one.depth)).astype(np.float32)
    first, second = (reference.forward(net, x) for net in (one, other))
    scale = float(np.abs(first).max()) or 1.0
    return bool(np.allclose(first, second, rtol=1e-5, atol=1e-5 * scale, equal_nan=True))


def read_objects(
    source: str,
    about: str,
    prefix: Path | None,
    model: Path | None,
    entries: Mapping[str, Entry],
    options: ConvertOptions,
    notes: Notes,
) -> Reading:
    """An object-based checkpoint, with the graph of a SavedModel where there is one, else by names."""
    names = full_names(read_text(prefix, OBJECT_GRAPH)) if prefix is not None and OBJECT_GRAPH in entries else {}
    reason: NotFollowed | None = None
    if model is not None and by_graph_alone(options):
        graph = read_saved_model(model)
        names |= restored(graph)
        try:
            network = _network_of(graph, names, entries, options.output_name)
        except NotFollowed as error:
            reason = error
        else:
            reading = _named(read_graph(source, network.graph, about, dataclasses.replace(options, output_name=None)), network)
            return _noted(reading, network, names, entries, lambda name: None, about)
    if prefix is None:
        wrong = _wrong_with(source, about, reason, options)
        if wrong is not None and not any(problem.endswith(NO_VALUE) for problem in wrong.problems):
            raise wrong
        raise SourceError(f"{about}: the network in {SAVED_MODEL} could not be told ({reason}), and no variables lie beside it")
    weights = ObjectWeights(entries, names)
    if reason is not None:
        notes.warnings.append(f"the graph {SAVED_MODEL} could not be followed ({reason}): layers are told by variables' names")
    problems: list[str] = []
    parts = ByNames(weights, set(entries) - set(weights.apart), notes, problems, "the checkpoint has no config", None).parts()
    if problems and reason is not None:
        problems.append(f"the graph {SAVED_MODEL} could not be followed instead: {reason}; --net can say everything")
    for name, why in weights.apart.items():
        notes.use(entries[name], why, ignored=True)
    defaults = KERAS
    if not any("quant" in weights.label(part.name) for part in parts):
        defaults = dataclasses.replace(defaults, profile="keras-round")
    told = reason is None or bool(problems)
    try:
        return assemble(source, about, parts, options, defaults, notes, problems)
    except NetworkError as error:
        wrong = _wrong_with(source, about, reason, options)
        if wrong is not None:  # which names the nodes
            raise wrong from None
        if told:
            raise
        instead = f"the graph {SAVED_MODEL} could not be followed instead: {reason}; --net can say everything"
        raise NetworkError([*error.problems, instead], about=about, understood=error.understood) from None


def _network_of(graph: TfGraph, names: Mapping[str, str], entries: Mapping[str, Entry], output: str | None) -> Network:
    """The network in a graph whose variables are a checkpoint's.  names: of variables there.  output: as for `network_of`.
    Raises NotFollowed."""

    def load(name: str) -> NDArray[Any] | None:
        key = names.get(name, name)
        return entries[key].load() if key in entries else None

    return network_of(graph, load, output)


def _named(reading: Reading, network: Network) -> Reading:
    """A graph's reading, with what was left out of the graph."""
    found = [Assumption("network", "as the graph computes its scores at inference", "graph")]
    if network.dropout:
        found.append(Assumption("Dropout", "left out", "graph"))
    return dataclasses.replace(reading, assumptions=(*found, *reading.assumptions))


def _noted(
    reading: Reading,
    network: Network,
    names: Mapping[str, str],
    entries: Mapping[str, Entry],
    ignored: Callable[[str], str | None],
    about: str,
) -> Reading:
    """A graph's reading with the checkpoint's variables in the place of the graph's constants."""
    used = {names.get(name, name): use for name, use in network.used.items()}
    tensors = []
    for name, entry in entries.items():
        use = used.get(name)
        why = use or ignored(name) or "no part of the network in the graph"
        tensors.append(TensorUse(name, entry.shape, entry.dtype, why, ignored=use is None))
    checkpoint = Assumption("checkpoint", about, "file")
    return dataclasses.replace(reading, tensors=tuple(tensors), assumptions=(checkpoint, *reading.assumptions))
