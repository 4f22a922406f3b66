"""Writing LLVM IR from numba: the only file that knows the IR builder (`native` knows the rest of llvmlite).

`tiles` is written in terms of `Emit` and `Loop`; the rest here are single instructions as numba intrinsics, for the loops in
`layers` and `driver`.  All arguments are int64; addresses are plain integers, so no array object is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from xnorinfer.kernels import native

#: Decorator of what only compiled code calls; without the wrappers for Python.
inner = njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
Value = ir.Value


def vector(element: ir.Type, count: int) -> ir.VectorType:
    """The type of a vector."""
    return ir.VectorType(element, count)


def integer(bits: int) -> ir.Type:
    """The type of integers of so many bits."""
    return ir.IntType(bits)


def overloaded(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Type) -> Any:
    found = builder.module.globals.get(name)
    return found or ir.Function(builder.module, ir.FunctionType(result, list(arguments)), name)


def ctpop(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    suffix = f"v{value.type.count}i{value.type.element.width}"
    return builder.call(overloaded(builder, f"llvm.ctpop.{suffix}", value.type, value.type), [value])


class Emit:
    """An IRBuilder with the few vector idioms that the tiles are made of."""

    def __init__(self, builder: ir.IRBuilder, lanes: int) -> None:
        self.builder, self.lanes = builder, lanes
        self.words = vector(I64, lanes)
        self.doubles = vector(F64, lanes)

    @staticmethod
    def constant(value: int) -> ir.Constant:
        return ir.Constant(I64, value)

    def splat(self, scalar: ir.Value, lanes: int = 0) -> ir.Value:
        """The scalar in every lane, of so many."""
        kind = vector(scalar.type, lanes or self.lanes)
        single = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(
            single, ir.Constant(kind, ir.Undefined), ir.Constant(vector(I32, kind.count), [0] * kind.count)
        )

    def pick(self, value: ir.Value, lanes: list[int]) -> ir.Value:
        """Some lanes of a vector."""
        kind = vector(I32, len(lanes))
        return self.builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), ir.Constant(kind, lanes))

    @staticmethod
    def numbers(kind: ir.VectorType, values: list[int]) -> ir.Constant:
        """A vector of given numbers."""
        return ir.Constant(kind, values)

    def constant_bytes(self, name: str, content: bytes) -> ir.Value:
        """The address of bytes that are part of the module, on a cache line."""
        module, kind = self.builder.module, ir.ArrayType(I8, len(content))
        found = module.globals.get(name)
        if found is None:
            found = ir.GlobalVariable(module, kind, name)
            found.linkage, found.global_constant, found.align = "internal", True, 64
            found.initializer = ir.Constant(kind, bytearray(content))
        return self.builder.ptrtoint(found, I64)

    def mask(self, hits: ir.Value) -> ir.Value:
        """A vector of booleans as one int64, lane 0 in the lowest bit."""
        bits = self.builder.bitcast(hits, ir.IntType(hits.type.count))
        return bits if hits.type.count == 64 else self.builder.zext(bits, I64)

    @staticmethod
    def many(kind: ir.VectorType, value: float) -> ir.Constant:
        return ir.Constant(kind, [value] * kind.count)

    def offset(self, address: ir.Value, index: ir.Value | int, scale: int) -> ir.Value:
        """address + index*scale, all int64."""
        if isinstance(index, int):
            return self.builder.add(address, self.constant(index * scale)) if index else address
        return self.builder.add(address, self.builder.mul(index, self.constant(scale)))

    def choose(self, number: ir.Value, cases: Mapping[int, Callable[[], None]], otherwise: Callable[[], None]) -> None:
        """What one of several writes, by its number."""
        done = self.builder.append_basic_block("chosen")
        other = self.builder.append_basic_block("other")
        switch = self.builder.switch(number, other)
        for value, write in [*cases.items(), (None, otherwise)]:
            block = other
            if value is not None:
                block = self.builder.append_basic_block("case")
                switch.add_case(self.constant(value), block)
            self.builder.position_at_end(block)
            write()
            self.builder.branch(done)
        self.builder.position_at_end(done)

    def load(self, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
        value = self.builder.load(self.builder.inttoptr(address, kind.as_pointer()))
        value.align = align
        return value

    def store(self, value: ir.Value, address: ir.Value, align: int) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer())).align = align


class Loop:
    """`do { body } while (index + step <= stop)` with values carried around; the caller guarantees one turn."""

    def __init__(self, emit: Emit, start: ir.Value, carried: list[ir.Value]) -> None:
        self.emit, self.builder = emit, emit.builder
        entry = self.builder.block
        self.block = self.builder.append_basic_block("loop")
        self.builder.branch(self.block)
        self.builder.position_at_end(self.block)
        self.index = self.builder.phi(I64)
        self.index.add_incoming(start, entry)
        self.values = []
        for value in carried:
            phi = self.builder.phi(value.type)
            phi.add_incoming(value, entry)
            self.values.append(phi)

    def close(self, step: int, stop: ir.Value, carried: list[ir.Value]) -> ir.Value:
        """End the body; the builder then stands behind the loop.  Returns the index after the last turn."""
        following = self.builder.add(self.index, self.emit.constant(step))
        end = self.builder.block
        self.index.add_incoming(following, end)
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, end)
        done = self.builder.append_basic_block("done")
        more = self.builder.icmp_signed("<=", self.builder.add(following, self.emit.constant(step)), stop)
        self.builder.cbranch(more, self.block, done)
        self.builder.position_at_end(done)
        return following

    def close_at(self, reached: ir.Value, stop: ir.Value, carried: list[ir.Value]) -> None:
        """End a body after which the index goes on at `reached`, until that is `stop`."""
        self.index.add_incoming(reached, self.builder.block)
        for phi, value in zip(self.values, carried, strict=True):
            phi.add_incoming(value, self.builder.block)
        done = self.builder.append_basic_block("done")
        self.builder.cbranch(self.builder.icmp_signed("<", reached, stop), self.block, done)
        self.builder.position_at_end(done)


def intrinsic_of(lanes: int, arguments: int, body: Callable[..., ir.Value | None], result: types.Type) -> Any:
    """A numba intrinsic of `arguments` int64 values whose code `body(emit, *values)` writes."""
    names = [f"x{i}" for i in range(arguments)]

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        if lanes > 1:
            # Vectors that registers do not hold lie on the stack; across two cache lines each would take twice the time.
            builder.function.attributes.alignstack = 64
            builder.function.attributes.add("nounwind")  # llvmlite writes no attributes where this set is empty
        out = body(Emit(builder, lanes), *values)
        return context.get_dummy_value() if out is None else out

    signature = result(*[types.int64] * arguments)
    # numba reads the number of arguments off the typing function, so it needs one with the right head.
    scope: dict[str, Any] = {"answer": (signature, codegen)}
    exec(f"def tile(typing_context, {', '.join(names)}):\n    return answer", scope)
    return intrinsic(scope["tile"])


# ---------------------------------------------------------------- scalars


def _scalar(result: types.Type, arguments: int, body: Callable[..., ir.Value | None]) -> Any:
    return intrinsic_of(1, arguments, body, result)


def loader(element: ir.Type, result: types.Type, align: int) -> Any:
    """Intrinsic load(address) of one number."""
    return _scalar(result, 1, lambda emit, address: emit.load(address, element, align))


load_word = loader(I64, types.int64, 8)
#: get(row, field): a field of a table of int64.
get = _scalar(types.int64, 2, lambda emit, row, field: emit.load(emit.offset(row, field, 8), I64, 8))
load_byte = loader(I8, types.uint8, 1)
load_half = loader(I32, types.uint32, 4)
load_short = loader(I16, types.uint16, 2)
load_single = loader(F32, types.float32, 4)
load_double = loader(F64, types.float64, 8)
store_word = _scalar(types.void, 2, lambda emit, address, value: emit.store(value, address, 8))
store_half = _scalar(types.void, 2, lambda emit, address, value: emit.store(emit.builder.trunc(value, I32), address, 4))
store_byte = _scalar(types.void, 2, lambda emit, address, value: emit.store(emit.builder.trunc(value, I8), address, 1))


def _store_float(kind: types.Type, align: int) -> Any:
    @intrinsic
    def store(typing_context: Any, address: Any, value: Any) -> Any:
        def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            Emit(builder, 1).store(values[1], values[0], align)
            return context.get_dummy_value()

        return types.void(types.int64, kind), codegen

    return store


store_single = _store_float(types.float32, 4)
store_double = _store_float(types.float64, 8)


@intrinsic
def double_bits(typing_context: Any, value: Any) -> Any:
    """The bits of a float64 as int64."""
    return types.int64(types.float64), lambda context, builder, signature, values: builder.bitcast(values[0], I64)


@intrinsic
def bits_double(typing_context: Any, value: Any) -> Any:
    """The float64 with these bits."""
    return types.float64(types.int64), lambda context, builder, signature, values: builder.bitcast(values[0], F64)


@intrinsic
def fused_multiply_add(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
    """float32 x*y + z rounded once, by the CPU's own instruction; only where `native.features` has "fma"."""

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
        return builder.call(overloaded(builder, "llvm.fma.f32", F32, F32, F32, F32), values)

    return types.float32(types.float32, types.float32, types.float32), codegen


