"""C99 of networks whose pixels are rounded to many levels: equal scores."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path

import numpy as np
from pixel_levels import GRIDS, pixel_levels
from test_extract_c import DRIVER, SANITIZERS, compiled, compiler, run_of

from xnorinfer.export import ccode
from xnorinfer.net import Flatten, Levels, Linear, Net, PixelInput, Steps, Window
from xnorinfer.net.reference import forward
from xnorinfer.packing.lower import lower


def above_zero() -> Net:
    """Levels of which none is 0, and windows that stay on the map: no code stands for what is outside."""
    weights = np.random.default_rng(1).normal(size=(8, 2, 2, 3)).astype(np.float32)
    layers = [
        ("scaled", Steps.of(("mul", 4), ("add", 3))),
        ("levels", Levels(3, 7)),
        ("conv", Linear(weights, "ge", window=Window((2, 2)))),
        ("flatten", Flatten()),
    ]
    return Net.chain(PixelInput.range(0, 1), layers, "ge-zero", (3, 2, 3))


def test_the_scores_of_c(tmp_path: Path) -> None:
    flags = ("-std=c99", "-O1", *SANITIZERS)
    compiler(*flags)
    packed, want = {}, {}
    nets = [pixel_levels(grid, maps, number) for number, (grid, maps) in enumerate(product(GRIDS, (False, True)))]
    for number, net in enumerate([*nets, above_zero()]):
        name = f"net{number}"
        packed[name] = lower(net).packed
        x = np.random.default_rng(number).integers(0, 256, (7, net.depth), dtype=np.uint8)
        want[name] = forward(net, x)
        (tmp_path / f"{name}.h").write_text(ccode.header(packed[name], name))
        x.tofile(tmp_path / f"{name}.in")
    driver = DRIVER.format(
        includes="".join(f'#include "{name}.h"\n' for name in packed),
        runs="".join(f"RUN({name}, {run_of(name, one)})\n" for name, one in packed.items()),
        calls="".join(f"    run_{name}();\n" for name in packed),
    )
    (tmp_path / "driver.c").write_text(driver)
    subprocess.run([compiled(tmp_path / "driver.c", *flags)], cwd=tmp_path, check=True)
    for name, scores in want.items():
        found = np.fromfile(tmp_path / f"{name}.out", np.int32).reshape(len(scores), -1)[:, : scores.shape[1]]
        np.testing.assert_array_equal(np.ascontiguousarray(found).view(np.float32), scores)
