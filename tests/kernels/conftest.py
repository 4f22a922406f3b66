"""What the tests of kernels share."""

from __future__ import annotations

import pytest

from xnorinfer import kernels

USABLE = {kernel.name for kernel in kernels.usable()}


@pytest.fixture(params=[kernel.name for kernel in kernels.KERNELS])
def kernel(request: pytest.FixtureRequest) -> str:
    """Every kernel of the table; those that this CPU cannot run are skipped visibly."""
    if request.param not in USABLE:
        pytest.skip(f"this CPU cannot run {request.param}")
    return str(request.param)
