"""torch's pickles as plain data: tensors become descriptions of a place in the file's memory, read when asked for.

Two kinds of files have them: what `torch.save` wrote (`saved_rules`), in which any object may stand beside the tensors and
stays a `Thing`, and TorchScript archives (`script_rules`), which hold objects of their own classes and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import budget
from xnorinfer.converters.containers.arrays import STORED, RawTensor, element_count, require_shape, widened
from xnorinfer.converters.containers.pickled import Global, NotData, Rule, Rules, Thing
from xnorinfer.converters.containers.pickledarrays import ARRAY_CALLS, PickledArray, array_state
from xnorinfer.errors import SourceError

#: torch's storage classes -> types.
_STORAGES = {
    f"torch.{kind}Storage": name
    for kind, name in {
        "Float": "float32",
        "Double": "float64",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
        "QInt8": "qint8",
        "QInt32": "qint32",
        "QUInt8": "quint8",
        "QUInt4x2": "quint4x2",
        "QUInt2x4": "quint2x4",
        "Untyped": "uint8",
    }.items()
} | {"torch.storage.UntypedStorage": "uint8", "torch.storage._UntypedStorage": "uint8"}

#: Bytes of one element in a storage, by torch's name of its type.
ELEMENT_BYTES = {
    **{kind: int(code[2:]) for kind, code in STORED.items()},
    **{"complex64": 8, "complex128": 16, "qint8": 1, "quint8": 1, "qint32": 4, "quint4x2": 1, "quint2x4": 1},
}

#: The bytes of a tensor's memory, by its key and the type and number of elements that its user says.
Memory = Callable[["Storage"], NDArray[np.uint8]]


@dataclass(eq=False)
class Storage:
    """A tensor's memory.  key: where it lies; start: first element of a view of it (torch before 0.4); big: its byte order."""

    kind: str
    key: str
    memory: Memory
    start: int = 0
    big: bool = False


@dataclass(eq=False)
class PickledTensor:
    """A tensor whose numbers are still in the file.

    dtype: torch's name of its type.  odd: why it is no ordinary dense tensor of real numbers.  attributes: what a training
    script hung on the tensor itself (`weight.org`).
    """

    dtype: str
    shape: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    offset: int = 0
    storage: Storage | None = None
    odd: str | None = None
    attributes: dict[Any, Any] = field(default_factory=dict)

    def tensor(self, name: str) -> RawTensor:
        """The numbers, a view of the file where that can be.

        Raises SourceError for sparse, quantized and other tensors, and for one that does not lie inside its memory.
        """
        if self.odd is not None or self.storage is None or self.dtype not in STORED:
            what = self.odd or f"of the type {self.dtype}"
            raise SourceError(f"tensor {name} is {what}, needed is an ordinary dense tensor of real numbers")
        raw, start = self.storage.memory(self.storage), self.storage.start
        about = f"tensor {name}"
        return strided(about, name, raw, self.dtype, self.shape, self.strides, self.offset + start, big=self.storage.big)


def strided(
    about: str,
    name: str,
    raw: NDArray[np.uint8],
    kind: str,
    sizes: Sequence[int],
    strides: Sequence[int],
    offset: int,
    *,
    big: bool = False,
) -> RawTensor:
    """A tensor of the type `kind` (torch's name) in bytes; strides and offset count elements.  big: big-endian.

    Raises SourceError (beginning with `about`) where it does not lie inside the bytes, or claims more elements than they hold.
    """
    code = np.dtype(STORED[kind])
    code = code.newbyteorder(">") if big else code
    numbers = [*sizes, *strides, offset]
    if len(sizes) != len(strides) or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers):
        raise SourceError(f"{about} has the sizes {list(sizes)}, strides {list(strides)} and offset {offset}")
    require_shape(about, sizes, code.itemsize)
    count = element_count(sizes)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if raw.size % code.itemsize or count > raw.size // code.itemsize or (count and last >= raw.size // code.itemsize):
        raise SourceError(f"{about} says {tuple(sizes)} {kind}, but its data has {raw.size} bytes")
    budget.spend_bytes(count * code.itemsize, f"tensor {name} {tuple(sizes)} {kind}")  # many tensors can share the same bytes
    flat = raw.view(code)
    if count:
        steps = tuple(stride * code.itemsize for stride in strides)
        array: NDArray[Any] = np.lib.stride_tricks.as_strided(flat[offset:], tuple(sizes), steps, writeable=False)
    else:
        array = np.empty(tuple(sizes), code)
    return RawTensor(name, widened(kind, array), kind)


