"""Writing: complete or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from xnorinfer.errors import OutputError
from xnorinfer.writing import npy_writer, require_writable, write_json

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
def test_mode_and_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    mask = os.umask(0o027)
    try:
        write_json(tmp_path / "link.json", 1)
    finally:
        os.umask(mask)
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "1\n"
    assert stat.S_IMODE((tmp_path / "real.json").stat().st_mode) == 0o640


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
