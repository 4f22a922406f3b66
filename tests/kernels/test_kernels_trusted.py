"""Compiled code is run only if nobody else can have put it there, and only if it is what was written under its name."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from waiting import HANGS

from xnorinfer.kernels import native, objectfile, store, trusted

posix = pytest.mark.skipif(not trusted.POSIX, reason="owners and modes of POSIX")
as_root = pytest.mark.skipif(not trusted.POSIX or os.geteuid() != 0, reason="giving files to another user takes root")
elf = pytest.mark.skipif(sys.platform == "darwin", reason="object files of another format are not looked into")

OTHER = 4242
NAME = "make_prepare_bits-0123.kernel"


def good(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    trusted.write(folder, NAME, b"code")
    assert trusted.read(folder, NAME) == b"code"
    return folder


# ---------------------------------------------------------------- folders and files


@posix
def test_folders_are_made_for_this_user_alone(tmp_path: Path) -> None:
    mask = os.umask(0)
    try:
        trusted.write(tmp_path / "a" / "b", NAME, b"code")
    finally:
        os.umask(mask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o700, "b": 0o700, NAME: 0o644}


@posix
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777, 0o720, 0o702])
def test_folders_that_others_may_write(tmp_path: Path, mode: int) -> None:
    folder = good(tmp_path / "cache")
    folder.chmod(mode)
    for use in (lambda: trusted.read(folder, NAME), lambda: trusted.write(folder, NAME, b"new")):
        with pytest.raises(trusted.DistrustedError, match=rf"can be written by others \(mode {mode:04o}\)"):
            use()


@posix
def test_folders_above_that_others_may_write(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    folder = good(above / "cache")
    above.chmod(0o777)
    with pytest.raises(trusted.DistrustedError, match="who could exchange the folders in it"):
        trusted.read(folder, NAME)
    above.chmod(0o1777)  # as /tmp: nobody can exchange what belongs to others
    assert trusted.read(folder, NAME) == b"code"


@posix
@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_files_that_others_may_write(tmp_path: Path, mode: int) -> None:
    folder = good(tmp_path / "cache")
    (folder / NAME).chmod(mode)
    with pytest.raises(trusted.DistrustedError, match="can be written by others"):
        trusted.read(folder, NAME)
    trusted.write(folder, NAME, b"new")
    assert trusted.read(folder, NAME) == b"new"


@as_root
@pytest.mark.parametrize("what", ["folder", "file", "above", "link"])
def test_what_belongs_to_another_user(tmp_path: Path, what: str) -> None:
    above = tmp_path / "above"
    above.mkdir()
    folder = good(above / "cache")
    (above / "link").symlink_to(folder)
    assert trusted.read(above / "link", NAME) == b"code"
    target = {"folder": folder, "file": folder / NAME, "above": above, "link": above / "link"}[what]
    os.chown(target, OTHER, OTHER, follow_symlinks=False)
    with pytest.raises(trusted.DistrustedError, match=f"belongs to user {OTHER}, neither to root nor to this process"):
        trusted.read(above / "link", NAME)


@as_root
def test_root_leaves_the_cache_of_a_user_alone(tmp_path: Path) -> None:
    """With the user's HOME, as sudo may leave it."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, OTHER, OTHER)
    with pytest.raises(trusted.DistrustedError, match=f"belongs to user {OTHER}"):
        trusted.write(home / ".cache" / "xnorinfer", NAME, b"code")
    assert not list(home.iterdir())


@as_root
def test_a_user_takes_what_root_has_put_there() -> None:
    with tempfile.TemporaryDirectory() as given:  # pytest's own folders are root's alone
        Path(given).chmod(0o755)
        folder = good(Path(given) / "cache")
        folder.chmod(0o755)
        (folder / NAME).chmod(0o644)
        pid = os.fork()
        if pid == 0:
            code = 2
            try:
                os.setgid(OTHER)
                os.setuid(OTHER)
                code = 0 if trusted.read(folder, NAME) == b"code" else 1
            finally:
                os._exit(code)  # whatever happens, this copy of the test run ends here
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.parametrize("folder", [Path("cache"), Path("~/.cache/xnorinfer"), Path()])
def test_relative_folders_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (lambda: trusted.read(folder, NAME), lambda: trusted.write(folder, NAME, b"code")):
        with pytest.raises(trusted.DistrustedError, match="is not an absolute path"):
            use()
    assert not list(tmp_path.iterdir())


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path.relative_to(Path.cwd())))


