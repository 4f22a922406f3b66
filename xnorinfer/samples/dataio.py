"""Reading samples and labels from files.

Samples are read front to back in batches, so that a file larger than memory (also a compressed one) costs the memory of one
batch.  Header and size are checked before anything is computed.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import Budget, memory_errors, require_memory_option, shape_problem
from xnorinfer.errors import InputError
from xnorinfer.imageaxes import are_channels_first
from xnorinfer.npyheader import NPY_MAGIC, read_npy_header
from xnorinfer.samples import cifar

AnyArray: TypeAlias = NDArray[Any]

ZIP_MAGIC = b"PK\x03\x04"
ZIP_EMPTY_MAGIC = b"PK\x05\x06"
GZIP_MAGIC = b"\x1f\x8b"
PICKLE = b"\x80"

#: Third byte of an IDX file -> element type (big endian), as in the file format of the MNIST data.
IDX_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

#: Bytes asked for at once: the system delivers no signal within a read, so that Ctrl-C would wait for hundreds of megabytes.
READ_BYTES = 1 << 24

#: What a damaged file makes the standard library raise while it is read.
DAMAGE = (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError, RuntimeError)

#: Kinds of input mappings that take pixels 0..255.
PIXELS = ("pixels", "channels", "threshold")
KINDS = "a .npy, .npz or IDX file (plain or .gz), a binary file of CIFAR, image files or a folder of images"
#: What to do with what Python's pickle wrote.
CIFAR_WAY = (
    "CIFAR has binary files, too, which are read; of those for Python, d = pickle.load(open(name, 'rb'), encoding='bytes'), "
    "save x = d[b'data'].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) with numpy.save"
)


@dataclass(frozen=True)
class Samples:
    """Samples in a file, not read yet.

    source: how messages call it.  shape: (rows, ...).  dtype: native byte order.  names: of the image files, else empty.
    sequential: whether what comes before a row must be read to get at it, as in compressed files.
    reader: (rows, start, stop) yields arrays of at most `rows` of the rows from start up to stop, in order.
    """

    source: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    reader: Callable[[int, int, int], Iterator[AnyArray]] = field(repr=False)
    names: tuple[str, ...] = ()
    sequential: bool = False

    @property
    def rows(self) -> int:
        return self.shape[0]

    def batches(self, rows: int, start: int = 0, stop: int | None = None) -> Iterator[AnyArray]:
        """Samples in order, all or those from start up to stop, `rows` at a time (the last batch may be smaller).

        Raises InputError on damaged content.
        """
        return self.reader(rows, start, self.rows if stop is None else stop)

    def read(self, rows: int | None = None) -> AnyArray:
        """All samples, or the first `rows` of them, as one array."""
        wanted = self.rows if rows is None else min(rows, self.rows)
        with contextlib.closing(self.batches(max(1, wanted))) as batches:  # type: ignore[type-var]
            return next(batches, np.empty((0, *self.shape[1:]), self.dtype))

    def require_pixels(self, kind: str, meaning: str) -> None:
        """Raise InputError if these are image files and a model takes anything but pixels.

        kind, meaning: of its input mapping, as `input.kind` and `input.describe()` have them.
        """
        if self.names and kind not in PIXELS:
            raise InputError(
                f"{self.source}: image files hold pixels 0..255, this model takes {meaning}; prepare such values in a .npy file"
            )

    def inverted(self, kind: str, meaning: str) -> Samples:
        """The same with every pixel p as 255 - p.  Raises InputError unless they are uint8 and a model takes pixels.

        kind, meaning: as in `require_pixels`.
        """
        if kind not in PIXELS:
            raise InputError(f"{self.source}: --invert is for pixels 0..255, this model takes {meaning}")
        if self.dtype != np.uint8:
            raise InputError(f"{self.source}: --invert is for pixels of uint8, these are {self.dtype}")

        def reader(rows: int, start: int, stop: int) -> Iterator[AnyArray]:
            for x in self.reader(rows, start, stop):
                yield 255 - x

        return replace(self, reader=reader)

    def require_shape(self, shape: tuple[int, ...], *, channels_first: bool = False) -> None:
        """Raise InputError unless every sample is an image (height, width, channels), or holds as many values as (features,).

        channels_first: whether the source of the model has channels first; then images that have are taken, too.
        """
        if len(shape) == 3:
            are_channels_first(f"{self.source}:", shape, self.shape, source_first=channels_first)
            return
        (depth,) = shape
        if len(self.shape) < 2 and self.rows == depth:
            raise InputError(f"{self.source}: has shape {self.shape}, one sample without a row axis; save it as (1, {depth})")
        if len(self.shape) < 2 or math.prod(self.shape[1:]) != depth:
            looks_like_one = len(self.shape) > 1 and math.prod(self.shape) == depth
            hint = "; one sample needs a row axis: (1, ...)" if looks_like_one else ""
            raise InputError(
                f"{self.source}: has shape {self.shape}; the model takes (rows, {depth}) or (rows, ...) of {depth} values{hint}"
            )


# ---------------------------------------------------------------- opening


def split_member(text: str) -> tuple[Path, str | None]:
    """'data.npz:x' -> (data.npz, 'x'); any other path, or a file really named so -> (path, None)."""
    match = re.fullmatch(r"(?s)(.+\.npz):([^:]+)", text)
    if match and not os.path.exists(text):
        return Path(match[1]), match[2]
    return Path(text), None


def open_samples(
    inputs: Sequence[str], max_memory: int | None = None, shape: tuple[int, ...] | None = None, *, resize: bool = False
) -> Samples:
    """Open one array file ('data.npz:x' picks an array of an archive), or images: files, or one folder of them.

    max_memory: what may be in memory at once, in bytes (see `budget`).  shape: of the images that a model takes, (height,
    width, channels); image files are grey without it.  Reads headers only.
    Raises InputError, OptionError, or MissingExtraError for images without Pillow.
    """
    from xnorinfer.samples import images

    require_memory_option(max_memory)
    if not inputs:
        raise InputError(f"no input given; needed is {KINDS}")
    paths = [Path(text) for text in inputs]
    if len(paths) > 1:
        other = next((path for path in paths if path.exists() and not images.is_image(path)), None)
        if other is not None:
            raise InputError(f"{other}: is no image file; only images can be given as a list, any other input alone")
        return images.open_images(paths, max_memory, shape, resize=resize)
    if paths[0].is_dir():
        return images.open_images(images.images_in(paths[0]), max_memory, shape, resize=resize)
    if images.is_image(paths[0]):
        return images.open_images(paths, max_memory, shape, resize=resize)
    if resize:
        raise InputError(f"{paths[0]}: is no image file; --resize scales those")
    return open_array(inputs[0], max_memory)


def names_in(path: Path) -> list[str] | None:
    """Names of the arrays of an .npz; None for any other file.  Raises InputError."""
    return _array_names(path) if _peek(path, _opener(path))[:4] in (ZIP_MAGIC, ZIP_EMPTY_MAGIC) else None


def _array_names(path: Path) -> list[str]:
    with _reading(str(path)), zipfile.ZipFile(path) as archive:
        return [name[:-4] for name in archive.namelist() if name.endswith(".npy")]


def open_array(text: str, max_memory: int | None = None, name: str | None = None) -> Samples:
    """Open one .npy, .npz (or 'data.npz:name') or IDX file, plain or gzip-compressed, or a binary file of CIFAR; what it is is
    told from its content.

    max_memory: as for `open_samples`.  name: the array of the .npz `text`, then a path and nothing else.
    """
    require_memory_option(max_memory)
    path, member = split_member(text) if name is None else (Path(text), name)
    opener = _opener(path)
    budget = Budget(str(path), max_memory, InputError)
    budget.add_file(path)
    start = _peek(path, opener)
    if start[:2] == GZIP_MAGIC:
        return _open_stream(str(path), lambda: _gzip_stream(path), budget, exact_end=True)
    if start[:4] in (ZIP_MAGIC, ZIP_EMPTY_MAGIC):
        return _open_npz(path, member, budget)
    if member is not None:
        raise InputError(f"{path}: is no .npz archive, so {member!r} cannot be chosen from it")
    count = cifar.label_count(path)
    if count:
        return _open_cifar(path, count, budget)
    return _open_stream(str(path), opener, budget, exact_end=not start.startswith(NPY_MAGIC))


def _opener(path: Path) -> Callable[[], IO[bytes]]:
    if path.is_dir():
        raise InputError(f"{path}: is a folder, needed is a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is not a regular file")
    return lambda: path.open("rb")


def _gzip_stream(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb"))


def _peek(path: Path, opener: Callable[[], IO[bytes]]) -> bytes:
    with _reading(str(path)), opener() as stream:
        start = stream.read(8)
    if not start:
        raise InputError(f"{path}: is empty; needed is {KINDS}")
    return start


@contextlib.contextmanager
def _reading(source: str) -> Iterator[None]:
    """Turn what the system and damaged files raise into InputError."""
    try:
        with memory_errors(source, InputError):
            yield
    except FileNotFoundError:
        raise InputError(f"{source}: no such file") from None
    except DAMAGE as error:
        raise InputError(f"{source}: is damaged or truncated ({error or type(error).__name__})") from None
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror or error}") from None


def _open_npz(path: Path, member: str | None, budget: Budget) -> Samples:
    names = _array_names(path)
    if not names:
        raise InputError(f"{path}: is a zip file without arrays; needed is an .npz that numpy.savez wrote")
    if member is None and len(names) > 1:
        choices = ", ".join(f"{path}:{name}" for name in names[:8]) + (", ..." if len(names) > 8 else "")
        raise InputError(f"{path}: holds {len(names)} arrays; choose one by its name: {choices}")
    name = names[0] if member is None else member
    if name not in names:
        raise InputError(f"{path}: has no array {name!r}; it holds {', '.join(names)}")

    def opener() -> IO[bytes]:
        with zipfile.ZipFile(path) as archive:  # the opened member keeps the file open
            return archive.open(name + ".npy")

    return _open_stream(f"{path}:{name}" if len(names) > 1 else str(path), opener, budget, exact_end=True)


def _open_cifar(path: Path, count: int, budget: Budget) -> Samples:
    def reader(rows: int, start: int, stop: int) -> Iterator[AnyArray]:
        budget.require_bytes(2 * min(rows, total) * cifar.PIXELS, f"{min(rows, total)} images of {cifar.SHAPE} at once")
        with _reading(str(path)):
            yield from cifar.batches(path, count, rows, range(start, stop))

    total = cifar.rows_of(path, count)
    return Samples(str(path), (total, *cifar.SHAPE), np.dtype(np.uint8), reader)


@dataclass(frozen=True)
class Header:
    """What the head of an array file announces: stored dtype, shape, element order."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool = False


