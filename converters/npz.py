"""numpy `.npz` archives, and `.npy` files of pickled dicts and lists: BinaryNet's own dumps, arrays under documented names,
dumped state dicts, and arrays under any names.

Numbered arrays
    `np.savez(file, *arrays)` gives arr_0, arr_1, ...: the lists of Lasagne (BinaryNet), Keras and PyTorch, see `numbered`.

Named layout (dump it with `np.savez(file, **arrays)`)
    ========================== =================== =====================================================================
    `I.weight`                 (neurons, inputs)   latent weights of layer I = 0, 1, 2, ... in order of execution
    `I.bias`                   (neurons,)          optional: added to the dot before BatchNorm
    `I.scale`                  (neurons,)          optional: the dot times this, before the bias
    `I.bn.mean`                (neurons,)          BatchNorm's moving mean; hidden binary layers need BatchNorm
    `I.bn.var` or `I.bn.inv_std` (neurons,)        variance (epsilon is added), or 1/sqrt(variance + epsilon) as Lasagne has it
    `I.bn.gamma`, `I.bn.beta`  (neurons,)          optional: default 1 and 0
    `I.bn.epsilon`             one number          optional: else --bn-epsilon, else 1e-5 under torch-sign, 1e-4 otherwise
    ========================== =================== =====================================================================
    A network of images begins with `shape`, (height, width, channels) of one, and has convolutions:
    ========================== =================== =====================================================================
    `I.weight`                 4-D                 (neurons, kernel height, kernel width, channels) of a convolution
    `I.stride`                 2 whole numbers     height, width
    `I.padding`                4 whole numbers     rows and columns of zeros: top, bottom, left, right
    `I.dilation`               2 whole numbers     optional: default 1 and 1
    `I.pool.size`              2 whole numbers     optional: a max-pool of the sums, before BatchNorm
    `I.pool.stride`            2 whole numbers     optional: default the size of its windows
    ========================== =================== =====================================================================
    A dense layer reads a map flattened, channels innermost.

    Between layers stands a sign under the tie profile (default `tf1-round`); BatchNorm is computed as in that profile's
    framework.  A float layer is named with --float-layer I and reads hardtanh of what comes before, but for the first.

A state dict dumped as is (`np.savez(file, **{k: v.numpy() for k, v in net.state_dict().items()})`: names with `running_mean`)
is read as the PyTorch source reads it, and so are arrays under names of someone's own (`loose`).  Arrays of objects, which
numpy pickles, are read as plain data (`pickled`); nothing in them runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.containers.arrays import Entry, RawTensor, as_float32, natural_key
from xnorinfer.converters.containers.checkpointtree import StateDict, tensors_of
from xnorinfer.converters.containers.numpyfiles import Objects, read_npy, read_npz
from xnorinfer.converters.containers.signatures import EMPTY_ZIP, ZIP, start_of
from xnorinfer.converters.containers.ziparchive import names_in
from xnorinfer.converters.naming.numbered import read_numbered
from xnorinfer.converters.naming.statenames import KERNELS
from xnorinfer.converters.networkparts import Follower, LayerPart
from xnorinfer.converters.reading import (
    NORM_ORDER,
    Assumption,
    ConvertOptions,
    Notes,
    Reading,
    TensorUse,
    ignore_line,
    net_line,
    without_ignored,
)
from xnorinfer.converters.torch import read_contents, read_state
from xnorinfer.converters.usual import PYTORCH
from xnorinfer.errors import NetworkError, SourceError
from xnorinfer.float32 import F32
from xnorinfer.net.ops import Norm, Pool
from xnorinfer.net.windows import Window
from xnorinfer.npyheader import NPY_MAGIC

NAMED_TF = Defaults(
    "tf1-round",
    "tf",
    1e-4,
    "as in the BinaryNet scripts",
    "the file does not say BatchNorm's epsilon: 1e-4 is used; other training code has 1e-3, 1e-5, ..., so check --bn-epsilon",
)
NAMED_TORCH = Defaults("torch-sign", "torch", 1e-5, "PyTorch's default")

_SHAPE = "shape"
#: How many whole numbers say what of a convolution and of the pool behind it.
_SIZES = {"stride": 2, "padding": 4, "dilation": 2, "pool.size": 2, "pool.stride": 2}
_NAMED = re.compile(
    r"(\d{1,9})\.(weight|bias|scale|bn\.(?:gamma|beta|mean|var|inv_std|epsilon)|stride|padding|dilation|pool\.(?:size|stride))"
)
_NUMBERED = re.compile(r"arr_(\d{1,9})")


class NpzSource:
    """`.npz` archives; see the module's text for the layouts."""

    name = "npz"
    meaning = "numpy .npz: BinaryNet (Lasagne order) or arrays named 0.weight, 0.bn.mean, ...; .npy of a dict or list of arrays"

    def sniff(self, path: Path) -> bool:
        """True for zip archives of .npy entries, for damaged ones called .npz, and for .npy files of objects."""
        start = start_of(path)
        if start.startswith(NPY_MAGIC):
            try:
                return isinstance(read_npy(path), Objects)
            except SourceError:
                return False
        names = names_in(path) if start.startswith((ZIP, EMPTY_ZIP)) else []
        return bool(names and all(name.endswith(".npy") for name in names)) or (names != [] and path.suffix == ".npz")

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        """Read the file.  Raises SourceError, OptionError or NetworkError."""
        notes = Notes()
        if start_of(path).startswith(NPY_MAGIC):
            single = read_npy(path)
            if isinstance(single, Entry):
                raise SourceError(f"{path.name} is a single array")
            return read_contents(self.name, path.name, single.root, options)
        held = {name: one.tensor() if isinstance(one, Entry) else one for name, one in read_npz(path).items()}
        every = [one for one in held.values() if isinstance(one, RawTensor)]
        objects = {name: one.root for name, one in held.items() if isinstance(one, Objects)}
        if objects and (not every or any(next(tensors_of(root), None) for root in objects.values())):
            return read_contents(self.name, path.name, {name: objects.get(name, one) for name, one in held.items()}, options)
        # Objects without numbers, such as Chainer's None.
        notes.tensors += [TensorUse(name, (), "object", "holds no numbers", ignored=True) for name in objects]
        problems: list[str] = []
        tensors = without_ignored(every, options, notes)
        names = [tensor.name for tensor in tensors]
        if names and all(_NUMBERED.fullmatch(name) for name in names):
            tensors.sort(key=lambda tensor: natural_key(tensor.name))
            present = {int(use.name[4:]) for use in notes.tensors if _NUMBERED.fullmatch(use.name)}
            missing = set(range(len(every))) - present - {int(tensor.name[4:]) for tensor in tensors}
            if missing:
                what = f"arr_{min(missing)} is missing: the arrays must be numbered without gaps"
                problems.append(what + net_line("weight", "norm"))
            return read_numbered(self.name, path.name, tensors, options, notes, problems, PYTORCH)
        named = [name for name in names if _NAMED.fullmatch(name)]
        named += [_SHAPE] if named and _SHAPE in names else []
        matrices = any(tensor.array.ndim in KERNELS for tensor in tensors)
        if any(name.endswith("running_mean") for name in names) or (matrices and not named):
            state = any(name.endswith("running_mean") for name in names)
            notes.assumptions.append(Assumption("layout", "a PyTorch state dict" if state else "arrays by their names", "file"))
            content = StateDict("", {tensor.name: tensor for tensor in tensors})
            # Names in alphabetical order were sorted by whoever wrote them, so that what follows what means nothing.
            return read_state(self.name, path.name, content, options, notes, ordered=names != sorted(names))
        unknown = [name for name in names if name not in named]
        if unknown or not names:
            found = ", ".join(unknown[:8]) + (" ..." if len(unknown) > 8 else "") if unknown else "nothing"
            raise SourceError(
                f"{path.name} holds {found}: neither numbered arrays in BinaryNet's order (arr_0, arr_1, ...) nor the named "
                "layout (0.weight, 0.bias, 0.scale, 0.bn.mean, 0.bn.var or 0.bn.inv_std, 0.bn.gamma, 0.bn.beta, 1.weight, ...)"
                + net_line('[[layers]] weight = "..."')
            )
        shapes = [tensor for tensor in tensors if tensor.name == _SHAPE]
        parts = _named_parts([tensor for tensor in tensors if tensor.name != _SHAPE], notes, problems)
        defaults = NAMED_TORCH if options.profile == "torch-sign" else NAMED_TF
        if any(isinstance(op, Norm) and op.variance is not None for part in parts for _, op in part.after):
            value = f"{defaults.form}, as the tie profile's framework has it"
            notes.assumptions.append(Assumption(NORM_ORDER, value, "option" if options.profile else "default"))
        shape = None
        if shapes:
            shape = _sizes(shapes[0], 3, "height, width and channels of an image", notes, problems)
        elif parts and parts[0].window is not None:
            problems.append(f"{_SHAPE} is missing: height, width and channels of an image" + net_line("shape = [...]"))
        if problems and any(part.window is not None for part in parts):
            raise NetworkError(problems, about=path.name)  # where maps are not known, nothing fits
        return assemble(self.name, path.name, parts, options, defaults, notes, problems, shape=shape)