def saved_rules(memory: Memory, nested: Callable[[bytes], Storage] | None = None, kinds: dict[str, str] | None = None) -> Rules:
    """Of what `torch.save` or `pickle.dump` wrote.

    memory: finds the bytes of a storage.  nested: reads the memory of one tensor where it is a file in itself; None where there
    can be none.  kinds: collects the keys of storages and their types.
    """
    calls = {**ARRAY_CALLS, **_TENSORS, **_SAVED}
    if nested is not None:
        calls["torch.storage._load_from_bytes"] = lambda arguments: nested(_file(arguments))
    return Rules(calls, _state, lambda identity: _persistent(identity, memory, {} if kinds is None else kinds))


def script_rules(memory: Memory) -> Rules:
    """Of a TorchScript archive, which holds tensors, lists and objects of its own classes, and nothing else."""
    calls = {**_SCRIPT, **_TENSORS}

    def is_allowed(name: str) -> bool:
        return name in calls or name in _STORAGES or name.startswith("__torch__.")

    return Rules(calls, persistent=lambda identity: _persistent(identity, memory, {}), is_allowed=is_allowed)


def _persistent(identity: Any, memory: Memory, kinds: dict[str, str]) -> Any:
    """`("storage", class, key, place, elements[, view])`; old files also have `("module", class, file, source)`."""
    if not isinstance(identity, tuple) or not identity:
        raise TypeError("a persistent id that torch does not write")
    if identity[0] == "module" and len(identity) >= 2:
        return identity[1]
    word, kind, key, *rest = identity
    if word != "storage" or not isinstance(kind, Global) or not isinstance(key, str):
        raise TypeError("a persistent id that torch does not write")
    if kind.name not in _STORAGES:
        raise TypeError(f"{kind.name} is no storage of torch")
    view = rest[2] if len(rest) > 2 else None
    start = view[1] if isinstance(view, tuple) and len(view) == 3 and type(view[1]) is int and view[1] >= 0 else 0
    kinds.setdefault(key, _STORAGES[kind.name])
    return Storage(_STORAGES[kind.name], key, memory, start)


def _file(arguments: tuple[Any, ...]) -> bytes:
    """`_load_from_bytes(content)`: what `pickle.dump` writes for the memory of a tensor."""
    if len(arguments) != 1 or not isinstance(arguments[0], bytes | bytearray):
        raise NotData
    budget.spend_bytes(len(arguments[0]), "a tensor in its pickle")
    return bytes(arguments[0])


# ---------------------------------------------------------------- tensors


def _tensor(arguments: tuple[Any, ...], kind: str | None = None) -> PickledTensor:
    """`_rebuild_tensor_v2(storage, offset, sizes, strides, ...)`."""
    storage, offset, sizes, strides = arguments[:4]
    if not isinstance(storage, Storage):
        if isinstance(storage, Thing):
            return PickledTensor("unknown", odd="in a memory that is not known")
        raise TypeError("a tensor without its memory")
    for numbers in (sizes, strides, (offset,)):
        if not isinstance(numbers, tuple | list) or not all(type(n) is int and 0 <= n < 1 << 63 for n in numbers):
            raise TypeError("sizes, strides and offset of a tensor are no numbers")
    problem = budget.shape_problem(sizes, 8)
    if problem:
        raise ValueError(f"a tensor has {problem}")
    return PickledTensor(kind or storage.kind, tuple(sizes), tuple(strides), offset, storage)


def _tensor_v3(arguments: tuple[Any, ...]) -> PickledTensor:
    """`_rebuild_tensor_v3(storage, offset, sizes, strides, requires_grad, hooks, dtype)`: of untyped memory."""
    if len(arguments) < 7 or not isinstance(arguments[6], Global):
        raise TypeError("a tensor without its type")
    return _tensor(arguments, arguments[6].name.removeprefix("torch."))


def _parameter(arguments: tuple[Any, ...]) -> Any:
    """`_rebuild_parameter(tensor, ...)`: the tensor."""
    if not arguments or not isinstance(arguments[0], PickledTensor | PickledArray):
        raise NotData
    return arguments[0]


def _parameter_with_state(arguments: tuple[Any, ...]) -> Any:
    """`_rebuild_parameter_with_state(tensor, requires_grad, hooks, state)`: with the attributes that hang on it."""
    tensor = _parameter(arguments)
    if len(arguments) > 3 and isinstance(tensor, PickledTensor):
        _state(tensor, arguments[3])
    return tensor


