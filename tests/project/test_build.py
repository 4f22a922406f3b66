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
MADE = ("__pycache__", ".pyc", ".egg-info")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that both lie in."""
    pytest.importorskip("build", reason="python -m build needs the package build")
    version = metadata.version("setuptools")
    if int(version.partition(".")[0]) < 77:
        pytest.skip(f"pyproject.toml needs setuptools 77 or newer, here is {version}")
    scratch = tmp_path_factory.mktemp("build")
    sources = scratch / "sources"
    copy_sources(sources)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(scratch / "dist"), str(sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SetuptoolsDeprecationWarning" not in done.stdout + done.stderr
    return scratch / "dist"


def sources_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not any(one in str(path) for one in MADE)]


def copy_sources(target: Path) -> None:
    """What a checkout holds, without what tools left in it."""
    folders = [*INSTALLED, "tests", "benchmarks", ".ci"]
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for path in [*files, *(path for name in folders for path in sources_of(ROOT / name))]:
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


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
    read = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "pyproject.toml", ".ci/run"}
    tests = {path.relative_to(ROOT).as_posix() for path in sources_of(ROOT / "tests")}
    assert read | tests <= names
    assert not [name for name in names if name.endswith((".pyc", "__pycache__"))]


def test_what_is_built_can_be_published(built: Path) -> None:
    pytest.importorskip("twine", reason="twine check needs the package twine")
    files = map(str, built.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_change_log_tells_of_this_version() -> None:
    assert f"\n## {xnorinfer.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
