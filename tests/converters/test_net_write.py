"""What --write-net writes gives the same network, bit for bit, for every source; and the command line around net.toml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from checkpoints import lasagne_arrays, named_arrays, random_layers, state_arrays, write_npz
from command_line import CHECKPOINT, DIGITS, fine, wrong
from net_containers import write_safetensors
from onnx_writer import node, write
from places import DATA, unpack
from test_net import digest, read

from xnorinfer import budget
from xnorinfer.conversion import convert_file, pack_reading
from xnorinfer.converters import read_source
from xnorinfer.converters.nettoml.document import network_arrays
from xnorinfer.converters.nettoml.draft import draft_text
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.errors import NetworkError, OptionError, SourceError
from xnorinfer.net.values import PixelInput

TF1 = DATA / "tf1"

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


def test_arrays_are_found_within_the_budget_of_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large they are: what an empty file may cost is no bound for them, and `max_memory` is one."""
    monkeypatch.setattr(budget, "FREE_BYTES", 1 << 10)
    layers = random_layers([64, 48, 32, 4], 5)
    path = write_npz(tmp_path / "net.npz", **{name: np.asarray(one, np.float64) for name, one in named_arrays(layers).items()})
    text = round_trip(path, ConvertOptions(profile="ge-zero"))
    assert text.count("weight = ") == 3
    assert 'container = "network"' not in text
    understood = read_source(path, ConvertOptions(profile="ge-zero"))
    refused = NetworkError(["a reason"], understood=understood)
    assert "norm = {" in draft_text(path, refused, ConvertOptions())
    with pytest.raises(SourceError, match="--max-memory"):
        draft_text(path, refused, ConvertOptions(max_memory=1000))


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


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("affine", [False, True])
def test_written_files_of_torch_checkpoints(tmp_path: Path, legacy: bool, affine: bool) -> None:
    """A training checkpoint with a state dict inside, optimizer state beside it."""
    torch = pytest.importorskip("torch")
    state = {
        name: torch.from_numpy(array) for name, array in state_arrays(random_layers([12, 9, 7, 4], 5, affine=affine)).items()
    }
    content: dict[str, Any] = {"epoch": 3, "state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    text = round_trip(tmp_path / "net.pth", ConvertOptions(profile="ge-zero"))
    assert 'weight = "state_dict.fc1.weight"' in text
    assert '"optimizer.state.0.exp_avg"' in text


def keras_files() -> dict[str, dict[str, Any]]:
    from test_converters_keras import FILES

    return {file: options for file, (_, options) in FILES.items()}


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("h5py", reason="Keras's files are read through h5py")
    from keras_files import MODELS

    return unpack(MODELS, tmp_path_factory.mktemp("keras"))


def test_written_files_of_keras_models(keras: Path) -> None:
    """Larq and the ports in every file of theirs: thresholds of inputs, scales, H, heads of floats."""
    for file, options in keras_files().items():
        text = round_trip(keras / file, ConvertOptions(**options))
        # Half sums of weights, of layers that read 0 and 1, stand in no array.
        assert ('container = "network"' in text) == file.startswith("heaviside"), file


def test_written_files_of_graphs(tmp_path: Path) -> None:
    """Constants of a graph keep their names; numbers that the walk made stand in the file, or the graph is read again."""
    rng = np.random.default_rng(3)
    w1, w2 = (rng.choice(np.float32([-1, 1]), shape) for shape in ((9, 20), (5, 9)))
    vectors = [rng.standard_normal(9).astype(np.float32) for _ in range(3)]
    variance = rng.uniform(1, 20, 9).astype(np.float32)
    constants = {"w1": w1, "w2": w2, "g": vectors[0], "b": vectors[1], "m": vectors[2], "v": variance}
    nodes = [
        node("Gemm", ["x", "w1"], "a", transB=1),
        node("BatchNormalization", ["a", "g", "b", "m", "v"], "c", epsilon=1e-3),
        node("Sign", ["c"], "d"),
        node("Gemm", ["d", "w2"], "y", transB=1),
    ]
    text = round_trip(write(tmp_path / "net.onnx", nodes, constants, "y"), ConvertOptions(profile="ge-zero"))
    assert 'weight = "w1"' in text
    assert 'mean = "m"' in text


@pytest.mark.parametrize("how", ["thresholds", "falling", "zeros and ones", "two rules", "norm of inputs"])
def test_written_files_of_evaluated_graphs(tmp_path: Path, how: str) -> None:
    """Steps elsewhere than at 0, rules of their own, bits that are 0 and 1, signs of the inputs."""
    rng = np.random.default_rng(3)
    one, zero = np.ones(1, np.float32), np.zeros((), np.float32)
    w1, w2, w3 = (rng.choice(np.float32([-1, 1]), shape) for shape in ((20, 9), (9, 7), (7, 5)))
    limits = rng.integers(-5, 5, 9).astype(np.float32) + np.float32(0.25)
    constants = {"w1": w1, "w2": w2, "w3": w3, "l": limits, "l2": limits[:, None], "one": one, "minus": -one, "zero": zero}
    constants |= {name: np.abs(rng.standard_normal(20)).astype(np.float32) + np.float32(1) for name in ("g", "b", "m", "v")}
    hidden = {
        "thresholds": [node("MultiThreshold", ["a", "l2"], "c", out_scale=2.0, out_bias=-1.0)],
        "falling": [node("Less", ["a", "l"], "b1"), node("Where", ["b1", "one", "minus"], "c")],
        "zeros and ones": [node("Greater", ["a", "zero"], "b1"), node("Cast", ["b1"], "c", to=1)],
        "two rules": [node("Greater", ["a", "zero"], "b1"), node("Where", ["b1", "one", "minus"], "c")],
    }.get(how, [node("BipolarQuant", ["a", "one"], "c")])
    first = [node("MatMul", ["x", "w1"], "a")]
    if how == "norm of inputs":
        first = [
            node("BatchNormalization", ["x", "g", "b", "m", "v"], "n", epsilon=1e-3),
            node("BipolarQuant", ["n", "one"], "s"),
        ]
        first.append(node("MatMul", ["s", "w1"], "a"))
    rest = [node("MatMul", ["c", "w2"], "d"), node("BipolarQuant", ["d", "one"], "e"), node("MatMul", ["e", "w3"], "y")]
    path = write(tmp_path / "net.onnx", [*first, *hidden, *rest], constants, "y")
    round_trip(path, ConvertOptions(input=PixelInput.range(0, 255)))
