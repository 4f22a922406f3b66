"""A net.toml on every container, folders of files, text and packed words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpoints import write_npz
from net_containers import CONTAINERS, TOP, Array, described, parts, write_c
from test_net import digest, read

import xnorinfer
from xnorinfer.converters.containers.textfile import looks_like_base_two, read_numbers
from xnorinfer.converters.nettoml.layerarrays import unpacked
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


@pytest.mark.parametrize("digits", ["base 2", "base 16", "base 16, negative"])
def test_thresholds_in_other_bases(tmp_path: Path, digits: str) -> None:
    """As they lie in memory files for FPGAs; what looks like base 2 and is read as decimal is a warning."""
    rng = np.random.default_rng(5)
    negative = digits.endswith("negative")
    thresholds = rng.integers(-9 if negative else 0, 9, 6)
    form = "{:010b}" if digits == "base 2" else "{:03X}"
    lines = [form.format(int(value) & (0x3FF if digits == "base 2" else 0xFFF)) for value in thresholds]
    (tmp_path / "t.mem").write_text("// thresholds\n" + "\n".join(lines))
    bits, head = rng.choice([-1, 1], (6, 16)), rng.choice([-1, 1], (3, 6))
    np.save(tmp_path / "w.npy", bits.astype(np.int8))
    np.save(tmp_path / "v.npy", head.astype(np.int8))
    base = digits.split(",")[0].replace("base", "base =") + ("\nsigned = true" if negative else "")
    toml = f"""
        profile = "ge-zero"
        layout = "out_in"
        [input]
        signs = true
        [arrays.w]
        file = "w.npy"
        [arrays.v]
        file = "v.npy"
        [arrays.t]
        file = "t.mem"
        format = "numbers"
        {base}
        [[layers]]
        weight = "w"
        threshold = {{value = "t", on = "sum", compare = ">="}}
        [[layers]]
        weight = "v"
    """
    x = rng.choice(np.array([-1, 1], np.int8), (50, 16))
    want = np.where(x.astype(int) @ bits.T >= thresholds, 1, -1) @ head.T
    assert (xnorinfer.convert(tmp_path, net=toml, threads=1).scores(x) == want).all()
    assert not read(tmp_path, toml).warnings
    if digits == "base 2":
        decimal = toml.replace("base = 2", "")
        warnings = read(tmp_path, decimal).warnings
        assert warnings[0].startswith("arrays.t: t.mem is read as decimal numbers, but looks like base 2")
        assert not [w for w in read(tmp_path, decimal.replace('"numbers"', '"numbers"\nbase = 10')).warnings if "base 2" in w]
    else:
        refused(tmp_path, toml.replace(base, ""), "needed are decimal numbers; base = 16 reads hexadecimal ones", lines)
    refused(tmp_path, toml.replace(base, "base = 8"), "arrays.t.base: is 2, 10 or 16, and belongs to")
    refused(tmp_path, toml.replace(base, "signed = true"), "arrays.t.signed: belongs to numbers in base 2 or 16")


def refused(path: Path, toml: str, message: str, lines: list[str] | None = None) -> None:
    """Refused with the message; lines that all happen to be decimal are not."""
    if lines is not None and all(line.isdecimal() for line in lines):
        return
    with pytest.raises(NetworkError) as error:
        read(path, toml)
    assert message in str(error.value)


def test_what_looks_like_base_two(tmp_path: Path) -> None:
    for text, answer in {
        "0101\n1100\n": True,
        "1010 1100 1111 1001": True,
        "01": True,
        "1 0 1 1": False,
        "10 11 100": False,
        "101 011": True,
        "12 01": False,
        "1.0 0.1": False,
        "-10 01": False,
    }.items():
        (tmp_path / "t").write_text(text)
        assert looks_like_base_two(tmp_path / "t") == answer
    (tmp_path / "t").write_text("0b101 1_1")
    assert read_numbers(tmp_path / "t", 2).tolist() == [5, 3]
    for text, base in {"2": 2, "g": 16, "1" * 65: 2, "0x": 16, "-1": 2}.items():
        (tmp_path / "t").write_text(text)
        with pytest.raises(SourceError, match=f"needed are whole numbers in base {base}"):
            read_numbers(tmp_path / "t", base)


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
    from xnorinfer.converters.containers.csource import read_c

    text = """
        unsigned char a[] = {0xff, 1u, 7,};
        const unsigned long long b[2] = {0xFFFFFFFFFFFFFFFFull, 2};
        static float c[N][2] = {{1.5f, -2e-3F}, {.25, 3}};
        double d[1][2] = {{1, -0.1}};
        ap_int<4> e[3] = {1, -2, 3};
        struct point f = {1, 2}; int g[2] = {1, 2};
        extern "C" {
        int8_t aligned[2] __attribute__((aligned(4))) = {-128, 127}; // signs; of "w"
        }
        const char *url = "http://example.org"; /* not of it */
        const char *names[2] = {"a", "b"};
        float h[2][N] = {{0x10, 1},
        #if 1
            {2, -.5}};
        #endif
        static const long double i[] = {1e3};
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
        "h": np.array([16, 1, 2, -0.5], np.float32),
        "i": np.array([1e3]),
    }
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
