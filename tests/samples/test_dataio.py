"""Reading samples and labels: every kind of file, streamed in any batch size; every kind of damage."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import npy_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from xnorinfer.errors import InputError
from xnorinfer.samples.dataio import open_array, open_samples, read_labels, split_member

IDX_CODES = {"u1": 0x08, "i1": 0x09, ">i2": 0x0B, ">i4": 0x0C, ">f4": 0x0D, ">f8": 0x0E}


def idx_bytes(array: NDArray[Any], dtype: str = "u1") -> bytes:
    """An IDX file as its description says, built by hand."""
    head = bytes([0, 0, IDX_CODES[dtype], array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return head + array.astype(dtype).tobytes()


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (23, 4, 5), dtype=np.uint8)


def write_kind(folder: Path, kind: str, array: NDArray[Any]) -> str:
    """Save an array as one kind of file; gives what to name on the command line."""
    path = folder / f"data.{kind}"
    if kind == "npy":
        np.save(path, array)
    elif kind == "fortran.npy":
        np.save(path, np.asfortranarray(array))
    elif kind == "npy.gz":
        path.write_bytes(gzip.compress(npy_bytes(array)))
    elif kind == "npz":
        np.savez(path, array)
    elif kind == "packed.npz":
        np.savez_compressed(path, other=np.arange(3), x=array)
        return f"{path}:x"
    elif kind == "fortran.npz":
        np.savez_compressed(path, np.asfortranarray(array))
    elif kind == "idx":
        path.write_bytes(idx_bytes(array))
    elif kind == "idx.gz":
        path.write_bytes(gzip.compress(idx_bytes(array)))
    return str(path)


KINDS = ("npy", "fortran.npy", "npy.gz", "npz", "packed.npz", "fortran.npz", "idx", "idx.gz")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 7, 23, 100])
def test_reads_every_kind_in_batches(tmp_path: Path, pixels: NDArray[np.uint8], kind: str, batch: int) -> None:
    samples = open_samples([write_kind(tmp_path, kind, pixels)])
    assert samples.shape == pixels.shape
    assert samples.dtype == np.uint8
    for _ in range(2):  # a file can be read again
        batches = list(samples.batches(batch))
        assert [len(b) for b in batches[:-1]] == [batch] * (len(batches) - 1)
        assert (np.concatenate(batches) == pixels).all()
    assert (samples.read(5) == pixels[:5]).all()
    assert samples.read().shape == pixels.shape


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(["u1", "i1", ">i2", "<i2", ">i4", "<f4", ">f4", "<f8", "?"]),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    batch=st.integers(1, 7),
    seed=st.integers(0, 2**32),
)
def test_reads_any_numbers(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: list[int], batch: int, seed: int
) -> None:
    array = np.random.default_rng(seed).integers(-100, 100, shape).astype(dtype)
    path = tmp_path_factory.getbasetemp() / "any.npy"
    np.save(path, array)
    samples = open_array(str(path))
    assert samples.dtype.isnative
    got = list(samples.batches(batch))
    assert sum(len(b) for b in got) == shape[0]
    for part in got:
        assert part.dtype == samples.dtype
    if got:
        assert np.array_equal(np.concatenate(got), array)


@pytest.mark.parametrize("dtype", IDX_CODES)
def test_idx_types(tmp_path: Path, dtype: str) -> None:
    array = np.random.default_rng(1).integers(0, 100, (6, 3))
    (tmp_path / "x").write_bytes(idx_bytes(array, dtype))
    read = open_array(str(tmp_path / "x")).read()
    assert read.dtype == np.dtype(dtype).newbyteorder("=")
    assert (read == array).all()


def test_the_kind_is_told_from_the_content(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    (tmp_path / "wrong.npz").write_bytes(gzip.compress(idx_bytes(pixels)))
    assert (open_array(str(tmp_path / "wrong.npz")).read() == pixels).all()


def bad_files() -> dict[str, tuple[bytes, str]]:
    array = np.arange(60, dtype=np.uint8).reshape(12, 5)
    npy, idx = npy_bytes(array), idx_bytes(array)
    archive = io.BytesIO()
    np.savez_compressed(archive, np.random.default_rng(0).integers(0, 255, (12, 50), dtype=np.uint8))
    damaged = bytearray(archive.getvalue())
    damaged[-200] ^= 0xFF
    empty_zip = io.BytesIO()
    zipfile.ZipFile(empty_zip, "w").close()
    huge = bytes([0, 0, 8, 2]) + struct.pack(">II", 2**32 - 1, 5)
    objects = npy_bytes(np.array([{}, None], dtype=object), allow_pickle=True)
    return {
        "empty": (b"", "is empty"),
        "text": (b"hello world, this is no array", "no known kind"),
        "npy-cut": (npy[:-7], "truncated"),
        "npy-cut-in-header": (npy[:40], "header"),
        "npy-header-garbage": (npy[:10] + b"(" * 80 + npy[90:], "header"),
        "npy-objects": (objects, "Python objects"),
        "npy-strings": (npy_bytes(np.array(["a", "b"])), "dtype <U1"),
        "npy-complex": (npy_bytes(np.array([1j, 2])), "dtype complex128"),
        "npy-scalar": (npy_bytes(np.array(3)), "single number"),
        "npy-version": (b"\x93NUMPY\x09\x00" + npy[8:], "format version 9.0"),
        "idx-cut": (idx[:-1], "truncated"),
        "idx-cut-in-header": (idx[:9], "truncated inside its IDX header"),
        "idx-extra": (idx + b"x", "left over"),
        "idx-huge": (huge + bytes(50), "truncated"),
        "idx.gz-huge": (gzip.compress(huge + bytes(50)), "4294967295 rows announced, 10 complete rows found"),
        "idx.gz-cut": (gzip.compress(idx)[:-12], "damaged or truncated"),
        "idx.gz-short": (gzip.compress(idx[:-1]), "12 rows announced, 11 complete rows found"),
        "idx.gz-extra": (gzip.compress(idx + b"x"), "left over"),
        "idx.gz-checksum": (gzip.compress(idx)[:-8] + bytes(8), "damaged or truncated"),
        "gz-garbage": (b"\x1f\x8b" + bytes(30), "damaged or truncated"),
        "npz-damaged": (bytes(damaged), "damaged or truncated"),
        "npz-cut": (archive.getvalue()[:-30], "damaged or truncated"),
        "npz-empty": (empty_zip.getvalue(), "without arrays"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_damage_is_one_clear_line(tmp_path: Path, name: str) -> None:
    content, message = bad_files()[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        for _ in open_samples([str(path)]).batches(5):
            pass
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_special_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_samples([str(tmp_path / "none.npy")])
    with pytest.raises(InputError, match="no image files in this folder"):
        open_samples([str(tmp_path)])
    with pytest.raises(InputError, match="is a folder"):
        open_array(str(tmp_path))
    with pytest.raises(InputError, match="no input given"):
        open_samples([])
    with pytest.raises(InputError, match="not a regular file"):
        open_array("/dev/null")


def test_choosing_from_an_archive(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    path = tmp_path / "two.npz"
    np.savez(path, x=pixels, y=np.arange(23))
    with pytest.raises(InputError, match=r"holds 2 arrays; choose one by its name: .*two\.npz:x, .*two\.npz:y"):
        open_array(str(path))
    with pytest.raises(InputError, match=r"has no array 'z'; it holds x, y"):
        open_array(f"{path}:z")
    assert (open_array(f"{path}:y").read() == np.arange(23)).all()
    np.save(tmp_path / "really.npy", pixels)
    (tmp_path / "really.npy").rename(tmp_path / "not.npz")
    with pytest.raises(InputError, match=r"is no \.npz archive"):
        open_array(f"{tmp_path / 'not.npz'}:x")


def test_split_member(tmp_path: Path) -> None:
    assert split_member("a/b.npz:x") == (Path("a/b.npz"), "x")
    assert split_member("C:\\data.npz") == (Path("C:\\data.npz"), None)
    assert split_member("b.npy:x") == (Path("b.npy:x"), None)
    odd = tmp_path / "odd.npz:x"
    odd.write_bytes(b"")
    assert split_member(str(odd)) == (odd, None)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 7), r"takes \(rows, 20\)"),
        ((20,), "without a row axis"),
        ((4, 5), r"one sample needs a row axis"),
        ((3, 4, 6), r"of 20 values"),
    ],
)
def test_require_shape(tmp_path: Path, shape: tuple[int, ...], message: str) -> None:
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(InputError, match=message):
        open_samples([str(tmp_path / "x.npy")]).require_shape((20,))


def test_require_shape_accepts_any_trailing_shape(tmp_path: Path) -> None:
    for shape in ((3, 20), (3, 4, 5), (3, 2, 2, 5), (0, 20)):
        np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
        open_samples([str(tmp_path / "x.npy")]).require_shape((20,))


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("kind", ["npy", "column.npy", "float.npy", "npz", "idx", "idx.gz", "txt"])
def test_labels_of_every_kind(tmp_path: Path, kind: str) -> None:
    truth = np.random.default_rng(3).integers(0, 10, 50)
    path = tmp_path / f"labels.{kind}"
    if kind == "txt":
        path.write_text("\n".join(map(str, truth)) + "\n\n")
    elif kind == "npz":
        np.savez(path, truth)
    elif kind == "column.npy":
        np.save(path, truth[:, None])
    elif kind == "float.npy":
        np.save(path, truth.astype(np.float32))
    elif kind == "npy":
        np.save(path, truth)
    else:
        raw = idx_bytes(truth)
        path.write_bytes(gzip.compress(raw) if kind.endswith("gz") else raw)
    labels = read_labels(str(path), 50, 10)
    assert labels.dtype == np.int64
    assert (labels == truth).all()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(49, int), "holds 49 labels for 50 samples"),
        (np.zeros((50, 10), int), "needed is one class number per sample"),
        (np.full(50, 10), r"label 0 is 10; the model has the classes 0\.\.9"),
        (np.r_[np.zeros(49, int), -1], r"label 49 is -1"),
        (np.r_[np.zeros(49), 0.5], r"label 49 is 0\.5; labels are whole numbers"),
        (np.r_[np.zeros(49), np.nan], r"label 49 is nan"),
    ],
)
def test_wrong_labels(tmp_path: Path, labels: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(InputError, match=message):
        read_labels(str(tmp_path / "y.npy"), 50, 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [("1\n2\n", "holds 2 labels for 3"), ("1\ntwo\n3\n", "line 2 is 'two'"), ("1 2 3\n", "line 1"), ("", "holds 0 labels")],
)
def test_wrong_text_labels(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "y.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_labels(str(tmp_path / "y.txt"), 3, 10)
    with pytest.raises(InputError, match="no such file"):
        read_labels(str(tmp_path / "missing.txt"), 3, 10)
