"""Pickles as plain data: a stack machine of our own that calls nothing, whatever a file says.

A pickle is a program that builds objects.  Here its opcodes (all of them, protocols 0 to 5) build numbers, text, tuples, lists
and dicts; every class and every function is a `Global`, that is, its name; what would be an object of a class, or the result
of a call, is a `Thing` that keeps what it was given.  `Rules` say which calls stand for data (an array, a tensor) and how that
is built; a rule gets plain data and gives plain data.

Every opcode costs the same whatever the file says, containers are shared and never copied, only keys that hash in constant
time are looked up, and nothing recurses: time and memory grow with the file alone, and `budget` counts both.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from xnorinfer import budget
from xnorinfer.errors import SourceError


@dataclass(frozen=True)
class Global:
    """A class or a function, by its full name."""

    name: str


@dataclass(eq=False)
class Thing:
    """What would be an object, or the result of a call: nothing was built.

    kind: the full name of the class or function.  arguments: what it was given.  state: its attributes, or whatever else was
    set as its state.  table, elements: what was put into it as into a dict or a list.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = field(default_factory=dict)
    table: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)

    @property
    def attributes(self) -> Mapping[Any, Any]:
        """The state where it is one of names and values."""
        return self.state if isinstance(self.state, dict) else {}


@dataclass(frozen=True, eq=False)
class Key:
    """A key of a dict that is neither text nor a small number: never equal to another one."""

    value: Any


#: What a call with these arguments stands for, as plain data.  Raises NotData.
Rule = Callable[[tuple[Any, ...]], Any]


@dataclass(frozen=True)
class Rules:
    """What a pickle of one kind may hold.

    calls: full name of a function or class -> what a call with these arguments stands for; `NotData` makes it a Thing.
    built: takes the state of an object that a rule made; False if it knows no state.
    persistent: what a persistent id stands for.  is_allowed: False for names that must not occur at all.
    """

    calls: Mapping[str, Rule]
    built: Callable[[Any, Any], bool] = lambda made, state: False
    persistent: Callable[[Any], Any] = lambda identity: Thing("a persistent id", (identity,))
    is_allowed: Callable[[str], bool] = lambda name: True


class NotData(Exception):
    """Raised by a rule for arguments that stand for no data it knows."""


class NotAPickleError(SourceError):
    """The bytes are no whole pickle."""


#: Opcodes that are charged together.
OPCODES = 256
#: What damaged pickles make the machine and `pickletools` raise.
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError)
#: Integers of at most this many bits are their own hash, so that no file can make keys that collide.
_KEY_BITS = 60