def _huge(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


def _precious(path: Path) -> None:
    precious = path.parent.parent / "precious"
    precious.write_bytes(b"precious")
    precious.chmod(0o600)
    path.symlink_to(precious)


ODD: dict[str, Callable[[Path], object]] = {
    "link": _precious,
    "dangling": lambda path: path.symlink_to(path.parent.parent / "precious"),
    "fifo": _fifo,
    "socket": _socket,
    "folder": Path.mkdir,
    "huge": _huge,
    "device": lambda path: path.symlink_to("/dev/zero"),
}


@posix
@pytest.mark.parametrize("what", ODD)
def test_odd_entries_are_neither_read_nor_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """And nothing waits for somebody to write into a FIFO."""
    folder = good(tmp_path / "cache")
    (folder / NAME).unlink()
    monkeypatch.chdir(folder)
    ODD[what](folder / NAME)
    with pytest.raises((trusted.DistrustedError, OSError)):
        trusted.read(folder, NAME)
    if what == "folder":
        with pytest.raises(OSError, match="directory"):
            trusted.write(folder, NAME, b"new")
    else:
        trusted.write(folder, NAME, b"new")
        assert trusted.read(folder, NAME) == b"new"
    assert [entry.name for entry in folder.iterdir()] == [NAME]
    precious = tmp_path / "precious"
    assert precious.exists() == (what == "link")
    assert not precious.exists() or (precious.read_bytes(), precious.stat().st_mode & 0o777) == (b"precious", 0o600)


@posix
def test_links_without_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(trusted.DistrustedError, match="too many symbolic links"):
        trusted.read(tmp_path / "a" / "cache", NAME)


@posix
def test_own_links_on_the_way(tmp_path: Path) -> None:
    """Home folders whose cache lies on another disk."""
    (tmp_path / "scratch" / "me").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".cache").symlink_to("../scratch/me")
    trusted.write(tmp_path / "home" / ".cache" / "xnorinfer", NAME, b"code")
    assert trusted.read(tmp_path / "scratch" / "me" / "xnorinfer", NAME) == b"code"


def test_a_file_without_a_home_is_kept_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a user that nobody knows: "~" stays as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(store.ENVIRONMENT, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert trusted.reason_against(store.folders()[-1]) == f"{store.folders()[-1]} is not an absolute path"


# ---------------------------------------------------------------- what is loaded


@pytest.fixture(scope="module")
def compiled() -> bytes:
    from xnorinfer.kernels import build

    return build.object_code("make_prepare_bits", "xnorinfer_make_prepare_bits", 5, (), False)


@pytest.fixture
def compilations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled: bytes) -> Iterator[list[str]]:
    """A store of its own in `tmp_path`; what it compiles."""
    from xnorinfer.kernels import build

    names: list[str] = []
    monkeypatch.setenv(store.ENVIRONMENT, str(tmp_path))
    monkeypatch.setattr(build, "object_code", lambda *arguments: compiled)
    monkeypatch.setattr(store, "_addresses", {})
    store._tell.cache_clear()
    store.on_compile.append(names.append)
    yield names
    store.on_compile.remove(names.append)


def again() -> int:
    store._addresses.clear()
    return store.address("make_prepare_bits", 5)


