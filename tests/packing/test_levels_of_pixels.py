"""Pixels that are rounded to more than 16 levels: files, proofs, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pixel_levels import GRIDS, pixel_levels

from xnorinfer.engine.model import Model
from xnorinfer.errors import NetworkError
from xnorinfer.net import Add, Levels, Linear, Net, Node, PixelInput, Quantize, RealInput, Steps
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Digitize
from xnorinfer.proof.equal import _structure_difference
from xnorinfer.proof.layerproofs import prove_parts


def proofs(packed: object, net: Net) -> list[str]:
    return [proof.first for proof in prove_parts(packed, net, lambda what, done, total: None) if proof.first]  # type: ignore[arg-type]


@pytest.mark.parametrize("maps", [False, True], ids=["vectors", "maps"])
@pytest.mark.parametrize("grid", GRIDS)
def test_files_and_proofs(tmp_path: Path, grid: str, maps: bool) -> None:
    net = pixel_levels(grid, maps, 1)
    packed = lower(net).packed
    modelfile.save(packed, tmp_path / "model.safetensors")
    loaded = modelfile.load(tmp_path / "model.safetensors")
    x = np.random.default_rng(2).integers(0, 256, (30, *net.shape), dtype=np.uint8)
    np.testing.assert_array_equal(Model(loaded).scores(x), forward(net, x.reshape(30, -1)))
    assert _structure_difference(loaded, net) is None
    assert proofs(loaded, net) == []
    first = packed.nodes[0]
    assert isinstance(first.op, Digitize)
    assert first.op.top == GRIDS[grid][1] - GRIDS[grid][0]
    limits = first.op.limits.copy()
    middle = int(np.argmax((np.abs(limits[:, 0]) > 1) & (np.abs(limits[:, 0]) < 254)))
    limits[: middle + 1, 0] += 1
    other = replace(packed, nodes=(replace(first, op=replace(first.op, limits=limits)), *packed.nodes[1:]))
    assert proofs(other, net) != []


def chain(*ops: object, shape: tuple[int, ...] = (6,), given: object = None) -> Net:
    layers = [(f"n{index}", op) for index, op in enumerate(ops)]
    return Net.chain(given or PixelInput.range(0, 1), layers, "ge-zero", shape)  # type: ignore[arg-type]


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_so_many_levels_of_other_values_are_refused() -> None:
    last = Linear(weights(3, 6), "ge")
    scaled = Steps.of(("mul", 100))
    behind = chain(Linear(weights(6, 6), "ge"), scaled, Levels(-16, 16), last)
    assert [str(one) for one in behind.check()] == ["n2: has 33 levels, at most 16 are known of anything but pixels"]
    assert "33 levels" in str(chain(scaled, Levels(-16, 16), last, given=RealInput()).check())
    assert "needed are 3 to 16 levels, of pixels 256" in str(chain(Levels(0, 256), last).check())
    assert chain(scaled, Levels(0, 255), last).check() == []


def test_numbers_that_others_read_have_no_table() -> None:
    nodes = (
        Node("scaled", Steps.of(("mul", 100)), (-1,)),
        Node("levels", Levels(0, 99), (0,)),
        Node("sign", Quantize("ge"), (0,)),
        Node("one", Linear(weights(3, 6), "ge"), (1,)),
        Node("two", Linear(weights(3, 6), "ge"), (2,)),
        Node("add", Add(), (3, 4)),
    )
    net = Net(PixelInput.range(0, 1), (6,), nodes, "ge-zero")
    with pytest.raises(NetworkError, match="levels: makes 100 levels of numbers that others read, too; at most 16"):
        lower(net)
