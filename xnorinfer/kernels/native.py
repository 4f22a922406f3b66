"""The CPU as LLVM sees it, and object code made callable; all that a process needs when its kernels are compiled already.

Importing numba and starting its compiler takes longer and more memory than everything else in this package together, so a
process that finds its functions on disk (`store`) does without: llvmlite alone loads them.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from llvmlite import binding

#: Small functions that tell a CPU's features by the instructions they become: name -> (LLVM IR, words wanted, word unwanted).
_PROBES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "avx512vpopcntdq": (
        "declare <8 x i64> @llvm.ctpop.v8i64(<8 x i64>)\n"
        "define <8 x i64> @probe(<8 x i64> %x) {\n %r = call <8 x i64> @llvm.ctpop.v8i64(<8 x i64> %x)\n ret <8 x i64> %r\n}",
        ("vpopcntq", "zmm"),
        "?",
    ),
    "avx512bw": (
        "define <32 x i16> @probe(<32 x i16> %x, <32 x i16> %y) {\n %r = mul <32 x i16> %x, %y\n ret <32 x i16> %r\n}",
        ("vpmullw", "zmm"),
        "?",
    ),
    "avx2": (
        "define <8 x i32> @probe(<8 x i32> %x, <8 x i32> %y) {\n %r = add <8 x i32> %x, %y\n ret <8 x i32> %r\n}",
        ("vpaddd", "ymm"),
        "?",
    ),
    "neon": (
        "declare <16 x i8> @llvm.ctpop.v16i8(<16 x i8>)\n"
        "define <16 x i8> @probe(<16 x i8> %x) {\n"
        " %r = call <16 x i8> @llvm.ctpop.v16i8(<16 x i8> %x)\n ret <16 x i8> %r\n}",
        ("cnt", ".16b"),
        "?",
    ),
    "fma": (
        "declare float @llvm.fma.f32(float, float, float)\n"
        "define float @probe(float %x, float %y, float %z) {\n"
        " %r = call float @llvm.fma.f32(float %x, float %y, float %z)\n ret float %r\n}",
        (),
        "fmaf",
    ),
}


def cpu() -> tuple[str, str, str]:
    """(triple, CPU name, features) that code is made for: the host, or what NUMBA_CPU_NAME and NUMBA_CPU_FEATURES say.

    Whoever names a CPU without its features means that CPU, not that name with the features of the host.
    """
    name = os.environ.get("NUMBA_CPU_NAME") or None
    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is None:
        features = "" if name else binding.get_host_cpu_features().flatten()
    return binding.get_process_triple(), name or binding.get_host_cpu_name(), features


@cache
def _machine() -> Any:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple, name, features = cpu()
    return binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3, codemodel="jitdefault")


@cache
def features() -> frozenset[str]:
    """Which of the features that a kernel may ask for this CPU has, found by looking at what LLVM makes of small functions."""
    found = set()
    for name, (code, wanted, unwanted) in _PROBES.items():
        assembly = _machine().emit_assembly(binding.parse_assembly(code))
        if all(word in assembly for word in wanted) and unwanted not in assembly:
            found.add(name)
    return frozenset(found)


def emit(text: str) -> bytes:
    """The object file of an LLVM module, given as text."""
    code: bytes = _machine().emit_object(binding.parse_assembly(text))
    return code


def defined(symbol: str) -> bool:
    """Whether code that is loaded may refer to this symbol of the process."""
    return bool(binding.address_of_symbol(symbol))


#: Engines own the memory of the functions loaded from objects.
_ENGINES: list[Any] = []


def load(code: bytes, name: str) -> int:
    """Address of the function `name` in the bytes of an object file, which stays loaded for good."""
    machine = _machine()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
    engine.add_object_file(binding.ObjectFileRef.from_data(code))
    engine.finalize_object()
    _ENGINES.append(engine)
    address: int = engine.get_function_address(name)
    if not address:
        raise LookupError(f"object code without {name}")
    return address
