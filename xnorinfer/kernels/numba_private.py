"""Everything of numba that is not its documented interface, in one file: what a new version of numba may break.

`tests/kernels/test_numba_private.py` looks for each of `PRIVATE` and names the version that lacks it; `.ci/run` does so with
the oldest and the newest versions that are allowed.  Nothing else in the package imports from `numba.core`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from xnorinfer.errors import KernelError
from xnorinfer.kernels import native

try:
    from numba import config, types
    from numba.core.ccallback import _CFuncCompiler
    from numba.core.compiler import Compiler
    from numba.core.compiler_lock import global_compiler_lock
    from numba.core.registry import cpu_target
except ValueError as error:  # such as NUMBA_NUM_THREADS=0
    raise KernelError(f"numba, which compiles the kernels, refuses its environment variables NUMBA_...: {error}") from None

#: numba's settings that go into code, and what they are here: its own defaults, whatever the environment or a
#: `.numba_config.yaml` in the working directory say, for neither is part of the name that code is kept under.  The CPU comes
#: from `native.cpu`, which is.
SETTINGS: dict[str, Any] = {
    "OPT": type(config.OPT)(3),
    "LOOP_VECTORIZE": 1,
    "SLP_VECTORIZE": 0,
    "BOUNDSCHECK": None,
    "DEBUGINFO_DEFAULT": 0,
    "DISABLE_JIT": 0,
}

_CODEGEN, _COMPILER = "numba.core.codegen", "numba.core.compiler"
#: What this file takes from numba without its promise, and what for.  All of it is the same from 0.61.0 to 0.68.1.
PRIVATE: dict[str, str] = {
    "numba.core.ccallback._CFuncCompiler._customize_flags": "compiles without wrappers for Python",
    f"{_COMPILER}.Compiler": "the stages of compiling",
    **{
        f"{_COMPILER}.Flags.{flag}": "compiles without wrappers for Python"
        for flag in ("no_cpython_wrapper", "no_cfunc_wrapper")
    },
    **{f"{_COMPILER}.Flags.{flag}": "code for a file, not for this process" for flag in ("no_compile", "enable_pyobject")},
    "numba.core.compiler_lock.global_compiler_lock": "one compilation at a time",
    "numba.core.registry.cpu_target.target_context": "the CPU as numba's target",
    "numba.core.registry.CPUTarget._toplevel_target_context": "tells whether numba was set up for another CPU before",
    f"{_CODEGEN}.CPUCodegen.magic_tuple": "tells for which CPU it was set up",
    f"{_CODEGEN}.CPUCodeLibrary.create_ir_module": "adds the C function",
    f"{_CODEGEN}.CPUCodeLibrary.add_ir_module": "adds the C function",
    f"{_CODEGEN}.CPUCodeLibrary.finalize": "links and optimizes",
    f"{_CODEGEN}.CPUCodeLibrary.get_llvm_str": "code for another CPU than numba was set up for",
    f"{_CODEGEN}.CodeLibrary.enable_object_caching": "gives the object file",
    f"{_CODEGEN}.CodeLibrary._get_compiled_object": "gives the object file",
    "numba.core.cpu.CPUContext.declare_function": "calls the compiled function from the C function",
    "numba.core.callconv.CPUCallConv.call_function": "calls the compiled function from the C function",
    "numba.core.config.reload_config": "settings stay as they are while this package compiles",
    **{f"numba.core.config.{name}": "what code is made of" for name in (*SETTINGS, "CPU_NAME", "CPU_FEATURES")},
}


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """numba as it is set for this package, in the block."""
    config.reload_config()  # else the compiler would do so in the midst of the block
    _, name, features = native.cpu()
    wanted = {**SETTINGS, "CPU_NAME": name, "CPU_FEATURES": features}
    before = {name: getattr(config, name) for name in wanted}
    for name, value in wanted.items():
        setattr(config, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


def _is_set_up() -> bool:
    """Whether numba has made what it generates code with, for the CPU it was then set to; it keeps that for good."""
    return "_toplevel_target_context" in vars(cpu_target)


_set_up_before = _is_set_up()
with settings():
    cpu_target.target_context.codegen()
#: Whether numba generates code for the CPU of `native.cpu`: set up here, or by somebody who did not ask for another one.
_OURS = (not _set_up_before and _is_set_up()) or cpu_target.target_context.codegen().magic_tuple() == native.cpu()


class _Compiler(_CFuncCompiler):
    """numba's compiler for a function that neither Python nor numba will call."""

    def _customize_flags(self, flags: Any) -> Any:
        flags.no_cpython_wrapper = True
        flags.no_cfunc_wrapper = True
        flags.no_compile = True
        flags.enable_pyobject = False
        return flags


@global_compiler_lock
def library(
    function: Callable[..., Any],
    arity: int,
    returns: bool,
    define: Callable[[Any, Callable[[Any, Any], Any]], None],
) -> Any:
    """numba's code library with a Python function of `arity` int64, compiled; returns an int64 or nothing.

    define(module, call) adds a C function to an LLVM module; `call(builder, values)` writes the call of the compiled one.
    """
    result = types.int64 if returns else types.void
    with settings():
        compiler = _Compiler(function, cpu_target, {"nogil": True}, {}, pipeline_class=Compiler)
        outcome = compiler.compile([types.int64] * arity, result)
        made = outcome.library
        made.enable_object_caching()
        module = made.create_ir_module("entry")
        context = outcome.target_context
        target = context.declare_function(module, outcome.fndesc)

        def call(builder: Any, values: Any) -> Any:
            # These functions raise nothing, so the status is not looked at.
            return context.call_conv.call_function(builder, target, result, [types.int64] * arity, values)[1]

        define(module, call)
        made.add_ir_module(module)
        made.finalize()
    return made


def object_code(made: Any) -> bytes:
    """The object file of a code library, for the CPU of `native.cpu`."""
    code: bytes = made._get_compiled_object() if _OURS else native.emit(made.get_llvm_str())
    return code
