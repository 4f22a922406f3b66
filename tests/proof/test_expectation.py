"""The user's own answers: they are compared, and where they differ, the reading that gives them is found.

The networks here are plain numpy, in float64, and share no code with the package; each case computes its answers under one
reading, and the file is converted under another.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CHECKPOINT, DIGITS, fine, run, wrong
from numpy.typing import NDArray

import xnorinfer
from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.evidence.inputmapping import option_of
from xnorinfer.converters.nettoml.writer import net_text
from xnorinfer.errors import ExpectationError, InputError
from xnorinfer.keywords import options_of
from xnorinfer.net import reference
from xnorinfer.net.values import ChannelInput, InputMapping, PixelInput
from xnorinfer.packing import modelfile
from xnorinfer.proof import alternatives
from xnorinfer.spelling import in_python

Array = NDArray[Any]
ROWS, WIDTHS = 96, (24, 20, 16, 10)


def ge(x: Array) -> Array:
    return np.where(x >= 0, 1.0, -1.0)


def keep(x: Array) -> Array:
    return x


def hardtanh(x: Array) -> Array:
    return np.clip(x, -1, 1)


@dataclass
class Meaning:
    """What a network computes that its file does not say."""

    entering: Callable[[Array], Array] = lambda x: x / 127.5 - 1
    weights: Callable[[Array], Array] = ge
    activations: Callable[[Array], Array] = ge
    before_norm: Callable[[Array], Array] = keep
    into_head: Callable[[Array], Array] = ge
    head: Callable[[Array], Array] = ge
    epsilon: float = 1e-4
    unit: Callable[[Array], Array | float] = lambda latent: 1.0
    after: Callable[[Array], Array] = keep


def arrays(seed: int, *, zeros: bool = False, plausible: bool = False) -> dict[str, Array]:
    """The named layout of `converters.npz`, with small variances so that every guess matters; plausible: those of sums."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for index, (depth, neurons) in enumerate(itertools.pairwise(WIDTHS)):
        latent = rng.uniform(-1, 1, (neurons, depth)) + rng.normal(size=(neurons, 1)) * 0.4
        if zeros:
            latent[rng.random(latent.shape) < 0.1] = 0
        found[f"{index}.weight"] = np.clip(latent, -1, 1).astype(np.float32)
        found[f"{index}.bn.mean"] = (rng.normal(size=neurons) * 2).astype(np.float32)
        found[f"{index}.bn.var"] = (rng.uniform(0.0005, 0.004, neurons) * (10000 if plausible else 1)).astype(np.float32)
        found[f"{index}.bn.gamma"] = rng.normal(size=neurons).astype(np.float32)
        found[f"{index}.bn.beta"] = (rng.normal(size=neurons) * (1 if plausible else 20)).astype(np.float32)
    return found


def scores(net: dict[str, Array], meaning: Meaning, x: Array) -> Array:
    value = meaning.entering(x.astype(np.float64))
    last = len(WIDTHS) - 2
    for index in range(last + 1):
        latent = net[f"{index}.weight"].astype(np.float64)
        weights = (meaning.head if index == last else meaning.weights)(latent)
        if index == last and index:
            value = meaning.into_head(value)
        elif index:
            value = meaning.activations(value)
        value = value @ weights.T * (meaning.unit(latent) if weights is not latent else 1.0)
        if index < last:
            value = meaning.before_norm(value)
        mean, variance, gamma, beta = (net[f"{index}.bn.{name}"] for name in ("mean", "var", "gamma", "beta"))
        value = (value - mean) / np.sqrt(variance.astype(np.float64) + meaning.epsilon) * gamma + beta
    return meaning.after(value)


@dataclass
class Case:
    """meaning: of the network.  option: what must be found; given: what convert is told beside."""

    meaning: Meaning
    option: str
    given: tuple[str, ...] = ("--profile", "ge-zero")
    zeros: bool = False
    also: tuple[str, ...] = field(default=())


