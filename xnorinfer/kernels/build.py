"""Compiling: the functions of `layers` and `driver` to object code, through numba.  Imported only when something is missing."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import config, types
from numba.core.ccallback import _CFuncCompiler
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from xnorinfer.kernels import native

# See `native.cpu`; numba would add the features of the host to a CPU that is only named.
if config.CPU_FEATURES is None:
    config.CPU_FEATURES = native.cpu()[2]

from xnorinfer.kernels import driver, layers


class _Compiler(_CFuncCompiler):
    """numba's compiler for a function that neither Python nor numba will call."""

    def _customize_flags(self, flags: Any) -> Any:
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True
        flags.enable_pyobject = False
        return flags


@global_compiler_lock
def library(maker: str, symbol: str, arity: int, arguments: tuple[Any, ...], returns: bool) -> Any:
    """numba's code library with a C function `symbol` of `arity` int64; returns an int64 or nothing."""
    make = getattr(layers, maker, None) or getattr(driver, maker)
    result = types.int64 if returns else types.void
    compiler = _Compiler(make(*arguments), cpu_target, {"nogil": True}, {}, pipeline_class=Compiler)
    outcome = compiler.compile([types.int64] * arity, result)
    made = outcome.library
    made.enable_object_caching()
    word = ir.IntType(64)
    module = made.create_ir_module(symbol)
    function = ir.Function(module, ir.FunctionType(word if returns else ir.VoidType(), [word] * arity), symbol)
    builder = ir.IRBuilder(function.append_basic_block())
    context = outcome.target_context
    target = context.declare_function(module, outcome.fndesc)
    # These functions raise nothing, so the status is not looked at.
    _, value = context.call_conv.call_function(builder, target, result, [types.int64] * arity, function.args)
    if returns:
        builder.ret(value)
    else:
        builder.ret_void()
    made.add_ir_module(module)
    made.finalize()
    return made


def object_code(maker: str, symbol: str, arity: int, arguments: tuple[Any, ...], returns: bool) -> bytes:
    """An object file with the C function `symbol`; see `library`."""
    code: bytes = library(maker, symbol, arity, arguments, returns)._get_compiled_object()
    return code
