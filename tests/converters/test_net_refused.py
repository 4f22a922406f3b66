"""What wrong and hostile files get from a net.toml."""

from __future__ import annotations

import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_npz
from net_containers import CONTAINERS, TOP, described, parts
from test_net import digest, read

from xnorinfer.errors import NetworkError, OptionError, SourceError

# ---------------------------------------------------------------- mistakes

GOOD = TOP + described({})

#: What is changed in a good file -> the line that says what is wrong.
MISTAKES = {
    'profile = "keras-round"|profile = "keras"': "profile: is 'keras', needed is one of tf1-round",
    'profile = "keras-round"|': "profile: is missing",
    'layout = "in_out"|layuot = "in_out"': "layuot: unknown key, did you mean layout?",
    'layout = "in_out"|': "layers[0].layout: is missing, here or at the top",
    "raw = true|raw = true\nthreshold = 3": "input: raw and threshold exclude each other",
    "raw = true|affine = [0, 1, 1]": "input.affine: input mapping (0.0, 1.0, 1.0) has a zero slope or divisor",
    "raw = true|affine = [1, 1e300, 1]": "input.affine: the input mapping takes pixels out of the range of float32",
    "raw = true|threshold = 0": "input.threshold: is 0, needed is a whole number from 1 to 255",
    "raw = true|range = [1, 1]": "input.range: input range 1:1 maps every pixel to one value",
    "raw = true|range = [1]": "input.range: is [1], needed is [LOW, HIGH]",
    "raw = true|": "input: needs one of range, normalize",
    'weight = "a/w"|weight = "a/ww"': "layers[0].weight: there is no array 'a/ww', did you mean a/w?",
    'weight = "a/w"|weight = "a/b"': "layers[0].weight: a/b has shape (6,), needed are two dimensions, (inputs, neurons)",
    'weight = "c/w"|weight = "a/w"': "layers[0].weight and layers[1].weight use the same array a/w; if that is",
    'bias = "a/b"|bias = "c/w"': "layers[0].bias: c/w has shape (6, 4), needed are 6 values or one for all",
    'bias = "a/b"|': 'ignore: no layer uses 1 of the arrays; "a/b" may be bias, scale, prelu or a part of norm or',
    'bias = "a/b"|bias = true': "layers[0].bias: is True, needed is the name of an array",
    "epsilon = 1e-3|epsilon = -1": "layers[0].norm.epsilon: is -1, needed is a finite number, 0 or above",
    "epsilon = 1e-3|eps = 1e-3": "layers[0].norm.eps: unknown key, did you mean epsilon?",
    ", epsilon = 1e-3|": "layers[0].norm.epsilon: is missing, here or at the top; TensorFlow",
    ', variance = "a/var"|': "layers[0].norm: needs mean and one of variance, std, inv_std; it has mean",
    'variance = "a/var"|inv_std = "a/var"': "layers[0].norm: inv_std contains the epsilon",
    'name = "head"|name = "first"': "layers[1].name: there are two layers called first",
    'name = "head"|name = "head"\nthreshold = 3': "layers[1].threshold: is 3, needed is a table",
    'name = "head"|kind = "float"': "layers[0].activation: is missing: a float layer follows",
    'name = "head"|values = "signs"': "24 values of c/w are neither -1 nor 1, the first at [0, 0]",
    'name = "head"|h = 1e999': "layers[1].h: is inf, needed is a finite number above 0",
    'name = "head"|layers = 1': "layers[1].layers: unknown key",
    'name = "head"|steps = [{mul = 1, add = 2}]': "layers[1].steps[0]: add and mul exclude each other",
}


@pytest.mark.parametrize("change", MISTAKES)
def test_one_line_per_mistake(tmp_path: Path, change: str) -> None:
    old, new = change.split("|")
    assert old in GOOD
    at = GOOD.rindex(old)
    with pytest.raises(NetworkError) as error:
        read(write_npz(tmp_path / "n.npz", **parts()), GOOD[:at] + new + GOOD[at + len(old) :])
    assert [line for line in error.value.problems if MISTAKES[change] in line], error.value.problems
    assert all("\n" not in line for line in error.value.problems)


