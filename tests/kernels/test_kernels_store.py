"""Compiled functions on disk: found again, never believed when damaged, never needed to be writable."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import HANGS

from xnorinfer.kernels import store

#: Two small functions are enough; prints what had to be compiled and whether numba was needed.
CODE = """
import sys
from xnorinfer.kernels import store
names = []
store.on_compile.append(names.append)
store.address("make_prepare_bits", 5)
store.address("make_prepare_bits", 5)
print(len(names), "numba" in sys.modules)
"""


def run(folder: Path | None, **environment: str) -> str:
    here = {**os.environ, **environment}
    if folder is not None:
        here["XNORINFER_CACHE_DIR"] = str(folder)
    done = subprocess.run([sys.executable, "-c", CODE], env=here, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first process of all leaves."""
    folder = tmp_path_factory.mktemp("new") / "new" / "folder"
    assert run(folder) == "1 True"
    return folder


def test_a_second_process_compiles_nothing_and_needs_no_numba(compiled: Path) -> None:
    assert run(compiled) == "0 False"
    assert [file.suffix for file in compiled.iterdir()] == [".kernel"]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_damaged_files_are_replaced(compiled: Path, tmp_path: Path, damage: str) -> None:
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    else:
        del content[0 if damage == "empty" else 100 :]
    file.write_bytes(content)
    assert run(tmp_path) == "1 True"
    assert run(tmp_path) == "0 False"


def test_another_cpu_has_files_of_its_own(compiled: Path, tmp_path: Path) -> None:
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    assert run(tmp_path, NUMBA_CPU_NAME="generic") == "1 True"
    assert run(tmp_path) == "0 False"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_takes_nothing_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert run(blocked) == "1 True"


def test_changed_sources_have_other_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = store._foundation()
    copy = tmp_path / "kernels"
    copy.mkdir()
    for path in Path(store.__file__).parent.glob("*.py"):
        (copy / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(store, "__file__", str(copy / "store.py"))
    assert store._foundation.__wrapped__() == before
    (copy / "layers.py").write_bytes((copy / "layers.py").read_bytes() + b"\n# edited\n")
    assert store._foundation.__wrapped__() != before


def test_the_package_folder_comes_before_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled when an image was built serves everybody."""
    monkeypatch.delenv("XNORINFER_CACHE_DIR", raising=False)
    package, user = store.folders()
    assert package == Path(store.__file__).parent / "__pycache__"
    assert user.name == "xnorinfer"
    monkeypatch.setenv("XNORINFER_CACHE_DIR", "/somewhere")
    assert store.folders() == [Path("/somewhere")]
