"""Keras and Larq models without TensorFlow: `.h5` with and without config, `.weights.h5`, `.keras`.

The config says what every layer does (`keras_walk`).  A file of weights alone is read by the names in it, or with the config
that lies beside it: `model.to_json()` saved as `net.json` beside `net.h5` or `net.weights.h5`.

Without a config, a matrix makes a dense layer and moving mean and variance make a BatchNorm.  Layers called `dense` among
others called `quant_dense` or `binary_dense` are taken as float layers.
"""

from __future__ import annotations

import dataclasses
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from xnorinfer.converters.arrays import FREE_BYTES, ZIP_DAMAGE, RawTensor, as_float32, check_zip, natural_key
from xnorinfer.converters.assemble import Defaults, LayerPart, NormPart, assemble
from xnorinfer.converters.base import (
    Assumption,
    ConvertOptions,
    Notes,
    Reading,
    TensorUse,
    default_warning,
    net_line,
    without_ignored,
)
from xnorinfer.converters.bundle import Entry
from xnorinfer.converters.keras_config import read_config
from xnorinfer.converters.keras_h5 import MAGIC, H5Content, open_h5
from xnorinfer.converters.keras_walk import EPSILON, PROFILE_OF, Walk
from xnorinfer.converters.keras_weights import BIAS, KERNEL, NORM_ROLES, Weights, apart, find_weights
from xnorinfer.converters.pairing import Module, pair
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.netspec import F32

DEFAULTS = Defaults(
    "ge-zero",
    "tf",
    EPSILON,
    "Keras's default",
    "the file has no config that says BatchNorm's epsilon: Keras's default 1e-3 is used; ports of BinaryNet have 1e-6 or "
    "1e-4, so check --bn-epsilon, or put model.to_json() beside the file",
    input_warning=(
        "the file does not say how pixels enter the network: -1..1 is used, as in Larq's examples (x/127.5 - 1); Keras scripts "
        "that divide by 255 need --input-range 0:1"
    ),
)

CONFIG, WEIGHTS = "config.json", "model.weights.h5"


class KerasSource:
    """Models and weights saved by Keras 2 or 3, Larq among them."""

    name = "keras"
    meaning = "Keras or Larq model or weights (.h5, .weights.h5, .keras)"

    def sniff(self, path: Path) -> bool:
        """True for HDF5 files and for zips with a Keras config, and for damaged ones called so."""
        try:
            with path.open("rb") as stream:
                start = stream.read(8)
            if start == MAGIC:
                return True
            if start.startswith(b"PK"):
                with zipfile.ZipFile(path) as archive:
                    return {CONFIG, WEIGHTS} <= set(archive.namelist())
        except ZIP_DAMAGE:
            pass
        return path.suffix in (".keras", ".h5", ".hdf5") and path.is_file()

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the file.  Raises SourceError, OptionError, NetworkError or MissingExtraError (h5py)."""
        with path.open("rb") as stream:
            archived = stream.read(2) == b"PK"
        config, opened = _open_archive(path) if archived else (None, open_h5(path))
        with opened as file:
            return _Reader(file, path, options).read(config or file.text("model_config"))


def _open_archive(path: Path) -> tuple[bytes, AbstractContextManager[H5Content]]:
    """Config and weights of a `.keras` file."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            if not {CONFIG, WEIGHTS} <= set(archive.namelist()):
                raise SourceError(f"{path.name} is a zip archive without {CONFIG} and {WEIGHTS}: no .keras file")
            if archive.getinfo(CONFIG).file_size > FREE_BYTES:
                raise SourceError(f"{path.name}: its {CONFIG} of {archive.getinfo(CONFIG).file_size} bytes is refused")
            config, content = archive.read(CONFIG), archive.read(WEIGHTS)
    except ZIP_DAMAGE as error:
        raise SourceError(f"{path.name} is a damaged or truncated .keras archive: {error}") from None
    return config, open_h5(path, content, f"{path.name}, {WEIGHTS}")