def test_all_mistakes_at_once(tmp_path: Path) -> None:
    toml = GOOD.replace("raw", "rawr").replace("a/var", "a/vra").replace('"head"', "3").replace("keras-round", "x")
    with pytest.raises(NetworkError) as error:
        read(write_npz(tmp_path / "n.npz", **parts()), toml)
    found = {line.split(":")[0] for line in error.value.problems}
    assert {"profile", "input.rawr", "layers[0].norm.variance", "layers[1].name", "ignore"} <= found


@pytest.mark.parametrize("values", ["signs", "bits"])
def test_zeros_among_binary_weights_are_counted(tmp_path: Path, values: str) -> None:
    w = np.ones((5, 8), np.int8)
    w[1, 2] = w[3, 4] = 0 if values == "signs" else -1
    toml = f'profile = "ge-zero"\nlayout = "out_in"\n[input]\nraw = true\n[[layers]]\nweight = "w"\nvalues = "{values}"\n'
    expected = "exactly 0, the first at [1, 2] (a ternary" if values == "signs" else "neither 0 nor 1, the first at [1, 2]"
    with pytest.raises(NetworkError, match="2 of 40 values of w are ") as error:
        read(write_npz(tmp_path / "n.npz", w=w), toml)
    assert expected in str(error.value)


def test_shared_arrays(tmp_path: Path) -> None:
    toml = GOOD.replace('name = "head"', 'name = "head"\nscale = "one"').replace(
        'name = "first"', 'name = "first"\nscale = "one"'
    )
    path = write_npz(tmp_path / "n.npz", **parts(), one=np.float32([2]))
    with pytest.raises(NetworkError, match=r'say shared = \["one"\]'):
        read(path, toml)
    read(path, 'shared = ["one"]\n' + toml)


# ---------------------------------------------------------------- hostile files


@pytest.mark.parametrize("file", ["../secret.npy", "/etc/passwd", "a\\\\b", "C:x", "link.npy", "up/secret.npy", "none", "."])
def test_nothing_outside_the_folder_is_read(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(tmp_path / "secret.npy", np.ones((3, 3)))
    (folder / "link.npy").symlink_to(tmp_path / "secret.npy")
    (folder / "up").symlink_to(tmp_path)
    toml = (
        f'profile = "ge-zero"\nlayout = "out_in"\n[input]\nraw = true\n[arrays.w]\nfile = "{file}"\n[[layers]]\nweight = "w"\n'
    )
    with pytest.raises(NetworkError, match=r"arrays\.w\.file: "):
        read(folder, toml)


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "w.bin")
    toml = 'profile = "ge-zero"\n[input]\nraw = true\n[arrays.w]\nfile = "w.bin"\n[[layers]]\nweight = "w"\n'
    with pytest.raises(NetworkError, match="no regular file"):
        read(tmp_path, toml)


class Bomb:
    def __init__(self, leaves: Path) -> None:
        self._leaves = leaves

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._leaves),)


def test_pickles_do_not_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "n.pt").write_bytes(pickle.dumps({"a/w": Bomb(tmp_path / "ran")}, protocol=2))
    with pytest.raises(SourceError, match=r"n\.pt holds no arrays"):
        read(tmp_path / "n.pt", GOOD)
    objects = np.empty(1, object)
    objects[0] = Bomb(tmp_path / "ran")
    np.savez(tmp_path / "n.npz", **parts(), none=np.array(None), bomb=objects)  # type: ignore[arg-type]
    read(tmp_path / "n.npz", 'ignore = ["none", "bomb"]\n' + GOOD)  # Chainer stores None
    with pytest.raises(NetworkError, match="holds objects, needed are real numbers"):
        read(tmp_path / "n.npz", 'ignore = ["none", "a/w"]\n' + GOOD.replace('"a/w"', '"bomb"'))
    assert not (tmp_path / "ran").exists()


