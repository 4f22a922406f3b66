"""The unpickler: plain data from any pickle, and nothing that runs, hangs or takes memory out of proportion."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import enum
import functools
import io
import os
import pathlib
import pickle
import random
import struct
import sys
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest

from xnorinfer.budget import reading
from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.containers.checkpointtree import walk
from xnorinfer.converters.containers.pickled import PLAIN, Global, Rules, Thing, unpickle
from xnorinfer.converters.containers.pickledarrays import ARRAYS, PickledArray
from xnorinfer.errors import NetworkError, SourceError, XnorinferError


class Mode(enum.Enum):
    TRAIN = 1


class Kept:
    """An object with attributes, a list of itself, and slots."""

    __slots__ = ("__dict__", "slot")

    def __init__(self) -> None:
        self.weight = np.arange(6, dtype=np.float32).reshape(2, 3)
        self.itself = [self]
        self.slot = 5


class Counts(dict):  # type: ignore[type-arg]
    pass


class Rows(list):  # type: ignore[type-arg]
    pass


VALUES: list[Any] = [
    None, True, False, 0, -1, 255, 65536, -(2**40), 2**200, 0.5, float("inf"), "text", "ä€", b"", b"bytes\xff",
    bytearray(b"ab"), (), (1,), (1, 2, 3, 4), [], [1, [2, [3]]], {}, {"a": {"b": [1.5, None]}, 3: "three", True: 1, None: 0},
]  # fmt: skip


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_what_pickle_reads(protocol: int) -> None:
    for value in [*VALUES, VALUES]:
        found = unpickle("a.pkl", pickle.dumps(value, protocol), ARRAYS)
        assert found == value, value
        assert type(found) is type(value) or isinstance(value, bytearray)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_and_scalars_of_numpy(protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 4)).astype(kind) for kind in ("f2", "f4", "f8", ">f4", "i1", "i2", "u4", ">i8", "?")]
    arrays += [arrays[0].T, np.empty((0, 3)), np.array(2.5), np.asfortranarray(arrays[1])]
    for array in arrays:
        found = unpickle("a.pkl", pickle.dumps({"x": array, "y": [array]}, protocol), ARRAYS)
        assert isinstance(found["x"], PickledArray)
        np.testing.assert_array_equal(found["x"].array, array)
        assert found["x"].array.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
        assert found["y"] == [found["x"]]
    for scalar in (np.float32(0.1), np.float64(98.2), np.int64(-3), np.bool_(True), np.uint8(7)):
        found = unpickle("a.pkl", pickle.dumps(scalar, protocol), ARRAYS)
        assert type(found) in (int, float, bool)
        assert found == scalar.item()
    objects = np.array([arrays[0], None, "x"], dtype=object)
    found = unpickle("a.pkl", pickle.dumps(objects, protocol), ARRAYS)
    assert (found.array, found.shape, found.elements[1:]) == (None, (3,), [None, "x"])
    for odd in (np.array(["text"]), np.zeros(2, [("a", "f4")]), np.array([1 + 2j]), np.array(["2026-01-01"], "M8[D]")):
        found = unpickle("a.pkl", pickle.dumps(odd, protocol), ARRAYS)
        assert getattr(found, "array", None) is None


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_objects_are_never_built(protocol: int) -> None:
    kept = Kept()
    content = {
        "kept": kept,
        "mode": Mode.TRAIN,
        "path": pathlib.PurePosixPath("runs/1"),
        "when": datetime.datetime(2026, 1, 1),
        "args": argparse.Namespace(lr=0.1),
        "random": random.Random(1).getstate(),
        "generator": np.random.default_rng(0),
        "state": np.random.RandomState(0).get_state(),
        "partial": functools.partial(print, 1),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(list, loss=[1]),
        "ordered": collections.OrderedDict(a=1),
        "dict": Counts(a=2),
        "list": Rows([1, 2]),
        "set": {1, 2},
        "frozen": frozenset({3}),
        "class": Kept,
        "complex": 1j,
        "range": range(3),
    }
    found = unpickle("a.pkl", pickle.dumps(content, protocol), ARRAYS)
    things = {name: value for name, value in found.items() if isinstance(value, Thing)}
    assert set(content) - set(things) == {"random", "state", "class"}
    assert things["args"].attributes == {"lr": 0.1}
    assert things["kept"].attributes["itself"] == [things["kept"]]
    assert things["kept"].attributes["slot"] == 5
    assert things["default"].table == {"loss": [1]}
    assert things["dict"].table == {"a": 2}
    assert things["list"].elements == [1, 2]
    assert isinstance(found["class"], Global)
    contents = walk(found)  # which ends, although it holds itself
    assert ("args", "argparse.Namespace") in contents.objects
    assert [state.where for state in contents.states] == ["kept."]


class _Runs:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.what = (function, arguments)

    def __reduce__(self) -> Any:
        return self.what


def test_calls_are_names(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps([_Runs(os.system, f"touch {marker}"), _Runs(eval, "1/0"), _Runs(open, str(marker), "w")], protocol)
        found = unpickle("a.pkl", data, ARRAYS)
        assert [thing.kind.rpartition(".")[2] for thing in found] == ["system", "eval", "open"]
        assert len(walk(found).runs) == 3
    assert not marker.exists()


# ---------------------------------------------------------------- hostile files


def U(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def G(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def I(number: int) -> bytes:  # noqa: E743
    return b"J" + struct.pack("<i", number)


def numpy_dtype_that_follows_pointers() -> bytes:
    """np.dtype.__setstate__ would trust this state: a float64 of objects, without the flags that say so."""
    raw = G("_codecs", "encode") + U((b"\x41" * 16).decode("latin1")) + U("latin1") + b"\x86R"
    subarray = G("numpy", "dtype") + U("O8") + b"\x85R" + I(2) + b"\x85\x86"
    state = b"(" + I(3) + U("<") + subarray + b"NN" + I(16) + I(8) + I(0) + b"t"
    weird = G("numpy", "dtype") + U("f8") + b"\x89\x88\x87R" + state + b"b"
    record = G("numpy", "dtype") + b"]" + U("a") + weird + b"\x86a\x85R"
    fake = G("numpy._core.multiarray", "scalar") + record + raw + b"\x86R"
    return b"\x80\x02" + G("collections", "OrderedDict") + fake + b"\x85R."


def storage(kind: str = "FloatStorage", key: str = "0", count: int = 16) -> bytes:
    return b"(" + U("storage") + G("torch", kind) + U(key) + U("cpu") + I(count) + b"tQ"


def tensor(sizes: bytes, strides: bytes, offset: bytes = b"K\x00", memory: bytes = storage()) -> bytes:
    head = G("torch._utils", "_rebuild_tensor_v2") + b"(" + memory + offset + sizes + strides
    return head + b"\x89" + G("collections", "OrderedDict") + b")RtR"


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(I(n) for n in values) + b"t"


def collision(number: int) -> bytes:
    """Integers that Python hashes to 0."""
    return b"\x8a\x0a" + (number * (2**61 - 1)).to_bytes(10, "little")


LONG = 4000
PICKLES = {
    "a dtype that follows pointers": numpy_dtype_that_follows_pointers(),
    "long keys in each other": b"\x80\x02}" + U("k" * 1_000_000) + b"q\x00}" + b"h\x00}" * LONG + b"s" * LONG + b"s.",
    "marks in marks": b"\x80\x02" + b"N" * 300_000 + b"(t" * 300_000 + b".",
    "marks upon marks": b"\x80\x02" + b"(" * 500_000 + b".",
    "lists in lists": b"\x80\x02" + b"]" * 300_000 + b"a" * 299_999 + b".",
    "tuples in tuples as a key": b"\x80\x02})" + b"\x85" * 300_000 + b"Ns.",
    "a set of two billion bytes": b"\x80\x02" + G("builtins", "bytearray") + b"\x8a\x05" + (2 * 10**9).to_bytes(5, "little")
    + b"\x85R.",
    "memo that doubles": b"\x80\x02]q\x00" + b"(h\x00h\x00h\x00h\x00lq\x00" * 3000 + b".",
    "a dict that holds itself": b"\x80\x02}q\x00" + U("a") + b"h\x00s.",
    "one state for many objects": b"\x80\x02}q\x00(" + b"".join(U(f"k{i}") + b"N" for i in range(3000)) + b"u0"
    + (G("a", "B") + b")\x81h\x00b0") * 3000 + b"N.",
    "keys that collide": b"\x80\x02}(" + b"".join(collision(i) + b"N" for i in range(20_000)) + b"u.",
    "one text encoded often": b"\x80\x02" + U("k" * 1_000_000) + b"q\x000]" + (G("_codecs", "encode") + b"h\x00\x85R0") * 2000
    + b".",
    "a persistent id of a dict": b"\x80\x02}Q.",
    "a storage of no class": b"\x80\x02" + storage("EvilStorage") + b".",
    "too many dimensions": b"\x80\x02}" + U("0.weight") + tensor(numbers(*[1] * 70), numbers(*[1] * 70)) + b"s.",
    "sizes beyond all memory": b"\x80\x02}" + U("w") + tensor(numbers(*[2**30] * 4), numbers(1, 1, 1, 1)) + b"s.",
    "a negative stride": b"\x80\x02}" + U("w") + tensor(numbers(4, 4), numbers(-4, 1), b"K\x0f") + b"s.",
    "an offset behind the memory": b"\x80\x02}" + U("w") + tensor(numbers(4, 4), numbers(4, 1), b"K\x01") + b"s.",
    "a memory that is missing": b"\x80\x02}" + U("w") + tensor(numbers(4, 4), numbers(4, 1), memory=storage(key="1")) + b"s.",
    "an opcode of nothing": b"\x80\x02\xff.",
    "a digit too many": b"I" + b"1" * 5000 + b"\n.",
    "the end missing": b"\x80\x02}" + U("w"),
}  # fmt: skip


def archive(path: Path, pickled: bytes, *more: tuple[str, bytes]) -> Path:
    return checkpoints.write_zip(path, {"a/data.pkl": pickled, "a/byteorder": b"little", "a/version": b"3\n", **dict(more)})


@pytest.mark.parametrize("case", PICKLES)
def test_hostile_pickles(tmp_path: Path, case: str) -> None:
    path = archive(tmp_path / "net.pt", PICKLES[case], ("a/data/0", bytes(64)))
    with pytest.raises(XnorinferError) as error:
        read_source(path, ConvertOptions(format="torch"))
    assert str(error.value).startswith("net.pt")
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)


def test_many_views_of_one_memory_are_charged(tmp_path: Path) -> None:
    """200 transposed views of 4 MB would be copied: 800 MB from a file of 4 MB."""
    side = 1000
    content = b"\x80\x02}("
    for index in range(200):
        content += U(f"{index}.weight") + tensor(numbers(side, side), numbers(1, side), memory=storage(count=side * side))
    path = archive(tmp_path / "net.pt", content + b"u.", ("a/data/0", bytes(4 * side * side)))
    with pytest.raises(SourceError, match=r"--max-memory"):
        read_source(path)


def test_many_dicts_of_one_layer_each_are_joined_in_one_pass() -> None:
    """Eight times as many take eight times as many steps, not sixty-four times."""

    def steps(count: int) -> int:
        one = PickledArray(np.ones((2, 2), np.float32), shape=(2, 2))
        root = {str(index): {"a": {"w": one}, "b": {"w": one}} for index in range(count)}
        lines = [0]

        def line(frame: object, event: str, argument: object) -> Any:
            lines[0] += event == "line"
            return line

        before = sys.gettrace()
        sys.settrace(line)
        try:
            found = walk(root)
        finally:
            sys.settrace(before)
        assert [state.where for state in found.states] == [f"{index}." for index in range(count)]
        return lines[0]

    assert steps(8 * 200) < 10 * steps(200)


def test_layers_side_by_side_are_one_state_dict() -> None:
    """With the vectors of those that have no matrix; what stands elsewhere, or is a state dict in itself, stays."""

    def array(*shape: int) -> PickledArray:
        return PickledArray(np.ones(shape, np.float32), shape=shape)

    layers = {"fc1": {"w": array(2, 2)}, "bn": {"mean": array(2)}, "fc2": {"w": array(2, 2), "b": array(2)}, "lr": array(2)}
    alone = {"only": {"w": array(2, 2), "v": array(2, 2)}, "bn": {"mean": array(2)}}
    found = walk({"net": layers, "other": alone, "bn": {"mean": array(2)}})
    assert {state.where: list(state.tensors) for state in found.states} == {
        "other.only.": ["w", "v"],
        "net.": ["fc1.w", "fc2.w", "fc2.b", "bn.mean"],
    }
    assert [name for name, _, _ in found.others] == ["net.lr", "other.bn.mean", "bn.mean"]
    assert {state.where: list(state.tensors) for state in walk(layers).states} == {"": ["fc1.w", "fc2.w", "fc2.b", "bn.mean"]}


def test_big_endian_tensors(tmp_path: Path) -> None:
    arrays = checkpoints.state_arrays(checkpoints.random_layers((6, 5, 3), 1))
    entries, content = [], b"\x80\x02}("
    for index, (name, array) in enumerate(arrays.items()):
        array = np.asarray(array)
        kind = "LongStorage" if array.dtype == np.int64 else "FloatStorage"
        strides = [step // array.itemsize for step in array.strides]
        memory = storage(kind, str(index), array.size)
        content += U(name) + tensor(numbers(*array.shape), numbers(*strides), memory=memory)
        entries.append((f"a/data/{index}", array.astype(array.dtype.newbyteorder(">")).tobytes()))
    files = {"a/data.pkl": content + b"u.", "a/byteorder": b"big", **dict(entries)}
    path = checkpoints.write_zip(tmp_path / "net.pt", files)
    net = read_source(path).net
    np.testing.assert_array_equal(net.ops[0].weight, arrays["fc1.weight"])  # type: ignore[union-attr]


def test_damage_is_named(tmp_path: Path) -> None:
    good = pickle.dumps(checkpoints.state_arrays(checkpoints.random_layers((6, 5, 3), 1)))
    path = tmp_path / "net.pkl"
    path.write_bytes(good)
    assert len(read_source(path).net.ops) == 5
    for size in range(0, len(good), 97):
        path.write_bytes(good[:size])
        with pytest.raises(SourceError):
            read_source(path, ConvertOptions(format="torch"))
    rng = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(good)
        broken[int(rng.integers(len(good)))] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        with contextlib.suppress(SourceError, NetworkError):
            read_source(path, ConvertOptions(format="torch", profile="ge-zero"))


@pytest.mark.parametrize("key", [None, False, 7, 1.5, (1, 2), b"fc2.weight"], ids=repr)
def test_tensors_whose_names_are_no_text(tmp_path: Path, key: object) -> None:
    state = {"fc1.weight": np.ones((4, 4), np.float32), key: np.ones((4, 4), np.float32)}
    (tmp_path / "net.pkl").write_bytes(pickle.dumps({"state_dict": state}))
    with pytest.raises(SourceError, match=f"a tensor whose name is no text but {type(key).__name__}"):
        read_source(tmp_path / "net.pkl")


def test_streams_end_behind_the_pickle() -> None:
    stream = io.BytesIO(pickle.dumps([1]) + pickle.dumps({"a": 2}))
    assert unpickle("a", stream, Rules(PLAIN)) == [1]
    assert unpickle("a", stream, Rules(PLAIN)) == {"a": 2}


def test_steps_are_charged(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"")
    with reading(tmp_path / "a.pkl", 1 << 20), pytest.raises(SourceError, match="steps"):
        unpickle("a.pkl", b"N0" * 100_000 + b".", ARRAYS)
