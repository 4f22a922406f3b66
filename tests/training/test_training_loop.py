"""Training runs on small data: seeds, the best epoch, resume, the files and the command."""

from __future__ import annotations

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from xnorinfer.errors import InputError, MissingExtraError, OptionError, OutputError, SourceError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput
from xnorinfer.packing import modelfile

torch = pytest.importorskip("torch", reason="the training package is written in PyTorch")

from click.testing import CliRunner  # noqa: E402

from xnorinfer.training import data, digits, loop, mnist  # noqa: E402
from xnorinfer.training.architecture import Shape  # noqa: E402
from xnorinfer.training.checkpoint import named_arrays, read_state, write_npz, write_state, write_torch  # noqa: E402
from xnorinfer.training.commands import commands  # noqa: E402
from xnorinfer.training.curves import COLOURS  # noqa: E402
from xnorinfer.training.loop import Progress, Recipe, error_rate, predict  # noqa: E402
from xnorinfer.training.trainable import BinaryNet  # noqa: E402

DATA = Path(str(resources.files("xnorinfer"))) / "data"
SHAPE = Shape(12, (40, 30), 3, dropout_input=0.0, dropout_hidden=0.1)


def samples(rows: int, seed: int, depth: int = 12, classes: int = 3) -> data.Samples:
    """Classes that differ in where the pixels are bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    bright = (np.arange(depth) % classes)[None, :] == labels[:, None]
    return data.Samples.of(np.where(bright, rng.integers(90, 256, (rows, depth)), rng.integers(0, 166, (rows, depth))), labels)


TRAIN, CHOOSE = samples(160, 1), samples(90, 2)


def start(recipe: Recipe) -> Progress:
    return Progress.start(lambda: BinaryNet(SHAPE), recipe)


def finished(recipe: Recipe) -> Progress:
    progress = start(recipe)
    while not progress.done:
        progress.run_epoch(TRAIN, CHOOSE)
    return progress


def tensors(progress: Progress) -> list[Any]:
    return [*progress.model.state_dict().values(), *progress.best.values()]


# ---------------------------------------------------------------- the loop


def test_it_learns_and_keeps_the_best_epoch() -> None:
    progress = finished(Recipe(epochs=12, batch=20, seed=3))
    errors = [epoch.validation_error for epoch in progress.history]
    assert min(errors) < 0.15 < errors[0]
    assert progress.best_error == min(errors)
    # As in the reference, the latest of equally good epochs wins.
    assert progress.best_epoch == max(epoch.epoch for epoch in progress.history if epoch.validation_error == min(errors))
    assert error_rate(progress.load_best(), CHOOSE) == progress.best_error
    rates = [epoch.lr for epoch in progress.history]
    assert rates[0] == 3e-3
    assert np.diff(np.log(rates)) == pytest.approx(np.full(11, np.log(1e-4) / 12))


@pytest.mark.long
def test_a_seed_decides_everything_and_disturbs_nothing() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = finished(Recipe(epochs=2, batch=20, seed=3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again, other = finished(Recipe(epochs=2, batch=20, seed=3)), finished(Recipe(epochs=2, batch=20, seed=4))
    assert all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(again), strict=True))
    assert not torch.equal(first.model.layers()[0][0].weight, other.model.layers()[0][0].weight)


@pytest.mark.long
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    recipe = Recipe(epochs=5, batch=20, seed=3)
    whole = finished(recipe)
    cut = start(recipe)
    for _ in range(2):
        cut.run_epoch(TRAIN, CHOOSE)
    write_state(tmp_path / "state", cut.state())
    resumed = start(recipe)
    resumed.restore(read_state(tmp_path / "state"))
    while not resumed.done:
        resumed.run_epoch(TRAIN, CHOOSE)
    assert all(torch.equal(a, b) for a, b in zip(tensors(whole), tensors(resumed), strict=True))
    assert (whole.best_epoch, whole.best_error) == (resumed.best_epoch, resumed.best_error)
    assert [(e.epoch, e.loss, e.flips) for e in whole.history] == [(e.epoch, e.loss, e.flips) for e in resumed.history]


def test_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    progress = start(Recipe(epochs=2, seed=3))
    with pytest.raises(OptionError, match="had epochs = 2, this one has 3; start over with --restart"):
        start(Recipe(epochs=3, seed=3)).restore(progress.state())
    other = Progress.start(lambda: BinaryNet(Shape(12, (9, 9), 3)), Recipe(epochs=2, seed=3))
    with pytest.raises(OptionError, match=r"had hidden = \(40, 30\), this one has \(9, 9\)"):
        other.restore(progress.state())


def test_flips_are_the_share_of_signs_that_changed() -> None:
    progress = start(Recipe(epochs=1, batch=20))
    before = [dense.weight.detach().numpy() > 0 for dense, _ in progress.model.layers()]
    epoch = progress.run_epoch(TRAIN, CHOOSE)
    after = [dense.weight.detach().numpy() > 0 for dense, _ in progress.model.layers()]
    assert epoch.flips == pytest.approx([(a != b).mean() for a, b in zip(before, after, strict=True)])
    assert max(epoch.flips) > 0


def test_a_last_batch_of_one_is_left_out() -> None:
    done = []
    start(Recipe(epochs=1, batch=53)).run_epoch(TRAIN, CHOOSE, lambda: done.append(1))  # 160 = 3*53 + 1
    assert len(done) == 4


def test_a_loss_that_explodes_is_an_error() -> None:
    with pytest.raises(OptionError, match="use a smaller --lr-start than 1e\\+38"):
        finished(Recipe(epochs=3, batch=20, lr_start=1e38))


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 0}, {"lr_start": 0.0}, {"lr_end": float("nan")}])
def test_impossible_recipes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=next(iter(wrong))):
        Recipe(**wrong)


# ---------------------------------------------------------------- files


def test_both_checkpoints_are_read_as_the_network_that_was_trained(tmp_path: Path) -> None:
    from xnorinfer.converters import read_source
    from xnorinfer.converters.reading import ConvertOptions

    model = finished(Recipe(epochs=2, batch=20)).load_best()
    write_npz(tmp_path / "net.npz", model)
    write_torch(tmp_path / "net.pt", model)
    expected = predict(model, CHOOSE.pixels).numpy()
    for name, options in (
        ("net.npz", ConvertOptions()),
        ("net.pt", ConvertOptions(profile="tf1-round", bn_epsilon=1e-4)),
    ):
        net = read_source(tmp_path / name, options).net
        net.require_valid()
        assert [type(op) for op in net.ops] == [Linear, Norm, Quantize, Linear, Norm, Quantize, Linear, Norm]
        for layer in net.ops:
            assert not isinstance(layer, Norm) or np.float32(layer.epsilon) == np.float32(1e-4)
        assert (forward(net, CHOOSE.pixels.numpy()).argmax(1) == expected).all()


def test_npz_names() -> None:
    arrays = named_arrays(BinaryNet(Shape(4, (3,), 2, bias=False)))
    norm = ["bn.gamma", "bn.beta", "bn.mean", "bn.var", "bn.epsilon"]
    assert list(arrays) == [f"{index}.{name}" for index in (0, 1) for name in ("weight", *norm)]
    assert arrays["0.weight"].shape == (3, 4)


@pytest.mark.parametrize("content", [b"", b"not a state", b"PK\x03\x04 torn"])
def test_a_damaged_state_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="is no training state"):
        read_state(path)


def test_a_state_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    torch.save({"shape": Path}, path)
    with pytest.raises(SourceError, match="is no training state"):
        read_state(path)


# ---------------------------------------------------------------- data


def write_idx(path: Path, array: Any) -> None:
    content = (
        b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def test_mnist_that_is_not_mnist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="has no train-images-idx3-ubyte") as caught:
        data.mnist_folder(tmp_path)
    assert "t10k-labels-idx1-ubyte" in str(caught.value)
    for name in data.MNIST_FILES:
        write_idx(tmp_path / f"{name}.gz", np.zeros((7, 28, 28) if "images" in name else 7))
    with pytest.raises(InputError, match=r"MNIST has \(60000, 28, 28\) uint8"):
        data.mnist(data.mnist_folder(tmp_path))


def test_without_a_folder_the_ways_to_name_one_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(data.MNIST_VARIABLE, raising=False)
    with pytest.raises(OptionError, match="give --data DIR or set XNORINFER_MNIST"):
        data.mnist_folder(None)
    monkeypatch.setenv(data.MNIST_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(OptionError, match="nowhere has no train-images"):
        data.mnist_folder(None)


def test_the_mnist_split_is_the_references(mnist_folder: Path) -> None:
    split = data.mnist(data.mnist_folder(mnist_folder))
    assert (len(split.train), len(split.validation), len(split.test)) == (50_000, 10_000, 10_000)
    assert split.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert split.validation.labels[-3:].tolist() == [5, 6, 8]
    assert split.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_the_digits_split_is_the_shipped_one() -> None:
    pytest.importorskip("sklearn", reason="the digits come from scikit-learn")
    split = data.digits()
    with np.load(DATA / digits.HELD_OUT) as held_out:
        assert (split.test.pixels.numpy() == held_out["x"]).all()
        assert (split.test.labels.numpy() == held_out["y"]).all()
    rows = [set(map(bytes, part.pixels.numpy())) for part in (split.train, split.validation, split.test)]
    assert not rows[2] & (rows[0] | rows[1])
    assert sum(len(part) for part in (split.train, split.validation, split.test)) == 1797
    assert set(split.train.pixels.unique().tolist()) == {int(np.round(p * 255 / 16)) for p in range(17)}


def test_the_shipped_network_has_the_accuracy_that_its_card_states() -> None:
    with np.load(DATA / digits.CHECKPOINT) as file:
        arrays = dict(file)
    layers: list[Any] = []
    for index in range(3):
        part = {name.split(".", 1)[1]: array for name, array in arrays.items() if name.startswith(f"{index}.")}
        assert np.abs(part["weight"]).max() <= 1
        layers.append((f"fc{index}", Linear(part["weight"], "round-even", bias=part["bias"])))
        statistics = {"gamma": part["bn.gamma"], "beta": part["bn.beta"], "epsilon": float(part["bn.epsilon"])}
        layers.append((f"bn{index}", Norm(part["bn.mean"], part["bn.var"], **statistics)))
        layers.append((f"sign{index}", Quantize("round-even")))
    net = Net.chain(PixelInput.range(-1, 1), tuple(layers[:-1]), "tf1-round")
    net.require_valid()
    with np.load(DATA / digits.HELD_OUT) as held_out:
        right = int((forward(net, held_out["x"]).argmax(1) == held_out["y"]).sum())
        assert held_out["x"].dtype == held_out["y"].dtype == np.uint8
        assert np.bincount(held_out["y"]).min() >= 38
    assert f"97.75 %** ({right} right)" in (DATA / "README.md").read_text(encoding="utf-8")
    assert sum((DATA / name).stat().st_size for name in (digits.CHECKPOINT, digits.HELD_OUT)) < 500_000


# ---------------------------------------------------------------- the command


@pytest.fixture
def small_mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that passes for MNIST's, behind which stand a few made-up images of 784 pixels."""
    parts = [samples(rows, seed, depth=784, classes=10) for seed, rows in enumerate((200, 100, 100))]
    monkeypatch.setattr(mnist, "load_mnist", lambda folder: data.Split(*parts))
    folder = tmp_path / "mnist"
    folder.mkdir()
    for name in data.MNIST_FILES:
        (folder / name).touch()
    return folder


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(commands, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.mark.long
def test_mnist_command_survives_an_interruption(small_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--data", small_mnist, "--hidden", "16,12", "--epochs", 4, "--batch", 20)
    done = run("mnist", "-o", tmp_path / "whole.npz", *options)
    assert done.exit_code == 0, done.output
    assert "accuracy on the 10,000 test images" in done.output
    assert f"xnorinfer convert {tmp_path / 'whole.npz'}" in done.output

    cut, original = tmp_path / "cut.npz", Progress.run_epoch
    calls: list[int] = []

    def interrupted(self: Progress, *arguments: Any) -> loop.Epoch:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments)

    monkeypatch.setattr(Progress, "run_epoch", interrupted)
    stopped = run("mnist", "-o", cut, *options)
    assert stopped.exit_code == 130
    assert "interrupted after epoch 2 of 4" in stopped.output
    assert not cut.exists()
    monkeypatch.setattr(Progress, "run_epoch", original)
    other = run("mnist", "-o", cut, *options, "--seed", 9)
    assert isinstance(other.exception, OptionError)
    resumed = run("mnist", "-o", cut, *options)
    assert "going on after epoch 2 of 4" in resumed.output
    assert cut.read_bytes() == (tmp_path / "whole.npz").read_bytes()
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"whole.npz", "cut.npz", "whole.npz.history.json", "cut.npz.history.json"}
    history = json.loads((tmp_path / "cut.npz.history.json").read_text())
    assert [epoch["epoch"] for epoch in history["epochs"]] == [1, 2, 3, 4]
    assert history["summary"]["network"] == "784-16-12-10"


