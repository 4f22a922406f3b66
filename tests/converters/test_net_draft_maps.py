"""Convolutional networks of which a file holds tensors alone: one refusal with every line that is missing, and a draft with all
that the file does say, which those lines complete to the network that the framework computes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import write_npz
from command_line import wrong
from numpy.typing import NDArray

from xnorinfer.converters import ConvertOptions, Reading, read_source
from xnorinfer.net import reference

Array = NDArray[Any]
HEIGHT, WIDTH, CLASSES = 8, 12, 5
#: Said of the three convolutions: stride, padding and pool.
PLACES = {
    "conv1": ("stride = 1", "padding = 1", 'pool = {kind = "max", size = 2, after = "sum"}'),
    "conv2": ("stride = [1, 2]", "padding = [1, 0]", ""),
}


def refused(folder: Path, source: Path) -> tuple[str, str]:
    """What is said, and the draft."""
    target = folder / "net.toml"
    target.unlink(missing_ok=True)
    said = wrong("convert", source, "--dry-run", "--write-net", target)
    return said, target.read_text()


def filled(text: str, layers: dict[str, tuple[str, str, str]], input_: str = "signs = true") -> str:
    """A draft with what is said of its layers by name, the lines of input, and without its first line."""
    text = re.sub(r"^draft = true.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r"^# shape = \[HEIGHT, WIDTH, (\w+)\].*$", f"shape = [{HEIGHT}, {WIDTH}, 3]", text, flags=re.MULTILINE)
    text = re.sub(r"^range = .*$", input_, text, flags=re.MULTILINE)
    head, *tables = text.split("\n[[layers]]\n")
    for index, table in enumerate(tables):
        match = re.search(r'^(?:name|weight) = "([^"]+)"', table)
        assert match is not None
        for line in layers.get(match[1], ("", "", "")):
            key = line.partition(" ")[0]
            if key:
                table, count = re.subn(rf"^# {key} = .*$", line.replace("\\", ""), table, flags=re.MULTILINE)
                assert count == 1
        tables[index] = table
    return "\n[[layers]]\n".join([head, *tables])


class Network:
    """conv 3x3 -> pool -> BatchNorm -> sign -> conv in two groups -> BatchNorm -> sign -> dense, with weights as PyTorch has
    them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.conv1, self.conv2 = self._latents(rng, 6, 3, 3, 3), self._latents(rng, 8, 3, 3, 2)
        self.fc, self.bias = self._latents(rng, CLASSES, 8 * 4 * 3), rng.integers(-9, 9, CLASSES).astype(np.float32)
        self.norms = [
            {
                "weight": (rng.choice([-1, 1], n) * rng.uniform(0.5, 2, n)).astype(np.float32),
                "bias": rng.normal(0, 0.01, n).astype(np.float32),
                "running_mean": (rng.integers(-3, 3, n) + 0.375).astype(np.float32),
                "running_var": rng.uniform(20, 40, n).astype(np.float32),
            }
            for n in (6, 8)
        ]
        self.x = rng.choice(np.array([-1, 1], np.int8), (30, HEIGHT, WIDTH, 3))

    @staticmethod
    def _latents(rng: np.random.Generator, *shape: int) -> Array:
        return (rng.choice([-1, 1], shape) * rng.uniform(0.1, 0.9, shape)).astype(np.float32)

    def state(self) -> dict[str, Array]:
        one, two = self.norms
        return {
            "conv1.weight": self.conv1,
            **{f"bn1.{key}": value for key, value in one.items()},
            "bn1.num_batches_tracked": np.array(7),
            "conv2.weight": self.conv2,
            **{f"bn2.{key}": value for key, value in two.items()},
            "bn2.num_batches_tracked": np.array(7),
            "fc.weight": self.fc,
            "fc.bias": self.bias,
        }

    def scores(self, *, flipped: bool = False) -> Array:
        torch = pytest.importorskip("torch")
        from torch.nn import functional

        step = -1 if flipped else 1
        value = torch.tensor(self.x).permute(0, 3, 1, 2).double()
        weights = [torch.tensor(np.sign(w[:, :, ::step, ::step]).copy()).double() for w in (self.conv1, self.conv2)]
        value = functional.max_pool2d(functional.conv2d(value, weights[0], padding=1), 2)
        value = self._sign(value, self.norms[0])
        value = functional.conv2d(value, weights[1], stride=(1, 2), padding=(1, 0), groups=2)
        value = self._sign(value, self.norms[1])
        found: Array = functional.linear(value.flatten(1), torch.tensor(np.sign(self.fc)).double()).numpy() + self.bias
        return found

    @staticmethod
    def _sign(value: Any, norm: dict[str, Array]) -> Any:
        torch = pytest.importorskip("torch")
        from torch.nn import functional

        mean, var, gamma, beta = (torch.tensor(norm[k]).double() for k in ("running_mean", "running_var", "weight", "bias"))
        value = functional.batch_norm(value, mean, var, gamma, beta, eps=1e-5)
        assert (value.abs() > 1e-4).all()
        return torch.sign(value)