def unpickle(about: str, data: bytes | BinaryIO, rules: Rules) -> Any:
    """What a pickle holds.  data: bytes, or a stream that then stands behind the pickle.

    Raises NotAPickleError for damage, and SourceError for what the rules or the budget do not allow.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes in text of protocol 0
            return _Machine(about, rules).run(data)
    except _DAMAGE as error:
        detail = " ".join(str(error).split())[:200]
        raise NotAPickleError(f"{about} is a damaged pickle ({type(error).__name__}: {detail})") from None


class _Machine:
    def __init__(self, about: str, rules: Rules) -> None:
        self.about = about
        self.rules = rules
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.opcodes = 0

    def run(self, data: bytes | BinaryIO) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            self.opcodes += 1
            if not self.opcodes % OPCODES:
                budget.spend_steps(OPCODES // 4, "its pickle")  # most are a byte or two
            if name in _LITERALS:
                if isinstance(argument, bytes | bytearray | str):
                    budget.spend_bytes(len(argument), "text in its pickle")
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _METHODS:
                _METHODS[name](self, argument)
            elif name == "STOP":
                return self._pop()
            elif name not in ("PROTO", "FRAME"):
                raise ValueError(f"the opcode {name} is not supported")
        raise ValueError("it has no end")

    # ---------------------------------------------------------------- the stack

    def _pop(self) -> Any:
        return self.stack.pop()

    def _mark(self, argument: Any = None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _marked(self) -> list[Any]:
        """What lies above the last mark, taken off with it."""
        taken, self.stack = self.stack, self.below.pop()
        return taken

    def _gathered(self, made: Callable[[list[Any]], Any]) -> None:
        """Put one value in the place of what lies above the last mark."""
        taken = self._marked()
        self.stack.append(made(taken))

    def _pop_or_mark(self, argument: Any) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._marked()

    def _put(self, argument: Any) -> None:
        self.memo[int(argument)] = self.stack[-1]

    def _memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, argument: Any) -> None:
        self.stack.append(self.memo[int(argument)])

    def _tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError("its stack is empty")
        taken = tuple(self.stack[len(self.stack) - size :])
        del self.stack[len(self.stack) - size :]
        self.stack.append(taken)

    # ---------------------------------------------------------------- containers

    def _extend(self, argument: Any) -> None:
        taken = self._marked()
        target = self.stack[-1]
        if isinstance(target, Thing):
            target = target.elements
        if not isinstance(target, list):
            raise TypeError("elements are put into what is no list")
        target.extend(taken)

    def _append(self, argument: Any) -> None:
        taken = self._pop()
        self._mark()
        self.stack.append(taken)
        self._extend(None)

    def _items(self, argument: Any) -> None:
        self._put_items(self._marked())

    def _item(self, argument: Any) -> None:
        value, key = self._pop(), self._pop()
        self._put_items([key, value])

    def _put_items(self, taken: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Thing):
            target = target.table
        if not isinstance(target, dict):
            raise TypeError("items are put into what is no dict")
        fill(target, taken[::2], taken[1::2])

    def _dict(self, argument: Any) -> None:
        taken = self._marked()
        made: dict[Any, Any] = {}
        fill(made, taken[::2], taken[1::2])
        self.stack.append(made)

    # ---------------------------------------------------------------- objects

    def _named(self, name: str) -> None:
        self._require_allowed(name)
        self.stack.append(Global(name))

    def _require_allowed(self, name: str) -> None:
        if not self.rules.is_allowed(name):
            what = f"wants to run code or to build objects of its own ({name[:200]})"
            raise SourceError(f"{self.about} {what}, which is refused")

    def _global(self, argument: Any) -> None:
        self._named(str(argument).replace(" ", "."))

    def _stack_global(self, argument: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("the name of a class is no text")
        budget.spend_bytes(len(name) + len(module), "names in its pickle")
        self._named(f"{module}.{name}")

    def _extension(self, argument: Any) -> None:
        self._named(f"copyreg.extension {argument}")

    def _call(self, called: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise TypeError("a call without a tuple of arguments")
        name = called.name if isinstance(called, Global) else ""
        rule = self.rules.calls.get(name)
        if rule is not None:
            try:
                self.stack.append(rule(arguments))
                return
            except NotData:
                pass
        if not name:  # what is called is itself an object, such as a functools.partial
            name, arguments = getattr(called, "kind", type(called).__name__), (called, *arguments)
        self._require_allowed(name)
        self.stack.append(Thing(name, arguments))

    def _reduce(self, argument: Any) -> None:
        arguments, called = self._pop(), self._pop()
        self._call(called, arguments)

    def _new_named(self, argument: Any) -> None:
        named, arguments, kind = self._pop(), self._pop(), self._pop()
        self._call(kind, (*arguments, named) if named else arguments)

    def _instance(self, argument: Any) -> None:
        arguments = tuple(self._marked())
        self._global(argument)
        self._call(self._pop(), arguments)

    def _object(self, argument: Any) -> None:
        kind, *arguments = self._marked()
        self._call(kind, tuple(arguments))

    def _build(self, argument: Any) -> None:
        state = self._pop()
        target = self.stack[-1]
        if self.rules.built(target, state):
            return
        if not isinstance(target, Thing):
            raise TypeError("a state belongs to no object")
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            # (attributes, slots); a copy, whose size is charged, as the parts may be shared.
            parts = [part for part in state if isinstance(part, dict)]
            budget.spend_steps(sum(map(len, parts)), "its pickle")
            state = {key: value for part in parts for key, value in part.items()}
        target.state = state

    def _persistent(self, argument: Any) -> None:
        self.stack.append(self.rules.persistent(self._pop()))

    def _persistent_text(self, argument: Any) -> None:
        self.stack.append(argument)
        self._persistent(None)


def fill(target: dict[Any, Any], keys: list[Any], values: list[Any]) -> None:
    """Put items into a dict; keys whose hash a file could choose, or that have none, become `Key`s."""
    for key, value in zip(keys, values, strict=True):
        plain = isinstance(key, str | bool | None) or (isinstance(key, int) and key.bit_length() <= _KEY_BITS)
        target[key if plain else Key(key)] = value


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
})  # fmt: skip
_METHODS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_SET": lambda machine, _: machine.stack.append(Thing("builtins.set")),
    "FROZENSET": lambda machine, _: machine._gathered(lambda taken: Thing("builtins.frozenset", elements=taken)),
    "ADDITEMS": _Machine._extend,
    "LIST": lambda machine, _: machine._gathered(list),
    "DICT": _Machine._dict,
    "TUPLE": lambda machine, _: machine._gathered(tuple),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "MARK": _Machine._mark,
    "POP": _Machine._pop_or_mark,
    "POP_MARK": lambda machine, _: machine._marked().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine._put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._get),
    "MEMOIZE": _Machine._memoize,
    "APPENDS": _Machine._extend,
    "APPEND": _Machine._append,
    "SETITEMS": _Machine._items,
    "SETITEM": _Machine._item,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    **dict.fromkeys(("EXT1", "EXT2", "EXT4"), _Machine._extension),
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._reduce,  # `cls.__new__(cls, *arguments)`: as if the class were called
    "NEWOBJ_EX": _Machine._new_named,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._persistent_text,
    "BINPERSID": _Machine._persistent,
}


# ---------------------------------------------------------------- plain Python


def _encoded(arguments: tuple[Any, ...]) -> bytes:
    """`_codecs.encode(text, "latin1")`, as protocol 2 writes bytes."""
    if len(arguments) not in (1, 2) or not all(isinstance(one, str) for one in arguments):
        raise NotData
    text: str = arguments[0]
    encoding = list(arguments[1:])
    if encoding not in ([], ["latin1"], ["latin-1"]):
        raise NotData
    budget.spend_bytes(len(text), "bytes in its pickle")
    try:
        return text.encode("latin1" if encoding else "utf-8")
    except UnicodeEncodeError:
        raise NotData from None


def _bytes(arguments: tuple[Any, ...]) -> bytes | bytearray:
    if arguments == ():
        return b""
    if len(arguments) == 2:
        return _encoded(arguments)
    if len(arguments) == 1 and isinstance(arguments[0], bytes | bytearray):
        return arguments[0]
    raise NotData


def _table(kind: str) -> Rule:
    """A dict of a class of its own; `OrderedDict([[key, value], ...])` is how protocol 0 and 1 write it."""

    def made(arguments: tuple[Any, ...]) -> Thing:
        found = Thing(kind, arguments)
        if kind != "collections.defaultdict" and len(arguments) == 1 and isinstance(arguments[0], list):
            pairs = arguments[0]
            budget.spend_steps(len(pairs), "its pickle")
            if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
                raise NotData
            fill(found.table, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
            found.arguments = ()
        return found

    return made


def _copied(arguments: tuple[Any, ...]) -> Thing:
    """`copyreg._reconstructor(cls, base, state)`, as protocol 0 and 1 write objects."""
    if not arguments or not isinstance(arguments[0], Global):
        raise NotData
    return Thing(arguments[0].name, arguments[2:] if arguments[2:] != (None,) else ())


def _new_object(arguments: tuple[Any, ...]) -> Thing:
    if not arguments or not isinstance(arguments[0], Global):
        raise NotData
    return Thing(arguments[0].name, arguments[1:])


def _size(arguments: tuple[Any, ...]) -> Any:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple | list):
        raise NotData
    return arguments[0]


#: Calls that stand for plain data in any pickle.
PLAIN: dict[str, Rule] = {
    "_codecs.encode": _encoded,
    **dict.fromkeys(("builtins.bytes", "__builtin__.bytes", "builtins.bytearray", "__builtin__.bytearray"), _bytes),
    **{name: _table(name) for name in ("collections.OrderedDict", "collections.defaultdict")},
    **dict.fromkeys(("copyreg._reconstructor", "copy_reg._reconstructor"), _copied),
    **dict.fromkeys(("copyreg.__newobj__", "copy_reg.__newobj__"), _new_object),
    "torch.Size": _size,
}
