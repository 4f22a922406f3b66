"""Image files as samples."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xnorinfer.errors import InputError, MissingExtraError
from xnorinfer.samples.dataio import open_samples

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (12, 4, 5), dtype=np.uint8)


def save(path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path, pixels: NDArray[np.uint8]) -> Path:
    for number, one in enumerate(pixels):
        save(tmp_path / f"{number:02}.{('png', 'bmp', 'pgm')[number % 3]}", one)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"")
    (tmp_path / "inner").mkdir()
    return tmp_path


@pytest.mark.parametrize("batch", [1, 5, 50])
def test_folder_and_list(folder: Path, pixels: NDArray[np.uint8], batch: int) -> None:
    samples = open_samples([str(folder)])
    assert samples.shape == pixels.shape
    assert [Path(name).name[:2] for name in samples.names] == [f"{n:02}" for n in range(12)]
    assert (np.concatenate(list(samples.batches(batch))) == pixels).all()
    some = open_samples([str(folder / "03.png"), str(folder / "01.bmp")])
    assert (some.read() == pixels[[3, 1]]).all()
    one = open_samples([str(folder / "03.png")])
    assert (one.read() == pixels[3:4]).all()


def test_colours_become_grey_and_bits_become_0_or_255(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    save(tmp_path / "grey.png", np.repeat(pixels[0][:, :, None], 3, axis=2))
    assert (open_samples([str(tmp_path / "grey.png")]).read()[0] == pixels[0]).all()
    Image.fromarray(pixels[0] > 128).save(tmp_path / "bits.png")
    assert (open_samples([str(tmp_path / "bits.png")]).read()[0] == np.where(pixels[0] > 128, 255, 0)).all()


def test_bad_images(folder: Path, pixels: NDArray[np.uint8]) -> None:
    def fails(match: str, *names: str) -> None:
        with pytest.raises(InputError, match=match) as caught:
            open_samples([str(folder / name) for name in names]).read()
        assert "\n" not in str(caught.value)

    save(folder / "other.png", pixels[0].T.copy())
    fails(r"other\.png: is 4x5 pixels \(width x height\), the first image is 5x4", "00.png", "other.png")
    Image.fromarray(pixels[0].astype(np.uint16)).save(folder / "deep.png")
    fails(r"deep\.png: has the mode I", "deep.png")
    clear = np.zeros((4, 5, 4), np.uint8)
    save(folder / "clear.png", clear)
    fails("transparent", "clear.png")
    clear[:, :, 3] = 255
    save(folder / "opaque.png", clear)
    assert not open_samples([str(folder / "opaque.png")]).read().any()
    (folder / "broken.png").write_bytes((folder / "00.png").read_bytes()[:50])
    fails(r"broken\.png", "broken.png")
    (folder / "text.png").write_text("not a picture")
    fails("not an image that Pillow can read", "text.png")
    fails("no such file", "gone.png")
    fails("no such file", "00.png", "gone.png")
    fails("is no image file; only images can be given as a list", "00.png", "notes.txt")
    frames = [Image.fromarray(one) for one in pixels[:2]]
    frames[0].save(folder / "film.gif", save_all=True, append_images=frames[1:])
    fails("holds several frames", "film.gif")


def test_without_pillow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xnorinfer\[images\]'"):
        open_samples([str(folder)])
