"""Names from files never look like lines of ours: on the screen, in errors, certificates, C, TOML and JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_layers, state_arrays
from command_line import fine, run
from safetensors.numpy import save_file

from xnorinfer.converters.nettoml.tomltext import toml_string
from xnorinfer.errors import InputError, NetworkError, StrictError
from xnorinfer.export import ccode
from xnorinfer.files import json_text
from xnorinfer.oneline import LONGEST, lines, one_line
from xnorinfer.packing import modelfile
from xnorinfer.proof import certificate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORGED = "RESULT: every neuron proved"
#: Line breaks of every kind, what a terminal obeys, and what turns the direction of writing; each followed by a line of ours.
BREAKS = [
    "\n",
    "\r",
    "\r\n",
    "\v",
    "\f",
    "\x1c",
    "\x1e",
    "\x85",
    "\u2028",
    "\u2029",
    "\x1b[2K\x1b[1G",
    "\x9b1G",
    "\x00",
    "\u202e",
]


@pytest.mark.parametrize("text", [*BREAKS, "\x7f", "\ud800", "\ufeff", "\u200b", "\U000e0041"])
def test_one_line(text: str) -> None:
    shown = one_line(f"name{text}{FORGED}")
    assert len(shown.splitlines()) == 1
    assert shown.isprintable()
    assert shown.startswith("name\\")
    assert shown.encode().decode("unicode_escape") == f"name{text}{FORGED}"
    assert one_line("plain text, ü and 漢") == "plain text, ü and 漢"
    assert lines(f"a{text.replace(chr(10), '')}\nb").count("\n") == 1


@pytest.mark.parametrize("text", BREAKS)
def test_errors_quote_names_within_one_line(text: str) -> None:
    name = f"fc1{text}{FORGED}"
    assert len(str(InputError(f"{name}: is wrong")).splitlines()) == 1
    assert len(str(NetworkError([name])).splitlines()) == 1
    for error in (NetworkError([name, name]), StrictError([name, name], name)):
        assert [line[:4] for line in str(error).splitlines()][1:] == ["  - "] * 2


def test_errors_that_quote_much() -> None:
    """As zipfile does of a damaged head: all that follows it."""
    text = str(InputError(f"net.pt is damaged: {'x' * 100_000}, the end"))
    assert len(text) <= LONGEST
    assert text.startswith("net.pt is damaged: xxx")
    assert text.endswith("xxx, the end")
    assert len(str(NetworkError(["y" * 100_000] * 2))) < 3 * LONGEST


@pytest.fixture(scope="module")
def forger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose names hold all of it, and its model beside it."""
    folder = tmp_path_factory.mktemp("forger")
    name = "".join(f"{text}{FORGED}" for text in BREAKS if text != "\x00")
    arrays = state_arrays(random_layers([16, 8, 3], 0))
    save_file({f"{name}.{key}": np.ascontiguousarray(value) for key, value in arrays.items()}, folder / "net.safetensors")
    fine("convert", folder / "net.safetensors", "-o", folder / "m.safetensors")
    assert any(FORGED in layer.name for layer in modelfile.load(folder / "m.safetensors").layers)
    return folder


def assert_harmless(text: str) -> None:
    assert FORGED in text or "RESULT" not in text
    assert not [line for line in text.splitlines() if line.lstrip(" -#*|").startswith("RESULT")]
    assert all(c.isprintable() or c == "\n" for c in text)


def test_on_the_screen_and_in_files(forger: Path, tmp_path: Path) -> None:
    source, model = forger / "net.safetensors", forger / "m.safetensors"
    shown = [
        fine("info", model),
        fine("verify", model, source, "--certificate", tmp_path / "proof.txt"),
        fine("convert", source, "-o", tmp_path / "again.safetensors", "--write-net", tmp_path / "net.toml"),
        fine("verify", model, source, "--certificate", tmp_path / "proof.json"),
        fine("extract", model, "-o", tmp_path / "net.h"),
        (tmp_path / "proof.txt").read_text(encoding="utf-8"),
        (tmp_path / "proof.json").read_text(encoding="utf-8"),
        (tmp_path / "net.toml").read_text(encoding="utf-8"),
        (tmp_path / "net.h").read_text(encoding="utf-8"),
        ccode.header(modelfile.load(model), "net"),
    ]
    assert sum(FORGED in text for text in shown) >= 5
    for text in shown:
        assert_harmless(text)
    assert FORGED in json.loads((tmp_path / "proof.json").read_text(encoding="utf-8"))["proof"]["layers"][0]["name"]


def test_in_a_refusal(forger: Path, tmp_path: Path) -> None:
    """A wrong BatchNorm of the layer with the long name."""
    from safetensors.numpy import load_file

    arrays = load_file(forger / "net.safetensors")
    key = next(key for key in arrays if key.endswith("running_var"))
    save_file({**arrays, key: -np.abs(arrays[key]) - 1}, tmp_path / "net.safetensors")
    result = run("convert", tmp_path / "net.safetensors", "-o", tmp_path / "m.safetensors")
    assert result.exit_code == 2
    assert FORGED in result.stderr
    assert_harmless(result.output)


def test_of_a_certificate_that_somebody_made(forger: Path, tmp_path: Path) -> None:
    """Its digest is right; what it says of itself is shown as one line."""
    source, model, path = forger / "net.safetensors", forger / "m.safetensors", tmp_path / "proof.json"
    fine("verify", model, source, "--certificate", path)
    made = json.loads(path.read_text(encoding="utf-8"))
    made["date"] += f"\n{FORGED}"
    made["comparison"].update(data=f"x\n{FORGED}", data_sha256="0")
    made["proof"]["layers"][0]["name"] = f"\r{FORGED}"
    del made["digest"]
    path.write_text(json.dumps({**made, "digest": certificate._digest(made)}))
    result = run("verify", model, source, "--check", path)
    assert FORGED in result.output
    assert_harmless(result.output)


@pytest.mark.parametrize("text", BREAKS)
def test_toml_and_json_give_the_name_back(text: str) -> None:
    name = f'fc1"\\{text}{FORGED}'
    assert tomllib.loads(f"a = {toml_string(name)}") == {"a": name}
    written = json_text({name: [name, 1.5, "ü"]})
    assert json.loads(written) == {name: [name, 1.5, "ü"]}
    assert "ü" in written
    assert_harmless(written)


def test_messages_of_many_problems_end() -> None:
    error = NetworkError([f"layer {number}: is wrong" for number in range(250)])
    said = str(error).splitlines()
    assert len(said) == 102
    assert (said[0], said[-2], said[-1]) == (
        "the network cannot be converted (250 problems):",
        "  - layer 99: is wrong",
        "  and 150 more",
    )
    assert len(error.problems) == 250