def _open_stream(source: str, opener: Callable[[], IO[bytes]], budget: Budget, *, exact_end: bool) -> Samples:
    with _reading(source), opener() as stream:
        header = _read_header(source, stream)
        _check_size(source, stream, header, exact_end)
        sequential = _compressed(stream)
    native = header.dtype.newbyteorder("=")

    def reader(rows: int, start: int, stop: int) -> Iterator[AnyArray]:
        with _reading(source), opener() as stream:
            _read_header(source, stream)
            yield from _read_rows(source, stream, header, rows, range(start, stop), exact_end, budget)

    return Samples(source, header.shape, native, reader, sequential=sequential)


def _compressed(stream: IO[bytes]) -> bool:
    return isinstance(stream, gzip.GzipFile | zipfile.ZipExtFile)


def _read_header(source: str, stream: IO[bytes]) -> Header:
    """Read up to the first element.  Raises InputError for anything but a plain array of numbers."""
    start = stream.read(4)
    if start == NPY_MAGIC[:4]:
        header = _read_npy_header(source, stream)
    elif len(start) == 4 and start[:2] == b"\0\0" and start[2] in IDX_TYPES and 1 <= start[3] <= 8:
        sizes = stream.read(4 * start[3])
        if len(sizes) < 4 * start[3]:
            raise InputError(f"{source}: is truncated inside its IDX header")
        shape = tuple(int(n) for n in np.frombuffer(sizes, ">u4"))
        header = Header(np.dtype(IDX_TYPES[start[2]]), shape)
    else:
        if start[:1] == PICKLE:
            raise InputError(f"{source}: looks like a pickle, which is never loaded; {CIFAR_WAY}")
        raise InputError(f"{source}: is of no known kind; needed is {KINDS}")
    if header.dtype.hasobject:
        raise InputError(f"{source}: holds Python objects, which are not loaded; save an array of numbers")
    if header.dtype.kind not in "biuf":
        raise InputError(f"{source}: has dtype {header.dtype}; needed is an array of numbers")
    if not header.shape:
        raise InputError(f"{source}: holds a single number; needed is an array of rows")
    problem = shape_problem(header.shape, header.dtype.itemsize)
    if problem is not None:
        raise InputError(f"{source}: its header announces {problem}")
    return header


