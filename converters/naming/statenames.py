"""Names that PyTorch and training scripts give to one weight in several tensors, and what they come to.

    fc1.parametrizations.weight.original    torch.nn.utils.parametrize: the weight before its parametrization; the bias stays
                                            fc1.bias.  original0 and original1 are weight_norm's magnitude and direction
    fc1.weight_orig, fc1.weight_mask        torch.nn.utils.prune: the weight is their product
    fc1.weight_g, fc1.weight_v              weight_norm; fc1.weight_u beside weight_orig: spectral_norm
    fc1.weight, fc1.weight_org              a binarized weight and the latents that it was made of (also weight.org)

Columns (n, 1) and rows (1, n) beside a matrix of n neurons are vectors, and weights that are 0 and 1 alone are bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from xnorinfer.converters.containers.arrays import RawTensor
from xnorinfer.converters.naming.pairing import Module
from xnorinfer.converters.reading import Assumption, Notes, net_line

Use = Callable[[RawTensor, str], None]

#: Dimensions of weights: of dense layers, and of convolutions over lines and images.
KERNELS = (2, 3, 4)
_PARAMETRIZATIONS = "parametrizations"
#: Binarized weights that are fewer prove nothing about being bits.
FEWEST_BITS = 16


def modules_of(tensors: Iterable[RawTensor], prefix: str) -> dict[str, Module]:
    """Tensors by module and last name, parametrized ones under the module and the name that they belong to."""
    modules: dict[str, Module] = {}
    for tensor in tensors:
        path = tensor.name[len(prefix) :].split(".")
        if _PARAMETRIZATIONS in path[:-2]:
            place = path.index(_PARAMETRIZATIONS)
            name, leaf, rest = ".".join(path[:place]), path[place + 1], ".".join(path[place + 2 :])
            leaf = leaf if rest == "original" else f"{leaf}.{rest}"
        elif len(path) >= 3 and path[-2] == "weight":  # an attribute of the weight itself: fc1.weight.org
            name, leaf = ".".join(path[:-2]), ".".join(path[-2:])
        else:
            name, leaf = ".".join(path[:-1]), path[-1]
        modules.setdefault(name, Module(name)).tensors[leaf] = tensor
    return modules


def settle(module: Module, note: Use, notes: Notes, problems: list[str]) -> bool:
    """Bring a module's tensors into the form of an ordinary layer: one kernel `weight`, vectors beside it.

    Tensors that are used up are noted.  False where the module cannot be used, which is a problem then.
    """
    tensors = module.tensors
    label = module.name or "(top level)"
    if {"weight_g", "weight_v"} <= set(tensors) or any(leaf.endswith((".original0", ".original1")) for leaf in tensors):
        problems.append(
            f"{label}: its weight is in two parts, of weight_norm or another parametrization, which cannot be converted; save "
            "it as one tensor first: torch.nn.utils.parametrize.remove_parametrizations, torch.nn.utils.remove_weight_norm"
        )
        return False
    if "weight_u" in tensors or "weight_orig_u" in tensors:
        problems.append(
            f"{label}: spectral_norm divides its weight by a number that {tensors['weight_u']} is a part of, which "
            "cannot be converted; save it as one tensor first: torch.nn.utils.remove_spectral_norm"
        )
        return False
    for leaf in [leaf.removesuffix("_orig") for leaf in tensors if leaf.endswith("_orig") and f"{leaf[:-5]}_mask" in tensors]:
        if not _pruned(module, leaf, label, note, problems):
            return False
    _flatten(module)
    return _one_matrix(module, label, note, notes, problems)


def _pruned(module: Module, leaf: str, label: str, note: Use, problems: list[str]) -> bool:
    """`weight_orig` and `weight_mask`: the product, where every number of it is one."""
    original, mask = module.tensors.pop(f"{leaf}_orig"), module.tensors.pop(f"{leaf}_mask")
    cut = int((mask.array == 0).sum()) if mask.shape == original.shape else 0
    if mask.shape != original.shape or not ((mask.array == 0) | (mask.array == 1)).all():
        problems.append(f"{label}: {mask} is no mask of {original}, which cannot be converted")
        return False
    if cut and leaf == "weight":
        problems.append(f"{label}: {cut} of {mask.array.size} weights are pruned ({mask.name} is 0), so that it is ternary")
        return False
    note(mask, f"{label}: pruning mask of {leaf}, multiplied")
    array = np.where(mask.array == 0, 0, original.array).astype(original.array.dtype) if cut else original.array
    module.tensors[leaf] = RawTensor(original.name, array, original.dtype)
    return True


def _flatten(module: Module) -> None:
    """Columns and rows beside a matrix, and in a module without any other, become vectors; so does (1, n, 1, 1) of maps."""
    main = _main(module)
    for leaf, tensor in module.tensors.items():
        if tensor.array.ndim not in KERNELS or tensor is main or tensor.array.size != max(tensor.shape):
            continue
        if main is None or tensor.array.size in (main.shape[0], 1):
            module.tensors[leaf] = RawTensor(tensor.name, tensor.array.reshape(-1), tensor.dtype)


def _main(module: Module) -> RawTensor | None:
    """The matrix of weights: called weight, else the largest; None in a BatchNorm."""
    matrices = {leaf: t for leaf, t in module.tensors.items() if t.array.ndim in KERNELS}
    if not matrices or "running_mean" in module.tensors:
        return None
    if "weight" in matrices:
        return matrices["weight"]
    return max(matrices.values(), key=lambda tensor: tensor.array.size)


def _one_matrix(module: Module, label: str, note: Use, notes: Notes, problems: list[str]) -> bool:
    """Two matrices of one shape and equal signs are binarized weights and their latents; any others are not clear."""
    matrices = {leaf: t for leaf, t in module.tensors.items() if t.array.ndim in KERNELS}
    if len(matrices) < 2:
        return True
    first, *others = matrices.values()
    alike = all(t.shape == first.shape and t.array.dtype.kind in "fiu" for t in matrices.values())
    if alike and all((np.sign(t.array) == np.sign(first.array)).all() for t in others):
        latent = next((t for t in matrices.values() if not _one_magnitude(t)), first)
        for leaf, tensor in matrices.items():
            del module.tensors[leaf]
            if tensor is not latent:
                note(tensor, f"{label}: the signs of {latent.name}")
        module.tensors["weight"] = latent
        notes.assumptions.append(Assumption(f"latent weights of {label}", f"{latent.name}; the others have its signs", "file"))
        return True
    names = [t.name for t in matrices.values()]
    ways = []
    for name in names:
        rest = ", ".join(f'"{other}"' for other in names if other != name)
        ways.append(f'weight = "{name}"` in [[layers]] and `ignore = [{rest}]')
    problems.append(
        f"module {label} holds {len(matrices)} matrices ({', '.join(map(str, matrices.values()))})"
        + (" of different signs" if alike else "")
        + ": it is not clear which are the latent weights"
        + net_line(*ways)
    )
    return False


def _one_magnitude(tensor: RawTensor) -> bool:
    sizes = np.abs(tensor.array)
    return bool((sizes == sizes.flat[0]).all()) if sizes.size else True


def counts_instead(tensor: RawTensor) -> str | None:
    """Why whole numbers without a sign are no weights; None for weights."""
    array = tensor.array
    if array.dtype.kind not in "iu" or not array.size or int(array.min()) < 0 or int(array.max()) <= 1:
        return None
    return (
        f"{tensor} holds whole numbers from {int(array.min())} to {int(array.max())}: data, or weights of several bits, where "
        "one bit is needed, or bits that are packed"
        + net_line(f'arrays.bits = {{from = "{tensor.name}", unpack = "lsb", shape = [NEURONS, INPUTS]}}')
        + ' with `weight = "bits"` and `values = "bits"` in [[layers]]'
    )


def from_bits(tensor: RawTensor) -> tuple[RawTensor, bool]:
    """Weights of 0 and 1 alone as -1 and +1, and True; others as they are."""
    array = tensor.array
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    elif array.dtype.kind not in "iuf" or array.size < FEWEST_BITS:
        return tensor, False
    if not ((array == 0) | (array == 1)).all() or not (array == 0).any() or not (array == 1).any():
        return RawTensor(tensor.name, array, tensor.dtype), False
    return RawTensor(tensor.name, array.astype(np.int8) * np.int8(2) - np.int8(1), tensor.dtype), True