@pytest.mark.parametrize(("suffix", "files"), [(".pt", [""]), (".pth", [""]), (".ckpt", [".data-00000-of-00001", ".index"])])
def test_the_suffix_chooses_the_format(small_mnist: Path, tmp_path: Path, suffix: str, files: list[str]) -> None:
    """Every format holds the same network, and the command that is shown next needs nothing more to convert it."""
    from xnorinfer.cli import main
    from xnorinfer.engine.model import Model

    options = ("--data", small_mnist, "--hidden", "16,12", "--epochs", 1, "--batch", 20)
    output = tmp_path / f"net{suffix}"
    done = run("mnist", "-o", output, *options)
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in tmp_path.iterdir() if path.is_file())
    assert names == sorted([*(output.name + end for end in files), f"{output.name}.history.json"])
    assert run("mnist", "-o", tmp_path / "net.npz", *options).exit_code == 0
    models = []
    for name in (output, tmp_path / "net.npz"):
        shown = re.search(rf"next: xnorinfer (convert {re.escape(str(name))} .*)", done.output if name == output else "")
        command = shown[1].split() if shown else ["convert", str(name), "-o", str(tmp_path / "npz.safetensors")]
        converted = CliRunner().invoke(main, command)
        assert converted.exit_code == 0, converted.output
        assert "default" not in "".join(line for line in converted.output.splitlines() if "epsilon" in line)
        models.append(modelfile.load(command[3]))
    pixels = samples(300, 5, depth=784, classes=10).pixels.numpy()
    assert (Model(models[0]).predict(pixels) == Model(models[1]).predict(pixels)).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("-o", "net.npy"), OptionError, r"needed is one of \.npz, \.pt, \.pth, \.ckpt"),
        (("-o", "nowhere/net.npz"), OutputError, "there is no folder"),
        (("-o", "nowhere/net.ckpt"), OutputError, r"net\.ckpt\.index: cannot be written: there is no folder"),
        (("-o", "net.npz", "--epochs", "0"), OptionError, "epochs is 0"),
        (("-o", "net.npz", "--dropout-input", "1"), OptionError, "input dropout is 1"),
        (("-o", "net.npz", "--h", "-1"), OptionError, "H is -1"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    small_mnist: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("mnist", "--data", small_mnist, *arguments)
    assert isinstance(done.exception, error)
    assert re.search(message, str(done.exception))
    assert [path.name for path in tmp_path.iterdir()] == ["mnist"]


def test_wrong_option_values_are_usage_errors(small_mnist: Path) -> None:
    for option, value in (("--hidden", "3,x"), ("--h", "tall"), ("--seed", "-1")):
        done = run("mnist", "-o", "net.npz", option, value)
        assert done.exit_code == 2
        assert value.split(",")[0] in done.output


def test_python_m_shows_a_mistake_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "xnorinfer.training", "mnist", "-o", "net.npy"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: output net.npy ends in .npy; needed is one of .npz, .pt, .pth, .ckpt\n"


def test_python_m_without_torch_names_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')\n")
    command = [sys.executable, "-m", "xnorinfer.training", "mnist", "-o", "net.npz"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: training needs the package torch: pip install 'xnorinfer[train]'\n"


# ---------------------------------------------------------------- curves


def history(path: Path, errors: list[float]) -> Path:
    content = {
        "summary": {"network": "784-<3>-10", "test_error": 0.0243},
        "shape": {"dropout_input": 0.2, "dropout_hidden": 0.5},
        "recipe": {"epochs": len(errors)},
        "epochs": [{"validation_error": error} for error in errors],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_curves_are_drawn_on_a_logarithmic_scale(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="curves are drawn by matplotlib")
    one = history(tmp_path / "one.json", [0.4, 0.2, 0.1, 0.05])
    two = history(tmp_path / "two.json", [0.04, 0.0])
    done = run("curves", one, two, "-o", tmp_path / "curves.svg")
    assert done.exit_code == 0, done.output
    svg = "{http://www.w3.org/2000/svg}"
    root = ElementTree.parse(tmp_path / "curves.svg").getroot()
    colours = [f"stroke: {colour}" for colour in COLOURS[:2]]
    drawn = [path for path in root.iter(f"{svg}path") if any(one in (path.get("style") or "").lower() for one in colours)]
    points = [np.array(re.findall(r"[ML] (\S+) (\S+)", path.get("d") or ""), float) for path in drawn[:2]]
    assert [len(line) for line in points] == [4, 2]
    steps = np.diff(points[0], axis=0)
    assert steps[:, 0] == pytest.approx([steps[0, 0]] * 3, abs=0.2)  # epochs are equally far apart,
    assert steps[:, 1] == pytest.approx([steps[0, 1]] * 3, abs=0.2)  # and so are halved errors
    assert steps[0, 1] > 0
    labels = [text.text for text in root.iter(f"{svg}text")]
    assert "784-<3>-10, dropout 0.2 and 0.5, 4 epochs: test error 2.43 %" in labels
    assert {"1 %", "10 %", "validation error", "epoch"} <= set(labels)
    first = (tmp_path / "curves.svg").read_bytes()
    run("curves", one, two, "-o", tmp_path / "curves.svg")
    assert (tmp_path / "curves.svg").read_bytes() == first


def test_curves_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = run("curves", history(tmp_path / "one.json", [0.4, 0.2]), "-o", tmp_path / "curves.svg")
    assert isinstance(done.exception, MissingExtraError)
    assert str(done.exception) == "drawing curves needs the package matplotlib: pip install 'xnorinfer[train]'"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"epochs": 3}', "\x00"])
def test_curves_of_something_else_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "odd.json").write_text(content, encoding="utf-8")
    done = run("curves", tmp_path / "odd.json", "-o", tmp_path / "curves.svg")
    assert isinstance(done.exception, InputError)
    assert "is no training history" in str(done.exception)
    assert not (tmp_path / "curves.svg").exists()


def test_curves_of_an_impossible_history_are_refused(tmp_path: Path) -> None:
    for errors in ([], [1.5], [float("nan")]):
        done = run("curves", history(tmp_path / "odd.json", errors), "-o", tmp_path / "curves.svg")
        assert isinstance(done.exception, InputError)
