"""TorchScript archives (`torch.jit.save`), read without torch and without running anything.

Such an archive holds the tree of modules as a pickle of plain data (`torchpickle`) and the code of their methods in a small
subset of Python's syntax.  The code is parsed and followed from `forward` on, symbolically: attributes are looked up, branches
are taken where the archive decides them (training or not), and every operation on tensors is written down.  What comes out is a
graph, so that order, signs, ties and epsilons are those of the archive.  Loops, and operations that no binary network needs,
are refused.
"""

from __future__ import annotations

import ast
import contextlib
import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xnorinfer.budget import spend_steps
from xnorinfer.converters.containers.onnxfile import OnnxGraph
from xnorinfer.converters.containers.pickled import Thing, unpickle
from xnorinfer.converters.containers.torchfile import is_script, memory_of
from xnorinfer.converters.containers.torchpickle import PickledTensor, named_tensors, script_rules
from xnorinfer.converters.containers.ziparchive import Archive, open_archive
from xnorinfer.converters.torchgraphs.torchmaps import counted, picked, size_of, some
from xnorinfer.converters.torchgraphs.torchops import WAY_OUT, Recorder
from xnorinfer.converters.torchgraphs.torchschemas import FACTORIES
from xnorinfer.converters.torchgraphs.torchvalues import Parts, Ref, Size, Unknown
from xnorinfer.errors import SourceError

#: What a hostile archive may cost: bytes of one file of code, nested brackets in it, statements followed, calls within calls.
MAX_CODE_BYTES = 1 << 20
MAX_BRACKETS = 50
MAX_LINE = 10_000
MAX_STATEMENTS = 50_000
MAX_CALLS = 50


#: Memory that a byte of code takes as a syntax tree, at most.
CODE_BYTES = 200


def read_script(path: Path) -> OnnxGraph:
    """The graph of an archive, its tensors under their dotted names.  Raises SourceError."""
    with open_archive(path) as archive:
        return _Code(archive).graph()


@dataclass(frozen=True)
class _Name:
    """A dotted name: of a function, a class, an operation."""

    name: str


@dataclass(frozen=True)
class _Method:
    thing: Thing
    name: str