def _read_npy_header(source: str, stream: IO[bytes]) -> Header:
    try:
        shape, fortran, dtype = read_npy_header(stream, stream.read(4)[2:])
    except ValueError as error:
        raise InputError(f"{source}: has a damaged or unusable .npy header ({error})") from None
    return Header(dtype, shape, fortran)


def _check_size(source: str, stream: IO[bytes], header: Header, exact_end: bool) -> None:
    """Compare what the header announces with the size of a plain file; compressed ones tell at their end."""
    if _compressed(stream):
        return
    available = os.fstat(stream.fileno()).st_size - stream.tell()
    announced = math.prod(header.shape) * header.dtype.itemsize
    if available < announced or (exact_end and available > announced):
        relation = "is truncated" if available < announced else "has bytes left over"
        raise InputError(f"{source}: {relation}: shape {header.shape} {header.dtype} is {announced} bytes, it has {available}")


def _read_rows(
    source: str, stream: IO[bytes], header: Header, rows: int, span: range, exact_end: bool, budget: Budget
) -> Iterator[AnyArray]:
    """The rows of `span`, at most `rows` at once."""
    native = header.dtype.newbyteorder("=")
    if header.fortran:
        yield from _read_columns_first(source, stream, header, rows, span, budget)
        return
    total = header.shape[0]
    row_bytes = math.prod(header.shape[1:]) * header.dtype.itemsize
    if span.start:
        begin = stream.tell()
        skipped = stream.seek(begin + span.start * row_bytes) - begin
        if skipped < span.start * row_bytes:
            raise InputError(f"{source}: is truncated: {total} rows announced, {skipped // row_bytes} complete rows found")
    for start in span[::rows]:
        count = min(rows, span.stop - start)
        budget.require_bytes(count * row_bytes, f"{count} rows of shape {header.shape[1:]} {native} at once")
        batch = np.empty((count, *header.shape[1:]), header.dtype)
        got = _fill(stream, batch)
        if got < batch.nbytes:
            whole = start + got // max(1, batch.nbytes // count)
            raise InputError(f"{source}: is truncated: {total} rows announced, {whole} complete rows found")
        yield batch.astype(native, copy=False)
    at_end = exact_end and span.stop == total
    if at_end and stream.read(1):  # reading to the end also makes gzip and zip compare their checksums
        raise InputError(f"{source}: has bytes left over after the {total} rows that its header announces")


