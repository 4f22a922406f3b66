"""A net.toml on every container, the way back through --write-net, and what hostile or wrong files get."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from checkpoints import lasagne_arrays, named_arrays, random_layers, state_arrays, write_npz
from command_line import CHECKPOINT, DIGITS, fine, wrong
from numpy.typing import NDArray
from test_net import digest, read

from xnorinfer.conversion import convert_file, pack_reading
from xnorinfer.converters.base import ConvertOptions, Reading
from xnorinfer.converters.net import network_arrays
from xnorinfer.converters.netarrays import unpacked
from xnorinfer.converters.netwrite import net_text
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.netspec import PixelInput

Array = NDArray[Any]
TF1 = Path(__file__).parent / "data" / "tf1"


def parts(seed: int = 1) -> dict[str, Array]:
    """Two layers: float kernels, a BatchNorm with a variance, an integer bias."""
    rng = np.random.default_rng(seed)
    return {
        "a/w": rng.uniform(-1, 1, (10, 6)).astype(np.float32),
        "a/b": rng.integers(-3, 4, 6).astype(np.int32),
        "a/mean": rng.standard_normal(6).astype(np.float32),
        "a/var": rng.uniform(0.1, 9, 6).astype(np.float32),
        "c/w": rng.uniform(-1, 1, (6, 4)).astype(np.float32),
    }


def described(names: dict[str, str]) -> str:
    named = {name: names.get(name, name) for name in parts()}
    return f"""
        [input]
        raw = true
        [[layers]]
        name = "first"
        weight = "{named["a/w"]}"
        bias = "{named["a/b"]}"
        norm = {{mean = "{named["a/mean"]}", variance = "{named["a/var"]}", epsilon = 1e-3}}
        [[layers]]
        name = "head"
        weight = "{named["c/w"]}"
    """


TOP = 'profile = "keras-round"\nlayout = "in_out"\n'


def write_torch(path: Path, arrays: dict[str, Array], *, legacy: bool) -> Path:
    torch = pytest.importorskip("torch")
    nested: dict[str, Any] = {"epoch": 3, "net": {}}
    for name, array in arrays.items():
        nested["net"][name] = torch.from_numpy(array)
    torch.save(nested, path, _use_new_zipfile_serialization=not legacy)
    return path


def write_h5(path: Path, arrays: dict[str, Array]) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
        file["alias"] = h5py.SoftLink("/a/w")
        file["outside"] = h5py.ExternalLink("other.h5", "/x")
    return path


def write_safetensors(path: Path, arrays: dict[str, Array]) -> Path:
    from safetensors.numpy import save_file

    save_file(arrays, path)
    return path


def write_c(path: Path, arrays: dict[str, Array]) -> Path:
    lines = ["/* made for\n tests */", "#include <stdint.h>", "#define INPUTS (10)"]
    for name, array in arrays.items():
        kind = "float" if array.dtype.kind == "f" else "int32_t"
        sizes = "".join(f"[{'INPUTS' if n == 10 else n}]" for n in array.shape)
        values = str(array.tolist()).replace("[", "{").replace("]", "}")
        lines.append(f"static const {kind} {name.replace('/', '_')}{sizes} PROGMEM =\n {values}; // {name}")
    path.write_text("\n".join(lines))
    return path


CONTAINERS: dict[str, tuple[Callable[[Path, dict[str, Array]], Path], Callable[[str], str]]] = {
    "net.npz": (lambda path, arrays: write_npz(path, **arrays), str),
    "net.safetensors": (write_safetensors, str),
    "net.pt": (lambda path, arrays: write_torch(path, arrays, legacy=False), "net.{}".format),
    "old.pt": (lambda path, arrays: write_torch(path, arrays, legacy=True), "net.{}".format),
    "net.h5": (write_h5, str),
    "net.h": (write_c, lambda name: name.replace("/", "_")),
}


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


# ---------------------------------------------------------------- the way back


def round_trip(path: Path, options: ConvertOptions | None = None) -> str:
    options = options or ConvertOptions()
    first = convert_file(path, options)
    text = net_text(path, first.reading, options)
    again = read(path, text)
    assert digest(again) == digest(first)
    read_names = {use.name for use in again.reading.tensors}
    if 'container = "network"' not in text:
        assert {use.name for use in first.reading.tensors if not use.ignored} <= read_names
    return text


def test_written_files_of_every_source(tmp_path: Path) -> None:
    layers = random_layers([12, 9, 7, 4], 5)
    inverse = random_layers([12, 9, 7, 4], 5, inv_std=True)
    round_trip(write_npz(tmp_path / "named.npz", **named_arrays(layers)), ConvertOptions(h=0.25))
    round_trip(write_npz(tmp_path / "lasagne.npz", *lasagne_arrays(inverse)), ConvertOptions(profile="theano-0.9"))
    state = state_arrays(layers, prefix="module.")
    path = write_npz(tmp_path / "state.npz", **state)
    text = round_trip(path, ConvertOptions(profile="ge-zero", float_layers=("fc3",), bn_epsilon=1e-4))
    assert 'activation = "hardtanh"' in text
    assert '"module.bn1.num_batches_tracked"' in text
    round_trip(write_safetensors(tmp_path / "state.safetensors", state), ConvertOptions(profile="gt-zero"))
    assert 'norm = {name = "bn2", mean = "module.bn2.running_mean"' in text


@pytest.mark.parametrize("name", ["net", "nograph", "scoped", "trained", "old"])
def test_written_files_of_tensorflow_checkpoints(name: str) -> None:
    assert "epsilon = " in round_trip(TF1 / name)


def test_written_files_of_moving_averages() -> None:
    assert "ExponentialMovingAverage" in round_trip(TF1 / "trained", ConvertOptions(ema=True))


def test_written_files_where_numbers_are_in_no_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    for layer, (inputs, neurons) in enumerate([(62, 40), (40, 24)]):
        words = rng.integers(2 ** (inputs - 1), 2**inputs, neurons, dtype=np.uint64)
        words.astype("<u8").tofile(tmp_path / f"{layer}-0-weights.bin")
        rng.integers(0, inputs, neurons).astype("<i8").tofile(tmp_path / f"{layer}-0-thres.bin")
    text = round_trip(tmp_path)
    assert 'container = "network"\nreader = {format = "bnnpynq"}' in text


@pytest.mark.parametrize("mapping", networks.INPUTS)
@pytest.mark.parametrize("seed", range(3))
def test_random_networks_come_back(tmp_path: Path, mapping: str, seed: int) -> None:
    """Every input mapping, chains, scales, H, float tails on hardtanh and on signs, other rules than the profile's."""
    given = networks.INPUTS[mapping]
    if isinstance(given, PixelInput):  # 2 and 2.0 are the same input but not the same text
        given = PixelInput(float(given.slope), float(given.intercept), float(given.divisor))
    net = networks.random_network(
        seed,
        [11, 9, 8, 5],
        given,
        rule=("round-even", "ge", "gt")[seed],
        form=("lasagne", "torch", "tf")[seed],
        h=(1.0, 0.37, 2.0)[seed],
        float_tail=seed != 1,
        tail_reads="sign" if seed == 2 else "hardtanh",
        chains=seed == 2,
        profile="ge-zero",
    )
    path = write_npz(tmp_path / "n.npz", **{name: entry.load() for name, entry in network_arrays(net).items()})
    reading = Reading("npz", net, (), ())
    text = net_text(path, reading, ConvertOptions())
    assert digest(read(path, text)) == digest(pack_reading(reading, ConvertOptions(), "n", None))


