"""The command line in this process: every command, every option, every wrong use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from command_line import CHECKPOINT, DIGITS, fine, run, wrong
from networks import INPUTS, random_network
from numpy.typing import NDArray
from packed_networks import with_layer

import xnorinfer
from xnorinfer.cli import COMMANDS, main
from xnorinfer.net.ties import PROFILES
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network, converted."""
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    fine("convert", CHECKPOINT, "-o", path)
    return path


@pytest.fixture
def nothing_left(tmp_path: Path) -> Callable[[], None]:
    """Assert that the test's folder holds what it held now."""
    before = sorted(os.listdir(tmp_path))

    def check() -> None:
        assert sorted(os.listdir(tmp_path)) == before

    return check


# ---------------------------------------------------------------- help


def test_help_names_every_command() -> None:
    text = fine("--help")
    for name in COMMANDS:
        assert f"\n  {name} " in text
        own = fine(name, "--help")
        assert "Examples:" in own
        assert own == fine(name, "-h")
    assert xnorinfer.__version__ in fine("--version")


def test_help_of_convert_lists_formats_and_profiles() -> None:
    text = " ".join(fine("convert", "--help").split())
    for name, profile in PROFILES.items():
        assert f"{name} {profile.meaning}" in text
    assert "Formats (--format): npz" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["frobnicate"], "No such command 'frobnicate'"),
        (["info"], "Missing argument 'MODEL'"),
        (["run", "m.safetensors"], "Missing argument 'INPUT...'"),
        (["info", "m", "--nonsense"], "--nonsense"),
        (["bench", "m", "--batch", "0,5"], "'0,5' is not a list of positive whole numbers"),
        (["bench", "m", "--batch", "many"], "'many' is not a list of positive whole numbers"),
        (["run", "m", "x", "--batch", "0"], "0 is not in the range"),
        (["run", "m", "x", "--threads", "-1"], "-1 is not in the range"),
    ],
)
def test_wrong_use(arguments: list[str], message: str) -> None:
    assert message in wrong(*arguments)


# ---------------------------------------------------------------- convert, info


