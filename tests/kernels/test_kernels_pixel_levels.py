"""Every kernel of the table on pixels that are rounded to more levels than other values may have, against the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from pixel_levels import GRIDS, pixel_levels

from xnorinfer.engine.plan import Plan
from xnorinfer.net.reference import forward
from xnorinfer.packing.lower import lower


@pytest.mark.parametrize("maps", [False, True], ids=["vectors", "maps"])
@pytest.mark.parametrize("grid", GRIDS)
def test_every_kernel(kernel: str, grid: str, maps: bool) -> None:
    net = pixel_levels(grid, maps)
    x = np.random.default_rng(1).integers(0, 256, (40, net.depth), dtype=np.uint8)
    x[:2] = np.arange(2)[:, None] * 255
    want = forward(net, x)
    assert len(np.unique(want, axis=0)) > 10
    for threads in (1, 2):
        np.testing.assert_array_equal(Plan(lower(net).packed, kernel=kernel, threads=threads).run(x), want)
