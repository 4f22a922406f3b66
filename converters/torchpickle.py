"""The pickles inside TorchScript archives, as plain data: a stack machine that knows a few opcodes and calls nothing.

Objects of the archive's own classes become `Thing`s with their attributes, tensors become numpy views of the archive's bytes.
Any other class or function, and any opcode that TorchScript does not write, is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import spend_bytes, spend_steps
from xnorinfer.converters.arrays import RawTensor
from xnorinfer.converters.torchtensor import strided
from xnorinfer.errors import SourceError

#: torch's storage classes -> types.
_STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.DoubleStorage": "float64",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
#: Calls that stand for data.
_LISTS = tuple(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor"))
_MARK = object()


@dataclass(eq=False)
class Thing:
    """An object of a class of the archive: `kind` is the class's full name."""

    kind: str
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    name: str


def unpickle(about: str, data: bytes, storage: Callable[[str], NDArray[np.uint8]]) -> Any:
    """What a pickle holds.  storage: the bytes of a tensor's memory by its key.  Raises SourceError."""
    try:
        return _Machine(about, storage).run(data)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise SourceError(f"{about} is a damaged pickle ({type(error).__name__}: {error})") from None


class _Machine:
    def __init__(self, about: str, storage: Callable[[str], NDArray[np.uint8]]) -> None:
        self.about = about
        self.storage = storage
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name == "STOP":
                return self.stack.pop()
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _LITERALS:
                self.stack.append(argument)
            elif name in _METHODS:
                _METHODS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise SourceError(f"{self.about} holds the pickle opcode {name}, which TorchScript never writes: refused")
        raise ValueError("it has no end")

    def _mark(self) -> list[Any]:
        """What lies above the last mark, taken off with it."""
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        taken = self.stack[place + 1 :]
        del self.stack[place:]
        return taken

    def _global(self, argument: Any) -> None:
        self.stack.append(_Global(str(argument).replace(" ", ".")))

    def _put(self, argument: Any) -> None:
        self.memo[int(argument)] = self.stack[-1]

    def _get(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    def _tuple(self, size: int) -> None:
        taken = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.stack.append(taken)

    def _extend(self, argument: Any) -> None:
        taken = self._mark()
        self.stack[-1].extend(taken)

    def _append(self, argument: Any) -> None:
        taken = self.stack.pop()
        self.stack[-1].append(taken)

    def _items(self, argument: Any) -> None:
        taken = self._mark()
        self._update(taken)

    def _item(self, argument: Any) -> None:
        taken = self.stack[-2:]
        del self.stack[-2:]
        self._update(taken)

    def _update(self, taken: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(taken[::2], taken[1::2], strict=True):
            if not isinstance(target, dict) or not isinstance(key, str | int):
                raise TypeError("a key is neither text nor a number")
            target[key] = value

    def _new(self, argument: Any) -> None:
        kind, arguments = self.stack[-2:]
        del self.stack[-2:]
        if not isinstance(kind, _Global) or not kind.name.startswith("__torch__.") or arguments != ():
            self._refuse(kind)
        self.stack.append(Thing(kind.name))

    def _build(self, argument: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, Thing) or not isinstance(state, dict):
            raise TypeError("a state belongs to no object of the archive")
        target.state.update((str(key), value) for key, value in state.items())

    def _reduce(self, argument: Any) -> None:
        called, arguments = self.stack[-2:]
        del self.stack[-2:]
        name = called.name if isinstance(called, _Global) else ""
        if name == "torch._utils._rebuild_tensor_v2":
            (kind, key), offset, sizes, strides = arguments[:4]
            about = f"{self.about}: the tensor in {key}"
            self.stack.append(strided(about, key, self.storage(key), kind, sizes, strides, offset))
        elif name == "collections.OrderedDict" and arguments == ():
            self.stack.append({})
        elif name in _LISTS:
            self.stack.append(list(arguments[0]))
        elif name == "torch.jit._pickle.restore_type_tag":
            self.stack.append(arguments[0])
        else:
            self._refuse(called)

    def _persistent(self, argument: Any) -> None:
        word, kind, key, *_ = self.stack.pop()
        if word != "storage" or not isinstance(kind, _Global) or kind.name not in _STORAGES or not isinstance(key, str):
            self._refuse(kind)
        self.stack.append((_STORAGES[kind.name], key))

    def _refuse(self, what: Any) -> None:
        name = what.name if isinstance(what, _Global) else type(what).__name__
        raise SourceError(f"{self.about} wants to run code or to build objects of its own ({name}), which is refused")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_LITERALS = (
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"
)  # fmt: skip
_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "GLOBAL": _Machine._global,
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine._put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine._get),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine._mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPENDS": _Machine._extend,
    "APPEND": _Machine._append,
    "SETITEMS": _Machine._items,
    "SETITEM": _Machine._item,
    "NEWOBJ": _Machine._new,
    "BUILD": _Machine._build,
    "REDUCE": _Machine._reduce,
    "BINPERSID": _Machine._persistent,
}


def named_tensors(root: Thing) -> dict[str, RawTensor]:
    """Every tensor of a tree of modules under its dotted name, in the order of attributes; shared ones under each name.

    Raises SourceError for a tree that holds itself.
    """
    found: dict[str, RawTensor] = {}

    def collect(thing: Thing, prefix: str, above: tuple[int, ...]) -> None:
        if id(thing) in above or len(above) > MAX_MODULE_DEPTH:
            raise SourceError("the modules of the archive hold each other")
        for name, value in thing.state.items():
            spend_steps(what="walking its modules")  # shared ones are walked under each of their names
            spend_bytes(len(prefix) + len(name), "the names of its modules")
            if isinstance(value, RawTensor):
                found[prefix + name] = RawTensor(prefix + name, value.array, value.dtype)
            elif isinstance(value, Thing):
                collect(value, f"{prefix}{name}.", (*above, id(thing)))
            if len(found) > MAX_TENSORS:
                raise SourceError(f"the archive has more than {MAX_TENSORS} tensors")

    collect(root, "", ())
    return found


MAX_MODULE_DEPTH = 50
MAX_TENSORS = 10_000
