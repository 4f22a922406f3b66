"""Compiling: the functions of `layers` and `driver` to object code, through numba.  Imported only when something is missing."""

from __future__ import annotations

from typing import Any

from numba import config, types
from numba.core.ccallback import _CFuncCompiler
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from xnorinfer.kernels import native

# See `native.cpu`; numba would add the features of the host to a CPU that is only named.
if config.CPU_FEATURES is None:
    config.CPU_FEATURES = native.cpu()[2]

from xnorinfer.kernels import driver, layers, nibble_layers, vector_ir


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
    make = next(getattr(module, maker) for module in (layers, nibble_layers, driver) if hasattr(module, maker))
    result = types.int64 if returns else types.void
    compiler = _Compiler(make(*arguments), cpu_target, {"nogil": True}, {}, pipeline_class=Compiler)
    outcome = compiler.compile([types.int64] * arity, result)
    made = outcome.library
    made.enable_object_caching()
    module = made.create_ir_module(symbol)
    context = outcome.target_context
    target = context.declare_function(module, outcome.fndesc)

    def call(builder: Any, values: Any) -> Any:
        # These functions raise nothing, so the status is not looked at.
        return context.call_conv.call_function(builder, target, result, [types.int64] * arity, values)[1]

    vector_ir.define_entry(module, symbol, arity, returns, call)
    made.add_ir_module(module)
    made.finalize()
    return made


def object_code(maker: str, symbol: str, arity: int, arguments: tuple[Any, ...], returns: bool) -> bytes:
    """An object file with the C function `symbol`; see `library`."""
    code: bytes = library(maker, symbol, arity, arguments, returns)._get_compiled_object()
    return code
