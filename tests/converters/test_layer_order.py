"""Layers that could change places: what a file says of their order, and what is told where it says nothing.

Shapes, numbers in names, a Sequential and BatchNorm's statistics support an order; registration and words do not.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from checkpoints import Layer, random_layers, state_arrays, write_npz
from command_line import run, wrong
from following import GIVEN, Array, equal, forward, lines_of, networks, rows, told, toml
from safetensors.numpy import save_file
from test_evidence_file import OPTIONS, network
from test_hints_of_frameworks import write_h5
from tf1_writer import write_bundle

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.converters.evidence.layerorder import chains
from xnorinfer.errors import NetworkError
from xnorinfer.net.values import SignInput

pytestmark = pytest.mark.filterwarnings("ignore::xnorinfer.ConversionWarning")
SIGNS = ConvertOptions(profile="ge-zero", input=SignInput(), bn_epsilon=1e-3)
TOLD = "the order of layers is taken"
Names = Sequence[str]


def layers_of(*widths: int, norms: bool = False) -> list[Layer]:
    """Without BatchNorm but by wish, which is untrained then and says nothing of what comes before it."""
    layers = random_layers(widths, 3, head_norm=norms)
    for layer in layers if not norms else ():
        layer.mean = layer.variance = layer.gamma = layer.beta = None
    return layers


SQUARE = layers_of(24, 24, 24, 6)


def named(layers: list[Layer], names: Names) -> dict[str, Array]:
    found: dict[str, Array] = {}
    for layer, name in zip(layers, names, strict=True):
        found |= state_arrays([layer], name.replace("{", "{{"), f"{name}_bn")
    return {name: array for name, array in found.items() if not name.endswith("num_batches_tracked")}


def pickled(folder: Path, layers: list[Layer], names: Names) -> Path:
    (folder / "net.pkl").write_bytes(pickle.dumps(named(layers, names)))
    return folder / "net.pkl"


def dumped(folder: Path, layers: list[Layer], names: Names) -> Path:
    return write_npz(folder / "net.npz", **named(layers, names))


def archived(folder: Path, layers: list[Layer], names: Names) -> Path:
    torch = pytest.importorskip("torch")
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in named(layers, names).items()}, folder / "net.pt")
    return folder / "net.pt"


def module(folder: Path, layers: list[Layer], names: Names, sequential: bool = False) -> Path:
    """Saved whole: of a class that says nothing of `forward`, or a Sequential."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential() if sequential else torch.nn.ModuleList()
    for layer, name in zip(layers, names, strict=True):
        dense = torch.nn.Linear(*layer.weight.T.shape)
        dense.load_state_dict({"weight": torch.from_numpy(layer.weight), "bias": torch.from_numpy(layer.bias)})
        inner = net
        for part in name.split(".")[:-1]:
            inner = inner._modules.setdefault(part, torch.nn.Sequential() if sequential else torch.nn.ModuleList())
        inner.add_module(name.rpartition(".")[2], dense)
    torch.save(net, folder / "net.pt")
    return folder / "net.pt"


def listed(folder: Path, layers: list[Layer], names: Names) -> Path:
    groups = {name: [layer.weight.T, layer.bias] for layer, name in zip(layers, names, strict=True)}
    return write_h5(folder / "net.h5", groups, keras2={key: ["kernel", "bias"] for key in names})  # type: ignore[arg-type]


def bundle(folder: Path, layers: list[Layer], names: Names) -> Path:
    """TensorFlow's variables without their graph, in the order of their names."""
    pairs = zip(layers, names, strict=True)
    return write_bundle(
        folder, {f"{n}/{leaf}": a for layer, n in pairs for leaf, a in (("kernel", layer.weight.T), ("bias", layer.bias))}
    )


Writer = Callable[[Path, list[Layer], Names], Path]
ORDERED: dict[str, Writer] = {
    "pickle": pickled,
    "npz": dumped,
    "zip": archived,
    "module": module,
    "keras": listed,
    "tensorflow": bundle,
}
every_source = pytest.mark.parametrize("source", ORDERED)


def told_of(reading: Reading) -> list[str]:
    return [text for text in reading.warnings if TOLD in text]


def origin(reading: Reading) -> str:
    (found,) = (one.origin for one in reading.assumptions if one.what == "order of layers")
    return found