def test_convert_says_what_it_found_assumed_and_made(tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    text = fine("convert", CHECKPOINT, "-o", out)
    for name, array in np.load(CHECKPOINT).items():
        line = next(line for line in text.splitlines() if line.split()[:1] == [name])
        assert str(array.dtype) in line
    assert "21 tensors: 21 used, 0 ignored" in text
    assert "uint8 pixels 0..255 mapped linearly to -1..1" in text
    assert "times smaller" in text
    assert f"wrote {out}" in text
    assert modelfile.load(out).classes == 10
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_pipe_gets_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever COLUMNS says, and however long a path is."""
    monkeypatch.setenv("COLUMNS", "40")
    folder = tmp_path / ("a folder with a long name " * 8).strip()
    folder.mkdir()
    out = folder / "m.safetensors"
    text = fine("convert", CHECKPOINT, "-o", out)
    assert f"wrote {out}, " in text
    assert f"Found in {CHECKPOINT} (format npz)" in text.splitlines()
    assert len([line for line in text.splitlines() if line.startswith("warning: ")]) == 2
    header = next(line for line in text.splitlines() if line.split()[:2] == ["layer", "weights"])
    assert header.split() == ["layer", "weights", "reads", "gives", "packed", "as", "float32"]
    classes = folder / "classes.npy"
    assert fine("run", out, f"{DIGITS}:x", "-o", classes).splitlines()[0] == f"wrote {classes}: classes of shape (400,), int64"
    assert f"wrote the certificate {folder / 'c.json'}" in fine(
        "verify", out, CHECKPOINT, "--rows", 5, "--certificate", folder / "c.json"
    )


def test_dry_run_writes_nothing(tmp_path: Path, nothing_left: Callable[[], None]) -> None:
    text = fine("convert", CHECKPOINT, "-o", tmp_path / "m", "--dry-run")
    assert "nothing written" in text
    assert text.splitlines()[:-1] == fine("convert", CHECKPOINT, "--dry-run").splitlines()[:-1]
    nothing_left()


@pytest.mark.parametrize(
    ("options", "meaning"),
    [
        (["--input-range", "0:1"], "mapped linearly to 0..1"),
        (["--input-range", "-1:1"], "mapped linearly to -1..1"),
        (["--input-normalize", "0.5:0.25"], "mapped linearly to -2..2"),
        (["--input-threshold", "100"], "100 and above is +1"),
        (["--input-signs"], "exactly -1 or +1"),
        (["--input-real"], "float32 values"),
    ],
)
def test_input_mappings(tmp_path: Path, options: list[str], meaning: str) -> None:
    fine("convert", CHECKPOINT, "-o", tmp_path / "m", *options)
    assert meaning in json.loads(fine("info", tmp_path / "m", "--json"))["input_meaning"]


def test_options_reach_the_file(tmp_path: Path) -> None:
    fine("convert", CHECKPOINT, "-o", tmp_path / "m", "--profile", "ge-zero", "--h", "glorot", "--format", "npz")
    options = json.loads(fine("info", tmp_path / "m", "--json"))["provenance"]["options"]
    assert options == {"profile": "ge-zero", "h": "glorot", "format": "npz"}
    assert "ge-zero" in fine("info", tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--input-range", "1:1"], "maps every pixel to one value"),
        (["--input-range", "1"], "'1' is not LO:HI"),
        (["--input-range", "0:nan"], "maps every pixel to one value"),
        (["--input-normalize", "0:0"], "STD above 0"),
        (["--input-normalize", "a:b"], "'a:b' is not MEAN:STD"),
        (["--input-threshold", "0"], "from 1 to 255"),
        (["--input-threshold", "256"], "from 1 to 255"),
        (["--input-threshold", "x"], "'x' is not a valid integer"),
        (["--input-real", "--input-signs"], "--input-signs and --input-real exclude each other"),
        (["--input-range", "0:1", "--input-threshold", "3"], "--input-range and --input-threshold exclude each other"),
        (["--profile", "none"], "'none' is none of tf1-round, keras-round"),
        (["--format", "docx"], "'docx' is none of npz"),
        (["--h", "big"], "neither a number nor 'glorot'"),
        (["--h", "-1"], "needed is a finite number above 0"),
        (["--bn-epsilon", "-1"], "psilon"),
        (["--float-layer", "nowhere"], "nowhere"),
        (["--ema"], "--ema"),
    ],
)
def test_bad_options(tmp_path: Path, nothing_left: Callable[[], None], options: list[str], message: str) -> None:
    assert message in wrong("convert", CHECKPOINT, "-o", tmp_path / "m", *options)
    nothing_left()


def damaged_checkpoint(path: Path, change: Callable[[dict[str, NDArray[Any]]], None]) -> Path:
    arrays = dict(np.load(CHECKPOINT))
    change(arrays)
    np.savez(path, **arrays)
    return path


def test_bad_checkpoints(tmp_path: Path) -> None:
    def text_of(name: str, change: Callable[[dict[str, NDArray[Any]]], None]) -> str:
        result = run("convert", damaged_checkpoint(tmp_path / name, change), "-o", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert result.stderr.startswith("error: ")
        assert "Traceback" not in result.output
        return result.stderr

    assert "NaN" in text_of("nan.npz", lambda a: a["1.bn.mean"].__setitem__(3, np.nan))
    assert "variance" in text_of("negative.npz", lambda a: a["0.bn.var"].__setitem__(3, -1))
    assert "256" in text_of("chain.npz", lambda a: a.update({"1.weight": a["1.weight"][:, :200]}))
    assert "BatchNorm" in text_of("nonorm.npz", lambda a: [a.pop(k) for k in list(a) if k.startswith("0.bn")] and None)
    (tmp_path / "text.npz").write_text("no checkpoint")
    assert "not a checkpoint" in wrong("convert", tmp_path / "text.npz", "-o", tmp_path / "out")
    (tmp_path / "cut.npz").write_bytes(Path(CHECKPOINT).read_bytes()[:5000])
    assert "cut.npz" in wrong("convert", tmp_path / "cut.npz", "-o", tmp_path / "out")
    assert "no file" in wrong("convert", tmp_path / "missing.npz", "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_a_latent_of_exactly_0_under_torch_sign(tmp_path: Path) -> None:
    path = damaged_checkpoint(tmp_path / "zero.npz", lambda arrays: arrays["0.weight"].__setitem__((3, 4), 0))
    result = run("convert", path, "-o", tmp_path / "m", "--profile", "torch-sign")
    assert result.exit_code == 2
    assert "1 latent weights are exactly 0, the first at [3, 4]" in result.stderr
    assert "--profile ge-zero" in result.stderr
    assert os.listdir(tmp_path) == ["zero.npz"]


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_that_wants_to_run_code(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"state_dict": _Evil(tmp_path / "touched")}, tmp_path / "evil.pt")
    assert "evil.pt" in wrong("convert", tmp_path / "evil.pt", "-o", tmp_path / "m")
    assert os.listdir(tmp_path) == ["evil.pt"]


def test_a_folder_full_of_reasons_is_one_error_with_all_of_them(tmp_path: Path) -> None:
    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["0.bn.var"][2] = -1
        arrays["1.bn.gamma"][5] = np.inf

    result = run("convert", damaged_checkpoint(tmp_path / "two.npz", change), "--dry-run")
    assert result.exit_code == 2
    assert "2 problems" in result.stderr
    assert len([line for line in result.stderr.splitlines() if line.startswith("  - ")]) == 2


def test_unwritable_outputs(tmp_path: Path, nothing_left: Callable[[], None]) -> None:
    assert "is a folder" in wrong("convert", CHECKPOINT, "-o", tmp_path)
    assert "there is no folder" in wrong("convert", CHECKPOINT, "-o", tmp_path / "none" / "m")
    assert "is an input" in wrong("convert", CHECKPOINT, "-o", CHECKPOINT)
    assert "-o OUT.safetensors, or --dry-run" in wrong("convert", CHECKPOINT)
    nothing_left()


def test_info(model: Path) -> None:
    text = fine("info", model)
    info = json.loads(fine("info", model, "--json"))
    assert [layer["neurons"] for layer in info["layers"]] == [256, 256, 10]
    assert info["content_digest"] in text
    assert info["provenance"]["sha256"] in text
    assert "64 pixels" in text


def test_names_from_files_cannot_command_the_terminal(tmp_path: Path) -> None:
    packed = lower(random_network(1, [16, 8, 4], INPUTS["range"])).packed
    modelfile.save(with_layer(packed, 0, name="\x1b[2Jgone [bold]x[/bold]\r"), tmp_path / "m")
    text = fine("info", tmp_path / "m")
    assert "\x1b" not in text
    assert "\\x1b[2Jgone [bold]x[/bold]\\r" in text


def test_bad_models(tmp_path: Path, model: Path) -> None:
    raw = bytearray(model.read_bytes())
    for name, content, message in [
        ("cut", bytes(raw[:3000]), "truncated"),
        ("text", b"hello" * 10, "not an xnorinfer model"),
        ("changed", bytes(raw[:-4]) + bytes([raw[-4] ^ 1]) + bytes(raw[-3:]), "digest"),
        ("newer", bytes(raw).replace(b'\\"format_version\\":2', b'\\"format_version\\":9'), "format version 9"),
    ]:
        (tmp_path / name).write_bytes(content)
        for command in (["info"], ["bench"], ["run", DIGITS + ":x"], ["verify", CHECKPOINT]):
            assert message in wrong(command[0], tmp_path / name, *command[1:])
    assert "no such file" in wrong("info", tmp_path / "missing")
    assert "is not a file" in wrong("info", tmp_path)


# ---------------------------------------------------------------- verify, bench, demo, warmup


def test_verify_holds(model: Path, tmp_path: Path) -> None:
    text = fine("verify", model, CHECKPOINT, "--rows", 50)
    assert "50 random samples" in text
    # The first line says what is proved, and what not.
    claim = f"{model.name} computes, bit for bit, the network as it was read from {Path(CHECKPOINT).name}"
    assert text.strip().splitlines()[0].startswith(f"{claim}; that this reading is the trained network is not proved")
    assert f"holds: {claim}" in text
    for line in (
        "input: 64 values, uint8 pixels 0..255 mapped linearly to -1..1",
        "0: 256 x 64 signs of weights (0 is -1, as up to 2^-24), plus a bias",
        "0.bn: BatchNorm with epsilon 0.0001, in the order of tf",
        "0.sign: sign (0 is -1, as up to 2^-24)",
    ):
        assert line in text.splitlines()
    text = fine("verify", model, CHECKPOINT, "--data", DIGITS + ":x", "--rows", 60)
    assert "60 given samples" in text
    result = json.loads(fine("verify", model, CHECKPOINT, "--data", DIGITS + ":x", "--json"))
    assert result["holds"] is True
    assert result["rows"] == 400
    assert [layer["differences"] for layer in result["layers"]] == [0, 0, 0]


def test_verify_names_the_first_difference(model: Path, tmp_path: Path) -> None:
    def change(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["1.weight"][17, 5] = -np.sign(arrays["1.weight"][17, 5])

    other = damaged_checkpoint(tmp_path / "other.npz", change)
    result = run("verify", model, other, "--rows", 20)
    assert result.exit_code == 1
    assert "does not hold: 1: weight bits of neuron 17 differ from its latents, first at input 5" in result.stdout
    assert "not byte for byte the file" in result.stdout
    result = run("verify", model, other, "--rows", 20, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["holds"] is False


def test_verify_bad_use(model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((3, 5), np.uint8))
    assert "has shape (3, 5)" in wrong("verify", model, CHECKPOINT, "--data", tmp_path / "x.npy")
    assert "no file" in wrong("verify", model, tmp_path / "none.npz")


def test_bench(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("threadpoolctl")
    out = tmp_path / "b.json"
    text = fine("bench", model, "--batch", "1,5", "--threads", "1", "--seconds", "0.01", "--json", out)
    assert "all 64" in text
    assert "all 65" in text
    written = json.loads(out.read_text())
    assert [case["batch"] for case in written["cases"]] == [1, 5]
    assert written["model"] == "digits.safetensors"
    text = fine("bench", model, "--batch", "5", "--threads", "1", "--seconds", "0.01", "--profile")
    assert "layers, batch 5, 1 thread" in text
    assert "the whole run" in text
    assert "is a folder" in wrong("bench", model, "--json", tmp_path)


def test_bench_exits_with_1_on_wrong_answers(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl")
    from xnorinfer.speed import benchmark as bench

    monkeypatch.setattr(bench.FloatNetwork, "predict", lambda self, x: np.full(len(x), 99))
    monkeypatch.setattr(bench, "exact_predict", lambda packed, x: np.full(len(x), 99))
    result = run("bench", model, "--batch", "8", "--threads", "1", "--seconds", "0.01")
    assert result.exit_code == 1
    assert "64 WRONG" in result.stdout


def test_warmup() -> None:
    from xnorinfer import kernels

    assert kernels.choose().name in fine("warmup")
    text = fine("warmup", "--all")
    for kernel in kernels.usable():
        assert f"{kernel.name} " in text
    assert text.count("was ready") >= 1


@pytest.mark.long
def test_demo_keeps_what_it_shows(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    text = fine("demo", "--keep", folder)
    for number in range(1, 8):
        assert f"\n{number}. " in text
    assert "holds: digits.safetensors computes, bit for bit, the network as it was read from" in text
    assert text.count("of 400 correct") == 3
    names = ["digits-64-256-256-10.npz", "digits-test.npz", "digits.safetensors", "mnist-samples.npz"]
    assert sorted(os.listdir(folder)) == names
    commands = [line for line in text.splitlines() if line.startswith("$ xnorinfer ")]
    assert len(commands) == 7
    assert f"run {folder / 'digits.safetensors'}" in commands[2]
    (tmp_path / "file").write_text("")
    assert "cannot hold the files of the demo" in wrong("demo", "--keep", tmp_path / "file")


# ---------------------------------------------------------------- surroundings


def test_interrupts_are_one_line(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def interrupted(path: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(modelfile, "load", interrupted)
    result = run("info", model)
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_the_group_works_inside_other_programs(model: Path) -> None:
    assert main.main(["info", str(model)], standalone_mode=False) is None
    with pytest.raises(click.UsageError):
        main.main(["info"], standalone_mode=False)


def test_no_command_shows_the_help() -> None:
    assert fine() == fine("--help")
