"""The layer rule: imports point down only.  Walks the syntax tree of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

#: Modules and packages, lowest first: each imports from its own level and those below.  docs/design.md describes them.
LEVELS: tuple[tuple[str, ...], ...] = (
    ("oneline", "checkout", "float32", "npyheader", "mappedtensors", "cores"),
    ("errors",),
    ("spelling",),
    ("graph", "bits", "files", "shipped", "budget", "memory", "report", "imageaxes"),
    ("net",),
    ("packing",),
    ("kernels",),
    ("engine",),
    ("samples",),
    (
        "converters.containers",
        "converters.kernelaxes",
        "converters.latents",
        "converters.zeroone",
        "converters.reading",
        "converters.finding",
    ),
    ("converters.evidence", "converters.networkparts"),
    ("converters.assemble",),
    ("converters.usual",),
    ("converters.graphs", "converters.naming"),
    ("converters.kerasmodels", "converters.torchgraphs", "converters.mxnetgraphs", "converters.tfliteoperators"),
    ("converters.tfgraphs",),
    (
        *("converters.bnnpynq", "converters.keras", "converters.mxnet", "converters.onnx", "converters.tf1"),
        *("converters.tflite", "converters.torch"),
    ),
    ("converters.npz", "converters.livekeras", "converters.livetorch"),
    ("converters", "converters.nettoml", "converters.otherfiles", "converters.othersources"),
    ("conversion", "keywords", "proof"),
    ("export", "speed"),
    ("training",),
    ("scoring", "sklearn"),
    ("ray",),
    ("",),
    ("serve",),
    ("cli", "__main__"),
)
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}
#: What some import of this project at most.
ONLY: dict[str, set[str]] = {
    "net": {"errors", "float32", "graph"},
    "kernels": {"bits", "errors", "files", "float32"},
    "samples": {"budget", "errors", "files", "imageaxes", "npyheader"},
    "serve": {"oneline", "errors", "files", "shipped", "packing", "engine", ""},
    "converters.containers": {"budget", "errors", "float32", "mappedtensors", "npyheader"},
    **{
        unit: {"oneline", "errors", "budget", "npyheader", "mappedtensors", "float32", "graph", "net", "report", "converters"}
        for unit in LEVEL
        if unit.startswith("converters") and unit != "converters.containers"
    },
}

#: Third-party packages -> the only modules that may import them, at any depth.
ONLY_IN = {
    "numba": {"kernels"},
    "llvmlite": {"kernels"},
    "rich": {"cli", "training"},
    "click": {"cli", "training"},
    "starlette": {"serve"},
    "uvicorn": {"serve"},
    "prometheus_client": {"serve"},
    "sklearn": {"sklearn", "training"},
    "pyarrow": {"scoring"},
    "ray": {"ray"},
}


def modules() -> dict[str, Path]:
    """Every module by its name behind `xnorinfer.`, packages by their own; "" is the package itself."""
    found = {}
    for folder, prefix in (("xnorinfer", ()), ("converters", ("converters",)), ("training", ("training",))):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = (*prefix, *path.relative_to(ROOT / folder).with_suffix("").parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def unit_of(module: str) -> str:
    """The module or package that has a level."""
    parts = module.split(".")
    return ".".join(parts[: 2 if parts[0] == "converters" else 1])


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


def imported(module: str) -> set[str]:
    """The modules of this project that one imports, also inside functions; but for the version."""
    names = {name.removeprefix("xnorinfer").lstrip(".") for name in imports(MODULES[module]) if name.startswith("xnorinfer")}
    found = {name if name in MODULES else name.rpartition(".")[0] for name in names - {"__version__"}}
    return found - {module}


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    unit = unit_of(module)
    for name in imported(module):
        other = unit_of(name)
        assert LEVEL[other] <= LEVEL[unit], f"{module} must not import {name}"
        if unit in ONLY and other != unit:
            assert other in ONLY[unit] or other.split(".")[0] in ONLY[unit], f"{module} must not import {name}"
    for name in imports(MODULES[module]):
        package = name.split(".")[0]
        if package in ONLY_IN:
            assert module.split(".")[0] in ONLY_IN[package], f"{module} must not import {package}"


def test_no_module_imports_itself_over_others() -> None:
    """But for what is imported inside functions by a module that its own helpers know."""
    known = {("net.check", "net.network"), ("converters", "converters.nettoml.document"), ("samples.dataio", "samples.images")}
    below = {module: imported(module) for module in MODULES if module}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for other in below.get(module, set()) - {"", *(b for a, b in known if a == module)}:
                visit(other, (*path, module))
            done.add(module)

    for module in below:
        visit(module, ())


def test_no_two_modules_share_a_name() -> None:
    """Those of the command line are called as its commands."""
    names = [module.rpartition(".")[2] for module in MODULES if module and not module.startswith("cli.")]
    twice = {name for name in names if names.count(name) > 1}
    assert twice == {"__main__"}


@pytest.mark.parametrize("part", ["ir", "binding"])
def test_each_half_of_llvmlite_is_known_to_one_kernel_file(part: str) -> None:
    """Writing code and running it are apart, so that running what is compiled already needs no compiler."""
    users = [path.name for path in MODULES.values() if any(f"llvmlite.{part}" in name for name in imports(path))]
    assert len(users) == 1, users


def test_frameworks_are_imported_lazily() -> None:
    for module, path in MODULES.items():
        if not module.startswith("converters"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                name = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
                assert name.split(".")[0] not in {"torch", "tensorflow", "keras", "h5py", "onnx", "google"}, path


def test_a_checkout_is_one_package() -> None:
    """Where the checkout itself is imported, converters and training are found beside it, and nothing else is."""
    code = (
        "import importlib.util, xnorinfer, xnorinfer.converters.npz\n"
        "training = importlib.util.find_spec('xnorinfer.training')\n"  # imported it would ask for torch
        "assert training.origin == xnorinfer.__file__.replace('xnorinfer/__init__', 'training/__init__')\n"
        "print(xnorinfer.__file__)\n"
        "for name in ('xnorinfer', 'tests', 'benchmarks', 'converters.xnorinfer'):\n"
        "    try:\n"
        "        print('a second copy:', importlib.import_module(f'xnorinfer.{name}'))\n"
        "    except ModuleNotFoundError:\n"
        "        pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [Path(line) for line in done.stdout.splitlines()] == [ROOT / "xnorinfer" / "__init__.py"]


def test_a_loaded_model_imports_neither_the_float_network_nor_its_oracle() -> None:
    code = (
        "import sys, xnorinfer; xnorinfer.load('mnist-784-1024x3')\n"
        "print(*(name for name in sys.modules if name.startswith('xnorinfer.net.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"xnorinfer.net.ties", "xnorinfer.net.values", "xnorinfer.net.windows"}
