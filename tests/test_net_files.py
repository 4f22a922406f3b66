"""A net.toml on every container, folders of files, text and packed words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_npz
from net_containers import CONTAINERS, TOP, Array, described, parts, write_c
from test_net import digest, read

from xnorinfer.converters.netarrays import unpacked
from xnorinfer.errors import NetworkError, SourceError


@pytest.mark.parametrize("name", CONTAINERS)
def test_one_network_in_every_container(tmp_path: Path, name: str) -> None:
    write, rename = CONTAINERS[name]
    reference = read(write_npz(tmp_path / "reference.npz", **parts()), TOP + described({}))
    path = write(tmp_path / name, parts())
    assert digest(read(path, TOP + described({one: rename(one) for one in parts()}))) == digest(reference)


def test_a_folder_of_files(tmp_path: Path) -> None:
    """One raw file with a header between, a .npy, text with numbers, a header; all bytes accounted for."""
    arrays = parts()
    folder = tmp_path / "folder"
    folder.mkdir()
    raw = b"HEAD" + arrays["a/w"].tobytes() + arrays["a/mean"].astype("<f8").tobytes() + b"tail!"
    (folder / "all.bin").write_bytes(raw)
    np.save(folder / "var.npy", arrays["a/var"])
    (folder / "bias.csv").write_text(", ".join(map(str, arrays["a/b"])))
    write_c(folder / "net.h", {"c/w": arrays["c/w"], "other": arrays["a/b"]})
    toml = """
        [arrays."a/w"]
        file = "all.bin"
        format = "raw"
        dtype = "float32"
        shape = [10, 6]
        offset = 4
        [arrays."a/mean"]
        file = "all.bin"
        format = "raw"
        dtype = "float64"
        shape = [6]
        offset = 244
        trailing = 5
        [arrays."a/var"]
        file = "var.npy"
        [arrays."a/b"]
        file = "bias.csv"
        format = "numbers"
        [arrays."c/w"]
        file = "net.h"
        array = "c_w"
    """
    reference = read(write_npz(tmp_path / "reference.npz", **arrays), TOP + described({}))
    assert digest(read(folder, TOP + toml + described({}))) == digest(reference)
    for change, message in {
        "shape = [10, 6]|shape = [10, 7]": 'arrays."a/mean"|arrays.a/mean: shares bytes 244 to 284 of all.bin with arrays.a/w',
        "trailing = 5|": "arrays.a/mean: 5 bytes at the end of all.bin are not used; check shape",
        "offset = 4|offset = 5": "shares bytes",
        'array = "c_w"|array = "c_q"': "arrays.c/w.array: net.h holds 2 arrays: there is no array 'c_q' in it, did you",
        'dtype = "float64"|dtype = "float65"': "arrays.a/mean.dtype: is 'float65', needed is one of float16",
        "shape = [6]|shape = [600000000000]": "arrays.a/mean: all.bin has 297 bytes; 4800000000000 of float64 from byte 244",
    }.items():
        old, new = change.split("|")
        with pytest.raises(NetworkError) as error:
            read(folder, TOP + toml.replace(old, new, 1) + described({}))
        assert message.split("|")[-1] in str(error.value)


@pytest.mark.parametrize("order", ["lsb", "msb"])
@pytest.mark.parametrize(("form", "width"), [("bits", 40), ("bits", 16), ("hex", 40)])
def test_rows_of_characters(tmp_path: Path, order: str, form: str, width: int) -> None:
    """A neuron in one row, in rows of 16 characters with padding, in hexadecimal digits."""
    rng = np.random.default_rng(3)
    bits = rng.integers(0, 2, (5, 40))
    rows = np.pad(bits, ((0, 0), (0, -40 % width))).reshape(-1, width)
    rows = rows[:, ::-1] if order == "msb" else rows
    lines = ["".join(map(str, row)) for row in rows]
    if form == "hex":
        lines = ["".join(f"{int(line[i : i + 4], 2):x}" for i in range(0, width, 4)) for line in lines]
    (tmp_path / "w.mem").write_text("// weights\n" + "\n".join(f"{line[:8]}_{line[8:]}  # row" for line in lines))
    toml = f"""
        [arrays.w]
        format = "{form}"
        order = "{order}"
        shape = [5, 40]
        [input]
        signs = true
        [[layers]]
        name = "head"
        weight = "w"
        values = "bits"
    """
    text = digest(read(tmp_path / "w.mem", 'profile = "gt-zero"\nlayout = "out_in"' + toml))
    plain = TOP.replace("keras-round", "gt-zero").replace("in_out", "out_in")
    head = '[input]\nsigns = true\n[[layers]]\nname = "head"\nweight = "w"\nvalues = "bits"\n'
    assert text == digest(read(write_npz(tmp_path / "n.npz", w=bits), plain + head))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint64"])
@pytest.mark.parametrize("order", ["lsb", "msb"])
def test_packed_words(dtype: str, order: str) -> None:
    rng = np.random.default_rng(4)
    size = np.dtype(dtype).itemsize * 8
    bits = rng.integers(0, 2, (3, 2 * size), dtype=np.uint8)
    words = [
        [sum(int(b) << (i if order == "lsb" else size - 1 - i) for i, b in enumerate(word)) for word in row.reshape(2, size)]
        for row in bits
    ]
    packed = np.array(words, f"uint{size}").view(dtype)
    np.testing.assert_array_equal(unpacked("w", packed, order, None), bits)
    np.testing.assert_array_equal(unpacked("w", packed.reshape(-1), order, (3, 2 * size - 5)), bits[:, :-5])
    with pytest.raises(SourceError, match=r"needs 4 x 2 words"):
        unpacked("w", packed, order, (4, 2 * size))


def test_c_numbers(tmp_path: Path) -> None:
    from xnorinfer.converters.csource import read_c

    text = """
        unsigned char a[] = {0xff, 1u, (uint8_t)7,};
        const unsigned long long b[2] = {0xFFFFFFFFFFFFFFFFull, 2};
        static float c[N][2] = {{1.5f, -2e-3F}, {.25, 3}};
        double d[1][2] = {{1, -0.1}};
        ap_int<4> e[3] = {1, -2, 3};
        struct point f = {1, 2}; int g[2] = {1, 2};
        int8_t aligned[2] __attribute__((aligned(4))) = {-128, 127};
    """
    (tmp_path / "n.h").write_text(text)
    found = {name: entry.load() for name, entry in read_c(tmp_path / "n.h").items()}
    expected: dict[str, Array] = {
        "a": np.array([255, 1, 7], np.uint8),
        "b": np.array([2**64 - 1, 2], np.uint64),
        "c": np.array([1.5, -2e-3, 0.25, 3], np.float32),
        "d": np.array([[1, -0.1]]),
        "e": np.array([1, -2, 3]),
        "g": np.array([1, 2], np.int32),
        "aligned": np.array([-128, 127], np.int8),
    }
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
