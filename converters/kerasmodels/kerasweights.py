"""Where Keras puts the weights of each layer: by name (`.h5` of every version) or by class and number (Keras 3)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from xnorinfer.converters.containers.arrays import Entry, natural_key
from xnorinfer.converters.containers.hdf5 import H5Content
from xnorinfer.converters.kerasmodels.config import KerasLayer
from xnorinfer.errors import SourceError

KERNEL, BIAS = "kernel", "bias"
#: The second kernel of separable convolutions.
POINTWISE = "pointwise_kernel"
NORM_ROLES = ("gamma", "beta", "moving_mean", "moving_variance")

_NUMBERED = re.compile(r"/vars/\d+$")
#: Where everything that is no weight of a layer stands, and what it is.
_APART = (
    (re.compile(r"^optimizer"), "state of the optimizer"),
    (re.compile(r"^_?(compile_)?(metrics?|loss)|(^|/)flip_ratio"), "a metric of the training"),
    (re.compile(r"(^|/)seed_generator"), "state of a random generator"),
)


class Weights:
    """Weights of layers by their roles (kernel, bias, gamma, ...), those of no known role by their own names.

    What is said here holds for weights that are found by scopes which are called as the layers are.
    """

    def __init__(self) -> None:
        self._scopes: dict[str, dict[str, Entry]] = {}

    def of_layer(self, layer: KerasLayer) -> dict[str, Entry]:
        """The weights of a layer: role -> weight."""
        return self._scopes.get(layer.name, {})

    def scopes(self) -> dict[str, dict[str, Entry]]:
        """All weights without a config: scope -> role -> weight, in the file's order."""
        return self._scopes

    def ordered(self) -> bool:
        """Whether the order of scopes is that of the layers."""
        return False

    def named(self) -> bool:
        """Whether scopes are called by names of the user's, and not counted by class."""
        return True

    def label(self, scope: str) -> str:
        """The name that the layer of a scope had, as far as the file says it."""
        return scope


def apart(name: str) -> str | None:
    """The reason why an array is no weight of a layer; None if it may be one."""
    return next((reason for pattern, reason in _APART if pattern.search(name)), None)


def find_weights(file: H5Content) -> Weights:
    """Raises SourceError where the file has neither layout."""
    for group in ("model_weights", ""):
        if group in file.groups and (names := file.names(group, "layer_names")) is not None:
            return NamedWeights(file, f"{group}/" if group else "", names)
    container = next((name for name in ("layers", "_layer_checkpoint_dependencies") if name in file.groups), "")
    if not container and not any(_NUMBERED.search(name) for name in file.entries):
        found = ", ".join(sorted((file.groups | set(file.entries)) - {""})[:6]) or "nothing"
        raise SourceError(
            f"{file.about} holds no weights of a Keras model: there are neither layer_names nor layers, but {found}"
        )
    return NumberedWeights(file, container)


class NamedWeights(Weights):
    """`layer_names` and `weight_names` list everything in order; nested models keep theirs under one name."""

    def __init__(self, file: H5Content, prefix: str, layers: list[str]) -> None:
        self._by_layer: dict[str, list[Entry]] = {}
        for layer in layers:
            if layer in self._by_layer:
                raise SourceError(f"{file.about} lists the layer {layer} twice")
            names = file.names(f"{prefix}{layer}", "weight_names") if f"{prefix}{layer}" in file.groups else None
            if names is None:
                raise SourceError(f"{file.about} is damaged: the weights of layer {layer} are not there")
            paths = [f"{prefix}{layer}/{name}" for name in names]
            missing = [path for path in paths if path not in file.entries]
            if missing:
                raise SourceError(f"{file.about} is damaged: {missing[0]} is listed but not there")
            self._by_layer[layer] = [file.entries[path] for path in paths]

    def of_layer(self, layer: KerasLayer) -> dict[str, Entry]:
        entries = self._by_layer.get(layer.path[0], [])
        if len(layer.path) > 1:
            entries = [entry for entry in entries if _scope(entry).rpartition("/")[2] == layer.path[-1]]
        return _by_role(entries)

    def scopes(self) -> dict[str, dict[str, Entry]]:
        found: dict[str, dict[str, Entry]] = {}
        for layer, entries in self._by_layer.items():
            inner: dict[str, list[Entry]] = {}
            for entry in (entry for entry in entries if apart(entry.name) is None):
                inner.setdefault(_scope(entry), []).append(entry)
            # One layer is called by its own name, layers of a nested model by both.
            for scope, own in inner.items():
                leaf = scope.rpartition("/")[2]
                found[layer if len(inner) == 1 else f"{layer}/{leaf}"] = _by_role(own)
        return found

    def ordered(self) -> bool:
        return True