def test_numbers_of_other_hdf5_files_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    (tmp_path / "raw").write_bytes(b"\0" * 400)
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file.create_dataset("a/w", (10, 10), "<f4", external=[(str(tmp_path / "raw"), 0, 400)])
    with pytest.raises(SourceError, match="in other files"):
        read(tmp_path / "n.h5", GOOD)
    with h5py.File(tmp_path / "n.h5", "w") as file:
        file.create_dataset("a/w", (1 << 20, 1 << 20), "<f4", chunks=True)
    with pytest.raises(SourceError, match="more than the file holds"):
        read(tmp_path / "n.h5", GOOD)


def test_hdf5_of_anybody_may_be_compressed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "plain.h5", "w") as plain, h5py.File(tmp_path / "packed.h5", "w") as packed:
        for name, array in parts().items():
            plain.create_dataset(name, data=array)
            packed.create_dataset(name, data=array, compression="gzip", chunks=True)
        packed["again"] = packed["a/w"]
        packed["group"] = h5py.SoftLink("/a")
        packed["nothing"] = h5py.Empty("f4")
        packed["text"] = "not a part of it"
    names = {use.name for use in read(tmp_path / "plain.h5", GOOD).reading.tensors}
    with pytest.raises(NetworkError, match="no layer uses 2 of the arrays") as error:
        read(tmp_path / "packed.h5", GOOD)
    assert "nothing" in str(error.value)
    again = read(tmp_path / "packed.h5", 'ignore = ["nothing", "text"]\n' + GOOD)
    assert digest(again) == digest(read(tmp_path / "plain.h5", GOOD))
    assert {use.name for use in again.reading.tensors if not use.ignored} == names


C_MISTAKES = {
    "int8_t w[2][2] = {{1, -1}, {1}};": "innermost braces hold different numbers of values, 1 to 2",
    "int8_t w[2][2] = {{1, -1}, {1, x}};": "'x', which is no number",
    "int8_t w[2][2] = {1, -1, 1};": "is declared (2, 2) but 3 values follow",
    "int8_t w[2][2] = {1, -1, 1, 300};": "300",
    "int8_t w[2][2] = {1, -1, 1, 010};": "octal",
    "int8_t w[2][2] = {1, -1, 1, 0.5};": "integer type and holds fractions",
    "int8_t w[2][2] = {1, -1, 1": "not closed",
    "int8_t w[2][2] = {1, -1, /* 1": "ends within a comment",
    "int8_t w; // no array": "holds no array of numbers",
}


@pytest.mark.parametrize("text", C_MISTAKES)
def test_wrong_c_sources(tmp_path: Path, text: str) -> None:
    (tmp_path / "n.h").write_text(text)
    with pytest.raises(SourceError) as error:
        read(tmp_path / "n.h", GOOD)
    assert C_MISTAKES[text] in str(error.value)


@pytest.mark.parametrize(
    "toml",
    ["x = " + "[" * 5000 + "]" * 5000, "x = " + "9" * 5000, "a.b = 1\na = 2", "[layers]\n", "layers = []", "#" * (1 << 21)],
)
def test_hostile_toml(tmp_path: Path, toml: str) -> None:
    with pytest.raises((OptionError, NetworkError)):
        read(write_npz(tmp_path / "n.npz", **parts()), toml)


@pytest.mark.parametrize("name", CONTAINERS)
def test_damaged_containers(tmp_path: Path, name: str) -> None:
    """Cut anywhere or with bytes changed, a container gives an error of ours or a network, never a traceback."""
    write, rename = CONTAINERS[name]
    path = write(tmp_path / name, parts())
    toml = TOP + described({one: rename(one) for one in parts()})
    whole = path.read_bytes()
    rng = np.random.default_rng(8)
    for _ in range(25):
        content = bytearray(whole[: int(rng.integers(1, len(whole)))] if rng.random() < 0.4 else whole)
        for _ in range(int(rng.integers(1, 5))):
            content[int(rng.integers(len(content)))] = int(rng.integers(256))
        path.write_bytes(content)
        with contextlib.suppress(SourceError, NetworkError):
            read(path, toml)


# ---------------------------------------------------------------- one cause, one problem