# ---------------------------------------------------------------- threads


def _atomic_add(emit: Emit, address: ir.Value, value: ir.Value) -> ir.Value:
    pointer = emit.builder.inttoptr(address, I64.as_pointer())
    return emit.builder.atomic_rmw("add", pointer, value, "seq_cst")


def _atomic_load(emit: Emit, address: ir.Value) -> ir.Value:
    return emit.builder.load_atomic(emit.builder.inttoptr(address, I64.as_pointer()), "seq_cst", 8)


def _atomic_store(emit: Emit, address: ir.Value, value: ir.Value) -> None:
    emit.builder.store_atomic(value, emit.builder.inttoptr(address, I64.as_pointer()), "seq_cst", 8)


def _pause(emit: Emit) -> None:
    """Tell the core that this is a spin loop, where there is an instruction for it."""
    machine = native.cpu()[0].split("-")[0]
    if machine in ("x86_64", "amd64"):
        emit.builder.call(overloaded(emit.builder, "llvm.x86.sse2.pause", ir.VoidType()), [])
    elif machine in ("aarch64", "arm64"):
        emit.builder.call(overloaded(emit.builder, "llvm.aarch64.hint", ir.VoidType(), I32), [ir.Constant(I32, 1)])


#: add(address, value) -> the value before; load(address); store(address, value); all sequentially consistent.
atomic_add = _scalar(types.int64, 2, _atomic_add)
atomic_load = _scalar(types.int64, 1, _atomic_load)
atomic_store = _scalar(types.void, 2, _atomic_store)
pause = _scalar(types.void, 0, _pause)


def caller(arguments: int) -> Any:
    """Intrinsic call(function, *arguments): a C call of the function at an address, all int64, nothing returned."""

    def body(emit: Emit, function: ir.Value, *values: ir.Value) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * arguments)
        emit.builder.call(emit.builder.inttoptr(function, kind.as_pointer()), values)

    return _scalar(types.void, arguments + 1, body)


def define_entry(module: ir.Module, symbol: str, arity: int, returns: bool, call: Callable[..., ir.Value]) -> None:
    """Add a C function of `arity` int64 to a module; `call(builder, values)` writes what it does and gives its result."""
    kind = ir.FunctionType(I64 if returns else ir.VoidType(), [I64] * arity)
    function = ir.Function(module, kind, symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    value = call(builder, function.args)
    if returns:
        builder.ret(value)
    else:
        builder.ret_void()