def glorot(latent: Array) -> float:
    return float(np.sqrt(1.5 / sum(latent.shape)))


#: Mean and deviation of torchvision's MNIST example.
def normalized(x: Array) -> Array:
    return (x / 255 - 0.1307) / 0.3081


CASES = {
    "profile": Case(Meaning(weights=lambda w: np.where(w > 0, 1.0, -1.0), head=lambda w: np.where(w > 0, 1.0, -1.0)),
                    "--profile gt-zero", zeros=True),
    "epsilon": Case(Meaning(epsilon=1e-3), "--bn-epsilon 0.001"),
    "H": Case(Meaning(unit=glorot), "--h glorot"),
    "range": Case(Meaning(entering=lambda x: x / 255), "--input-range=0:1"),
    "normalize": Case(Meaning(entering=normalized), "--input-normalize 0.1307:0.3081"),
    "threshold": Case(Meaning(entering=lambda x: np.where(x >= 128, 1.0, -1.0)), "--input-threshold 128"),
    "float head": Case(Meaning(into_head=hardtanh, head=keep), "--float-layer 2"),
    "float head on signs": Case(Meaning(head=keep), 'kind = "float" and activation = "sign" for 2 in a net.toml'),
    "relu": Case(Meaning(before_norm=lambda x: np.maximum(x, 0)), "--before-norm relu"),
    "hardtanh before norm": Case(Meaning(before_norm=hardtanh), "--before-norm hardtanh"),
    "centred": Case(Meaning(weights=lambda w: ge(w - w.mean(axis=1, keepdims=True)),
                            head=lambda w: ge(w - w.mean(axis=1, keepdims=True))), "--center"),
    "scaled": Case(Meaning(unit=lambda latent: np.abs(latent).mean(axis=1)), "--scale-by mean-abs"),
    "two things": Case(Meaning(entering=normalized, into_head=hardtanh, head=keep),
                       "--input-normalize 0.1307:0.3081 --float-layer 2"),
    "two others": Case(Meaning(entering=lambda x: x / 255, epsilon=1e-3), "--input-range=0:1 --bn-epsilon 0.001"),
}  # fmt: skip


def write(folder: Path, meaning: Meaning, *, zeros: bool = False, seed: int = 5, plausible: bool = False) -> tuple[Path, Path]:
    net = arrays(seed, zeros=zeros, plausible=plausible)
    x = np.random.default_rng(seed).integers(0, 256, (ROWS, WIDTHS[0]), dtype=np.uint8)
    np.savez(folder / "net.npz", **net)
    answers = scores(net, meaning, x).astype(np.float32)
    np.savez(folder / "expected.npz", x=x, scores=answers, classes=answers.argmax(axis=1))
    return folder / "net.npz", folder / "expected.npz"