def _of_type(arguments: tuple[Any, ...]) -> Any:
    """`_rebuild_from_type_v2(function, class, arguments, state)`: a tensor of a class of its own."""
    if len(arguments) < 3 or not isinstance(arguments[0], Global) or not isinstance(arguments[2], tuple):
        raise NotData
    name = arguments[0].name
    rule = None if "_rebuild_from_type" in name else {**ARRAY_CALLS, **_TENSORS, **_SAVED}.get(name)
    if rule is None:
        raise NotData
    made = rule(arguments[2])
    if len(arguments) > 3:
        _state(made, arguments[3])
    return made


def _of_numpy(arguments: tuple[Any, ...]) -> Any:
    if not arguments or not isinstance(arguments[0], PickledArray):
        raise NotData
    return arguments[0]


def _odd(what: str) -> Callable[[tuple[Any, ...]], PickledTensor]:
    return lambda arguments: PickledTensor("unknown", odd=what)


def _sparse(arguments: tuple[Any, ...]) -> PickledTensor:
    """`_rebuild_sparse_tensor(layout, parts)`; the layout is a call by name."""
    layout = arguments[0] if arguments else None
    named = layout.arguments[0] if isinstance(layout, Thing) and layout.arguments else None
    return PickledTensor("unknown", odd=named[:50] if isinstance(named, str) else "torch.sparse")


def _state(made: Any, state: Any) -> bool:
    """Attributes of a tensor, and what numpy's arrays are."""
    if isinstance(made, PickledTensor):
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                budget.spend_steps(len(part), "its pickle")
                made.attributes.update(part)
        return True
    return array_state(made, state)


#: Calls that stand for tensors in every file of torch ...
_TENSORS: dict[str, Rule] = {
    **dict.fromkeys(("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"), _tensor),
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
}
#: ... in those of torch.save alone ...
_SAVED: dict[str, Rule] = {
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter_with_state,
    **dict.fromkeys(("torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"), _parameter),
    **dict.fromkeys(("torch._tensor._rebuild_from_type", "torch._tensor._rebuild_from_type_v2"), _of_type),
    **dict.fromkeys(("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor"), _sparse),
    "torch._utils._rebuild_qtensor": _odd("quantized"),
    "torch._utils._rebuild_nested_tensor": _odd("nested"),
    "torch._utils._rebuild_meta_tensor_no_storage": _odd("without numbers (on the device meta)"),
    "torch._utils._rebuild_wrapper_subclass": _odd("a wrapper around other tensors"),
    **dict.fromkeys(("torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_xla_tensor"), _of_numpy),
}


# ---------------------------------------------------------------- TorchScript


def _listed(arguments: tuple[Any, ...]) -> list[Any]:
    budget.spend_steps(len(arguments[0]), "its pickle")
    return list(arguments[0])


def _emptied(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise TypeError("an ordered dict with arguments, which TorchScript never writes")
    return {}


#: ... and in those of TorchScript.
_SCRIPT: dict[str, Rule] = {
    **{f"torch.jit._pickle.build_{kind}list": _listed for kind in ("int", "double", "bool", "tensor")},
    "collections.OrderedDict": _emptied,
    "torch.jit._pickle.restore_type_tag": lambda arguments: arguments[0],
}


def named_tensors(root: Thing) -> dict[str, RawTensor]:
    """Every tensor of a tree of modules under its dotted name, in the order of attributes; shared ones under each name.

    Raises SourceError for a tree that holds itself, or is larger than any module.
    """
    found: dict[str, RawTensor] = {}
    above: set[int] = set()
    visits = [0]

    def collect(thing: Thing, prefix: str) -> None:
        if id(thing) in above or len(above) > MAX_MODULE_DEPTH:
            raise SourceError("the modules of the archive hold each other")
        above.add(id(thing))
        visits[0] += 1
        for name, value in thing.attributes.items():
            budget.spend_steps(1, "walking its modules")
            if isinstance(value, PickledTensor):
                budget.spend_bytes(len(prefix) + len(str(name)), "names of its tensors")
                found[f"{prefix}{name}"] = value.tensor(f"{prefix}{name}")
            elif isinstance(value, Thing):
                budget.spend_bytes(len(prefix) + len(str(name)), "names of its modules")
                collect(value, f"{prefix}{name}.")
            if len(found) > MAX_TENSORS or visits[0] > MAX_MODULES:
                raise SourceError(f"the archive has more than {MAX_TENSORS} tensors or {MAX_MODULES} modules")
        above.discard(id(thing))

    collect(root, "")
    return found


MAX_MODULE_DEPTH = 50
MAX_TENSORS = 10_000
MAX_MODULES = 10_000
