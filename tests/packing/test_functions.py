"""Functions whose real numbers are used as they are, by a float layer, by a pool or as scores: bit for bit the oracle's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import networks
import numpy as np
import pytest
from function_networks import nets

from xnorinfer.engine.model import Model
from xnorinfer.float32 import sigmoid, tanh
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Function, Linear, Steps
from xnorinfer.net.reference import forward
from xnorinfer.net.values import RealInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

f = np.float32


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_functions_of_packed_networks(tmp_path: Path, function: Function) -> None:
    for name, net in nets(function).items():
        assert net.check() == [], name
        x = networks.random_inputs(np.random.default_rng(2), net.input, 500, net.depth)
        packed = lower(net).packed
        want = forward(net, x)
        np.testing.assert_array_equal(Model(packed, threads=2).scores(x), want, name)
        modelfile.save(packed, tmp_path / "m")
        np.testing.assert_array_equal(Model(modelfile.load(tmp_path / "m"), threads=1).scores(x), want, name)
        assert len(np.unique(want, axis=0)) > (1 if "signs" in name else 50)


@pytest.mark.parametrize(("function", "own"), [("tanh", tanh), ("sigmoid", sigmoid)])
def test_kernels_have_the_functions_bit_for_bit(function: Function, own: Any) -> None:
    """Floats of every size, -0.0 among them."""
    bits = np.random.default_rng(3).integers(0, 1 << 32, 40_000, dtype=np.uint64).astype(np.uint32)
    x = bits.view(f)
    ends = f([0.0, 2.0**-6, 2.0**-149, 9.01, 17, 88, 103.97, 110, 3.4e38])
    x = np.concatenate([x[np.isfinite(x)], ends, -ends, np.random.default_rng(4).normal(0, 4, 40_000).astype(f)])
    one = ("fc", Linear(np.ones((2, 1), f), "ge"))
    turned = Steps.of(("mul", f([1, -1])), (function,))
    found = Model(lower(Net.chain(RealInput(), [one, ("act", turned)], "ge-zero")).packed, threads=1).scores(x[:, None])
    want = own(np.stack([x, -x], axis=1))
    np.testing.assert_array_equal(found, want)
    assert (np.signbit(found) == np.signbit(want))[x != 0].all()