def _read_columns_first(
    source: str, stream: IO[bytes], header: Header, rows: int, span: range, budget: Budget
) -> Iterator[AnyArray]:
    """Arrays in Fortran order: their rows are spread over the whole file, so map it, or read all of a compressed one."""
    if _compressed(stream):
        size = math.prod(header.shape) * header.dtype.itemsize
        budget.require_bytes(size, f"its array of shape {header.shape} {header.dtype}, in Fortran order and compressed,")
        flat = np.empty(math.prod(header.shape), header.dtype)
        if _fill(stream, flat) < flat.nbytes:
            raise InputError(f"{source}: is truncated")
        array: AnyArray = flat.reshape(header.shape, order="F")
    elif 0 in header.shape:
        array = np.empty(header.shape, header.dtype)
    else:
        array = np.memmap(stream, header.dtype, mode="r", offset=stream.tell(), shape=header.shape, order="F")
    for start in span[::rows]:
        yield np.array(array[start : min(start + rows, span.stop)], dtype=header.dtype.newbyteorder("="), order="C")


def _fill(stream: IO[bytes], array: AnyArray) -> int:
    """Read into a C-contiguous array; the number of bytes that were there."""
    if array.nbytes == 0:
        return 0
    view = array.view(np.uint8).reshape(-1).data
    done = 0
    while done < array.nbytes:
        got = stream.readinto(view[done : done + READ_BYTES])  # type: ignore[attr-defined]
        if not got:
            break
        done += got
    return done


