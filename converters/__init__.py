"""Checkpoint sources: each turns one kind of file into a `Reading` (the float network and what was found and assumed).

No framework is imported until a file of its kind is read.  A new source is one file here with a `Source` and one entry in
`SOURCES`, or another package's (`othersources`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xnorinfer import budget
from xnorinfer.converters.bnnpynq import BnnPynqSource
from xnorinfer.converters.containers.onnxfile import data_files
from xnorinfer.converters.containers.tfcheckpoint import checkpoint_files, find_checkpoint
from xnorinfer.converters.keras import KerasSource, companions
from xnorinfer.converters.mxnet import MxnetSource, companion
from xnorinfer.converters.nettoml.document import read_net
from xnorinfer.converters.npz import NpzSource
from xnorinfer.converters.onnx import OnnxSource
from xnorinfer.converters.otherfiles import describe
from xnorinfer.converters.othersources import sources_of_others
from xnorinfer.converters.reading import BY_OPTION, Assumption, ConvertOptions, Reading, Source, TensorUse, matches
from xnorinfer.converters.tf1 import Tf1Source
from xnorinfer.converters.tflite import TfliteSource
from xnorinfer.converters.torch import TorchSource, from_torch_module
from xnorinfer.errors import OptionError, SourceError

__all__ = [
    "SOURCES",
    "Assumption",
    "ConvertOptions",
    "Reading",
    "Source",
    "TensorUse",
    "files_of",
    "from_torch_module",
    "read_source",
    "require_ignored",
    "sources",
]

#: Every kind of checkpoint that is read here, in the order in which they are asked whether a file is theirs.
SOURCES: tuple[Source, ...] = (
    NpzSource(),
    TorchSource(),
    Tf1Source(),
    BnnPynqSource(),
    OnnxSource(),
    TfliteSource(),
    KerasSource(),
    MxnetSource(),
)


def sources() -> Iterator[Source]:
    """Every kind of checkpoint: `SOURCES`, then those of other packages, which are asked for what none of these takes.

    Raises SourceError for one of another package that cannot be loaded.
    """
    yield from SOURCES
    yield from sources_of_others({source.name for source in SOURCES})


def read_source(path: str | Path, options: ConvertOptions | None = None) -> Reading:
    """Read a checkpoint with the source that recognizes it, or the one that `options.format` names.

    Raises SourceError (missing, unreadable, not recognized, beyond `max_memory`), OptionError, NetworkError (all reasons
    at once) and MissingExtraError.
    """
    path = Path(path)
    options = options or ConvertOptions()
    # What is NaN or infinite in a file is found by the network's check, which names it; numpy's warnings on the way would not.
    with budget.reading(path, options.max_memory), np.errstate(all="ignore"):
        return _read(path, options)


def _read(path: Path, options: ConvertOptions) -> Reading:
    if options.net is not None:
        return read_net(path, options)
    source = next((s for s in sources() if (s.sniff(path) if options.format is None else s.name == options.format)), None)
    if options.format is not None and source is None:
        raise OptionError(f"format {options.format!r} is none of {', '.join(s.name for s in sources())}")
    if not path.exists() and (source is None or not source.sniff(path)):
        raise SourceError(f"there is no file {path}")
    if path.is_dir() and source is not None and not source.sniff(path):
        raise SourceError(f"{path} is a folder, no checkpoint of the kind {source.name}: {source.meaning}")
    if path.is_file() and not os.access(path, os.R_OK):
        raise SourceError(f"{path} cannot be read: permission denied")
    if path.is_file() and not path.stat().st_size:
        raise SourceError(f"{path} is empty")
    if source is None:
        what, way_out = describe(path)
        kinds = "; ".join(f"{s.name}: {s.meaning}" for s in sources())
        raise SourceError(
            f"{path} is not a checkpoint of a known kind: it {what}"
            + (f"; {way_out}" if way_out else "")
            + f". Known kinds: {kinds}. A net.toml (--net) describes the network in any other file or folder of arrays"
        )
    reading = source.read(path, options)
    if options.ema and not any(assumption.what == "moving averages" for assumption in reading.assumptions):
        raise OptionError(f"--ema: {path.name} holds no moving averages of weights")
    if options.state is not None and not any(assumption.what == "state dict" for assumption in reading.assumptions):
        raise OptionError(f"--state {options.state}: {path.name} is no PyTorch checkpoint with state dicts in it")
    require_ignored(reading, options, path.name)
    return reading


def require_ignored(reading: Reading, options: ConvertOptions, about: str) -> None:
    """Raise OptionError where a format that says itself what it uses could not leave out what --ignore names."""
    applied = any(use.use.startswith(BY_OPTION) for use in reading.tensors)
    for pattern in options.ignore:
        if not applied and not any(use.ignored and matches(pattern, use.name) for use in reading.tensors):
            raise OptionError(
                f"--ignore {pattern}: {about} is read by the format {reading.source}, which says itself what it uses, and no "
                "tensor that it does not use has such a name"
            )


def files_of(path: Path) -> list[Path]:
    """Every file that reading `path` can look into: its own, those of the same checkpoint, a config or data beside it.

    Of a folder all files in it, and a SavedModel's variables.  Raises SourceError and MissingExtraError where a file must be
    opened to know and cannot be.
    """
    if path.is_dir():
        return [file for folder in (path, path / "variables") if folder.is_dir() for file in folder.iterdir() if file.is_file()]
    prefix = find_checkpoint(path)
    if prefix is not None:
        return sorted({path, *checkpoint_files(prefix)} if path.is_file() else checkpoint_files(prefix))
    return [path, *companions(path), *companion(path), *data_files(path)] if path.exists() else []
