"""In a checkout converters/ and training/ stand beside the package that they belong to: only they are found there."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

#: Packages that are installed inside xnorinfer.
BESIDE = ("converters", "training")


class Beside:
    """Finds the packages of `BESIDE` in a folder (`sys.meta_path`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        package, _, rest = name.partition(".")
        if package != "xnorinfer" or rest not in BESIDE:
            return None
        place = self.folder / rest
        return importlib.util.spec_from_file_location(name, place / "__init__.py", submodule_search_locations=[str(place)])


def find_beside(package: Path) -> None:
    """Where a package's folder lacks them, as only a checkout's does."""
    if not (package / BESIDE[0]).exists():
        sys.meta_path.append(Beside(package.parent))
