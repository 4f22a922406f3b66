"""Full disks and read-only folders: every command that writes says so in one line and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import CHECKPOINT, DIGITS, run, wrong

import xnorinfer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="file systems of POSIX")

#: Name -> a command line (MODEL: a model file) and the file it writes.
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "convert": (("convert", CHECKPOINT, "-o", "OUT"), "m.safetensors"),
    "write-net": (("convert", CHECKPOINT, "--dry-run", "--write-net", "OUT"), "net.toml"),
    "run": (("run", "MODEL", f"{DIGITS}:x", "-o", "OUT"), "classes.npy"),
    "run --scores": (("run", "MODEL", f"{DIGITS}:x", "--scores", "-o", "OUT"), "scores.npy"),
    "run --margins": (("run", "MODEL", f"{DIGITS}:x", "--margins", "-o", "OUT"), "margins.npy"),
    "certificate": (("verify", "MODEL", CHECKPOINT, "--rows", "8", "--certificate", "OUT"), "proof.json"),
    "certificate as text": (("verify", "MODEL", CHECKPOINT, "--rows", "8", "--certificate", "OUT"), "proof.txt"),
    "bench --json": (("bench", "MODEL", "--batch", "1", "--threads", "1", "--seconds", "0.01", "--json", "OUT"), "times.json"),
    "bench --plot": (("bench", "MODEL", "--batch", "1", "--threads", "1", "--seconds", "0.01", "--plot", "OUT"), "times.svg"),
    "demo": (("demo", "--keep", "OUT"), ""),
    "extract": (("extract", "MODEL", "-o", "OUT"), "bits.npz"),
    "score": (("score", "MODEL", f"{DIGITS}:x", "-o", "OUT", "--scores"), ""),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    xnorinfer.convert(CHECKPOINT).save(path)
    return path


def arguments(name: str, model: Path, folder: Path) -> list[str]:
    """The command line of COMMANDS with its files in place; skips what this installation lacks."""
    if name == "bench --plot":
        pytest.importorskip("matplotlib")
    if name == "score":
        pytest.importorskip("pyarrow")
    if name.startswith("bench"):
        pytest.importorskip("threadpoolctl")
    words, out = COMMANDS[name]
    if words[0] not in run("--help").output:
        pytest.skip(f"no command {words[0]}")
    return [{"MODEL": str(model), "OUT": str(folder / out)}.get(word, word) for word in words]


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[None]:
    """A file system of 4 KiB at `folder`; skips where nobody may mount one."""
    mount = shutil.which("mount")
    folder.mkdir()
    if mount is None or os.geteuid():
        pytest.skip("only root can mount a small file system")
    made = subprocess.run([mount, "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write into the folder; for root, whom modes do not stop, it is mounted so."""
    folder.mkdir(exist_ok=True)
    folder.chmod(0o555)
    if os.geteuid():
        try:
            yield
        finally:
            folder.chmod(0o755)
        return
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "--bind", folder, folder], capture_output=True, check=False).returncode:
        pytest.skip("root may write anywhere, and mounting is not allowed here")
    try:
        subprocess.run([mount, "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


WAYS: dict[str, tuple[Callable[[Path], contextlib.AbstractContextManager[None]], str]] = {
    "files limited": (lambda folder: _made(folder, limited(300)), "File too large"),
    "disk full": (tiny_disk, "No space left on device"),
    "read-only": (read_only, "Permission denied|Read-only file system"),
}


@contextlib.contextmanager
def _made(folder: Path, inner: contextlib.AbstractContextManager[None]) -> Iterator[None]:
    folder.mkdir()
    with inner:
        yield


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", COMMANDS)
def test_one_error_and_nothing_left(tmp_path: Path, model: Path, name: str, way: str) -> None:
    surrounding, message = WAYS[way]
    folder = tmp_path / "out"
    line = arguments(name, Path(shutil.copy(model, tmp_path)), folder)
    with surrounding(folder):
        if way == "disk full":
            # A page is the least a file takes; what is left is nothing.
            (folder / "filler").write_bytes(bytes(4096))
        error = wrong(*line)
        left = set(os.listdir(folder)) - {"filler"}
    assert re.search(message, error)
    assert str(folder) in error
    assert left == set()


@pytest.mark.parametrize("way", ["files limited", "read-only"])
def test_the_old_file_stays(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "m.safetensors").write_bytes(b"old")
    with limited(300) if way == "files limited" else read_only(folder):
        error = wrong("convert", CHECKPOINT, "-o", folder / "m.safetensors")
    assert "cannot be written" in error
    assert (folder / "m.safetensors").read_bytes() == b"old"
    assert os.listdir(folder) == ["m.safetensors"]


def test_a_full_standard_output(model: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs a device that is always full")
    for words in (["run", str(model), f"{DIGITS}:x"], ["info", str(model), "--json"], ["--help"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "xnorinfer", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert done.returncode == 2
        assert done.stderr == "error: standard output cannot be written: No space left on device\n"


def test_kernels_that_cannot_be_kept_are_no_error(tmp_path: Path, model: Path) -> None:
    """A cache folder that takes nothing: compiled for this process only, and no half of a file left."""
    script = (
        "import resource, signal, sys\n"
        "from xnorinfer.kernels import store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "store.address('make_prepare_bits', 5)\n"
    )
    environment = {**os.environ, "XNORINFER_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(tmp_path) == []
