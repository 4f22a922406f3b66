"""The model file: what goes in comes out, what is malformed is refused by name, writing is all or nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import INPUTS, random_network
from places import DATA
from safetensors import safe_open
from safetensors.numpy import save_file

from xnorinfer.engine.model import Model
from xnorinfer.errors import DigestError, MalformedModelError, NewerFormatError, NotAModelError, OutputError
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.packing.modelfile import KEY, header_of, load, save
from xnorinfer.packing.packed import PackedModel

FORMATS = DATA / "format"


def packed(name: str = "range", *, tail: bool = False) -> PackedModel:
    lowered = lower(random_network(7, [70, 65, 40, 6], INPUTS[name], float_tail=tail)).packed
    return dataclasses.replace(lowered, provenance={"source": "test.npz", "options": {}})


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_round_trip(tmp_path: Path, name: str, tail: bool) -> None:
    model = packed(name, tail=tail)
    save(model, tmp_path / "m.safetensors")
    back = load(tmp_path / "m.safetensors")
    assert header_of(back) == header_of(model)
    assert back.input == model.input
    for (name_a, a), (name_b, b) in zip(model.tensors(), back.tensors(), strict=True):
        assert name_a == name_b
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
    for ours, theirs in zip(model.nodes, back.nodes, strict=True):
        assert type(ours.op) is type(theirs.op)
        assert ours.name == theirs.name
        assert ours.inputs == theirs.inputs
    for mine, yours in zip(model.layers, back.layers, strict=True):
        assert type(getattr(mine.op, "output", None)) is type(getattr(yours.op, "output", None))


def test_the_same_model_is_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        save(packed(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_names_and_provenance_are_not_part_of_the_content_digest() -> None:
    model = packed()
    renamed = tuple(dataclasses.replace(node, name=f"other.{node.name}") for node in model.nodes)
    other = dataclasses.replace(model, nodes=renamed, provenance={"source": "elsewhere.pt"})
    assert header_of(model)["content_digest"] == header_of(other)["content_digest"]
    assert header_of(model)["header_digest"] != header_of(other)["header_digest"]


def test_the_tie_profile_is_not_part_of_the_content_digest() -> None:
    """Once folded, nothing depends on it any more."""
    model = packed()
    other = dataclasses.replace(model, profile="gt-zero")
    assert header_of(model)["content_digest"] == header_of(other)["content_digest"]
    assert header_of(model)["header_digest"] != header_of(other)["header_digest"]


#: Written when the format had this version, of `packed("normalize", tail=True)` as it was folded then.
OLD_FILES = {1: FORMATS / "version-1.safetensors"}


@pytest.mark.parametrize("version", OLD_FILES)
def test_files_of_older_formats(tmp_path: Path, version: int) -> None:
    """They load, verify their own digests, compute what they did, and are saved as they were."""
    model = load(OLD_FILES[version])
    header, _ = parts(OLD_FILES[version])
    assert header["format_version"] == version
    assert header_of(model) == header
    assert Model(model).info["format_version"] == version
    save(model, tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == OLD_FILES[version].read_bytes()
    now = packed("normalize", tail=True)
    x = np.random.default_rng(1).integers(0, 256, (50, 70), dtype=np.uint8)
    np.testing.assert_array_equal(Model(model).scores(x), Model(now).scores(x))
    assert header_of(model)["content_digest"] != header_of(now)["content_digest"]
    forged = dataclasses.replace(model, profile="gt-zero")
    assert header_of(forged)["content_digest"] != header["content_digest"]


def parts(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with safe_open(path, framework="numpy") as container:
        return json.loads(container.metadata()[KEY]), {k: container.get_tensor(k) for k in container.keys()}  # noqa: SIM118


def write(path: Path, header: Any, tensors: dict[str, np.ndarray]) -> None:
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(tensors, path, metadata={KEY: text})


def set_header(key: str, value: Any):
    def change(header: dict, tensors: dict) -> None:
        header[key] = value

    return change


def set_layer(index: int, key: str, value: Any):
    def change(header: dict, tensors: dict) -> None:
        header["layers"][index][key] = value

    return change


def set_tensor(name: str, value: Any):
    def change(header: dict, tensors: dict) -> None:
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def drop_tensor(name: str):
    return lambda header, tensors: tensors.pop(name)


def drop_header(name: str):
    return lambda header, tensors: header.pop(name)


def flip_bit(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed.view(np.uint8).reshape(-1)[0] ^= 1
    return changed


def set_pad_bit(array: np.ndarray) -> np.ndarray:
    changed = array.copy()
    changed[0, -1] |= np.uint64(1 << 63)
    return changed


MALFORMED = [
    (set_header("format_version", "1"), MalformedModelError, "no format version"),
    (set_header("format_version", 6), NewerFormatError, "format version 6, this xnorinfer reads up to 5"),
    (set_header("format_version", 3), MalformedModelError, "header fields"),
    (set_header("format_version", 1), DigestError, "content_digest"),
    (set_header("format_version", 0), MalformedModelError, "no format version 0"),
    (set_header("format_version", True), MalformedModelError, "no format version True"),
    (set_header("surprise", 1), MalformedModelError, "header fields"),
    (drop_header("content_digest"), MalformedModelError, "header fields"),
    (drop_header("provenance"), MalformedModelError, "header fields"),
    (set_header("input", {"kind": "video"}), MalformedModelError, "input mapping"),
    (set_header("input", {"kind": "signs"}), MalformedModelError, "reads pixels, but gets bits"),
    (set_header("profile", 3), MalformedModelError, "wrong type"),
    (set_header("profile", "nobody"), MalformedModelError, "tie profile 'nobody'"),
    (set_header("layers", {}), MalformedModelError, "wrong type"),
    (set_header("layers", []), MalformedModelError, "names is no list of 0 strings"),
    (set_header("provenance", []), MalformedModelError, "provenance"),
    (set_header("provenance", {"source": "forged"}), DigestError, "header_digest"),
    (set_header("provenance", {"a": float("nan")}), MalformedModelError, r"is not JSON \(it holds NaN\)"),
    (set_header("provenance", {"a": float("-inf")}), MalformedModelError, r"is not JSON \(it holds -Infinity\)"),
    (set_header("provenance", {"a": 10**400}), DigestError, "header_digest"),
    (set_header("input", {"kind": "pixels", "slope": 10**400, "intercept": 0, "divisor": 1}), MalformedModelError, "finite"),
    (set_header("content_digest", "0" * 64), DigestError, "content_digest"),
    (drop_header("input_bits"), MalformedModelError, "header fields"),
    (set_header("input_bits", "yes"), MalformedModelError, "neither true nor false"),
    (set_header("input_bits", True), MalformedModelError, "names is no list of 4 strings"),
    (set_header("names", ["a", "b"]), MalformedModelError, "names is no list of 3 strings"),
    (set_header("names", ["a", "b", 3]), MalformedModelError, "names is no list of 3 strings"),
    (set_header("names", None), MalformedModelError, "names is no list of 3 strings"),
    (set_header("names", ["a", "b", "c"]), DigestError, "header_digest"),
    (drop_header("names"), MalformedModelError, "header fields"),
    (set_layer(0, "kind", "conv"), MalformedModelError, "layer 0: entry"),
    (set_layer(0, "kind", ["dense"]), MalformedModelError, "layer 0: entry"),
    (set_layer(0, "output", "affine"), MalformedModelError, "layer 0: entry"),
    (set_layer(0, "extra", 1), MalformedModelError, "layer 0: entry"),
    (set_layer(0, "name", "renamed"), MalformedModelError, "layer 0: entry"),
    (set_layer(0, "depth", True), MalformedModelError, "depth has the wrong type"),
    (set_layer(0, "depth", 0), MalformedModelError, "depth 0 does not fit"),
    (set_layer(0, "depth", -3), MalformedModelError, "depth -3 does not fit"),
    (set_layer(0, "depth", 10**30), MalformedModelError, "does not fit 2 words"),
    (set_layer(1, "depth", 64), MalformedModelError, "takes 64 inputs, the layer before gives 65"),
    (set_layer(1, "reads", "pixels"), MalformedModelError, "reads pixels, but gets bits"),
    (set_layer(1, "reads", "smoke"), MalformedModelError, "reads 'smoke'"),
    (set_layer(2, "ops", "mul"), MalformedModelError, "ops have the wrong type"),
    (set_layer(2, "ops", ["mul", "pow"]), MalformedModelError, "unknown steps 'pow'"),
    (set_layer(2, "ops", []), MalformedModelError, "steps are"),
    (drop_tensor("layers.0.bits"), MalformedModelError, "layers.0.bits is missing"),
    (drop_tensor("layers.1.limits"), MalformedModelError, "layers.1.limits is missing"),
    (drop_tensor("layers.2.steps"), MalformedModelError, "layers.2.steps is missing"),
    (set_tensor("layers.0.more", np.zeros(1, np.float32)), MalformedModelError, "no layer uses: layers.0.more"),
    (set_tensor("layers.0.bits", lambda a: a.astype(np.int64)), MalformedModelError, "layers.0.bits is"),
    (set_tensor("layers.0.bits", lambda a: a[:, 0]), MalformedModelError, "layers.0.bits is"),
    (set_tensor("layers.0.bits", lambda a: a[:, :1].copy()), MalformedModelError, "does not fit 1 words"),
    (set_tensor("layers.0.bits", lambda a: a[:0]), MalformedModelError, "weights have shape"),
    (set_tensor("layers.0.bits", set_pad_bit), MalformedModelError, "pad bits beyond depth 70"),
    (set_tensor("layers.0.bits", flip_bit), DigestError, "content_digest"),
    (set_tensor("layers.1.limits", lambda a: a[:-1].copy()), MalformedModelError, "limits are"),
    (set_tensor("layers.1.limits", lambda a: a.astype(np.float32)), MalformedModelError, "limits are"),
    (set_tensor("layers.1.limits", lambda a: a + 1000), MalformedModelError, "leave the range -1..65"),
    (set_tensor("layers.1.limits", flip_bit), DigestError, "content_digest"),
    (set_tensor("layers.2.steps", lambda a: a * np.float32(np.nan)), MalformedModelError, "steps hold NaN"),
    (set_tensor("layers.2.steps", lambda a: a[0]), MalformedModelError, "layers.2.steps is"),
]


@pytest.mark.parametrize(("change", "error", "message"), MALFORMED)
def test_every_way_of_being_malformed(tmp_path: Path, change: Any, error: type[Exception], message: str) -> None:
    path = tmp_path / "m.safetensors"
    save(packed(), path)
    header, tensors = parts(path)
    change(header, tensors)
    write(path, header, tensors)
    with pytest.raises(error, match=message) as caught:
        load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("limits", np.zeros(69, np.int32), "needed is (70,) int32"),
        ("limits", np.zeros(70, np.float32), "needed is (70,) int32"),
        ("limits", np.zeros(70, np.int64), "tensor input.limits is"),
        ("mirrored", np.zeros(70, np.uint8), "tensor input.mirrored is"),
        ("mirrored", np.zeros(71, np.bool_), "mirrored is (71,) bool"),
        ("more", np.zeros(1, np.float32), "no layer uses: input.more"),
    ],
)
def test_malformed_input_bits(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    net = random_network(7, [70, 65, 6], INPUTS["range"], binarize_input=True)
    save(lower(net).packed, tmp_path / "m")
    header, tensors = parts(tmp_path / "m")
    tensors[f"input.{key}"] = value
    write(tmp_path / "m", header, tensors)
    with pytest.raises(MalformedModelError, match=re.escape(message)):
        load(tmp_path / "m")


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "{", '"x"', "[" * 100_000, '{"a": 1e999}', '{"a": ' + "1" * 5000 + "}"])
def test_odd_headers(tmp_path: Path, text: str) -> None:
    write(tmp_path / "m", text, {"a": np.zeros(1, np.float32)})
    with pytest.raises(MalformedModelError):
        load(tmp_path / "m")


def test_files_that_are_no_models(tmp_path: Path) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "plain")
    save(packed(), tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-5])
    (tmp_path / "head").write_bytes(whole[:40])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello " * 100)
    for name in ("plain", "cut", "head", "empty", "text", "missing", "."):
        with pytest.raises(NotAModelError, match=r"not an xnorinfer model|no such file|not a file"):
            load(tmp_path / name)


def test_saving_leaves_nothing_behind_when_it_cannot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "m"
    target.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"m: cannot be written: No space left on device"):
        save(packed(), target)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m"]


def test_unwritable_places(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        save(packed(), tmp_path / "no" / "such" / "folder")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="is a folder, needed is a file name"):
        save(packed(), tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_saved_files_have_the_ordinary_mode(tmp_path: Path) -> None:
    save(packed(), tmp_path / "m")
    (tmp_path / "plain").write_bytes(b"")
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_inconsistent_models_are_not_written(tmp_path: Path) -> None:
    model = packed()
    with pytest.raises(MalformedModelError, match="gives bits, not scores"):
        save(dataclasses.replace(model, nodes=model.nodes[:2]), tmp_path / "m")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), np.float32(2), {1, 2}])
def test_a_provenance_that_json_cannot_say_is_not_written(tmp_path: Path, value: object) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(MalformedModelError, match="provenance cannot be written as JSON"):
        save(dataclasses.replace(packed(), provenance={"seen": value}), path)
    assert not path.exists()


def test_networks_that_branch_have_no_file_yet(tmp_path: Path) -> None:
    model = packed()
    both = dataclasses.replace(model.nodes[1], inputs=(0, 0))
    with pytest.raises(MalformedModelError, match=r"layer 1 \(.*\): reads 2 nodes, needed is one"):
        save(dataclasses.replace(model, nodes=(model.nodes[0], both, *model.nodes[2:])), tmp_path / "m")


def test_being_killed_while_saving_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "m"
    save(packed(), target)
    before = target.read_bytes()
    script = (
        "import os, signal, sys\n"
        "from xnorinfer import modelfile\n"
        "os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)\n"
        "modelfile.save(modelfile.load(sys.argv[1]), sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(target)], check=False)
    assert done.returncode != 0
    assert target.read_bytes() == before


def test_the_documented_keys_are_the_written_ones(tmp_path: Path) -> None:
    save(packed(tail=True), tmp_path / "m")
    header, tensors = parts(tmp_path / "m")
    documented = modelfile.__doc__ or ""
    assert all(key in documented for key in header)
    assert {name.split(".")[-1] for name in tensors} == {"bits", "limits", "steps", "weight"}