@pytest.mark.parametrize("name", CASES)
def test_the_reading_that_answers_prove_is_found(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, expected = write(tmp_path, case.meaning, zeros=case.zeros)
    line = wrong("convert", source, "-o", tmp_path / "m", *case.given, "--expect", expected, code=1)
    assert f"of {ROWS} classes are not those of {expected}, the first in row " in line
    assert re.search(r"makes? all rows equal", line), line
    assert case.option in line.partition("gives")[2], line
    assert not (tmp_path / "m").exists()
    if case.option.startswith("--"):  # followed, it holds
        text = fine("convert", source, "-o", tmp_path / "m", *case.given, *case.option.split(), "--expect", expected)
        assert f"as expected: all {ROWS} classes are those of {expected}, all scores within rounding" in text
        kept = xnorinfer.load(tmp_path / "m").info["provenance"]["expected"]
        assert kept["holds"] is True
        assert kept["rows"] == ROWS
        assert f"as expected: all {ROWS} classes" in fine("verify", tmp_path / "m", source, "--rows", 5, "--expect", expected)


def test_arrays_in_another_order(tmp_path: Path) -> None:
    """Variances described as Lasagne's inv_std, and beta and gamma the other way round."""
    net = arrays(2)
    x = np.random.default_rng(2).integers(0, 256, (ROWS, WIDTHS[0]), dtype=np.uint8)
    np.savez(tmp_path / "net.npz", **net)
    np.savez(tmp_path / "expected.npz", x=x, scores=scores(net, Meaning(epsilon=1e-3), x))
    layer = (
        '[[layers]]\nweight = "{0}.weight"\nnorm = {{mean = "{0}.bn.mean", inv_std = "{0}.bn.var", gamma = "{0}.bn.beta", '
        'beta = "{0}.bn.gamma"}}\n'
    )
    head = 'profile = "ge-zero"\nlayout = "out_in"\n[input]\nrange = [-1, 1]\n'
    (tmp_path / "net.toml").write_text(head + "".join(map(layer.format, range(3))))
    given = ("convert", tmp_path / "net.npz", "--dry-run", "--net", tmp_path / "net.toml", "--expect")
    line = wrong(*given, tmp_path / "expected.npz", code=1)
    assert "Keras's order of the arrays (gamma, beta, mean, variance) and epsilon = 0.001 makes all rows equal" in line


SIZES = np.linspace(0.5, 1.5, 10, dtype=np.float32)


@pytest.mark.parametrize("answer", ["scores", "classes"])
def test_the_order_of_batch_norms_operations(tmp_path: Path, answer: str) -> None:
    """It changes the last bits of scores alone, and seldom a class: neurons here are one but for rounding."""
    net = arrays(6, plausible=True)
    for name in net if answer == "classes" else ():
        if name.startswith("2."):
            net[name][1:] = net[name][0]
    net["2.bn.var"] *= np.square(SIZES)
    net["2.bn.gamma"] *= SIZES
    np.savez(tmp_path / "net.npz", **net)
    given = ("convert", tmp_path / "net.npz", "--dry-run", "--profile", "ge-zero", "--bn-epsilon", "0", "--expect")
    options = ConvertOptions(profile="ge-zero", bn_epsilon=0.0)
    reading = read_source(tmp_path / "net.npz", options)
    (other,) = (one.change(reading.net) for one in alternatives.forms(reading.net) if one.value == "torch")
    x = np.random.default_rng(1).integers(0, 256, (4000, WIDTHS[0]), dtype=np.uint8)
    mine, theirs = (reference.forward(one, x) for one in (reading.net, other))
    if answer == "classes":
        differ = np.flatnonzero(mine.argmax(axis=1) != theirs.argmax(axis=1))
        rows = np.r_[differ[:2], np.setdiff1d(np.arange(200), differ)]
        x, mine, theirs = x[rows], mine[rows].argmax(axis=1), theirs[rows].argmax(axis=1)
    assert (mine != theirs).any()
    expected = tmp_path / "expected.npz"
    np.savez(expected, x=x, **{answer: theirs})
    text = run(*given, expected)
    assert text.exit_code == 0
    line = re.search(r"in the order of torch none does; a net.toml \(--net\) can say `(form = .torch.)`", text.stdout)
    assert line is not None
    (tmp_path / "net.toml").write_text(net_text(tmp_path / "net.npz", reading, options).replace('form = "tf"', line[1]))
    text = run("convert", tmp_path / "net.npz", "--dry-run", "--net", tmp_path / "net.toml", "--expect", expected)
    assert (text.exit_code, "in the order of" in text.stdout) == (0, False)
    np.savez(expected, x=x, **{answer: mine})
    assert "in the order of" not in run(*given, expected).stdout


def shuffled(net: dict[str, Array], order: tuple[int, ...]) -> dict[str, Array]:
    return {
        f"{place}.{name.partition('.')[2]}": net[name] for place, of in enumerate(order) for name in net if name[0] == str(of)
    }


def test_layers_in_another_order(tmp_path: Path) -> None:
    """Where shapes do not tell, as in files that sort layers by name."""
    rng = np.random.default_rng(4)
    net = {}
    for index in range(3):
        net |= {name.replace("1.", f"{index}.", 1): a for name, a in arrays(index).items() if name.startswith("1.")}
        neurons = 16 if index < 2 else 10
        net[f"{index}.weight"] = rng.uniform(-1, 1, (neurons, 16)).astype(np.float32)
        for name in ("mean", "var", "gamma", "beta"):
            net[f"{index}.bn.{name}"] = net[f"{index}.bn.{name}"][:neurons]
    x = np.random.default_rng(2).integers(0, 256, (ROWS, 16), dtype=np.uint8)
    np.savez(tmp_path / "expected.npz", x=x, scores=scores(net, Meaning(), x))
    np.savez(tmp_path / "net.npz", **shuffled(net, (1, 0, 2)))
    given = ("convert", tmp_path / "net.npz", "--dry-run", "--profile", "ge-zero", "--expect", tmp_path / "expected.npz")
    assert "[[layers]] of a net.toml in the order 1, 0, 2 makes all rows equal" in wrong(*given, code=1)


def test_weights_that_are_bits(tmp_path: Path) -> None:
    net = {name: np.where(a > 0, 1, 0).astype("f4") if "weight" in name else a for name, a in arrays(6).items()}
    x = np.random.default_rng(2).integers(0, 256, (ROWS, WIDTHS[0]), dtype=np.uint8)
    np.savez(tmp_path / "net.npz", **net)
    plus = Meaning(weights=lambda w: 2 * w - 1, head=lambda w: 2 * w - 1)
    np.savez(tmp_path / "expected.npz", x=x, scores=scores(net, plus, x))
    given = ("convert", tmp_path / "net.npz", "--dry-run", "--profile", "ge-zero", "--expect", tmp_path / "expected.npz")
    assert 'values = "bits" in a net.toml' in wrong(*given, code=1)


def test_what_data_decided_stays_when_answers_are_explained(tmp_path: Path) -> None:
    """The source is read again with other options, and with the input mapping that the data chose."""
    net, x = dict(np.load(CHECKPOINT)), np.load(DIGITS)["x"]
    sums = x / 255 @ np.where(net["0.weight"] > 0, 1, -1).T + net["0.bias"]
    net |= {"0.bn.mean": sums.mean(axis=0).astype("f4"), "0.bn.var": sums.var(axis=0).astype("f4")}
    np.savez(tmp_path / "net.npz", **net)
    answers = xnorinfer.convert(tmp_path / "net.npz", input_range=(0, 1), float_layers=["2"]).scores(x)
    np.savez(tmp_path / "expected.npz", x=x, scores=answers)
    given = ("convert", tmp_path / "net.npz", "--dry-run", "--data", f"{DIGITS}:x", "--expect", tmp_path / "expected.npz")
    assert "--float-layer 2 makes all rows equal" in wrong(*given, code=1)
    with pytest.raises(ExpectationError, match=r"float_layers=\[.2.\] makes all rows equal"):
        xnorinfer.convert(tmp_path / "net.npz", data=x, expect=(x, answers))
    assert "as expected: all" in fine(*given, "--float-layer", "2")


def test_a_tie_of_all_scores_is_no_rounding(tmp_path: Path) -> None:
    """A reading under which every class scores the same would agree with any answer."""
    rng = np.random.default_rng(0)
    net = {"0.weight": np.ones((16, 24), "f4"), "0.bn.mean": np.zeros(16, "f4"), "0.bn.var": np.ones(16, "f4")}
    net["1.weight"] = np.ones((10, 16), "f4")
    x = rng.integers(0, 256, (ROWS, 24), dtype=np.uint8)
    np.savez(tmp_path / "expected.npz", x=x, classes=rng.integers(0, 10, ROWS))
    same = {"1.bn.mean": np.zeros(10, "f4"), "1.bn.var": np.ones(10, "f4")}
    toml = (
        'profile = "ge-zero"\nlayout = "out_in"\nform = "tf"\nepsilon = 1e-4\n[input]\nrange = [-1, 1]\n[[layers]]\n'
        'weight = "0.weight"\nnorm = {mean = "0.bn.mean", variance = "0.bn.var"}\n[[layers]]\nweight = "1.weight"\n'
    )
    for head in ({}, same):
        np.savez(tmp_path / "net.npz", **net, **head)
        norm = 'norm = {mean = "1.bn.mean", variance = "1.bn.var"}\n' if head else ""
        (tmp_path / "net.toml").write_text(toml + norm)
        given = ("convert", tmp_path / "net.npz", "--dry-run", "--net", tmp_path / "net.toml", "--expect")
        assert f"of {ROWS} classes are not those of" in wrong(*given, tmp_path / "expected.npz", code=1)


def test_nothing_explains_other_answers(tmp_path: Path) -> None:
    """Nothing is said of readings that a few rows would fit by chance, either."""
    source, expected = write(tmp_path, Meaning())
    held = dict(np.load(expected))
    held["classes"] = (held["classes"] + np.arange(ROWS) % 3) % 10
    np.savez(expected, x=held["x"], classes=held["classes"])
    line = wrong("convert", source, "-o", tmp_path / "m", "--profile", "ge-zero", "--expect", expected, code=1)
    assert f"{int((np.arange(ROWS) % 3 > 0).sum())} of {ROWS} classes are not those of" in line
    assert "none of " in line
    np.savez(expected, x=held["x"][:5], classes=held["classes"][:5])
    line = wrong("convert", source, "-o", tmp_path / "m", "--profile", "ge-zero", "--expect", expected, code=1)
    assert "other readings are not tried on so few rows" in line
    assert not (tmp_path / "m").exists()


def test_the_nearest_reading_is_said_as_it_is_asked_for(tmp_path: Path) -> None:
    source, expected = write(tmp_path, Meaning(entering=lambda x: x / 255))
    held = dict(np.load(expected))
    classes = np.where(np.arange(ROWS) < 60, held["classes"], held["classes"] // 2)
    np.savez(expected, x=held["x"], classes=classes)
    line = wrong("convert", source, "--dry-run", "--profile", "ge-zero", "--expect", expected, code=1)
    assert re.search(r"the nearest, --input-range=0:1, is right in \d+ of 64 rows", line), line
    with pytest.raises(ExpectationError, match=r"the nearest, input_range=\(0, 1\), is right in \d+ of 64"):
        xnorinfer.convert(source, profile="ge-zero", expect=(held["x"], classes))


def test_the_forms_of_an_expectation(tmp_path: Path) -> None:
    source, expected = write(tmp_path, Meaning())
    held = dict(np.load(expected))
    given = ("convert", source, "--dry-run", "--profile", "ge-zero", "--bn-epsilon", "1e-4", "--expect")
    mapped = (held["x"] / np.float32(127.5) - 1).astype(np.float32)
    for name, array in (("x", held["x"]), ("scores", held["scores"]), ("classes", held["classes"]), ("mapped", mapped)):
        np.save(tmp_path / f"{name}.npy", array)
    np.savez(tmp_path / "two.npz", held["x"], held["scores"])
    np.savez(tmp_path / "classes.npz", x=mapped.reshape(ROWS, 1, 4, 6), classes=held["classes"][:, None])
    scored = "all scores within rounding"
    assert scored in fine(*given, expected)
    assert scored in fine(*given, f"{tmp_path / 'x.npy'}:{tmp_path / 'scores.npy'}")
    assert scored in fine(*given, f"{tmp_path / 'mapped.npy'}:{expected}:scores")
    assert scored in fine(*given, tmp_path / "two.npz")
    for pair in (f"{tmp_path / 'x.npy'}:{tmp_path / 'classes.npy'}", tmp_path / "classes.npz"):
        text = fine(*given, pair)
        assert f"as expected: all {ROWS} classes are those of {pair}" in text
        assert scored not in text


def softmax(value: Array) -> Array:
    powers = np.exp(value - value.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def log_softmax(value: Array) -> Array:
    below = value - value.max(axis=1, keepdims=True)
    return below - np.log(np.exp(below).sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("after", "scored"), [(softmax, "softmax"), (log_softmax, "log-softmax")])
def test_probabilities_are_told(tmp_path: Path, after: Callable[[Array], Array], scored: str) -> None:
    source, expected = write(tmp_path, Meaning(after=after))
    text = fine("convert", source, "--dry-run", "--profile", "ge-zero", "--expect", expected)
    assert f"all {scored} within rounding" in text


def test_other_scores_of_the_same_classes_are_a_warning(tmp_path: Path) -> None:
    source, expected = write(tmp_path, Meaning(after=lambda v: v * 3))
    given = ("convert", source, "-o", tmp_path / "m", "--profile", "ge-zero", "--bn-epsilon", "1e-4", "--expect", expected)
    text = fine(*given)
    assert f"warning: the classes are those of {expected}, but in {ROWS} of {ROWS} rows the scores differ" in text
    assert any("the scores differ" in one for one in xnorinfer.load(tmp_path / "m").info["warnings"])
    assert "--strict" in wrong(*given, "--strict", code=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": np.zeros((3, 24)), "b": np.zeros(3)}, "holds a, b; needed is an .npz with the arrays x"),
        ({"x": np.zeros((3, 24)), "scores": np.zeros((3, 9))}, "holds scores of 9 classes, the network has 10"),
        ({"x": np.zeros((3, 24)), "scores": np.zeros((4, 10))}, "needed are scores (3, classes)"),
        ({"x": np.zeros((3, 24)), "classes": np.array([0, 1, 10])}, "class 10 in row 2; the network has the classes 0..9"),
        ({"x": np.zeros((3, 24)), "classes": np.array([0.5, 1, 2])}, "no whole numbers"),
        ({"x": np.zeros((3, 24)), "scores": np.full((3, 10), np.nan)}, "a score of row 0 is NaN"),
        ({"x": np.zeros((3, 23), np.uint8), "classes": np.zeros(3, int)}, "this model takes (rows, 24)"),
        ({"x": np.zeros((0, 24)), "classes": np.zeros(0, int)}, "with a row at least"),
        ({"x": np.zeros(3), "classes": np.zeros(3, int)}, "needed are (rows, ...)"),
        ({"x": np.full((3, 24), 7.3), "classes": np.zeros(3, int)}, "no mapped pixel"),
    ],
)
def test_bad_expectations(tmp_path: Path, content: dict[str, Array], message: str) -> None:
    source, expected = write(tmp_path, Meaning())
    np.savez(expected, **content)
    result = run("convert", source, "-o", tmp_path / "m", "--expect", expected)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (tmp_path / "m").exists()


def test_bad_files_of_expectations(tmp_path: Path) -> None:
    source, _ = write(tmp_path, Meaning())
    np.save(tmp_path / "alone.npy", np.zeros((3, 24)))
    assert "is no .npz archive; needed is" in wrong("convert", source, "--dry-run", "--expect", tmp_path / "alone.npy")
    assert "no such file" in wrong("convert", source, "--dry-run", "--expect", tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("no array")
    assert "text.npz" in wrong("convert", source, "--dry-run", "--expect", tmp_path / "text.npz")


def test_python(tmp_path: Path) -> None:
    source, expected = write(tmp_path, Meaning(entering=normalized))
    held = dict(np.load(expected))
    with pytest.raises(ExpectationError, match=r"input_normalize=\(0.1307, 0.3081\) makes all rows equal"):
        xnorinfer.convert(source, expect=(held["x"], held["scores"]), profile="ge-zero")
    model = xnorinfer.convert(
        source, expect=(held["x"].tolist(), held["classes"]), profile="ge-zero", input=PixelInput.normalize(0.1307, 0.3081)
    )
    np.testing.assert_array_equal(model.predict(held["x"]), held["classes"])
    assert model.info["provenance"]["expected"]["name"] == "expect"
    for pair in ((held["x"],), held["x"], 3):
        with pytest.raises(InputError, match="expect must be a pair"):
            xnorinfer.convert(source, expect=pair)  # type: ignore[arg-type]


CHANNELS = ChannelInput.normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))


@pytest.mark.parametrize("mapping", [*alternatives.MAPPINGS, CHANNELS], ids=lambda mapping: mapping.describe())
def test_options_are_named_as_python_writes_them(mapping: InputMapping) -> None:
    """What is said of a mapping can be typed, and can be written in Python."""
    keywords = eval(f"dict({in_python(option_of(mapping))})")
    assert options_of(keywords, answered=False).input == mapping


def test_verify_does_not_hold_where_the_network_gives_other_classes(tmp_path: Path) -> None:
    source, expected = write(tmp_path, Meaning(entering=normalized), plausible=True)
    fine("convert", source, "-o", tmp_path / "m", "--profile", "ge-zero")
    result = run("verify", tmp_path / "m", source, "--rows", 9, "--expect", expected)
    assert result.exit_code == 1
    assert "not as expected: " in result.stdout
    assert "convert --expect says which reading gives them" in result.stdout
    result = run("verify", tmp_path / "m", source, "--rows", 9, "--expect", expected, "--json")
    assert json.loads(result.stdout)["expected"]["holds"] is False


def test_rounding_of_the_framework_is_no_difference(tmp_path: Path) -> None:
    """A class that a first-layer sum within rounding of its threshold decides may be the framework's."""
    x = np.load(DIGITS)["x"]
    model = xnorinfer.convert(CHECKPOINT)
    np.savez(tmp_path / "e.npz", x=x, scores=model.scores(x) * np.float32(1 + 2**-23))
    assert "all scores within rounding" in fine("convert", CHECKPOINT, "--dry-run", "--expect", tmp_path / "e.npz")
    assert modelfile.header_of(model.packed)["content_digest"]


def test_the_lines_that_write_such_a_file(tmp_path: Path) -> None:
    """What the help shows, followed in PyTorch, and with a stand-in for Keras's model."""
    lines = [line.strip() for line in fine("convert", "--help").splitlines()]
    begins, ends = lines.index("net.eval()"), [at for at, line in enumerate(lines) if line.startswith("np.savez")]
    in_torch, in_keras = "\n".join(lines[begins : ends[0] + 1]), "\n".join(lines[ends[0] + 2 : ends[1] + 1])
    x = np.random.default_rng(0).integers(0, 256, (300, 24), dtype=np.uint8)
    weights = np.random.default_rng(1).normal(size=(10, 24)).astype(np.float32)

    class Model:
        predict = staticmethod(lambda rows: np.asarray(rows) @ weights.T)

    names: dict[str, Any] = {"np": np, "x": x, "model": Model(), "transform": lambda rows: rows.astype(np.float32) / 127.5 - 1}
    run_line(in_keras, names, tmp_path / "keras.npz")
    torch = pytest.importorskip("torch")
    names["net"] = torch.nn.Linear(24, 10, bias=False)
    with torch.no_grad():
        names["net"].weight.copy_(torch.from_numpy(weights))
    names["transform"] = lambda rows: torch.from_numpy(rows.astype(np.float32) / 127.5 - 1)
    run_line(in_torch, names, tmp_path / "torch.npz")


def run_line(line: str, names: dict[str, Any], path: Path) -> None:
    from xnorinfer.proof.answers import read_answers

    exec(line.replace("expected.npz", str(path)), names)
    found = read_answers(str(path))
    assert (found.x.shape, found.values.shape) == ((300, 24), (300, 10))
