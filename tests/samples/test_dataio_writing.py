"""Writing: complete or not at all."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path

import numpy as np
import pytest

from xnorinfer.errors import OutputError
from xnorinfer.files import npy_writer, require_writable, write_json

INT64 = np.dtype(np.int64)


@pytest.mark.parametrize("shape", [(10,), (10, 3), (0,), (0, 3)])
def test_rows_come_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 99, shape)
    with npy_writer(tmp_path / "out.npy", shape, INT64) as writer:
        for start in range(0, shape[0], 4):
            writer.write(array[start : start + 4])
        assert not (tmp_path / "out.npy").exists()
    read = np.load(tmp_path / "out.npy")
    assert read.dtype == INT64
    assert np.array_equal(read, array)
    assert os.listdir(tmp_path) == ["out.npy"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out.npy"
    target.write_bytes(b"old")

    def interrupted() -> None:
        with npy_writer(target, (10,), INT64) as writer:
            writer.write(np.arange(4))
            raise error

    with pytest.raises(error):
        interrupted()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.npy"]


def test_wrong_rows_are_a_defect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="4 rows written, 10 announced"), npy_writer(tmp_path / "o", (10,), INT64) as writer:
        writer.write(np.arange(4))
    with pytest.raises(ValueError, match="float64"), npy_writer(tmp_path / "o", (4,), INT64) as writer:
        writer.write(np.arange(4.0))
    assert os.listdir(tmp_path) == []


def test_json(tmp_path: Path) -> None:
    write_json(tmp_path / "o.json", {"a": [1, 2.5, "ü"]})
    assert json.loads((tmp_path / "o.json").read_text(encoding="utf-8")) == {"a": [1, 2.5, "ü"]}


@pytest.mark.skipif(os.name != "posix", reason="modes and links of POSIX")
@pytest.mark.parametrize("mode", [None, 0o600, 0o640, 0o664, 0o666, 0o755, 0o6711])
def test_mode_and_symbolic_link(tmp_path: Path, mode: int | None) -> None:
    """A new file has the mode that the umask leaves, one that replaces another has its mode, without setuid and setgid."""
    real = tmp_path / "real.json"
    (tmp_path / "link.json").symlink_to("real.json")
    if mode is not None:
        real.write_text("old")
        real.chmod(mode)
    mask = os.umask(0o027)
    try:
        write_json(tmp_path / "link.json", 1)
    finally:
        os.umask(mask)
    assert (tmp_path / "link.json").is_symlink()
    assert real.read_text() == "1\n"
    assert stat.S_IMODE(real.stat().st_mode) == (0o640 if mode is None else mode & 0o777)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
def test_the_content_is_never_more_open_than_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "out.npy").touch(mode=0o600)
    with npy_writer(tmp_path / "out.npy", (1,), INT64) as writer:
        writer.write(np.arange(1))
        assert [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(".xnorinfer-*")] == [0o600]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="giving files to another user takes root")
def test_root_leaves_a_file_to_its_owner(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.touch(mode=0o640)
    os.chown(target, 4242, 4243)
    write_json(target, 1)
    found = target.stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (4242, 4243, 0o640)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="groups of POSIX")
def test_rights_of_a_group_that_cannot_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file comes into another group, whose members were among the others before."""
    target = tmp_path / "out.json"
    target.touch()
    target.chmod(0o664)
    real = os.fstat

    def another_group(handle: int) -> os.stat_result:
        found = list(real(handle))
        found[stat.ST_GID] += 1
        return os.stat_result(found)

    monkeypatch.setattr(os, "fstat", another_group)
    write_json(target, 1)
    monkeypatch.undo()
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="access lists of Linux")
def test_access_lists_stay(tmp_path: Path) -> None:
    # Version 2; owner rw, user 4242 r, group none, mask r, others none: (tag, permissions, id) each.
    entries = ((1, 6, -1), (2, 4, 4242), (4, 0, -1), (16, 4, -1), (32, 0, -1))
    access = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)
    target = tmp_path / "out.json"
    target.touch()
    try:
        os.setxattr(target, "system.posix_acl_access", access)
    except OSError as error:
        pytest.skip(f"no access lists here: {error}")
    write_json(target, 1)
    assert os.getxattr(target, "system.posix_acl_access") == access
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_unwritable_places(tmp_path: Path) -> None:
    def fails(match: str, path: Path, *inputs: Path) -> None:
        with pytest.raises(OutputError, match=match):
            require_writable(path, *inputs)

    (tmp_path / "file").write_text("x")
    fails("is a folder", tmp_path)
    fails("there is no folder", tmp_path / "none" / "out.npy")
    fails("cannot be written", tmp_path / "file" / "out.npy")
    fails("is an input of this command", tmp_path / "file", tmp_path / "other", tmp_path / "file")
    fails("too long", tmp_path / ("x" * 300))
    if Path("/dev/null").exists():
        fails("not a regular file", Path("/dev/null"))
    require_writable(tmp_path / "file", tmp_path / "other")
    require_writable(tmp_path / "new")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = Path.open

    def full(self: Path, mode: str = "r", *args: object, **options: object) -> object:
        if mode == "xb":
            real_open(self, mode).close()
            return open("/dev/full", "wb")
        return real_open(self, mode)

    monkeypatch.setattr(Path, "open", full)
    message = r"out\.npy: cannot be written: No space left on device"
    with pytest.raises(OutputError, match=message), npy_writer(tmp_path / "out.npy", (100_000,), INT64) as writer:
        writer.write(np.arange(100_000))
    with pytest.raises(OutputError, match="No space left"):
        write_json(tmp_path / "o.json", {"small": 1})
    assert os.listdir(tmp_path) == []
