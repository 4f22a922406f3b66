from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_layers
from command_line import CHECKPOINT, DIGITS, fine, wrong
from places import DATA
from tf1_writer import write_bundle

import xnorinfer
from xnorinfer.conversion import convert_file, digest_of, merged
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import OptionError, StrictError
from xnorinfer.net.values import PixelInput
from xnorinfer.spelling import in_python


def test_the_digest_of_a_checkpoint_covers_all_of_its_files(tmp_path: Path) -> None:
    for name in ("model.ckpt.index", "model.ckpt.data-00000-of-00001", "model.ckpt-2.index"):
        (tmp_path / name).write_text(name)
    whole = digest_of(tmp_path / "model.ckpt")
    assert digest_of(tmp_path / "model.ckpt.index") == whole
    (tmp_path / "model.ckpt-2.index").write_text("another checkpoint")
    assert digest_of(tmp_path / "model.ckpt") == whole
    (tmp_path / "model.ckpt.data-00000-of-00001").write_text("other data")
    assert digest_of(tmp_path / "model.ckpt.index") != whole
    folder = digest_of(tmp_path)
    (tmp_path / "model.ckpt-2.index").write_text("again")
    assert digest_of(tmp_path) != folder


def test_the_digest_of_a_tensorflow_checkpoint_is_the_same_by_every_name(tmp_path: Path) -> None:
    folder = tmp_path / "tf1"
    shutil.copytree(DATA / "tf1", folder)
    names = ("net", "net.index", "net.meta", "net.data-00000-of-00001", "checkpoint")
    whole = {name: digest_of(folder / name) for name in names}
    assert len({whole[name] for name in names[:-1]}) == 1
    (folder / "net.meta").write_bytes(b"")
    assert all(digest_of(folder / name) != whole[name] for name in names)
    old = digest_of(folder / "old")  # one file, until a graph lies beside it
    assert old == hashlib.sha256((folder / "old").read_bytes()).hexdigest()
    (folder / "old.meta").write_bytes(b"graph")
    assert digest_of(folder / "old") != old


def test_the_digest_of_a_saved_model_covers_its_variables(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"a")
    (tmp_path / "variables" / "variables.index").write_bytes(b"b")
    before = digest_of(tmp_path)
    (tmp_path / "variables" / "variables.index").write_bytes(b"c")
    assert digest_of(tmp_path) != before


