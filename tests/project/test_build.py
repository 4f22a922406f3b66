"""What `python -m build` makes, an archive of the sources and from it a wheel, holds all that is needed and nothing else."""

from __future__ import annotations

import email.message
import email.parser
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from places import ROOT

import xnorinfer

#: Folders of a checkout that are installed -> where.
INSTALLED = {"xnorinfer": "xnorinfer", "converters": "xnorinfer/converters", "training": "xnorinfer/training"}
#: Other folders of a checkout, and files beside them, that the tests read.
BESIDE = ("tests", "benchmarks", "docs", "examples", ".ci")
READ = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml", "mkdocs.yml"}
MADE = ("__pycache__", ".pyc", ".egg-info")


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout holds, without what tools left in it."""
    version = metadata.version("setuptools")
    if int(version.partition(".")[0]) < 77:
        pytest.skip(f"pyproject.toml needs setuptools 77 or newer, here is {version}")
    target = tmp_path_factory.mktemp("sources")
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for path in [*files, *(path for name in (*INSTALLED, *BESIDE) for path in sources_of(ROOT / name))]:
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Path:
    """The folder that both lie in."""
    pytest.importorskip("build", reason="python -m build needs the package build")
    target = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(target), str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SetuptoolsDeprecationWarning" not in done.stdout + done.stderr
    return target


def sources_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not any(one in str(path) for one in MADE)]


def test_the_wheel_holds_every_module_and_all_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        info = about.removesuffix("/METADATA")
        found: email.message.Message = email.parser.Parser().parsestr(archive.read(about).decode())
        entries = archive.read(f"{info}/entry_points.txt").decode()
    wanted = {
        f"{place}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, place in INSTALLED.items()
        for path in sources_of(ROOT / folder)
        if folder == "xnorinfer" or path.suffix == ".py"
    }
    assert {name for name in names if not name.startswith(info)} == wanted
    assert found["Version"] == xnorinfer.__version__
    assert f"{info}/licenses/LICENSE" in names
    assert "xnorinfer = xnorinfer.cli:main" in entries


def test_the_archive_of_the_sources_holds_the_tests_and_what_one_reads(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    beside = {path.relative_to(ROOT).as_posix() for folder in BESIDE for path in sources_of(ROOT / folder)}
    assert READ | beside <= names
    assert not [name for name in names if name.endswith((".pyc", "__pycache__"))]


def test_type_checkers_see_the_whole_package_of_a_strict_editable_install(sources: Path, tmp_path: Path) -> None:
    code = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1], {'editable_mode': 'strict'})"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive:
        (pointer,) = (name for name in archive.namelist() if name.endswith(".pth"))
        folder = Path(archive.read(pointer).decode().strip())
    assert all((folder / "xnorinfer" / name).exists() for name in ("py.typed", "keywords.py", "converters/reading.py"))


def test_what_is_built_can_be_published(built: Path) -> None:
    pytest.importorskip("twine", reason="twine check needs the package twine")
    files = map(str, built.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_change_log_tells_of_this_version() -> None:
    assert f"\n## {xnorinfer.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
