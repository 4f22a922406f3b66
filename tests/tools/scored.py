"""Inputs of every kind for the shipped network, and what `xnorinfer score` writes of them."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer import shipped

MODEL = "mnist-784-1024x3"
#: Rows of every input here.
ROWS = 60


def samples() -> NDArray[np.uint8]:
    """(ROWS, 28, 28) uint8."""
    return shipped.sample_digits()[0][:ROWS]


def _table(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns), path, **{"row_group_size": 17, **options})
    return path


def _npy(folder: Path) -> Path:
    np.save(folder / "x.npy", samples())
    return folder / "x.npy"


def _fortran(folder: Path) -> Path:
    np.save(folder / "f.npy", np.asfortranarray(samples()))
    return folder / "f.npy"


def _npz(folder: Path) -> str:
    np.savez_compressed(folder / "x.npz", x=samples(), other=np.zeros(3))
    return f"{folder / 'x.npz'}:x"


def _idx(folder: Path) -> Path:
    x = samples()
    content = bytes([0, 0, 8, 3]) + np.array(x.shape, ">u4").tobytes() + x.tobytes()
    (folder / "x-idx3-ubyte").write_bytes(content)
    return folder / "x-idx3-ubyte"


def _idx_gz(folder: Path) -> Path:
    path = folder / "x-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(_idx(folder).read_bytes()))
    return path


def _images(folder: Path) -> Path:
    from PIL import Image

    (folder / "images").mkdir()
    for index, image in enumerate(samples()):
        Image.fromarray(image).save(folder / "images" / f"{index:03}.png")
    return folder / "images"


def _lists(folder: Path) -> Path:
    flat = samples().reshape(ROWS, -1)
    return _table(
        folder / "lists.parquet", {"id": [f"s{index}" for index in range(ROWS)], "image": list(flat), "label": [7] * ROWS}
    )


def _nested(folder: Path) -> Path:
    return _table(folder / "nested.parquet", {"image": samples().tolist()})


def _fixed(folder: Path) -> Path:
    import pyarrow

    values = pyarrow.array(samples().reshape(-1))
    return _table(
        folder / "fixed.parquet", {"image": pyarrow.FixedSizeListArray.from_arrays(values, 784), "id": list(range(ROWS))}
    )


def _bytes(folder: Path) -> Path:
    return _table(folder / "bytes.parquet", {"image": [image.tobytes() for image in samples()]})


def _columns(folder: Path) -> Path:
    flat = samples().reshape(ROWS, -1)
    return _table(folder / "columns.parquet", {f"pixel{index}": flat[:, index] for index in range(784)})


#: Name -> makes the input in a folder, and gives what the command line takes.
INPUTS: dict[str, Callable[[Path], str | Path]] = {
    "npy": _npy,
    "npy in Fortran order": _fortran,
    "npz": _npz,
    "idx": _idx,
    "idx.gz": _idx_gz,
    "images": _images,
    "parquet, lists": _lists,
    "parquet, nested lists": _nested,
    "parquet, lists of one size": _fixed,
    "parquet, bytes": _bytes,
    "parquet, columns": _columns,
}


def read(folder: Path) -> dict[str, list[Any]]:
    """All parts of a folder in order, column by column."""
    import pyarrow
    from pyarrow import parquet

    parts = [parquet.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet"))]
    names = parts[0].schema.names
    plain = [part.set_column(0, "input", part.column("input").cast(pyarrow.string())) for part in parts]
    return {name: [one for part in plain for one in part.column(name).to_pylist()] for name in names}
