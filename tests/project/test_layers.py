"""The layer rule: imports point down only.  Walks the syntax tree of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

#: Module (or package) -> what it may import from this project.  Level by level, lowest first.
LEVEL_0 = {
    "oneline",
    "errors",
    "graph",
    "bits",
    "cores",
    "writing",
    "models",
    "budget",
    "memory",
    "float32",
    "npyheader",
    "mappedtensors",
}
LEVEL_1 = {"net"}
LEVEL_2 = {"threshold", "packed", "folding", "canonical", "lower", "modelfile", "description"}
LEVEL_4 = {"buffers", "plan", "margins", "model"}
LEVEL_5 = {
    "conversion",
    "answers",
    "agreement",
    "wording",
    "elimination",
    "dataio",
    "images",
    "verification",
    "verify",
    "sensitivity",
    "alternatives",
    "defaults",
    "programs",
    "certificate",
    "extract",
    "ccode",
    "bench",
    "plot",
    "live",
}
ALLOWED: dict[str, set[str]] = {
    "oneline": set(),
    "errors": {"oneline"},
    "bits": {"errors"},
    "graph": {"errors"},
    "cores": set(),
    "writing": {"errors"},
    "models": {"errors"},
    "budget": {"errors"},
    "npyheader": set(),
    "mappedtensors": set(),
    "memory": {"errors"},
    "float32": set(),
    "net": {"errors", "float32", "graph"},
    **dict.fromkeys(LEVEL_2, LEVEL_0 | LEVEL_1 | LEVEL_2),
    "kernels": LEVEL_0 | {"kernels"},
    "buffers": {"graph"},
    "plan": LEVEL_0 | LEVEL_1 | LEVEL_2 | {"kernels", "buffers"},
    # A Model needs of level 1 only the input mappings.
    "margins": LEVEL_0 | LEVEL_1 | LEVEL_2,
    "model": LEVEL_0 | LEVEL_1 | LEVEL_2 | {"kernels", "plan", "margins"},
    **{name: LEVEL_0 | LEVEL_1 | LEVEL_2 | LEVEL_4 | LEVEL_5 | {"kernels", "converters", ""} for name in LEVEL_5},
    "converters": {"oneline", "errors", "budget", "npyheader", "mappedtensors", "float32", "graph", "net", "converters"},
    "training": {
        "errors",
        "writing",
        "dataio",
        "converters",
        "conversion",
        "description",
        "modelfile",
        "models",
        "model",
        "verify",
        "training",
    },
    "": {
        "answers",
        "net",
        "lower",
        "errors",
        "oneline",
        "budget",
        "model",
        "conversion",
        "modelfile",
        "models",
        "converters",
        "live",
    },
}
EVERYTHING = {"cli", "__main__"}

#: Third-party packages -> the only modules that may import them, at any depth.
ONLY_IN = {"numba": {"kernels"}, "llvmlite": {"kernels"}, "rich": {"cli", "training"}, "click": {"cli", "training"}}


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted((ROOT / "xnorinfer").rglob("*.py")):
        relative = path.relative_to(ROOT / "xnorinfer").with_suffix("")
        found.append(("" if relative.parts == ("__init__",) else relative.parts[0], path))
    for folder in ("converters", "training"):
        found += [(folder, path) for path in sorted((ROOT / folder).rglob("*.py"))]
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda v: v if isinstance(v, str) else v.stem)
def test_imports_point_down_only(module: str, path: Path) -> None:
    for name in imports(path):
        package, _, rest = name.partition(".")
        if package == "xnorinfer" and module not in EVERYTHING:
            target = rest.split(".")[0]
            known = target if target in ALLOWED or target in EVERYTHING else ""
            if known != module:
                assert known in ALLOWED[module], f"{module} must not import {name}"
        if package in ONLY_IN:
            assert module in ONLY_IN[package], f"{module} must not import {package}"


def test_containers_know_neither_networks_nor_sources() -> None:
    """What reads bytes imports, of this project, no more than what is said here."""
    allowed = (
        "xnorinfer.errors",
        "xnorinfer.budget",
        "xnorinfer.npyheader",
        "xnorinfer.mappedtensors",
        "xnorinfer.float32",
        "xnorinfer.converters.containers",
    )
    for path in sorted((ROOT / "converters" / "containers").rglob("*.py")):
        for name in imports(path):
            assert name.startswith(allowed) or not name.startswith("xnorinfer"), f"{path.name} must not import {name}"


@pytest.mark.parametrize("part", ["ir", "binding"])
def test_each_half_of_llvmlite_is_known_to_one_kernel_file(part: str) -> None:
    """Writing code and running it are apart, so that running what is compiled already needs no compiler."""
    users = [path.name for _, path in modules() if any(f"llvmlite.{part}" in name for name in imports(path))]
    assert len(users) == 1, users


def test_frameworks_are_imported_lazily() -> None:
    for module, path in modules():
        if module != "converters":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
                assert name.split(".")[0] not in {"torch", "tensorflow", "keras", "h5py", "onnx", "google"}, path


def test_a_loaded_model_imports_neither_the_float_network_nor_its_oracle() -> None:
    code = (
        "import sys, xnorinfer; xnorinfer.load('mnist-784-1024x3')\n"
        "print(*(name for name in sys.modules if name.startswith('xnorinfer.net.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"xnorinfer.net.ties", "xnorinfer.net.values"}
