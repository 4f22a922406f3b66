"""What is taken from numba and llvmlite without their promise: is it there, in the version that is installed?

A failure names that version.  The first one that lacks something is where `numba_private` needs another way, or
`pyproject.toml` an upper bound.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from pathlib import Path
from typing import Any

import numba
import pytest

import xnorinfer.kernels
from xnorinfer.kernels import build, native, numba_private

#: llvmlite's documented interface, which it is about to exchange for another way of loading code (ORCJIT for MCJIT).
LLVMLITE = (
    "create_mcjit_compiler",
    "parse_assembly",
    "address_of_symbol",
    "get_process_triple",
    "get_host_cpu_name",
    "get_host_cpu_features",
    "initialize_native_target",
    "initialize_native_asmprinter",
    "Target.from_triple",
    "Target.create_target_machine",
    "ObjectFileRef.from_data",
    "ExecutionEngine.add_object_file",
    "ExecutionEngine.finalize_object",
    "ExecutionEngine.get_function_address",
    "targets.TargetMachine.emit_object",
    "targets.TargetMachine.emit_assembly",
)


def found(path: str) -> Any:
    """The object of a dotted name, module or attribute.  Raises AttributeError or ImportError."""
    parts = path.split(".")
    where: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=2):
        where = getattr(where, part) if hasattr(where, part) else importlib.import_module(".".join(parts[:depth]))
    return where


@pytest.mark.parametrize("name", numba_private.PRIVATE)
def test_numba_still_has(name: str) -> None:
    try:
        found(name)
    except (AttributeError, ImportError) as error:
        why = numba_private.PRIVATE[name]
        pytest.fail(f"numba {numba.__version__} is the first version seen without {name} ({why}): {error}")


@pytest.mark.parametrize("name", LLVMLITE)
def test_llvmlite_still_has(name: str) -> None:
    try:
        found(f"llvmlite.binding.{name}")
    except (AttributeError, ImportError) as error:
        version = importlib.metadata.version("llvmlite")
        pytest.fail(f"llvmlite {version} is the first version seen without binding.{name}: {error}")


def test_the_list_is_whole() -> None:
    """Whatever `numba_private` imports from numba, or asks of what it was given, is in its list."""
    tree = ast.parse(Path(numba_private.__file__).read_text())
    listed = {name.rsplit(".", 1)[-1] for name in numba_private.PRIVATE} | {
        part for name in numba_private.PRIVATE for part in name.split(".")
    }
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("numba")
        for alias in node.names
    }
    assert imported - listed == {"types"}  # documented
    ours = {"compile", "library", "int64", "void", "items", "codegen", "target_context", "fndesc", "call_conv", "emit", "cpu"}
    ours |= {"rsplit", "pipeline_class", "contextmanager"}
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert asked - listed - ours == set()


def test_only_one_file_knows_them() -> None:
    for path in Path(xnorinfer.kernels.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            private = [name for name in names if name.startswith("numba.") and name != "numba.extending"]
            assert not private or path.name == "numba_private.py", (path.name, private)


def test_they_do_what_they_are_needed_for() -> None:
    """An object file with the C function, for this CPU, without wrappers for Python."""
    made = build.library("make_prepare_bits", "wanted", 5, (), False)
    code = numba_private.object_code(made)
    assert native.load(code, "wanted")
    assert b"wanted" in code
    assert b"cpython." not in code
    assert b"PyObject" not in code
    assert native.load(native.emit(made.get_llvm_str()), "wanted")
    codegen = found("numba.core.registry.cpu_target.target_context").codegen()
    assert [type(part) for part in codegen.magic_tuple()] == [str] * 3
    assert codegen.magic_tuple() == native.cpu()