#: What a file may hold with the right digest: from its code to other bytes.
WRONG: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda code: b"",
    "text": lambda code: b"garbage" * 100,
    "zeros": lambda code: bytes(4096),
    "head": lambda code: code[:64],
    "cut": lambda code: code[: len(code) // 2],
    "archive": lambda code: b"!<arch>\n" + code,
    "bitcode": lambda code: b"BC\xc0\xde" + bytes(100),
    "another symbol": lambda code: code.replace(b"xnorinfer_make_prepare_bits", b"xnorinfer_make_prepare_bitz"),
    "another machine": lambda code: code[:18] + b"\x08\x00" + code[20:],
    "sections far away": lambda code: code[:40] + (1 << 62).to_bytes(8, "little") + code[48:],
    "many sections": lambda code: code[:60] + b"\xff\xff" + code[62:],
}


@elf
@pytest.mark.parametrize("what", WRONG)
def test_wrong_code_with_a_right_digest(
    tmp_path: Path, compilations: list[str], compiled: bytes, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    again()
    (file,) = tmp_path.iterdir()
    file.write_bytes(store.sealed(file.name, WRONG[what](compiled)))
    loaded: list[bytes] = []
    load = native.load
    monkeypatch.setattr(native, "load", lambda code, name: loaded.append(code) or load(code, name))
    assert again()
    assert (compilations, loaded) == (["make_prepare_bits"] * 2, [compiled])
    assert again()  # replaced
    assert len(compilations) == 2


def test_a_file_under_another_name(tmp_path: Path, compilations: list[str], compiled: bytes) -> None:
    again()
    (file,) = tmp_path.iterdir()
    file.write_bytes(store.sealed("make_drive-0123.kernel", compiled))
    again()
    assert len(compilations) == 2


@elf
def test_code_that_needs_what_nothing_defines(tmp_path: Path) -> None:
    import shutil

    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    for text, message in {
        "extern long nowhere_to_be_found(long); long wanted(long x) { return nowhere_to_be_found(x); }": "needs nowhere_to_be",
        "long other(long x) { return x; }": "does not define wanted",
        "extern void *memset(void *, int, unsigned long); void *wanted(void *x) { return memset(x, 0, 9999); }": "",
    }.items():
        (tmp_path / "a.c").write_text(text)
        subprocess.run([compiler, "-c", "-O0", "-mcmodel=large", "-fno-pic", "a.c"], cwd=tmp_path, check=True)
        code = (tmp_path / "a.o").read_bytes()
        if message:
            with pytest.raises(objectfile.ObjectFileError, match=message):
                objectfile.require_loadable(code, "wanted")
        else:
            objectfile.require_loadable(code, "wanted")


@posix
def test_a_folder_of_somebody_else_is_told_once(
    tmp_path: Path, compilations: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        again()
        again()
    assert len(compilations) == 2
    assert not list(tmp_path.iterdir())
    (record,) = caplog.records
    assert "neither taken from there nor kept there" in record.getMessage()
    assert "can be written by others (mode 0777)" in record.getMessage()


SETTINGS = """
import hashlib, numba
if {other}:  # as a .numba_config.yaml in the working directory would
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = "generic", ""
    numba.config.OPT, numba.config.DISABLE_JIT = type(numba.config.OPT)(0), 1
if {used}:
    numba.config.DISABLE_JIT = 0
    numba.njit("i8(i8)")(lambda x: x + 1)
from xnorinfer.kernels import build, native
calls, emit = [], native.emit
native.emit = lambda text: calls.append(1) or emit(text)
code = build.object_code("make_prepare_bits", "xnorinfer_make_prepare_bits", 5, (), False)
assert native.load(code, "xnorinfer_make_prepare_bits")
assert numba.config.CPU_NAME == ("generic" if {other} else None)
print(len(calls), hashlib.sha256(code).hexdigest())
"""


def test_settings_of_numba_do_not_reach_the_cache() -> None:
    """Code is for the CPU that its name stands for, whatever numba is set to, or was set to when it was first used."""
    results = []
    for other, used in ((False, False), (True, False), (True, True)):
        code = SETTINGS.format(other=other, used=used)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=HANGS, check=False)
        assert done.returncode == 0, done.stderr
        results.append(done.stdout.split())
    assert results[0] == results[1]
    assert [count for count, _ in results] == ["0", "0", "1"]
