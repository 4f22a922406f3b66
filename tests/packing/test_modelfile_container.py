"""Every way in which the container of a model file can be wrong, written byte by byte; what is in it: `test_modelfile`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import INPUTS, random_network

from xnorinfer.errors import MalformedModelError, ModelFileError, NotAModelError
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

Head = dict[str, Any]


def build(head: Any, data: bytes, length: int | None = None) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def changed(change: Callable[[Head], Any]) -> Callable[[Head, bytes], bytes]:
    def make(head: Head, data: bytes) -> bytes:
        change(head)
        return build(head, data)

    return make


def entry(name: str, **fields: Any) -> Callable[[Head, bytes], bytes]:
    return changed(lambda head: head[name].update(fields))


def moved(head: Head) -> None:
    """The last tensor begins four bytes later: a hole."""
    last = max((name for name in head if name != "__metadata__"), key=lambda name: head[name]["data_offsets"][1])
    head[last]["data_offsets"] = [offset + 4 for offset in head[last]["data_offsets"]]


def overlapping(head: Head) -> None:
    first, second = (name for name in ("layers.0.bits", "layers.1.bits"))
    head[second]["data_offsets"] = [0, head[second]["data_offsets"][1] - head[second]["data_offsets"][0]]
    assert first in head


BITS, LIMITS = "layers.0.bits", "layers.0.limits"
WAYS: dict[str, Callable[[Head, bytes], bytes]] = {
    "no bytes": lambda head, data: b"",
    "seven bytes": lambda head, data: bytes(7),
    "no header": lambda head, data: build(b"", data, 0),
    "the header's length beyond the file": lambda head, data: build(head, data, 10**6),
    "the header's length beyond all memory": lambda head, data: build(head, data, 2**64 - 1),
    "the header's length one short": lambda head, data: build(head, data, len(json.dumps(head)) - 1),
    "the header is no JSON": lambda head, data: build(b"{" + b"x" * 63, data),
    "the header is no UTF-8": lambda head, data: build(b'{"\xff": 1}', data),
    "the header is a list": lambda head, data: build([head], data),
    "the header nests without end": lambda head, data: build(b"[" * 50_000, data),
    "no metadata": changed(lambda head: head.pop("__metadata__")),
    "metadata of another program": changed(lambda head: head.update(__metadata__={"format": "pt"})),
    "metadata that is no text": changed(lambda head: head["__metadata__"].update(xnorinfer={"format_version": 1})),
    "metadata is a list": changed(lambda head: head.update(__metadata__=[])),
    "a byte is missing": lambda head, data: build(head, data[:-1]),
    "a byte too many": lambda head, data: build(head, data + b"x"),
    "all data is missing": lambda head, data: build(head, b""),
    "a hole between tensors": changed(moved),
    "tensors overlap": changed(overlapping),
    "offsets run backwards": entry(BITS, data_offsets=[64, 0]),
    "offsets beyond the file": entry(BITS, data_offsets=[0, 2**40]),
    "negative offsets": entry(BITS, data_offsets=[-8, 0]),
    "one offset": entry(BITS, data_offsets=[0]),
    "offsets are text": entry(BITS, data_offsets=["0", "8"]),
    "the shape disagrees with the offsets": entry(BITS, shape=[1, 1]),
    "the shape overflows": entry(BITS, shape=[2**40, 2**40]),
    "the shape is negative": entry(BITS, shape=[-1, 1]),
    "the shape is a fraction": entry(BITS, shape=[1.5, 2]),
    "the shape is missing": changed(lambda head: head[BITS].pop("shape")),
    "an unknown type": entry(BITS, dtype="U65"),
    "a type that numpy lacks": entry(LIMITS, dtype="BF16", shape=[40]),
    "a type of half the size": entry(LIMITS, dtype="F16", shape=[40]),
    "a type of the same size": entry(LIMITS, dtype="U32"),
    "a signed type": entry(BITS, dtype="I64"),
    "a tensor is missing": changed(lambda head: head.pop(LIMITS)),
    "a tensor of another name": changed(lambda head: head.update(x=head.pop(LIMITS))),
    "a tensor twice": lambda head, data: build(json.dumps(head).replace('"layers.1.limits"', f'"{LIMITS}"').encode(), data),
    "a tensor of no values": changed(lambda head: head.update(empty={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]})),
}


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_every_broken_container_is_refused(tmp_path: Path, way: str, mapped: bool) -> None:
    path = tmp_path / "m"
    modelfile.save(lower(random_network(3, [30, 20, 10, 6], INPUTS["range"])).packed, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    path.write_bytes(WAYS[way](json.loads(content[8 : 8 + length]), content[8 + length :]))
    with pytest.raises((NotAModelError, MalformedModelError)) as caught:
        modelfile.load(path, mapped=mapped)
    assert str(caught.value).startswith(str(path))


#: Layers of a whole network made inconsistent, saved with digests that match: tensor -> new value.
VALUES: dict[str, tuple[str, Callable[[Any], Any], str]] = {
    "reals: a limit is NaN": ("layers.0.limits", lambda a: np.full_like(a, np.nan), "limits hold NaN"),
    "a float weight is infinite": ("layers.2.weight", lambda a: np.full_like(a, np.inf), "weights must be finite float32"),
    "a float weight is NaN": ("layers.2.weight", lambda a: np.full_like(a, np.nan), "weights must be finite float32"),
    "a step is NaN": ("layers.2.steps", lambda a: np.full_like(a, np.nan), "steps hold NaN"),
    "float64 weights": ("layers.2.weight", lambda a: a.astype(np.float64), "layers.2.weight is"),
    "a flat weight": ("layers.2.weight", lambda a: a.reshape(-1), "layers.2.weight is"),
    "a wider weight": ("layers.2.weight", lambda a: np.hstack([a, a]), "depth is"),
}


@pytest.mark.parametrize("case", VALUES)
def test_every_broken_value_of_a_float_tail_is_refused(tmp_path: Path, case: str) -> None:
    from safetensors import safe_open
    from safetensors.numpy import save_file

    name, change, message = VALUES[case]
    path = tmp_path / "m"
    modelfile.save(lower(random_network(7, [20, 17, 9, 3], INPUTS["reals"], float_tail=True, awkward=False)).packed, path)
    with safe_open(path, framework="numpy") as container:
        tensors = {key: container.get_tensor(key) for key in container.keys()}  # noqa: SIM118 (not a mapping)
        metadata = container.metadata()
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(MalformedModelError, match=message):
        modelfile.load(path)


@pytest.mark.parametrize("name", ["m", "folder", "none", "none/m", "m/m"])
def test_paths_that_hold_no_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(ModelFileError):
        modelfile.load(tmp_path / name)