# ---------------------------------------------------------------- the layouts


def _named_parts(tensors: Sequence[RawTensor], notes: Notes, problems: list[str]) -> list[LayerPart]:
    layers: dict[int, dict[str, RawTensor]] = {}
    for tensor in tensors:
        match = _NAMED.fullmatch(tensor.name)
        assert match is not None
        fields = layers.setdefault(int(match[1]), {})
        if match[2] in fields:
            what = f"{fields[match[2]].name} and {tensor.name} are the same array of layer {int(match[1])}"
            problems.append(what + ignore_line(tensor.name))
        fields[match[2]] = tensor
    parts = []
    for index in sorted(layers):
        part = _named_layer(str(index), layers[index], notes, problems)
        if part is not None:
            parts.append(part)
    missing = set(range(len(layers))) - set(layers)
    if missing:
        what = f"{min(missing)}.weight is missing: layers must be numbered 0, 1, 2, ... without gaps"
        problems.append(what + net_line("weight"))
    return parts


_MEANINGS = {
    "weight": "latent weights, (neurons, inputs)",
    "bias": "bias",
    "scale": "scale",
    "bn.mean": "BatchNorm mean",
    "bn.var": "BatchNorm variance",
    "bn.inv_std": "BatchNorm inv_std",
    "bn.gamma": "BatchNorm gamma",
    "bn.beta": "BatchNorm beta",
}
_KERNELS = "latent weights, (neurons, kernel height, kernel width, channels)"


