"""Where things of the tests lie, and what lies in archives."""

from __future__ import annotations

import tarfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
TOOLS = TESTS / "tools"
#: Scripts that train networks or measure at length.
EVIDENCE = TESTS / "evidence"
DATA = TESTS / "data"
#: What comes with the package.
PACKAGE_DATA = ROOT / "xnorinfer" / "data"
#: Large data beside a checkout: MNIST and real checkpoints, where there are any.
SHARED = ROOT.parent / "shared" / "data"


def unpack(archive: Path, folder: Path) -> Path:
    """Put the files of a committed archive into a folder, which is returned."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder


def files_in(archive: Path) -> dict[str, bytes]:
    """The files of a committed archive by their names."""
    with tarfile.open(archive) as packed:
        return {entry.name: packed.extractfile(entry).read() for entry in packed if entry.isfile()}  # type: ignore[union-attr]