class _Code:
    """The modules of an archive and the code of their methods."""

    def __init__(self, archive: Archive) -> None:
        self.about = archive.about
        self.archive = archive
        self.root = next(name for name in archive.entries if is_script([name])).removesuffix("constants.pkl")
        self.code: dict[str, dict[str, ast.stmt]] = {}
        self.members: dict[int, dict[str, ast.stmt]] = {}

    def graph(self) -> OnnxGraph:
        if f"{self.root}byteorder" in self.archive.entries and self.archive.read(f"{self.root}byteorder") != b"little":
            raise SourceError(f"{self.about} was written on a big-endian machine, which is not supported")
        module, constants = self._pickle("data"), self._pickle("constants")
        if not isinstance(module, Thing) or not isinstance(constants, tuple):
            raise SourceError(f"{self.about} holds no module")
        tensors = named_tensors(module)
        frozen = {}
        for index, value in enumerate(constants):
            if isinstance(value, PickledTensor):
                frozen[f"CONSTANTS.c{index}"] = value.tensor(f"CONSTANTS.c{index}")
        recorder = Recorder(self.about, {**tensors, **frozen}, (6,))
        run = _Run(self, recorder, module, list(constants))
        return recorder.graph("input", run.forward(), "TorchScript", self._traced_shape())

    def _traced_shape(self) -> tuple[int | None, ...] | None:
        """The shape of the example that a module was traced with; None where none is in the archive."""
        if f"{self.root}traced_inputs.pkl" not in self.archive.entries:
            return None
        inputs = self._pickle("traced_inputs")
        given = inputs.get("forward") if isinstance(inputs, dict) else None
        if not isinstance(given, list | tuple) or len(given) != 1 or not isinstance(given[0], PickledTensor):
            return None
        return given[0].shape

    def _pickle(self, name: str) -> Any:
        entry = f"{self.root}{name}.pkl"
        if entry not in self.archive.entries:
            raise SourceError(f"{self.about} holds no {name}.pkl")
        memory = memory_of(self.archive, f"{self.root}{name}/", self.archive.memory)
        return unpickle(f"{self.about}, {name}.pkl", self.archive.read(entry), script_rules(memory))

    def definition(self, name: str) -> ast.stmt | None:
        """The class or function of a full name, such as `__torch__.Net`."""
        place, _, last = name.rpartition(".")
        if place not in self.code:
            self.code[place] = self._parsed(f"{self.root}code/{place.replace('.', '/')}.py")
        return self.code[place].get(last)

    def _parsed(self, entry: str) -> dict[str, ast.stmt]:
        if entry not in self.archive.entries:
            return {}
        if self.archive.size(entry) > MAX_CODE_BYTES:
            raise SourceError(f"{self.about}: {entry} has more than {MAX_CODE_BYTES} bytes of code")
        try:
            text = self.archive.read(entry, CODE_BYTES).decode()
            for line in text.splitlines():
                depths = np.cumsum([(c in "([{") - (c in ")]}") for c in line[:MAX_LINE]]) if line else np.zeros(1)
                if len(line) > MAX_LINE or depths.max() > MAX_BRACKETS:
                    raise ValueError("a line is too long or too deeply nested")
            tree = ast.parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise SourceError(f"{self.about}: {entry} is no code of TorchScript ({error})") from None
        return {item.name: item for item in tree.body if isinstance(item, ast.ClassDef | ast.FunctionDef)}

    def member(self, kind: str, name: str) -> ast.stmt | None:
        """The method or annotated constant of a class, the first of its name."""
        definition = self.definition(kind)
        if not isinstance(definition, ast.ClassDef):
            return None
        if id(definition) not in self.members:
            found: dict[str, ast.stmt] = {}
            for item in definition.body:
                if isinstance(item, ast.FunctionDef):
                    found.setdefault(item.name, item)
                elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.value:
                    found.setdefault(item.target.id, item)
            self.members[id(definition)] = found
        return self.members[id(definition)].get(name)


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "__is__": operator.is_, "__isnot__": operator.is_not, "__not__": operator.not_,
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg,
    "floordiv": lambda a, b: a // b if b else 0, "floor_divide": lambda a, b: a // b if b else 0,
}  # fmt: skip
#: Operations on sizes and texts, whose results decide nothing here.
_UNKNOWN = (
    "dim", "size", "sizes", "len", "format", "numel", "warn", "__getitem__", "device", "dtype", "is_grad_enabled", "list",
    "sym_size", "layout", "is_cuda"
)  # fmt: skip
#: What changes a list, of so many at most.
_CHANGES: dict[str, Callable[..., Any]] = {
    "append": list.append, "extend": list.extend, "insert": list.insert, "pop": list.pop, "reverse": list.reverse,
    "clear": list.clear, "_set_item": list.__setitem__,
}  # fmt: skip
MAX_LIST = 10_000
#: Conversions of numbers, which tracing writes down around sizes.
_CONVERSIONS = {"int": int, "Int": int, "float": float, "Float": float, "bool": bool, "Bool": bool}
_TENSOR_NUMBERS = ("NumToTensor", "ImplicitTensorToNum", "ScalarImplicit", "IntImplicit", "FloatImplicit")