def test_the_digest_covers_the_config_beside_weights(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    for name, attributes in (("alone.weights.h5", {}), ("whole.h5", {"model_config": "{}"})):
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs.update(attributes)
        before = digest_of(tmp_path / name)
        beside = tmp_path / f"{name.split('.')[0]}.json"
        beside.write_text("{}")
        # A file that holds its own config does not look beside it.
        assert (digest_of(tmp_path / name) == before) == (name == "whole.h5")
        beside.write_text("{ }")
        assert (digest_of(tmp_path / name) == before) == (name == "whole.h5")


def test_a_single_file_has_the_ordinary_digest(tmp_path: Path) -> None:
    (tmp_path / "net.npz").write_bytes(b"abc")
    (tmp_path / "net.npz.history.json").write_bytes(b"not part of it")
    assert digest_of(tmp_path / "net.npz") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_recorded_options_of_a_wrong_type_are_named() -> None:
    for recorded in ({"float_layers": 5}, {"ignore": "a"}, {"ema": 1}, {"format": []}, {"profile": {}}):
        with pytest.raises(OptionError):
            ConvertOptions.from_json(recorded)
    given = ConvertOptions(ignore=("a", "b*"), float_layers=("c",), input=PixelInput.range(0, 1))
    assert ConvertOptions.from_json(given.to_json()) == given


# ---------------------------------------------------------------- warnings


def test_python_is_told_what_the_command_line_prints(tmp_path: Path) -> None:
    arrays = {key: array for key, array in np.load(CHECKPOINT).items() if not key.endswith("epsilon")}
    np.savez(tmp_path / "net.npz", **arrays)
    with pytest.warns(xnorinfer.ConversionWarning) as caught:
        model = xnorinfer.convert(tmp_path / "net.npz")
    said = [str(one.message) for one in caught]
    assert any("the file does not say BatchNorm's epsilon" in text for text in said)
    assert any("256 of 512 thresholds" in text for text in said)
    assert all(one.filename == __file__ for one in caught)
    assert list(model.report.warnings) == said
    assert model.info["warnings"] == model.info["provenance"]["warnings"]
    assert list(map(in_python, model.info["warnings"])) == said
    printed = fine("convert", tmp_path / "net.npz", "--dry-run")
    assert all(f"warning: {text}" in printed for text in model.info["warnings"])


def test_many_warnings_alike_are_one() -> None:
    alike = [f"fc{index}: {index * 3} latents are larger than H = 1 (up to 1.{index}); check --h" for index in range(20)]
    found = merged(["first: odd", *alike, "input: nothing says it", alike[3]])
    assert found == (
        "first: odd",
        f"{alike[0]} (and alike of 19 others: fc1, fc2, fc3, fc4, fc5, fc6, fc7, fc8, ...)",
        "input: nothing says it",
    )
    assert merged(alike[:3]) == tuple(alike[:3])
    assert merged(["a: one", "b: two", "c: three", "d: four", "no colon"]) == (
        "a: one",
        "b: two",
        "c: three",
        "d: four",
        "no colon",
    )


def test_warnings_do_not_change_the_network(tmp_path: Path) -> None:
    """The same bytes of the network, whatever was said about it."""
    quiet = convert_file(CHECKPOINT, ConvertOptions(profile="tf1-round", input=PixelInput.range(-1, 1), h=1))
    loud = convert_file(CHECKPOINT, ConvertOptions())
    digests = [xnorinfer.Model(one.packed).info["content_digest"] for one in (quiet, loud)]
    assert not quiet.warnings
    assert loud.warnings
    assert digests[0] == digests[1]


def test_strict_makes_errors_of_warnings(tmp_path: Path) -> None:
    with pytest.raises(StrictError, match="converts with 1 warning, which are errors here") as caught:
        xnorinfer.convert(CHECKPOINT, strict=True, profile="tf1-round")
    assert len(caught.value.warnings) == 1
    given = ("convert", CHECKPOINT, "-o", tmp_path / "m", "--strict", "--profile", "tf1-round")
    assert wrong(*given, code=1) == "error: --strict: 1 warning; nothing written"
    assert list(tmp_path.iterdir()) == []
    fine(*given, "--input-range", "-1:1")
    assert xnorinfer.load(tmp_path / "m").info["warnings"] == []


# ---------------------------------------------------------------- --ignore


def test_ignored_tensors_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    """In every container of plain tensors, by name or pattern."""
    torch = pytest.importorskip("torch")
    from safetensors.numpy import save_file

    first, last = random_layers([16, 8, 4], 3, head_norm=False)
    tensors = {
        "fc1.weight": first.weight, "fc1.bias": first.bias, "bn1.running_mean": first.mean,
        "bn1.running_var": first.variance, "bn1.weight": first.gamma, "bn1.bias": first.beta, "fc2.weight": last.weight,
    }  # fmt: skip
    extra = {"slopes": np.ones(3, np.float32), "fc1.mask": np.ones((8, 16), np.float32)}
    named = {
        "0.weight": first.weight, "0.bn.mean": first.mean, "0.bn.var": first.variance, "1.weight": last.weight,
    }  # fmt: skip

    def write(folder: Path, odd: dict[str, np.ndarray]) -> dict[str, Path]:
        folder.mkdir()
        paths = {name: folder / name for name in ("state.pt", "state.safetensors", "state.npz", "named.npz", "net")}
        both = {**tensors, **odd}
        torch.save({"state_dict": {key: torch.tensor(value) for key, value in both.items()}}, paths["state.pt"])
        save_file({key: np.ascontiguousarray(value) for key, value in both.items()}, paths["state.safetensors"])
        np.savez(paths["state.npz"], **both)
        np.savez(paths["named.npz"], **named, **odd)
        layout = {
            "a/kernel": first.weight.T.copy(), "b/moving_mean": first.mean, "b/moving_variance": first.variance,
            "c/kernel": last.weight.T.copy(),
        }  # fmt: skip
        write_bundle(folder, {**layout, **{key.replace(".", "/"): value for key, value in odd.items()}})
        return paths

    options = ["--profile", "ge-zero", "--input-range=-1:1"]
    clean, odd = write(tmp_path / "clean", {}), write(tmp_path / "odd", extra)
    for name, path in odd.items():
        wrong("convert", path, "--dry-run", *options)
        patterns = ["--ignore", "slopes", "--ignore", "fc1?mask"]
        text = fine("convert", path, "-o", tmp_path / "m", *options, *patterns)
        assert "2 ignored" in text
        assert "ignored: --ignore slopes" in text
        assert "ignored: --ignore fc1?mask" in text
        want = convert_file(clean[name], ConvertOptions(profile="ge-zero", input=PixelInput.range(-1, 1))).packed
        assert xnorinfer.load(tmp_path / "m").info["content_digest"] == xnorinfer.Model(want).info["content_digest"]
        fine("verify", tmp_path / "m", path, "--rows", 5)
        message = wrong("convert", path, "--dry-run", *options, *patterns, "--ignore", "fc9*")
        assert "--ignore fc9*: no tensor has such a name; there are " in message


def test_an_ignored_array_leaves_no_gap_in_numbered_ones(tmp_path: Path) -> None:
    first, last = random_layers([16, 8, 4], 3, head_norm=False, inv_std=True)
    weights = first.weight.T, last.weight.T
    np.savez(tmp_path / "net.npz", weights[0], first.mean, first.inv_std, weights[1])
    np.savez(tmp_path / "odd.npz", weights[0], np.ones(8, np.float32), first.mean, first.inv_std, weights[1])
    want = convert_file(tmp_path / "net.npz", ConvertOptions())
    assert "could be b or beta or gamma" in wrong("convert", tmp_path / "odd.npz", "--dry-run")
    found = convert_file(tmp_path / "odd.npz", ConvertOptions(ignore=("arr_1",)))
    assert xnorinfer.Model(found.packed).info["content_digest"] == xnorinfer.Model(want.packed).info["content_digest"]


def test_the_option_that_a_refusal_proposes_is_right(tmp_path: Path) -> None:
    first, last = random_layers([16, 8, 4], 3, head_norm=False, inv_std=True)
    arrays = (first.weight.T, first.mean, first.inv_std, last.weight.T)
    np.savez(tmp_path / "net.npz", *arrays)
    np.savez(tmp_path / "odd.npz", np.float32(3), *arrays)
    line = wrong("convert", tmp_path / "odd.npz", "--dry-run")
    assert "if it takes no part, --ignore arr_0 leaves it out" in line
    found, want = (
        convert_file(tmp_path / name, ConvertOptions(ignore=ignore)).packed
        for name, ignore in (("odd.npz", ("arr_0",)), ("net.npz", ()))
    )
    assert xnorinfer.Model(found).info["content_digest"] == xnorinfer.Model(want).info["content_digest"]


def test_a_format_that_says_what_it_uses_has_nothing_to_ignore(tmp_path: Path) -> None:
    for kind in ("weights", "thres"):
        for layer in range(2):
            np.array([1, 0], "<u8").tofile(tmp_path / f"{layer}-0-{kind}.bin")
    message = wrong("convert", tmp_path, "--dry-run", "--ignore", "0-0-*")
    assert "is read by the format bnnpynq, which says itself what it uses" in message
    assert "--net excludes other options" in wrong("convert", CHECKPOINT, "--dry-run", "--net", __file__, "--ignore", "a")


# ---------------------------------------------------------------- --data


def test_inputs_confirm_or_choose_the_input_mapping(tmp_path: Path) -> None:
    """By the first BatchNorm's statistics; what they chose is recorded, so that the file is read so again."""
    arrays = dict(np.load(CHECKPOINT))
    text = fine("convert", CHECKPOINT, "-o", tmp_path / "m", "--data", f"{DIGITS}:x", "--profile", "tf1-round")
    assert "mapped linearly to -1..1 (0.bn beside 400 inputs: variance ratio" in text
    assert "but cannot tell it from --input-threshold 128" in text
    assert "256 of 512 thresholds" not in text
    # The same network, trained on pixels in 0..1: sums of half the size, shifted.
    signs = np.where(arrays["0.weight"] > 2.0**-24, 1.0, -1.0)
    arrays["0.bn.mean"] = ((arrays["0.bn.mean"] - arrays["0.bias"] + signs.sum(axis=1)) / 2 + arrays["0.bias"]).astype("f4")
    arrays["0.bn.var"] = arrays["0.bn.var"] / 4
    np.savez(tmp_path / "unit.npz", **arrays)
    text = fine("convert", tmp_path / "unit.npz", "-o", tmp_path / "unit", "--data", f"{DIGITS}:x")
    assert "mapped linearly to 0..1 (0.bn beside 400 inputs" in text
    assert xnorinfer.load(tmp_path / "unit").packed.input.describe().endswith("0..1")
    verified = fine("verify", tmp_path / "unit", tmp_path / "unit.npz", "--data", f"{DIGITS}:x")
    assert "input: the sums of these 400 inputs under --input-range=0:1 beside 0.bn's statistics" in verified
    assert "they confirm it" in verified
    model = xnorinfer.convert(tmp_path / "unit.npz", data=np.load(DIGITS)["x"])
    assert model.info["provenance"]["options"]["input"]["kind"] == "pixels"
    # What is said stays, with a warning.
    text = fine("convert", tmp_path / "unit.npz", "-o", tmp_path / "w", "--data", f"{DIGITS}:x", "--input-range", "0:255")
    assert "warning: input: the sums of these 400 inputs under --input-range=0:255" in text
    assert "warning: input: " in fine("verify", tmp_path / "w", tmp_path / "unit.npz", "--data", f"{DIGITS}:x")
    np.save(tmp_path / "few.npy", np.zeros((5, 64), np.uint8))
    assert "at least 16 are needed" in wrong("convert", CHECKPOINT, "--dry-run", "--data", tmp_path / "few.npy")
    np.save(tmp_path / "narrow.npy", np.zeros((50, 63), np.uint8))
    assert "takes rows of 64 numbers" in wrong("convert", CHECKPOINT, "--dry-run", "--data", tmp_path / "narrow.npy")