# ---------------------------------------------------------------- the command


def test_the_command_line(tmp_path: Path) -> None:
    toml, model = tmp_path / "net.toml", tmp_path / "m.safetensors"
    said = fine("convert", CHECKPOINT, "--dry-run", "--write-net", toml)
    assert "--net" in said
    assert os.listdir(tmp_path) == ["net.toml"]
    assert "exists already" in wrong("convert", CHECKPOINT, "--dry-run", "--write-net", toml)
    fine("convert", CHECKPOINT, "-o", model, "--net", toml)
    edited = toml.read_text()
    toml.unlink()  # the model knows the text
    assert "holds" in fine("verify", model, CHECKPOINT, "--data", f"{DIGITS}:x", "--rows", 50)
    toml.write_text(edited)
    assert "profile: use profile" in wrong("convert", CHECKPOINT, "--dry-run", "--net", toml, "--profile", "ge-zero")
    assert "there is no file" in wrong("convert", CHECKPOINT, "--dry-run", "--net", tmp_path / "none.toml")
    assert "--with" not in wrong("convert", CHECKPOINT, "--dry-run", "--net", toml, "--write-net", tmp_path / "b.toml")
    assert "there is no file" in wrong("convert", tmp_path / "none.npz", "--dry-run", "--net", toml)
    toml.write_bytes(b"\xff\xfe")
    assert "UTF-8" in wrong("convert", CHECKPOINT, "--dry-run", "--net", toml)
    toml.write_text("profile = ")
    assert "no valid TOML" in wrong("convert", CHECKPOINT, "--dry-run", "--net", toml)


