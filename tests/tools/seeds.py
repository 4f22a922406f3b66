"""Which random networks a test is about."""

from __future__ import annotations

from typing import Any

import pytest


def seeds(usual: int, all_of_them: int) -> list[Any]:
    """Seeds from 0 on for `parametrize`; those beyond the usual ones are long checks."""
    return [*range(usual), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(usual, all_of_them))]
