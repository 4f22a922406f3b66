"""Drafts of a net.toml for what cannot be converted as it is: they say what is known, and once completed they convert."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import decide, named_arrays, random_layers, write_npz
from command_line import fine, wrong

import xnorinfer
from xnorinfer.errors import NetworkError

f = np.float32


def draft(folder: Path, source: Path, *options: str) -> tuple[str, str]:
    """The refusal of a source and the draft that is written with it."""
    target = folder / "net.toml"
    target.unlink(missing_ok=True)
    said = wrong("convert", source, "--dry-run", "--write-net", target, *options)
    return said, target.read_text()


def completed(text: str) -> str:
    """Without the line that says that nobody has looked yet."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("draft = true"))


def test_what_was_understood_of_a_refused_file(tmp_path: Path) -> None:
    """One BatchNorm is missing: the draft names all that there is, so that one line completes it."""
    layers = random_layers([24, 18, 14, 6], 6, bias=False)
    layers[1].mean = layers[1].variance = layers[1].gamma = layers[1].beta = None
    source = write_npz(tmp_path / "net.npz", **named_arrays(layers))
    refused, text = draft(tmp_path, source, "--profile", "ge-zero", "--bn-epsilon", "1e-3", "--input-signs")
    assert "1: no BatchNorm between this hidden binary layer and 2" in refused
    head, reason, *_ = text.splitlines()
    assert head == "# A draft, to be completed: xnorinfer could not convert this file as it is, because"
    assert reason.startswith("#   - 1: no BatchNorm between")
    assert 'weight = "1.weight"' in text
    assert 'norm = {name = "2.bn", mean = "2.bn.mean"' in text
    x = np.random.default_rng(0).choice(np.array([-1, 1], np.int8), (100, 24))
    with pytest.raises(NetworkError, match="draft: is true: this file was drafted for what could not be converted"):
        xnorinfer.convert(source, net=text)
    model = xnorinfer.convert(source, net=completed(text), threads=1)  # a layer without norm has a sign
    want, _ = decide(layers, x, epsilon=1e-3)
    assert (model.predict(x) == want.argmax(axis=1)).all()


def test_arrays_that_nobody_knows_are_not_ignored(tmp_path: Path) -> None:
    layers = random_layers([24, 18, 6], 6, bias=False)
    arrays = {**named_arrays(layers), "slopes": np.ones(18, f), "bag": np.ones((2, 3, 2, 2, 2), f)}
    source = write_npz(tmp_path / "net.npz", **arrays)
    refused, text = draft(tmp_path, source, "--profile", "ge-zero")
    assert "slopes" in refused
    assert "ignore = [\n" not in text
    assert '# bias, scale, prelu, or of norm: "0.bn.mean"  # 18, float32' in text
    assert '#   "bag"  # 2 x 3 x 2 x 2 x 2, float32' in text
    assert text.count("\n[[layers]]\n") == 2
    assert "net.npz cannot be converted" not in text
    assert "pydoc xnorinfer.converters.nettoml.document" in text
    # As it is it is refused, by what is left to say.
    assert 'layout = "out_in"' in text
    with pytest.raises(NetworkError, match="ignore: no layer uses 10 of the arrays"):
        xnorinfer.convert(source, net=completed(text))


def test_a_folder_of_loose_files(tmp_path: Path) -> None:
    """Text in base 2, decimals, hexadecimal rows, raw numbers, a .npy and an empty file: each by its name and shape."""
    rng = np.random.default_rng(1)
    folder = tmp_path / "loose"
    folder.mkdir()
    first, second = rng.integers(0, 2, (6, 16)), rng.choice([-1, 1], (3, 6))
    (folder / "w.mem").write_text("\n".join("".join(map(str, row)) for row in first))
    (folder / "t.dat").write_text("\n".join(map(str, rng.integers(-3, 4, 6))))
    np.save(folder / "v.npy", second.astype(np.int8))
    (folder / "rows.txt").write_text("0f3A\nbeef\n0000\n")
    (folder / "raw.bin").write_bytes(np.arange(5, dtype=np.float32).tobytes() + b"\x00\xff\xfe\x80")
    (folder / "nothing.dat").write_bytes(b"")
    refused, text = draft(tmp_path, folder)
    assert "is a folder" in refused
    for line in (
        '[arrays.w]\nfile = "w.mem"\nformat = "bits"  # 6 rows of 16 values',
        '[arrays.t]\nfile = "t.dat"\nformat = "numbers"  # 6 x 1\n',
        '[arrays.v]\nfile = "v.npy"\narray = "v"  # 3 x 6, int8',
        '[arrays.rows]\nfile = "rows.txt"\nformat = "hex"  # 3 rows of 16 bits, or format = "numbers" with base = 16',
        '[arrays.raw]\nfile = "raw.bin"\nformat = "raw"\ndtype = "float32"  # of 24 bytes; or another\nshape = [6]',
        '[arrays.nothing]\nfile = "nothing.dat"\n# cannot be read: nothing.dat is empty',
    ):
        assert line in text
    for name in ("raw", "rows", "nothing"):  # what a person sees is no part of the network
        (folder / f"{name}.{ {'raw': 'bin', 'rows': 'txt', 'nothing': 'dat'}[name] }").unlink()
    _, text = draft(tmp_path, folder)
    text = text.replace('weight = "w"', 'weight = "w"\nvalues = "bits"\nthreshold = {value = "t", on = "sum", compare = ">="}')
    text = text.replace("range = [-1, 1]", "signs = true").replace('layout = "in_out"', 'layout = "out_in"')
    order = text.index('[[layers]]\nweight = "v"')
    text = text[:order] + text[text.index('[[layers]]\nweight = "w"') :] + "\n" + '[[layers]]\nweight = "v"\n'
    x = rng.choice(np.array([-1, 1], np.int8), (50, 16))
    thresholds = np.loadtxt(folder / "t.dat")
    want = np.where(x.astype(int) @ (2 * first - 1).T >= thresholds, 1, -1) @ second.T
    assert (xnorinfer.convert(folder, net=completed(text), threads=1).scores(x) == want).all()


def test_what_cannot_be_opened_gives_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "net.toml"
    damaged = tmp_path / "net.npz"
    damaged.write_bytes(b"PK\x03\x04" + bytes(60))
    for source in (damaged, tmp_path / "nowhere", tmp_path):
        wrong("convert", source, "--dry-run", "--write-net", target)
        if source != tmp_path:
            assert not target.exists()
    source = write_npz(tmp_path / "good.npz", **named_arrays(random_layers([24, 18, 6], 6)))
    target.unlink()
    fine("convert", source, "--dry-run", "--write-net", target)
    assert "A draft" not in target.read_text()