class _Run:
    """Follows `forward`, symbolically."""

    def __init__(self, code: _Code, recorder: Recorder, module: Thing, constants: list[Any]) -> None:
        self.code = code
        self.about = code.about
        self.recorder = recorder
        self.module = module
        self.constants = constants
        self.names = {id(module): ""}
        self.statements = 0
        self.depth = 0
        self.undecided = 0  # branches that hang on shapes, of those that are followed now

    def forward(self) -> list[Ref]:
        """The network's results, one or several, from a tensor called input."""
        definition = self._method(self.module, "forward")
        wanted = [argument.arg for argument in definition.args.args[1:]]
        if len(wanted) != 1:
            raise SourceError(f"{self.about} has the inputs {', '.join(wanted) or '(none)'}; one is supported")
        result = self._call(definition, [self.module, Ref("input")], {})
        results = [one for one in _members(result) if isinstance(one, Ref)]
        if not results or len(results) < len(_members(result)):
            raise SourceError(f"{self.about}: forward returns no tensor; one is supported")
        return results

    def _refuse(self, what: ast.AST, reason: str) -> Any:
        text = ast.unparse(what)
        raise SourceError(f"{self.about}: its code {reason}: {text if len(text) <= 80 else text[:77] + '...'}. {WAY_OUT}")

    def _method(self, thing: Thing, name: str) -> ast.FunctionDef:
        item = self.code.member(thing.kind, name)
        if isinstance(item, ast.FunctionDef):
            return item
        raise SourceError(f"{self.about}: the archive holds no code of {thing.kind}.{name}")

    def _call(self, definition: ast.FunctionDef, positional: list[Any], named: dict[str, Any]) -> Any:
        arguments = definition.args
        names = [argument.arg for argument in arguments.args]
        defaults = arguments.defaults
        local = {
            name: self._value(value, {}) for name, value in zip(names[len(names) - len(defaults) :], defaults, strict=True)
        }
        local |= dict(zip(names, positional, strict=False)) | named
        if len(positional) > len(names) or set(names) - set(local) or self.depth > MAX_CALLS:
            self._refuse(arguments, f"calls {definition.name} in a way that is not supported")
        self.depth += 1
        result = self._block(definition.body, local)
        self.depth -= 1
        return None if result is _NOTHING else result

    def _block(self, body: Sequence[ast.stmt], local: dict[str, Any]) -> Any:
        """What a block returns, or _NOTHING if it runs to its end."""
        for statement in body:
            self.statements += 1
            if self.statements > MAX_STATEMENTS:
                raise SourceError(f"{self.about}: its code has more than {MAX_STATEMENTS} statements to follow")
            if isinstance(statement, ast.Return):
                return None if statement.value is None else self._value(statement.value, local)
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                self._assign(statement.targets[0], self._value(statement.value, local), local)
            elif isinstance(statement, ast.Expr):
                self._value(statement.value, local)
            elif isinstance(statement, ast.If):
                result = self._branch(statement, local)
                if result is not _NOTHING:
                    return result
            elif not isinstance(statement, ast.Pass):
                self._refuse(statement, "is not straight")
        return _NOTHING

    def _assign(self, target: ast.expr, value: Any, local: dict[str, Any]) -> None:
        if isinstance(target, ast.Name):
            local[target.id] = value
        elif isinstance(target, ast.Tuple) and isinstance(value, Parts):
            for number, item in enumerate(target.elts):
                self._assign(item, value[number], local)
        elif isinstance(target, ast.Tuple) and isinstance(value, Size):
            for number, item in enumerate(target.elts):
                self._assign(item, picked(self.recorder, value, number), local)
        elif isinstance(target, ast.Tuple) and isinstance(value, Unknown | Ref):  # several results of one operation
            for item in target.elts:
                self._assign(item, value, local)
        elif isinstance(target, ast.Tuple) and isinstance(value, list | tuple) and len(value) == len(target.elts):
            for item, part in zip(target.elts, value, strict=True):
                self._assign(item, part, local)
        else:
            self._refuse(target, "assigns in a way that is not supported")

    def _branch(self, statement: ast.If, local: dict[str, Any]) -> Any:
        condition = self._value(statement.test, local)
        if isinstance(condition, bool):
            return self._block(statement.body if condition else statement.orelse, local)
        if not isinstance(condition, Unknown):
            self._refuse(statement.test, "decides by a tensor")
        # Checks of shapes: nothing but errors and texts may hang on them.
        before = len(self.recorder.nodes)
        for body in (statement.body, statement.orelse):
            if body and isinstance(body[-1], ast.Expr) and _is_raise(body[-1].value):
                continue
            spend_steps(len(local), "following its code")
            changed = dict(local)
            self.undecided += 1
            result = self._block(body, changed)
            self.undecided -= 1
            if result is not _NOTHING or len(self.recorder.nodes) != before:
                self._refuse(statement.test, "computes something else for other shapes")
            local.update((name, Unknown()) for name, value in changed.items() if local.get(name, _NOTHING) is not value)
        return _NOTHING

    # ---------------------------------------------------------------- expressions

    def _value(self, node: ast.expr, local: dict[str, Any]) -> Any:
        spend_steps(what="following its code")
        if isinstance(node, ast.Constant):
            return node.value
        if isinstance(node, ast.Name):
            if node.id in local:
                return local[node.id]
            return {"inf": float("inf"), "nan": float("nan")}.get(node.id, _Name(node.id))
        if isinstance(node, ast.Attribute):
            return self._attribute(node, self._value(node.value, local), node.attr)
        if isinstance(node, ast.Call):
            return self._called(node, local)
        if isinstance(node, ast.List | ast.Tuple):
            return [self._value(item, local) for item in node.elts]
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._value(node.operand, local)
            return -value if isinstance(value, int | float) else self._refuse(node, "negates something that is no number")
        if isinstance(node, ast.Subscript):
            return self._item(node, local)
        return self._refuse(node, "holds an expression that is not supported")

    def _item(self, node: ast.Subscript, local: dict[str, Any]) -> Any:
        value, index = self._value(node.value, local), self._value(node.slice, local)
        if isinstance(value, list | tuple) and isinstance(index, int) and -len(value) <= index < len(value):
            return value[index]
        if isinstance(value, Size):
            return picked(self.recorder, value, index)
        if isinstance(value, Parts) and type(index) is int and index >= 0:
            return value[index]
        if isinstance(value, Unknown | _Name) or isinstance(index, Unknown):
            return Unknown()
        return self._refuse(node, "picks an element in a way that is not supported")

    def _attribute(self, node: ast.expr, owner: Any, name: str) -> Any:
        if isinstance(owner, _Name):
            if owner.name == "CONSTANTS" and re.fullmatch(r"c[0-9]{1,9}", name):
                index = int(name[1:])
                if index >= len(self.constants):
                    self._refuse(node, "uses a constant that the archive does not hold")
                value = self.constants[index]
                return Ref(f"CONSTANTS.c{index}", f"CONSTANTS.c{index}") if isinstance(value, PickledTensor) else value
            return _Name(f"{owner.name}.{name}")
        if not isinstance(owner, Thing):
            return self._refuse(node, "asks for an attribute in a way that is not supported")
        if name not in owner.attributes:
            return self._class_constant(node, owner, name)
        value = owner.attributes[name]
        prefix = self.names.get(id(owner))
        if prefix is None:
            return self._refuse(node, "asks for an attribute of an object that is no module of the network")
        if isinstance(value, PickledTensor):
            return Ref(prefix + name, prefix + name)
        if isinstance(value, Thing):
            self.names[id(value)] = f"{prefix}{name}."
        return value

    def _class_constant(self, node: ast.expr, owner: Thing, name: str) -> Any:
        item = self.code.member(owner.kind, name)
        if isinstance(item, ast.FunctionDef):
            return _Method(owner, name)
        if isinstance(item, ast.AnnAssign) and item.value is not None:
            return self._value(item.value, {})
        return self._refuse(node, "asks for an attribute that the archive does not hold")

    def _called(self, node: ast.Call, local: dict[str, Any]) -> Any:
        function = self._value(node.func, local)
        if isinstance(function, _Name) and function.name in ("annotate", "unchecked_cast"):
            return self._value(node.args[-1], local)
        if isinstance(function, _Name) and function.name == "uninitialized":
            return Unknown()
        if isinstance(function, _Name) and function.name == "getattr" and len(node.args) == 2:  # names that are no words: '0'
            return self._attribute(node, self._value(node.args[0], local), str(self._value(node.args[1], local)))
        positional = [self._value(argument, local) for argument in node.args]
        named = {str(keyword.arg): self._value(keyword.value, local) for keyword in node.keywords}
        if isinstance(function, _Method):
            outer = self.recorder.module
            self.recorder.module = self.names.get(id(function.thing), "").rstrip(".").replace(".", "/")
            result = self._call(self._method(function.thing, function.name), [function.thing, *positional], named)
            self.recorder.module = outer
            return result
        if not isinstance(function, _Name):
            return self._refuse(node.func, "calls something that is no function")
        if function.name.startswith("__torch__."):
            definition = self.code.definition(function.name)
            if not isinstance(definition, ast.FunctionDef):
                return self._refuse(node.func, "calls something that the archive does not hold")
            return self._call(definition, positional, named)
        return self._operation(node, function.name, positional, named)

    def _operation(self, node: ast.Call, name: str, positional: list[Any], named: dict[str, Any]) -> Any:
        space, _, operation = name.rpartition(".")
        known = space in ("torch", "ops.aten", "ops.prim", "")
        if space.startswith("ops.") and not known:
            return self.recorder.of_others(name, [*positional, *named.values()])
        if not known or _is_raise(node):
            return self._refuse(node, "ends in an error" if _is_raise(node) else "calls what is not supported")
        if positional and isinstance(positional[0], list) and operation in (*_CHANGES, "slice", "remove", "sort", "Delete"):
            return self._changed(node, operation, positional)
        if operation in _UNKNOWN:
            return self._size(operation, positional)
        if operation == "slice" and positional and isinstance(positional[0], Size) and len(positional) <= 4:
            return some(self.recorder, *positional)
        if any(isinstance(value, Size) for value in positional):  # traces count with sizes as with tensors
            positional = [self._whole_number(value) for value in positional]
        if not any(isinstance(one, Ref) for value in (*positional, *named.values()) for one in _members(value)):
            return self._without_tensors(node, operation, positional, named)
        if operation in ("__is__", "__isnot__"):
            return self._arithmetic(node, operation, positional)
        if space == "ops.prim" and operation != "abs":  # Python's own functions
            return self._refuse(node, "calls what is not supported")
        return self.recorder.record(operation, positional, named)

    def _changed(self, node: ast.Call, operation: str, positional: list[Any]) -> Any:
        """A list with other members, the one that is taken out of it, or a part of it."""
        members = positional[0]
        if self.undecided and operation != "slice":
            self._refuse(node, "changes a list for some shapes alone")
        more = positional[1] if operation == "extend" and len(positional) > 1 else []
        try:
            if len(members) + (len(more) if isinstance(more, list) else 1) > MAX_LIST:
                raise ValueError("it is too long")
            if operation == "slice":
                return members[slice(*(*positional[1:], None, None, None)[:3])]
            result = _CHANGES[operation](*positional)
        except (KeyError, IndexError, TypeError, ValueError):
            return self._refuse(node, "changes a list in a way that is not supported")
        return result if operation == "pop" else members

    def _whole_number(self, value: Any) -> Any:
        """A tensor of the archive that is a whole number, as one."""
        tensor = self.recorder.constants.get(value.name) if isinstance(value, Ref) else None
        known = tensor is not None and tensor.array.size == 1 and tensor.array.dtype.kind in "iu"
        return int(tensor.array.reshape(())) if tensor is not None and known else value

    def _size(self, operation: str, positional: list[Any]) -> Any:
        """Sizes of the archive's own tensors are known, those of the network's values are not."""
        if not positional:
            return Unknown()
        value, *index = positional
        if operation == "__getitem__" and isinstance(value, list | tuple) and index and isinstance(index[0], int):
            return value[index[0]] if -len(value) <= index[0] < len(value) else Unknown()
        if operation == "len" and isinstance(value, list | tuple):
            return len(value)
        if operation == "__getitem__" and isinstance(value, Size):
            return picked(self.recorder, value, *index)
        shape = self.recorder.shape_of(value)
        if shape is None:
            sized = operation in ("size", "sizes", "sym_size") and isinstance(value, Ref)
            return size_of(self.recorder, value, *index) if sized else Unknown()
        found: dict[str, Any] = {"dim": len(shape), "numel": math.prod(shape)}
        if operation in ("size", "sizes"):
            known = index and isinstance(index[0], int) and -len(shape) <= index[0] < len(shape)
            return shape[index[0]] if known else Unknown() if index else list(shape)
        return found.get(operation, Unknown())

    def _without_tensors(self, node: ast.Call, operation: str, positional: list[Any], named: dict[str, Any]) -> Any:
        """Arithmetic of numbers and sizes; tensors that are made of none."""
        if operation in FACTORIES:
            return self.recorder.record(operation, positional, named)
        if any(isinstance(value, Unknown) for value in positional):
            if len(positional) == 1 and operation in (*_TENSOR_NUMBERS, *_CONVERSIONS):
                return positional[0]
            return counted(self.recorder, operation, positional)
        if operation in _TENSOR_NUMBERS and len(positional) == 1 and isinstance(positional[0], int | float):
            return positional[0]
        if operation in _CONVERSIONS and len(positional) == 1 and isinstance(positional[0], int | float):
            with contextlib.suppress(ValueError, OverflowError):
                return _CONVERSIONS[operation](positional[0])
        if operation in _ARITHMETIC:
            return self._arithmetic(node, operation, positional)
        return self._refuse(node, "calls what is not supported")

    def _arithmetic(self, node: ast.Call, operation: str, values: list[Any]) -> Any:
        """Numbers of 64 bits, as the archive's own interpreter has them; texts are compared at most."""
        numbers = all(isinstance(value, int | float) for value in values)
        plain = all(isinstance(value, int | float | str | None) for value in values)  # lists that share lists take for ever
        if numbers or operation in ("__is__", "__isnot__") or (plain and operation in ("eq", "ne", "__not__")):
            with contextlib.suppress(TypeError, OverflowError):
                result = _ARITHMETIC[operation](*values)
                if not isinstance(result, int) or abs(result) < 1 << 63:
                    return result
        return self._refuse(node, "computes in a way that is not supported")


_NOTHING = object()


def _members(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _is_raise(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "ops.prim.RaiseException"