# ---------------------------------------------------------------- labels


def read_labels(text: str, rows: int, classes: int, max_memory: int | None = None) -> NDArray[np.int64]:
    """One class number per sample from .npy, .npz ('file.npz:name'), IDX (plain or .gz), .txt (one number a line), or those in
    a binary file of CIFAR.

    Returns (rows,) int64.  Raises InputError if their number is not `rows` or one lies outside 0..classes-1.
    """
    path, member = split_member(text)
    if member is None and path.suffix.lower() in (".txt", ".csv") and path.is_file():
        source, labels = str(path), _read_text_labels(path)
    elif member is None and (count := cifar.label_count(path)):
        source, labels = str(path), cifar.read_labels(path, count)
    else:
        samples = open_array(text, max_memory)
        source = samples.source
        if math.prod(samples.shape[1:]) != 1:
            raise InputError(f"{source}: labels have shape {samples.shape}; needed is one class number per sample: ({rows},)")
        if samples.rows != rows:
            raise InputError(f"{source}: holds {samples.rows} labels for {rows} samples")
        labels = _whole_numbers(source, samples.read().reshape(-1))
    if labels.shape != (rows,):
        raise InputError(f"{source}: holds {labels.size} labels for {rows} samples")
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise InputError(f"{source}: label {first} is {labels[first]}; the model has the classes 0..{classes - 1}")
    return labels


def _whole_numbers(source: str, values: AnyArray) -> NDArray[np.int64]:
    if values.dtype.kind == "f":
        wrong = ~np.isfinite(values) | (values != np.floor(values)) | (np.abs(values) > 2**31)
        if wrong.any():
            first = int(np.argmax(wrong))
            raise InputError(f"{source}: label {first} is {values[first]}; labels are whole numbers")
    return values.astype(np.int64)


def _read_text_labels(path: Path) -> NDArray[np.int64]:
    labels: list[int] = []
    with _reading(str(path)), path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            text = line.strip()
            if not text:
                continue
            if not re.fullmatch(rb"[+-]?\d{1,9}", text):
                shown = text[:40].decode("utf-8", "replace")
                raise InputError(f"{path}: line {number} is {shown!r}; needed is one class number per line")
            labels.append(int(text))
    return np.array(labels, np.int64)