@every_source
@pytest.mark.parametrize(
    "names", [("hidden", "middle", "out"), ("fc_a", "fc_b", "fc_c"), ("conv1", "fc1", "head")], ids=lambda names: names[0]
)
def test_words_support_no_order(tmp_path: Path, source: str, names: Names) -> None:
    reading = read_source(ORDERED[source](tmp_path, SQUARE, names), SIGNS)
    (text,) = told_of(reading)
    assert ", ".join(names) in text
    assert origin(reading) == "default"


@pytest.mark.parametrize("source", [name for name in ORDERED if name != "tensorflow"])
def test_numbers_that_do_not_rise_support_no_order(tmp_path: Path, source: str) -> None:
    (text,) = told_of(read_source(ORDERED[source](tmp_path, SQUARE, ("fc2", "fc1", "fc3")), SIGNS))
    assert "fc2, fc1, fc3, in which the numbers in their names do not rise" in text


@every_source
@pytest.mark.parametrize(
    "names",
    [
        ("fc1", "fc2", "fc3"),
        ("layers.0", "layers.3", "layers.10"),
        ("dense", "dense_1", "dense_2"),
        ("block0.lin", "block1.lin", "head"),
        ("a1.fc1", "a1.fc2", "a2.fc1"),
    ],
    ids=lambda names: names[0],
)
def test_numbers_in_names_support_an_order(tmp_path: Path, source: str, names: Names) -> None:
    names = [name.replace(".", "/") for name in names] if source in ("keras", "tensorflow") else names
    reading = read_source(ORDERED[source](tmp_path, SQUARE, names), SIGNS)
    assert not told_of(reading)
    assert origin(reading) == "file"


@every_source
@pytest.mark.parametrize(
    "widths", [(24, 18, 12, 6), (24, 24, 18, 6), (24, 18, 18, 6), (18, 24, 18, 6), (24, 6, 24, 6)], ids=str
)
def test_shapes_that_fit_in_one_order_alone(tmp_path: Path, source: str, widths: tuple[int, ...]) -> None:
    """Where two layers are of one shape, they could change places."""
    layers, again = layers_of(*widths), widths == (24, 6, 24, 6)
    reading = read_source(ORDERED[source](tmp_path, layers, ("hidden", "middle", "out")), SIGNS)
    assert (bool(told_of(reading)), origin(reading)) == ((True, "default") if again else (False, "file"))


def test_a_sequential_runs_its_modules_in_order(tmp_path: Path) -> None:
    for names in (("hidden", "middle", "out"), ("features.a", "features.b", "head.a")):
        reading = read_source(module(tmp_path, SQUARE, names, sequential=True), SIGNS)
        assert not told_of(reading)
        assert origin(reading) == "file"


def test_sorted_names_are_no_order_at_all(tmp_path: Path) -> None:
    """Where nothing keeps one, words are refused, and numbers are taken."""
    words, numbers = named(SQUARE, ("hidden", "middle", "out")), named(SQUARE, ("fc1", "fc2", "fc10"))
    for write in (
        lambda arrays: save_file(arrays, tmp_path / "net.safetensors"),
        lambda arrays: np.savez(tmp_path / "n.npz", **arrays),
    ):
        path = [write(dict(sorted(words.items()))), *tmp_path.glob("n*.*")][-1]
        with pytest.raises(NetworkError, match="the file keeps no order"):
            read_source(path, SIGNS)
        write(dict(sorted(numbers.items())))
        assert origin(read_source(path, SIGNS)) == "file"
        path.unlink()


def test_classes_of_keras_layers_are_no_order(tmp_path: Path) -> None:
    """Keras 3 counts layers by their class."""
    groups = {
        name: [layer.weight.T, layer.bias] for layer, name in zip(SQUARE, ("quant_dense", "dense", "dense_1"), strict=True)
    }
    reading = read_source(write_h5(tmp_path / "net.weights.h5", groups), SIGNS)
    (text,) = told_of(reading)
    assert "by class, then by the numbers in their names" in text


