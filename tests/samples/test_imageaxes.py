"""Which axes of an array are those of images, and files of images for models that take some."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from xnorinfer.errors import InputError
from xnorinfer.imageaxes import are_channels_first
from xnorinfer.samples.dataio import open_samples, read_labels

SHAPE = (4, 6, 3)


@pytest.mark.parametrize(
    ("shape", "found"),
    [
        (SHAPE, (5, *SHAPE)),
        (SHAPE, (5, 72)),
        (SHAPE, (0, *SHAPE)),
        ((4, 6, 1), (5, 4, 6)),
        ((4, 6, 1), (5, 4, 6, 1)),
        ((4, 6, 1), (5, 1, 4, 6)),
        ((1, 6, 3), (5, 6, 3)),
        ((1, 6, 3), (5, 1, 6, 3)),
        ((4, 4, 4), (5, 64)),
        ((3, 3, 3), (5, 27)),
    ],
)
@pytest.mark.parametrize("source_first", [False, True])
def test_channels_last(shape: tuple[int, ...], found: tuple[int, ...], source_first: bool) -> None:
    assert are_channels_first("x", shape, found, source_first=source_first) is False


@pytest.mark.parametrize(
    ("shape", "found", "turned"),
    [(SHAPE, (5, 3, 4, 6), "(0, 2, 3, 1)"), ((1, 6, 3), (5, 3, 6), "(0, 2, 1)"), ((1, 6, 3), (5, 3, 1, 6), "(0, 2, 3, 1)")],
)
def test_channels_first_where_the_source_has_them(shape: tuple[int, ...], found: tuple[int, ...], turned: str) -> None:
    assert are_channels_first("x", shape, found, source_first=True)
    with pytest.raises(InputError) as caught:
        are_channels_first("x", shape, found, source_first=False)
    assert str(caught.value) == f"x has shape {found}, channels first; this model takes them last: x.transpose{turned}"


REFUSED: list[tuple[tuple[int, ...], tuple[int, ...], str]] = [
    (
        (3, 3, 3),
        (5, 3, 3, 3),
        "which axis has them? Give rows, x.reshape(len(x), -1) for channels last, x.transpose",
    ),
    (SHAPE, (5, 6, 4, 3), "takes images (rows, 4, 6, 3), or their values in rows, (rows, 72)"),
    (SHAPE, (5, 4, 6), "takes images (rows, 4, 6, 3)"),
    (SHAPE, (72,), "takes images (rows, 4, 6, 3)"),
    (SHAPE, (4, 6, 3), "looks like one sample; give it a row axis: x[None]"),
    ((4, 6, 1), (4, 6), "looks like one sample"),
    ((4, 6, 1), (5, 6, 4), "takes images (rows, 4, 6, 1) or (rows, 4, 6), or their values in rows, (rows, 24)"),
    (SHAPE, (), "takes images"),
]


@pytest.mark.parametrize(("shape", "found", "message"), REFUSED)
def test_other_shapes_are_refused(shape: tuple[int, ...], found: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError) as caught:
        are_channels_first("x", shape, found, source_first=True)
    assert message in str(caught.value)


def test_files_of_arrays_are_told_by_their_heads(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((5, 3, 4, 6), np.uint8))
    samples = open_samples([str(tmp_path / "x.npy")], shape=SHAPE)
    samples.require_shape(SHAPE, channels_first=True)
    with pytest.raises(InputError, match=r"x\.npy: has shape \(5, 3, 4, 6\), channels first; .*: x\.transpose\(0, 2, 3, 1\)$"):
        samples.require_shape(SHAPE)
    samples.require_shape((72,))


# ---------------------------------------------------------------- image files


def save(path: Path, pixels: NDArray[np.uint8], mode: str | None = None) -> str:
    image = pytest.importorskip("PIL.Image")
    made = image.fromarray(pixels)
    (made if mode is None else made.convert(mode)).save(path)
    return str(path)


def test_colours_for_models_of_three_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    for number, one in enumerate(pixels):
        save(tmp_path / f"{number}.png", one)
    samples = open_samples([str(tmp_path)], shape=SHAPE)
    samples.require_shape(SHAPE)
    np.testing.assert_array_equal(samples.read(), pixels)
    np.testing.assert_array_equal(np.concatenate(list(samples.batches(2))), pixels)
    assert open_samples([str(tmp_path)], shape=(24,)).shape == (5, 4, 6)  # a model of vectors takes grey pixels
    opaque = np.dstack([pixels[0], np.full((4, 6), 255, np.uint8)])
    (found,) = open_samples([save(tmp_path / "opaque.png", opaque)], shape=SHAPE).read()
    np.testing.assert_array_equal(found, pixels[0])
    few = pixels[1] // 128 * 255  # eight colours, in a table
    palette = save(tmp_path / "palette.png", few, "P")
    with __import__("PIL.Image").Image.open(palette) as image:
        assert image.mode == "P"
        want = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(open_samples([palette], shape=SHAPE).read()[0], want)


def test_images_of_another_kind_or_size_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros(SHAPE, np.uint8)
    good, grey = save(tmp_path / "good.png", pixels), save(tmp_path / "grey.png", pixels[:, :, 0].copy())
    turned = save(tmp_path / "turned.png", pixels.transpose(1, 0, 2).copy())
    cases: list[tuple[list[str], tuple[int, ...], str]] = [
        ([grey], SHAPE, r"grey\.png: is grey \(mode L\), this model takes images of three channels"),
        ([good, grey], SHAPE, r"grey\.png: is grey"),
        ([turned], SHAPE, r"is 4x6 pixels \(width x height\), this model takes 6x4; nothing is resized"),
        ([good, turned], SHAPE, r"is 4x6 pixels \(width x height\), the first image is 6x4"),
        ([turned], (4, 6, 1), r"this model takes 6x4"),
        ([good], (4, 6, 2), r"image files hold 1 channel or 3, this model takes 2; give an array"),
    ]
    for paths, shape, message in cases:
        with pytest.raises(InputError, match=message):
            open_samples(paths, shape=shape).read()


# ---------------------------------------------------------------- CIFAR


@pytest.mark.parametrize("limits", [(10,), (20, 100)])
def test_binary_files_of_cifar(tmp_path: Path, limits: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    labels = np.stack([rng.integers(0, limit, 7) for limit in limits], axis=1).astype(np.uint8)
    planes = rng.integers(0, 256, (7, 3, 32, 32), dtype=np.uint8)
    path = tmp_path / "test_batch.bin"
    np.concatenate([labels, planes.reshape(7, -1)], axis=1).tofile(path)
    samples = open_samples([str(path)], shape=(32, 32, 3))
    samples.require_shape((32, 32, 3))
    np.testing.assert_array_equal(samples.read(), planes.transpose(0, 2, 3, 1))
    assert [len(one) for one in samples.batches(3)] == [3, 3, 1]
    np.testing.assert_array_equal(read_labels(str(path), 7, 100), labels[:, -1])
    with pytest.raises(InputError, match=r"7 images of .* at once would take 42 KiB"):
        next(open_samples([str(path)], max_memory=30_000).batches(7))


def test_other_files_are_none_of_cifar(tmp_path: Path) -> None:
    cases: dict[str, tuple[bytes, str]] = {
        "label.bin": (bytes([10]) + bytes(3072), "of no known kind"),
        "size.bin": (b"\1" + bytes(3074), "of no known kind"),
        "name.dat": (b"\1" + bytes(3072), "of no known kind"),
        "data_batch_1": (pickle.dumps({b"data": [1]}), r"looks like a pickle, which is never loaded; CIFAR has binary files"),
        "packed.bin.gz": (gzip.compress(b"\1" + bytes(3072)), "of no known kind"),
    }
    for name, (content, message) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            open_samples([str(path)])


def test_arrays_are_read_whatever_their_name(tmp_path: Path) -> None:
    x: NDArray[Any] = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with (tmp_path / "x.bin").open("wb") as stream:
        np.save(stream, x)
    np.testing.assert_array_equal(open_samples([str(tmp_path / "x.bin")]).read(), x)
