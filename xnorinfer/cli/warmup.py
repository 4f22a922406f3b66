"""`xnorinfer warmup`: compile the kernels before they are needed."""

from __future__ import annotations

import time

import click

from xnorinfer.cli import screen
from xnorinfer.errors import XnorinferError

EPILOG = """\b
Examples:
  xnorinfer warmup
  xnorinfer warmup --all
"""


@click.command("warmup", epilog=EPILOG)
@click.option("--all", "every", is_flag=True, help="Every kernel that this CPU runs, not only the one it would choose.")
def command(every: bool) -> None:
    """Compile the kernels for this CPU ahead of their first use.

    Kernels are compiled on first use for the CPU at hand, and kept for later processes where the package's folder or
    the user's cache folder can be written. Run this once after installing, for example while building a container
    image, on the kind of CPU that will run it.
    """
    import numpy as np

    from xnorinfer import kernels
    from xnorinfer.bits import bitpack
    from xnorinfer.model import Model
    from xnorinfer.netspec import PixelInput
    from xnorinfer.packed import Affine, PackedDense, PackedModel

    nothing = Affine((), np.empty((0, 2, 1), np.float32))
    smallest = PackedModel(
        PixelInput.range(0, 255), (PackedDense("one", "pixels", 1, bitpack(np.ones((1, 1), np.int8)), nothing),), "ge-zero"
    )
    rows = []
    for name in [kernel.name for kernel in kernels.usable()] if every else [kernels.choose().name]:
        begin = time.perf_counter()
        with screen.waiting(f"compiling kernel {name}"):
            scores = Model(smallest, kernel=name).scores(np.array([[7]], np.uint8))
        if scores.tolist() != [[7.0]]:
            raise XnorinferError(
                f"kernel {name} computes {scores.tolist()} instead of 7 on this CPU; choose another by XNORINFER_KERNEL"
            )
        rows.append([name, screen.time_text(time.perf_counter() - begin)])
    screen.table([("kernel", False), ("ready after", True)], rows)
