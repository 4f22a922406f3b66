"""MXNet's models, BMXNet's binary ones among them: a symbol (`NAME-symbol.json`) and its parameters (`NAME-0000.params`)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from xnorinfer import budget
from xnorinfer.converters.containers.mxnetparams import read_params
from xnorinfer.converters.containers.signatures import MXNET, start_of
from xnorinfer.converters.graphs.walk import read_graph
from xnorinfer.converters.mxnetgraphs.mxnetnodes import MxnetNodes
from xnorinfer.converters.mxnetgraphs.mxnetoperators import operator
from xnorinfer.converters.mxnetgraphs.mxnetsymbol import read_symbol
from xnorinfer.converters.reading import Assumption, ConvertOptions, Reading
from xnorinfer.errors import SourceError

_SYMBOL, _PARAMS = "-symbol.json", ".params"
#: The epoch in the name of parameters.
_EPOCH = re.compile(r"-\d{4,}$")
_AGREEMENTS = Assumption("sums of BMXNet's layers", "how many of n inputs have the sign of their weight: (n + dot) / 2", "file")


class MxnetSource:
    """MXNet's models; either of their two files may be given."""

    name = "mxnet"
    meaning = "MXNet or BMXNet model (NAME-symbol.json and NAME-0000.params, either of them)"

    def sniff(self, path: Path) -> bool:
        """True for parameters by their first bytes, and for symbols by their name."""
        return start_of(path).startswith(MXNET) or (path.name.endswith(_SYMBOL) and path.is_file())

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the graph.  Raises SourceError, OptionError or NetworkError."""
        symbol_file, params_file = _files(path)
        for file in (symbol_file, params_file):
            budget.add_file(file)
        given = None if options.input_shape is None else len(options.input_shape)
        symbol = read_symbol(symbol_file)
        if options.output_name is not None:
            symbol = symbol.of_output(options.output_name, path.name)
        nodes = MxnetNodes(symbol, read_params(params_file), given, operator)
        reading = read_graph(self.name, nodes.graph(), path.name, dataclasses.replace(options, output_name=None))
        tensors = tuple(
            dataclasses.replace(use, use=nodes.unused.get(use.name, use.use)) if use.ignored else use for use in reading.tensors
        )
        counted = (_AGREEMENTS,) if nodes.counts_agreements else ()
        return dataclasses.replace(reading, tensors=tensors, assumptions=(*counted, *reading.assumptions))


def companion(path: Path) -> list[Path]:
    """The other file of a model; none where it is none, or not there."""
    try:
        return [] if not MxnetSource().sniff(path) else [file for file in _files(path) if file != path]
    except SourceError:
        return []


def _files(path: Path) -> tuple[Path, Path]:
    """The symbol and the parameters of a model, one of which is given.  Raises SourceError where the other is not found."""
    if start_of(path).startswith(MXNET):
        name = _EPOCH.sub("", path.name.removesuffix(_PARAMS))
        symbol = path.with_name(name + _SYMBOL)
        if not symbol.is_file():
            raise SourceError(f"{path.name} holds parameters alone: the network is in {symbol.name}, which must lie beside it")
        return symbol, path
    name = path.name.removesuffix(_SYMBOL)
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    found = sorted(
        file
        for file in beside
        if file.name.endswith(_PARAMS) and _EPOCH.sub("", file.name.removesuffix(_PARAMS)) == name and file.is_file()
    )
    if not found:
        raise SourceError(f"{path.name} holds no numbers: parameters called {name}-0000{_PARAMS} must lie beside it")
    if len(found) > 1:
        listed = ", ".join(file.name for file in found)
        raise SourceError(f"beside {path.name} lie the parameters of several epochs: give one of {listed} instead")
    return path, found[0]