def _named_layer(name: str, fields: dict[str, RawTensor], notes: Notes, problems: list[str]) -> LayerPart | None:
    epsilon = None
    stored = fields.pop("bn.epsilon", None)
    if stored is not None:
        notes.use(stored, f"layer {name}: BatchNorm epsilon")
        epsilon = float(stored.array.reshape(-1)[0]) if stored.array.size == 1 and stored.array.dtype.kind in "fiu" else None
        if epsilon is None:
            problems.append(f"{stored} must be one number; --ignore {stored.name} with --bn-epsilon EPSILON says it instead")
    sizes = {
        key: _sizes(fields.pop(key), count, f"layer {name}: {key.replace('.', ' ')}", notes, problems)
        for key, count in _SIZES.items()
        if key in fields
    }
    arrays: dict[str, F32] = {}
    for key, tensor in fields.items():
        meaning = _KERNELS if key == "weight" and tensor.array.ndim == 4 else _MEANINGS[key]
        notes.use(tensor, f"layer {name}: {meaning}")
        arrays[key] = as_float32(tensor, notes.warnings)
    if "weight" not in arrays:
        problems.append(f"{name}.weight is missing" + net_line("ignore = [...]"))
        return None
    after: list[Follower] = []
    window = None
    if arrays["weight"].ndim == 4:
        lacking = [f"{name}.{key}" for key in ("stride", "padding") if key not in sizes]
        if lacking:
            what = f"{fields['weight']} is a convolution, beside which {' and '.join(lacking)} must be"
            problems.append(what + net_line("stride", "padding"))
        if lacking or None in sizes.values():
            return None
        height, width = arrays["weight"].shape[1:3]
        window = Window((height, width), sizes["stride"], sizes.get("dilation", (1, 1)), sizes["padding"])
        if "pool.size" in sizes:
            pool = Window(sizes["pool.size"], sizes.get("pool.stride", sizes["pool.size"]))
            after.append((f"{name}.pool", Pool("max", pool)))
    elif sizes:
        problems.append(f"{fields['weight']} is no convolution, and {name}.{next(iter(sizes))} is of one")
        return None
    norm = _named_norm(name, arrays, epsilon, problems)
    if norm is not None:
        after.append((f"{name}.bn", norm))
    return LayerPart(name, arrays["weight"], arrays.get("bias"), arrays.get("scale"), after=tuple(after), window=window)


def _sizes(tensor: RawTensor, count: int, use: str, notes: Notes, problems: list[str]) -> Any:
    """So many whole numbers, a tuple; None, with the problem, where these are none."""
    notes.use(tensor, use)
    if tensor.array.shape != (count,) or tensor.array.dtype.kind not in "iu":
        problems.append(f"{tensor} must be {count} whole numbers")
        return None
    return tuple(map(int, tensor.array))


def _named_norm(name: str, arrays: dict[str, F32], epsilon: float | None, problems: list[str]) -> Norm | None:
    given = [key for key in arrays if key.startswith("bn.")]
    if not given:
        return None
    if "bn.mean" not in arrays:
        what = f"{name}.bn.mean is missing, beside {', '.join(f'{name}.{key}' for key in given)}"
        problems.append(what + net_line("mean = 0"))
        return None
    if ("bn.var" in arrays) == ("bn.inv_std" in arrays):
        what = f"layer {name} needs exactly one of {name}.bn.var and {name}.bn.inv_std"
        problems.append(what + net_line(f'ignore = ["{name}.bn.var"]', "variance = 1"))
        return None
    return Norm(
        arrays["bn.mean"],
        arrays.get("bn.var"),
        arrays.get("bn.inv_std"),
        arrays.get("bn.gamma"),
        arrays.get("bn.beta"),
        epsilon,
    )