def problems(path: Path, toml: str) -> list[str]:
    with pytest.raises(NetworkError) as error:
        read(path, toml)
    return list(error.value.problems)


def test_a_file_that_is_missing_or_empty_is_the_only_problem(tmp_path: Path) -> None:
    """And not what a layer, or the arrays that nobody uses, look like without it."""
    toml = """
        profile = "ge-zero"
        layout = "out_in"
        [input]
        signs = true
        [arrays.w]
        file = "w.bin"
        format = "raw"
        dtype = "int8"
        shape = [6, 4]
        [arrays.b]
        file = "b.txt"
        format = "numbers"
        [[layers]]
        weight = "w"
        bias = "b"
    """
    (tmp_path / "b.txt").write_text("1 2 3 4 5 6")
    assert problems(tmp_path, toml) == [f"arrays.w.file: there is no file w.bin in {tmp_path.name}"]
    (tmp_path / "w.bin").write_bytes(b"")
    assert problems(tmp_path, toml) == ["arrays.w: w.bin is empty"]
    (tmp_path / "w.bin").write_bytes(bytes(range(24)))
    (tmp_path / "b.txt").write_text("")
    assert problems(tmp_path, toml) == ["layers[0].bias: b.txt is empty"]
    (tmp_path / "net.npz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"^net\.npz is empty$"):
        read(tmp_path / "net.npz", GOOD)
    np.savez(tmp_path / "none.npz")
    with pytest.raises(SourceError, match=r"none\.npz"):
        read(tmp_path / "none.npz", GOOD)


def test_convolutions_and_several_bits_are_told_so(tmp_path: Path) -> None:
    arrays = {**parts(), "a/w": np.ones((3, 3, 10, 6), np.float32)}
    found = problems(write_npz(tmp_path / "conv.npz", **arrays), GOOD)
    assert len(found) == 1
    assert found[0].startswith("layers[0].layout: is missing, here or as kernel_layout at the top")
    arrays = {**parts(), "a/w": (np.arange(60) % 4).astype(np.int8).reshape(10, 6)}
    found = problems(
        write_npz(tmp_path / "bits.npz", **arrays), GOOD.replace('weight = "a/w"', 'weight = "a/w"\nvalues = "bits"')
    )
    assert len(found) == 1
    assert "30 of 60 values of a/w are neither 0 nor 1" in found[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint32", "uint64"])
def test_the_hint_for_packed_words_works(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    bits = rng.integers(0, 2, (6, 64), dtype=np.uint8)
    words = np.packbits(bits, axis=1, bitorder="little").view(f"<{np.dtype(dtype).str[1:]}")
    path = write_npz(tmp_path / "n.npz", w=words)
    toml = 'profile = "ge-zero"\nlayout = "out_in"\n[input]\nsigns = true\n[[layers]]\nweight = "w"\nvalues = "bits"\n'
    (found,) = problems(path, toml)
    assert "packed words are unpacked by [arrays.NAME] with from, unpack and shape" in found
    toml = toml.replace('"w"', '"bits"') + '[arrays.bits]\nfrom = "w"\nunpack = "lsb"\nshape = [6, 64]\n'
    plain = write_npz(tmp_path / "plain.npz", bits=bits.astype(np.bool_))
    assert digest(read(path, toml)) == digest(read(plain, toml[: toml.index("[arrays")]))


def test_arrays_that_may_take_part_are_not_proposed_to_be_ignored(tmp_path: Path) -> None:
    extra = {"slopes": np.ones((6, 1), np.float32), "more": np.ones((4, 4), np.float32), "step": np.int64(7)}
    (found,) = problems(write_npz(tmp_path / "n.npz", **parts(), **extra), GOOD)
    assert found == (
        'ignore: no layer uses 3 of the arrays; "more" may be weights of layers; "slopes" may be bias, scale, prelu or a part '
        "of norm or threshold: give them a place, or name them in ignore if nothing uses them; "
        'say ignore = ["step"] about the others'
    )
    read(tmp_path / "n.npz", 'ignore = ["more", "slopes", "step"]\n' + GOOD)