class NumberedWeights(Weights):
    """`layers/dense_1/vars/0`: layers counted by class, variables by the order in which the layer makes them.

    Subclassed models (container "") call their layers by the attributes that hold them: `fc1/vars/0`.
    """

    def __init__(self, file: H5Content, container: str) -> None:
        self._container = container
        self._file = file
        self._by_place: dict[str, list[Entry]] = {}
        for name, entry in sorted(file.entries.items(), key=lambda item: natural_key(item[0])):
            place, _, leaf = name.rpartition("/vars/")
            if place and leaf.isdigit() and place.startswith(f"{container}/" if container else ""):
                self._by_place.setdefault(place, []).append(entry)

    def of_layer(self, layer: KerasLayer) -> dict[str, Entry]:
        place = re.sub(r"(^|/)layers/", rf"\1{self._container}/", layer.place)
        return dict(zip(_roles(layer.config), self._by_place.get(place, []), strict=False))

    def scopes(self) -> dict[str, dict[str, Entry]]:
        found = {}
        for place, entries in self._by_place.items():
            if apart(place) is not None:
                continue
            norm = {2: NORM_ROLES[2:], 4: NORM_ROLES}.get(len(entries))
            matrices = any(len(entry.shape) > 1 for entry in entries)
            roles = (KERNEL, BIAS) if matrices else norm or tuple(str(i) for i in range(len(entries)))
            roles += tuple(str(i) for i in range(len(roles), len(entries)))
            scope = self._scope(place)
            found[scope] = dict(zip(roles, entries, strict=False))
        return found

    def named(self) -> bool:
        return not self._container

    def label(self, scope: str) -> str:
        place = next((place for place in self._by_place if self._scope(place) == scope), scope)
        return (self._file.label(f"{place}/vars") if self.named() else None) or scope

    def _scope(self, place: str) -> str:
        return re.sub(rf"(^|/){self._container or 'layers'}/", r"\1", place)


def _roles(config: Mapping[str, object]) -> list[str]:
    """The variables of a layer in Keras's order."""
    if "momentum" in config and "epsilon" in config:
        optional = [role for role, key in (("gamma", "scale"), ("beta", "center")) if config.get(key, True)]
        return [*optional, *NORM_ROLES[2:]]
    if "alpha_initializer" in config:
        return ["alpha"]
    kernels = [KERNEL, POINTWISE] if "pointwise_initializer" in config else [KERNEL]
    return [*kernels, BIAS] if config.get("use_bias", True) else kernels


def _scope(entry: Entry) -> str:
    return entry.name.rpartition("/")[0]


def kernel_layout(name: str, shape: tuple[int, ...]) -> str:
    """Which axis of a kernel of that name is which: those of depthwise layers are called so."""
    if len(shape) == 2:
        return "in_out"
    return "HWIM" if "depthwise" in name.lower() else "HWIO"


def role_of(leaf: str) -> str:
    """What a variable is, by its own name: depthwise layers call their kernel otherwise."""
    return KERNEL if leaf == "depthwise_kernel" else leaf


def _by_role(entries: list[Entry]) -> dict[str, Entry]:
    roles: dict[str, Entry] = {}
    for entry in entries:
        role = role_of(entry.name.rpartition("/")[2].partition(":")[0])
        roles[role if role not in roles else entry.name] = entry
    return roles