def test_statistics_support_an_order(tmp_path: Path) -> None:
    layers = network(widths=(100, 40, 40, 40, 10))
    names = ("first", "second", "third", "head")
    reading = read_source(pickled(tmp_path, layers, names), OPTIONS)
    assert not told_of(reading)
    assert origin(reading) == "statistics"
    untold = layers_of(24, 24, 24, 24, 6, norms=True)
    assert len(told_of(read_source(pickled(tmp_path, untold, names), SIGNS))) == 1


def test_a_last_layer_without_batch_norm_is_the_last(tmp_path: Path) -> None:
    layers = random_layers((24, 24, 24), 3, head_norm=False)
    assert not told_of(read_source(pickled(tmp_path, layers, ("hidden", "out")), SIGNS))
    every = random_layers((24, 24, 24), 3)
    assert told_of(read_source(pickled(tmp_path, every, ("hidden", "out")), SIGNS))


def test_many_layers(tmp_path: Path) -> None:
    layers = layers_of(*[8] * 81)
    assert not told_of(read_source(pickled(tmp_path, layers, [f"layers.{n}" for n in range(80)]), SIGNS))
    assert told_of(read_source(pickled(tmp_path, layers, [chr(0x4E00 + n) for n in range(80)]), SIGNS))


def test_a_search_that_takes_too_long_finds_no_only_order() -> None:
    """Of two that fit, the second lies behind more steps than are made."""
    square = [(4, 4)] * 12
    assert chains([(8, 4), *square, (4, 2)], ends=True)[1:] != []
    assert chains([(4, 4), (4, 4), (4, 2)], ends=True) == [(0, 1, 2), (1, 0, 2)]
    assert chains([(8, 4), (4, 8), (8, 4)], ends=True) == [(0, 1, 2), (2, 1, 0)]
    assert chains([(8, 4), (4, 8)], ends=True) == [(0, 1)]


# ---------------------------------------------------------------- what answers it


def state_of(name: str) -> dict[str, str]:
    return {"weight": f'"{name}.weight"', "bias": f'"{name}.bias"'}


def test_a_net_toml_says_the_order(tmp_path: Path) -> None:
    path = pickled(tmp_path, [SQUARE[1], SQUARE[0], SQUARE[2]], ("hidden", "middle", "out"))
    assert lines_of(told(path), TOLD) == ["[[layers]] in their order"]
    text = toml([state_of(name) for name in ("middle", "hidden", "out")])
    equal(networks(path, text), forward(SQUARE))
    (tmp_path / "net.toml").write_text(text)
    assert TOLD not in told(path, "--net", tmp_path / "net.toml")


def expect(folder: Path, layers: list[Layer]) -> Path:
    np.savez(folder / "expected.npz", x=rows(layers[0].weight.shape[1]), scores=forward(layers).astype(np.float32))
    return folder / "expected.npz"


def test_answers_confirm_an_order_or_find_it(tmp_path: Path) -> None:
    expected = expect(tmp_path, SQUARE)
    path = pickled(tmp_path, SQUARE, ("hidden", "middle", "out"))
    assert "--expect finds the one" in told(path)
    assert wrong("convert", path, "--dry-run", *GIVEN, "--strict", code=1)
    text = run("convert", path, "--dry-run", *GIVEN, "--expect", expected)
    assert (text.exit_code, TOLD in text.stdout + text.stderr) == (0, False)
    path = pickled(tmp_path, [SQUARE[1], SQUARE[0], SQUARE[2]], ("hidden", "middle", "out"))
    line = wrong("convert", path, "--dry-run", *GIVEN, "--expect", expected, code=1)
    assert "[[layers]] of a net.toml in the order middle, hidden, out makes all rows equal" in line


@pytest.mark.parametrize("change", ["two change places", "one moves"])
def test_answers_find_the_order_of_many_layers(tmp_path: Path, change: str) -> None:
    layers = layers_of(*[24] * 9, 6)
    names = [f"{letter}_layer" for letter in "abcdefghi"]
    order = list(range(9))
    if change == "one moves":
        order.insert(5, order.pop(1))
    else:
        order[2], order[6] = order[6], order[2]
    path = pickled(tmp_path, [layers[n] for n in order], [names[n] for n in order])
    line = wrong("convert", path, "--dry-run", *GIVEN, "--expect", expect(tmp_path, layers), code=1)
    assert f"[[layers]] of a net.toml in the order {', '.join(names)} makes all rows equal" in line