def computed(path: Path, toml: str, network: Network) -> tuple[Reading, Array]:
    reading = read_source(path, ConvertOptions(net=toml))
    return reading, reference.forward(reading.net, network.x.reshape(len(network.x), -1))


MISSING = (
    "`shape = [HEIGHT, WIDTH, 3]` in [input]",
    "`stride` and `padding` of {0}, {1}, and `pool` of those that one stands behind",
    "`flatten` of {2}, which reads 96 values: 12 pixels of 8 channels",
)


@pytest.mark.parametrize("door", ["pt", "safetensors", "npz"])
def test_state_dicts(tmp_path: Path, door: str) -> None:
    torch = pytest.importorskip("torch")
    network = Network()
    path = tmp_path / f"net.{door}"
    state = network.state()
    if door == "npz":
        write_npz(path, **state)
    elif door == "pt":
        torch.save({"state_dict": {name: torch.tensor(array) for name, array in state.items()}, "epoch": 3}, path)
    else:
        from safetensors.numpy import save_file

        save_file(state, path)
    said, text = refused(tmp_path, path)
    for line in MISSING:
        assert line.format("conv1", "conv2", "fc") in said
    assert said.count("\n") <= 2
    assert "groups = 2" in text
    assert text.count('# kind = "float"') == 2
    assert 'flatten = "channels_first"' in text
    reading, found = computed(path, filled(text, PLACES), network)
    np.testing.assert_array_equal(found, network.scores())
    assert reading.channels_first
    assert all(use.ignored == use.name.endswith(("tracked", "epoch")) for use in reading.tensors)


def test_lists_of_lasagne(tmp_path: Path) -> None:
    """OIHW, flipped, beta before gamma, inv_std; the dense kernel (inputs, neurons) over channels outermost."""
    network = Network()
    network.conv2 = np.concatenate([network.conv2, -network.conv2[::-1]], axis=1)  # Lasagne's groups are another layer
    arrays: list[Array] = []
    for kernel, norm in zip((network.conv1, network.conv2), network.norms, strict=True):
        inverse = (1 / np.sqrt(norm["running_var"] + 1e-5)).astype(np.float32)
        arrays += [kernel, norm["bias"], norm["weight"], norm["running_mean"], inverse]
    arrays += [np.ascontiguousarray(network.fc.T), network.bias]
    path = write_npz(tmp_path / "net.npz", *arrays)
    said, text = refused(tmp_path, path)
    for line in MISSING:
        assert line.format("0", "1", "2") in said
    assert text.count("flipped = true") == 2
    assert 'profile = "theano"' in text
    places = {"0": PLACES["conv1"], "1": PLACES["conv2"]}
    reading, found = computed(path, filled(text, places), network)
    network.conv2 = np.concatenate([network.conv2, np.zeros_like(network.conv2)], axis=1)[:, :6]
    np.testing.assert_array_equal(found, scores_of_whole(network, flipped=True))
    assert reading.channels_first


def scores_of_whole(network: Network, *, flipped: bool) -> Array:
    """As `scores`, of a second convolution that reads all channels."""
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    step = -1 if flipped else 1
    one, two = (torch.tensor(np.sign(w[:, :, ::step, ::step]).copy()).double() for w in (network.conv1, network.conv2))
    value = torch.tensor(network.x).permute(0, 3, 1, 2).double()
    value = network._sign(functional.max_pool2d(functional.conv2d(value, one, padding=1), 2), network.norms[0])
    value = network._sign(functional.conv2d(value, two, stride=(1, 2), padding=(1, 0)), network.norms[1])
    found: Array = functional.linear(value.flatten(1), torch.tensor(np.sign(network.fc)).double()).numpy() + network.bias
    return found


