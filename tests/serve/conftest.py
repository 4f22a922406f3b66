"""Fixtures of the tests of the server.  What needs the extra is imported where it is used: tests without it are skipped."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from servers import Running


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """Starts servers that end with the test."""
    from servers import Running

    with contextlib.ExitStack() as stack:

        def begin(*arguments: object, **more: Any) -> Running:
            running = Running(*arguments, **more)
            stack.callback(running.kill)
            return running

        yield begin


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model files of every kind of input: range, signs, reals, threshold."""
    from servers import save

    made = tmp_path_factory.mktemp("models")
    for seed, kind in enumerate(("range", "signs", "reals", "threshold")):
        save(made / f"{kind}.safetensors", seed, kind)
    return made


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    """A model file of one's own."""
    return Path(shutil.copy(folder / "range.safetensors", tmp_path / "net.safetensors"))