def test_options_survive_their_record() -> None:
    options = ConvertOptions(net="profile = 1")
    assert ConvertOptions.from_json(options.to_json()) == options
    with pytest.raises(OptionError):
        ConvertOptions(net=3)  # type: ignore[arg-type]


# ---------------------------------------------------------------- mistakes

GOOD = TOP + described({})

#: What is changed in a good file -> the line that says what is wrong.
MISTAKES = {
    'profile = "keras-round"|profile = "keras"': "profile: is 'keras', needed is one of tf1-round",
    'profile = "keras-round"|': "profile: is missing",
    'layout = "in_out"|layuot = "in_out"': "layuot: unknown key, did you mean layout?",
    'layout = "in_out"|': "layers[0].layout: is missing, here or at the top",
    "raw = true|raw = true\nthreshold = 3": "input: raw and threshold exclude each other",
    "raw = true|threshold = 0": "input.threshold: is 0, needed is a whole number from 1 to 255",
    "raw = true|range = [1, 1]": "input.range: input range 1:1 maps every pixel to one value",
    "raw = true|range = [1]": "input.range: is [1], needed is [LOW, HIGH]",
    "raw = true|": "input: needs one of range, normalize",
    'weight = "a/w"|weight = "a/ww"': "layers[0].weight: there is no array 'a/ww', did you mean a/w?",
    'weight = "a/w"|weight = "a/b"': "layers[0].weight: a/b has shape (6,), needed are two dimensions, (inputs, neurons)",
    'weight = "c/w"|weight = "a/w"': "layers[0].weight and layers[1].weight use the same array a/w; if that is",
    'bias = "a/b"|bias = "c/w"': "layers[0].bias: c/w has shape (6, 4), needed are 6 values or one for all",
    'bias = "a/b"|': 'ignore: no layer uses 1 of the arrays; give them a place, or say ignore = ["a/b"]',
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
    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/xnorinfer-net-ran",)


def test_pickles_do_not_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "n.pt").write_bytes(pickle.dumps({"a/w": Bomb()}, protocol=2))
    with pytest.raises(SourceError, match="wants to run code"):
        read(tmp_path / "n.pt", GOOD)
    objects = np.empty(1, object)
    objects[0] = Bomb()
    np.savez(tmp_path / "n.npz", **parts(), none=np.array(None), bomb=objects)  # type: ignore[arg-type]
    read(tmp_path / "n.npz", 'ignore = ["none", "bomb"]\n' + GOOD)  # Chainer stores None; nothing of it is loaded
    with pytest.raises(NetworkError, match="pickled Python objects"):
        read(tmp_path / "n.npz", 'ignore = ["none", "a/w"]\n' + GOOD.replace('"a/w"', '"bomb"'))
    assert not Path("/tmp/xnorinfer-net-ran").exists()


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