def test_lists_of_keras(tmp_path: Path) -> None:
    """HWIO by the shapes of the kernels, gamma before beta, a variance, channels last."""
    network = Network()
    network.conv2 = np.concatenate([network.conv2, -network.conv2[::-1]], axis=1)
    fc = network.fc.reshape(CLASSES, 8, 4, -1).transpose(2, 3, 1, 0).reshape(-1, CLASSES)
    arrays: list[Array] = []
    for kernel, norm in zip((network.conv1, network.conv2), network.norms, strict=True):
        arrays += [np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)), *norm.values()]
    path = write_npz(tmp_path / "net.npz", *arrays, np.ascontiguousarray(fc), network.bias)
    said, text = refused(tmp_path, path)
    assert MISSING[1].format("0", "1") in said
    assert text.count('layout = "HWIO"') == 2
    assert 'flatten = "channels_last"' in text
    assert "flipped" not in text
    reading, found = computed(path, filled(text, {"0": PLACES["conv1"], "1": PLACES["conv2"]}), network)
    np.testing.assert_array_equal(found, scores_of_whole(network, flipped=False))
    assert not reading.channels_first


def test_arrays_under_names_of_ones_own(tmp_path: Path) -> None:
    """Neither which axis is which, nor whose vectors are: a line for each in the draft."""
    rng = np.random.default_rng(1)
    path = write_npz(tmp_path / "net.npz", k1=np.ones((4, 3, 3, 2), np.float32), b1=rng.random(4), w2=np.ones((5, 96)))
    said, text = refused(tmp_path, path)
    assert "k1 (4, 3, 3, 2) is a convolution, and nothing says which axis is which, nor how it goes over images" in said
    for line in (
        "# shape = [HEIGHT, WIDTH, CHANNELS]",
        "# layout = ",
        "# stride = ",
        "# padding = ",
        "# pool = ",
        "# flatten = ",
    ):
        assert text.count(f"\n{line}") == 1
    assert '# bias, scale, prelu, or of norm: "b1"' in text


def test_norms_that_belong_to_no_layer_for_sure(tmp_path: Path) -> None:
    """BatchNorm before its convolution, as XNOR-Net has it: both problems are told, and the draft names what has no place."""
    network = Network()
    state = network.state()
    order = ["conv1", "bn1", "bn2", "conv2", "fc"]
    path = write_npz(tmp_path / "net.npz", **{k: v for part in order for k, v in state.items() if k.startswith(f"{part}.")})
    said, text = refused(tmp_path, path)
    assert "bn1 (BatchNorm), bn2 (BatchNorm), conv2 (convolution)" in text
    assert MISSING[1].format("conv1", "conv2") in text
    assert "(2 problems)" in said
    assert text.count("\n# stride = ") == 2
    assert '#   "bn1.running_mean"  # 6' in text


def test_convolutions_over_lines(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    rng = np.random.default_rng(2)
    weights = {"conv.weight": (6, 3, 5), "fc.weight": (4, 6 * 7)}
    state = {
        name: (rng.choice([-1, 1], shape) * rng.uniform(0.1, 1, shape)).astype(np.float32) for name, shape in weights.items()
    }
    state["conv.bias"] = np.full(6, 0.5, np.float32)
    path = tmp_path / "net.pt"
    torch.save({name: torch.tensor(array) for name, array in state.items()}, path)
    said, text = refused(tmp_path, path)
    assert "`shape = [WIDTH, 3]` in [input]" in said
    text = re.sub(r"^# shape = .*$", "shape = [14, 3]", text, flags=re.MULTILINE)
    toml = filled(text, {"conv": ("stride = 2", "padding = 2", "")})
    x = rng.choice(np.array([-1, 1], np.int8), (20, 14, 3))
    t = {name: torch.tensor(np.sign(array) if array.ndim > 1 else array).double() for name, array in state.items()}
    value = functional.conv1d(torch.tensor(x).permute(0, 2, 1).double(), t["conv.weight"], t["conv.bias"], 2, 2)
    want = functional.linear(torch.sign(value).flatten(1), t["fc.weight"])
    reading = read_source(path, ConvertOptions(net=toml))
    np.testing.assert_array_equal(reference.forward(reading.net, x.reshape(20, -1)), want)