class _Reader:
    """One file, open."""

    def __init__(self, file: H5Content, path: Path, options: ConvertOptions) -> None:
        self.file = file
        self.path = path
        self.options = options
        self.notes = Notes()
        self.problems: list[str] = []
        self.weights: Weights = find_weights(file)

    def read(self, config: str | bytes | None) -> Reading:
        about = self.path.name
        if config is None:
            config, about = self._config_beside()
        if config is None:
            parts = self._by_names()
            defaults = DEFAULTS
            if not any("quant" in part.name for part in parts):
                defaults = dataclasses.replace(DEFAULTS, profile="keras-round")
            return self._assemble(parts, defaults, self.options)
        layers = read_config(config, about, self.problems)
        self.notes.assumptions.append(Assumption("order of layers", f"as in the model's config in {about}", "file"))
        walk = Walk(self.weights, self.options, self.notes, self.problems)
        walk.run(layers)
        if walk.other_kind:
            raise NetworkError(self.problems, about=self.path.name)
        options = self.options
        defaults = dataclasses.replace(DEFAULTS, profile=self._profile(walk))
        if walk.rules and walk.rules <= {"ge", "sign"}:
            defaults = dataclasses.replace(defaults, profile_origin="file")
        if walk.mapping is not None:
            defaults = dataclasses.replace(defaults, input=walk.mapping, input_origin="file")
            options = dataclasses.replace(options, input=None)
            if walk.rescaled:
                defaults = dataclasses.replace(defaults, input_warning=None)
        return self._assemble(walk.parts, defaults, options, walk)

    def _assemble(
        self, parts: list[LayerPart], defaults: Defaults, options: ConvertOptions, walk: Walk | None = None
    ) -> Reading:
        noted = {tensor.name for tensor in self.notes.tensors}
        left = [entry for entry in self.file.entries.values() if entry.name not in noted]
        if walk is not None:  # with the config, which tells the weights of layers from what is left
            left = without_ignored(left, self.options, self.notes)
        for entry in left:
            reason = apart(entry.name)
            if reason is not None:
                self._note(entry, f"{reason}, no part of inference", ignored=True)
            elif not self.problems:
                line = net_line(f'ignore = ["{entry.name}"]')
                self.problems.append(f"what {entry.name} {entry.shape} is is not known{line}")
        leading = walk.leading if walk else None
        return assemble("keras", self.path.name, parts, options, defaults, self.notes, self.problems, leading)

    def _profile(self, walk: Walk) -> str:
        profiles = sorted(PROFILE_OF[rule] for rule in walk.rules)
        if len(profiles) > 1 and self.options.profile is None:
            self.problems.append(f"the model binarizes in several ways ({', '.join(profiles)}); --profile chooses one for all")
        return profiles[0] if profiles else DEFAULTS.profile

    def _config_beside(self) -> tuple[bytes | None, str]:
        """The config in NAME.json beside NAME.h5 or NAME.weights.h5."""
        beside = config_beside(self.path)
        if beside is None:
            return None, ""
        if beside.stat().st_size > FREE_BYTES:
            raise SourceError(f"{beside.name} is too large for the config of a model")
        return beside.read_bytes(), beside.name

    # ---------------------------------------------------------------- without config

    def _by_names(self) -> list[LayerPart]:
        kept = {entry.name for entry in without_ignored(self.file.entries.values(), self.options, self.notes)}
        scopes = {
            scope: {role: entry for role, entry in found.items() if entry.name in kept}
            for scope, found in self.weights.scopes().items()
        }
        modules = [module for scope, found in scopes.items() if (module := self._module(scope, found)) is not None]
        ordered = self.weights.ordered()
        if not ordered:
            modules.sort(key=lambda m: (m.norm is not None, _is_plain(m.name), natural_key(m.name)))
        value = "as listed in the file" if ordered else "by class, then by the numbers in their names"
        self.notes.assumptions.append(Assumption("order of layers", value, "file" if ordered else "default"))
        if not ordered:
            what = f"the order of layers is taken {value}"
            self.notes.warnings.append(
                default_warning(what, "[[layers]] in their order") + ", or model.to_json() beside the file"
            )
        if self.problems:  # counting what is left would pair the wrong ones
            return []
        return self._mark_float(pair(modules, self.notes, self.problems, ordered=ordered))

    def _module(self, scope: str, found: dict[str, Entry]) -> Module | None:
        module = Module(scope)
        described = ", ".join(f"{entry.name} {entry.shape}" for entry in found.values())
        if any(len(entry.shape) > 2 for entry in found.values()):
            self.problems.append(f"{described}: a convolution; only dense networks can be converted")
        elif KERNEL in found and len(found[KERNEL].shape) == 2 and set(found) <= {KERNEL, BIAS}:
            kernel = np.ascontiguousarray(self._take(scope, found[KERNEL], "latent weights, (inputs, neurons)").T)
            bias = self._take(scope, found[BIAS], "bias") if BIAS in found else None
            module.part = LayerPart(scope, kernel, bias)
        elif {"moving_mean", "moving_variance"} <= set(found) <= set(NORM_ROLES):
            taken = {
                role: self._take(scope, entry, f"BatchNorm {role.removeprefix('moving_')}") for role, entry in found.items()
            }
            module.norm = NormPart(
                scope, taken["moving_mean"], taken["moving_variance"], None, taken.get("gamma"), taken.get("beta")
            )
        elif len(found) == 3 and all(len(entry.shape) == 1 for entry in found.values()):
            self.problems.append(
                f"{scope} ({described}) is a BatchNorm without gamma or without beta, which the file does not tell apart; put "
                "model.to_json() beside it, or save the model as .keras" + net_line("norm = {...}")
            )
        elif found:
            names = ", ".join(f'"{entry.name}"' for entry in found.values())
            self.problems.append(f"{scope}: what {described} are is not known" + net_line(f"ignore = [{names}]"))
        return module if module.part or module.norm else None

    def _mark_float(self, parts: list[LayerPart]) -> list[LayerPart]:
        """Plain Dense layers among quantized ones, told by the names that Keras gives by default."""
        plain = [part.name for part in parts if _is_plain(part.name)]
        if len(plain) == len(parts):
            plain = []
        self.notes.warnings.append(
            "the file has no config that says how layers binarize: all weights"
            + (f" but those of {', '.join(plain)}" if plain else "")
            + " are taken as latents that are binarized in use, without a scale; float layers are named by --float-layer"
        )
        if plain:
            self.notes.assumptions.append(Assumption("float layers, by their names", ", ".join(plain), "default"))
        return [dataclasses.replace(part, is_float=True) if part.name in plain else part for part in parts]

    def _take(self, scope: str, entry: Entry, use: str) -> F32:
        self._note(entry, f"{scope}: {use}")
        return as_float32(RawTensor(entry.name, entry.load(), entry.dtype), self.notes.warnings)

    def _note(self, entry: Entry, use: str, *, ignored: bool = False) -> None:
        self.notes.tensors.append(TensorUse(entry.name, entry.shape, entry.dtype, use, ignored))


def config_beside(path: Path) -> Path | None:
    """NAME.json, which belongs to NAME.h5 or NAME.weights.h5 if that has no config of its own; None if there is none."""
    beside = path.with_name(f"{path.name.removesuffix(path.suffix).removesuffix('.weights')}.json")
    return beside if path.suffix in (".h5", ".hdf5") and beside.is_file() else None


def companions(path: Path) -> list[Path]:
    """The files beside a Keras file that `KerasSource.read` uses."""
    beside = config_beside(path)
    if beside is None or not path.is_file():
        return []
    with path.open("rb") as stream:
        if stream.read(8) != MAGIC:
            return []
    with open_h5(path) as file:
        return [] if file.text("model_config") else [beside]


def _is_plain(scope: str) -> bool:
    """Whether a layer's name is one that Keras gives to a plain Dense: dense, dense_1, ..."""
    leaf = scope.rpartition("/")[2]
    return leaf == "dense" or (leaf.startswith("dense_") and leaf[6:].isdigit())
