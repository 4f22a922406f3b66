"""The arrays a net.toml names: those of the container, those it declares itself, and what became of each.

An array declared in `[arrays.NAME]` comes from another array (`from`), from a file in the folder SOURCE (`file`), or from
SOURCE itself.  No other file is ever opened: the digest in a model's provenance covers just these.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xnorinfer.budget import add_file, spend_bytes, spend_steps
from xnorinfer.converters.containers.arrays import STORED, Entry, RawTensor, as_float32, element_count
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.converters.containers.textfile import looks_like_base_two, read_bits, read_numbers
from xnorinfer.converters.nettoml.table import Table, nearest
from xnorinfer.converters.reading import Notes, TensorUse
from xnorinfer.errors import SourceError
from xnorinfer.float32 import F32

FORMATS = ("raw", "bits", "hex", "numbers")
DTYPES = {name: code for name, code in STORED.items() if name not in ("bool", "bfloat16")}
ORDERS = ("lsb", "msb")
#: Users of one array that a message names.
MOST_USERS = 8


class Arrays:
    """Everything that names in a net.toml can mean.  `close` reports what was used twice, or not at all."""

    def __init__(self, path: Path, entries: dict[str, Entry], top: Table, notes: Notes) -> None:
        self.path = path
        self.entries = entries
        self.top = top
        self.problems = top.problems
        self.notes = notes
        self.ignore = top.texts("ignore")
        self.shared = top.texts("shared")
        self.uses: dict[str, list[str]] = {}
        self.meanings: dict[str, str] = {}
        self.files: dict[Path, list[tuple[int, int, int, str]]] = {}
        self.opened: dict[Path, dict[str, Entry]] = {}
        self.incomplete = False  # an array could not be had, so that what is left over says nothing
        self.declared: dict[str, tuple[Table, Callable[[], NDArray[Any]] | None]] = {}
        arrays = top.table("arrays")
        for name, table in arrays.children() if arrays is not None else ():
            if name in entries:
                table.problem("", f"the file holds an array called {name} already; choose another name")
            self.declared[name] = (table, self._declare(name, table))
            table.close()

    # ------------------------------------------------------------ what layers ask for

    def take(self, table: Table, key: str, name: str, use: str) -> RawTensor | None:
        """An array by name, for `use`; None after reporting a problem at table.key."""
        if name not in self.declared and name not in self.entries:
            table.problem(key, f"there is no array {name!r}, {nearest(name, [*self.declared, *self.entries])}")
            return None
        self.uses.setdefault(name, []).append(table.path(key))
        self.meanings.setdefault(name, use)
        try:
            if name in self.entries:
                entry = self.entries[name]
                array, dtype = entry.load(), entry.dtype
            else:
                load = self.declared[name][1]
                if load is None:  # its declaration is a problem already
                    return None
                array = load()
                dtype = str(array.dtype)
                if len(self.uses[name]) == 1:
                    self.notes.tensors.append(TensorUse(name, tuple(array.shape), dtype, use))
        except SourceError as error:
            self.incomplete = True
            table.problem(key, str(error))
            return None
        if array.dtype == np.bool_:
            array = array.view(np.uint8)
        return RawTensor(name, array, dtype)

    def floats(self, table: Table, key: str, name: str, use: str) -> F32 | None:
        """An array as float32, in its own shape."""
        tensor = self.take(table, key, name, use)
        try:
            return None if tensor is None else as_float32(tensor, self.notes.warnings)
        except SourceError as error:
            table.problem(key, str(error))
            return None

    def exact(self, table: Table, key: str, size: int, use: str) -> NDArray[Any] | None:
        """A vector in the type it is stored as, (size,): one value stands for all; None if absent or a problem."""
        given = table.vector(key)
        if given is None:
            return None
        if isinstance(given, str):
            tensor = self.take(table, key, given, use)
            if tensor is None:
                return None
            if tensor.array.dtype.kind not in "fiu":
                table.problem(key, f"tensor {given} holds {tensor.dtype}, needed are real numbers")
                return None
            array: NDArray[Any] = np.ascontiguousarray(tensor.array).reshape(-1)
            found = f"{given} has shape {tensor.shape}"
        else:
            array = np.atleast_1d(np.asarray(given))
            found = f"{array.size} numbers are given"
        if array.size not in (1, size):
            table.problem(key, f"{found}, needed are {size} values or one for all")
            return None
        return np.broadcast_to(array, (size,))

    def vector(self, table: Table, key: str, size: int, use: str) -> F32 | None:
        """A vector as float32, (size,): one value stands for all; None if absent or a problem."""
        array = self.exact(table, key, size, use)
        if array is None:
            return None
        given = table.values[key]
        # Decimals in the TOML are meant as the float32 nearest to them; only arrays are warned about.
        warnings = self.notes.warnings if isinstance(given, str) else []
        single = as_float32(RawTensor(given if isinstance(given, str) else table.path(key), array, str(array.dtype)), warnings)
        return single

    # ------------------------------------------------------------ declarations

    def _declare(self, name: str, table: Table) -> Callable[[], NDArray[Any]] | None:
        """How to load a declared array; None after reporting problems."""
        before = len(self.problems)
        origin, file = table.text("from"), table.text("file")
        form = table.choice("format", FORMATS)
        inner = table.text("array")
        dtype, shape = table.choice("dtype", tuple(DTYPES)), table.shape("shape")
        offset, trailing = table.integer("offset", least=0), table.integer("trailing", least=0)
        base, is_signed = table.integer("base", least=2, most=16), table.flag("signed")
        order, unpack = table.choice("order", ORDERS), table.choice("unpack", ORDERS)
        ranges = table.ranges("slice")
        if base is not None and (base not in (2, 10, 16) or form != "numbers"):
            table.problem("base", 'is 2, 10 or 16, and belongs to format = "numbers"')
        if is_signed and base in (None, 10):
            table.problem("signed", "belongs to numbers in base 2 or 16: two's complement")
        if origin is not None and (file is not None or form is not None or inner is not None):
            table.problem("", "an array `from` another has no file, format or array")
        if form != "raw":
            for key in ("dtype", "offset", "trailing"):
                if key in table:
                    table.problem(key, 'belongs to format = "raw"')
        elif dtype is None:
            table.problem("", f"a raw file needs dtype, one of {', '.join(DTYPES)}")
        if (form in ("bits", "hex")) != (order is not None):
            table.problem("", 'order = "lsb" or "msb" belongs to the formats bits and hex, and they need it')
        if form is not None and inner is not None:
            table.problem("array", "belongs to a file that holds arrays by name, not to a format")
        read: Callable[[], NDArray[Any]] | None = None
        if len(self.problems) == before:
            if origin is not None:
                read = self._from(name, table, origin)
            else:
                path = self._file(table, file)
                if path is not None and form == "raw":
                    read = self._raw(table, path, DTYPES[dtype], shape if unpack is None else None, offset or 0, trailing or 0)
                elif path is not None and form is not None:
                    read = self._text(table, path, form, order, base, is_signed)
                elif path is not None:
                    read = self._inside(name, table, path, inner)
        if read is None:
            self.incomplete = True
            return None
        where = table.where
        return lambda: _transformed(where, read(), unpack, shape, ranges)

    def _from(self, name: str, table: Table, base: str) -> Callable[[], NDArray[Any]] | None:
        if base not in self.entries:
            table.problem("from", f"there is no array {base!r}, {nearest(base, list(self.entries))}")
            return None
        self.uses.setdefault(base, [])
        known = self.meanings.get(base)
        self.meanings[base] = f"array {name}" if known is None else f"{known}, {name}"
        return self.entries[base].load

    def _file(self, table: Table, file: str | None) -> Path | None:
        """The path of a declared file, made sure to lie in the folder SOURCE."""
        if file is None:
            if self.path.is_file():
                return self.path
            table.problem("", "needs `file`, a file in the folder, or `from`, an array of SOURCE")
            return None
        if not self.path.is_dir():
            table.problem("file", f"SOURCE is a file; give its folder {self.path.parent} as SOURCE to use the files in it")
            return None
        if any(character in file for character in "/\\:\0") or file in (".", ".."):
            table.problem(
                "file", f"{file!r} must be the name of a file in the folder SOURCE itself, without slashes and colons"
            )
            return None
        folder = self.path
        path = folder / file
        try:
            inside = path.resolve(strict=True).is_relative_to(folder.resolve(strict=True))
        except (OSError, RuntimeError):
            table.problem("file", f"there is no file {file} in {folder.name or folder}")
            return None
        if not inside or not path.is_file():
            table.problem("file", f"{file} is {'no regular file' if inside else 'a link that leaves the folder'}: refused")
            return None
        return path

    def _raw(
        self, table: Table, path: Path, code: str, shape: tuple[int, ...] | None, offset: int, trailing: int
    ) -> Callable[[], NDArray[Any]] | None:
        size = path.stat().st_size
        if not size:
            table.problem("", f"{path.name} is empty")
            return None
        item = np.dtype(code).itemsize
        wanted = size - offset - trailing if shape is None else element_count(shape) * item
        if wanted <= 0 or wanted % item or offset + wanted + trailing > size:
            table.problem(
                "", f"{path.name} has {size} bytes; {wanted} of {np.dtype(code)} from byte {offset} on do not fit; check shape"
            )
            return None
        self.files.setdefault(path, []).append((offset, offset + wanted, trailing, table.where))
        add_file(path)
        return lambda: np.memmap(path, np.uint8, "r", offset, (wanted,)).view(code).reshape(shape or (-1,))

    def _text(
        self, table: Table, path: Path, form: str, order: Any, base: int | None, is_signed: bool
    ) -> Callable[[], NDArray[Any]]:
        self.files.setdefault(path, [])
        if form == "numbers" and base is None:
            return lambda: self._decimals(table, path)
        if form == "numbers":
            return lambda: read_numbers(path, base or 10, is_signed=is_signed)
        return lambda: read_bits(path, order, is_hexadecimal=form == "hex")

    def _decimals(self, table: Table, path: Path) -> NDArray[Any]:
        """Numbers whose base nothing says."""
        numbers = read_numbers(path)
        if looks_like_base_two(path):
            self.notes.warnings.append(
                f"{table.where}: {path.name} is read as decimal numbers, but looks like base 2 (all its digits are 0 and 1); "
                'say base = 2, base = 10 if they are decimal, or format = "bits" if each digit is a value'
            )
        return numbers

    def _inside(self, name: str, table: Table, path: Path, inner: str | None) -> Callable[[], NDArray[Any]] | None:
        try:
            kind, entries = ("", self.opened[path]) if path in self.opened else open_container(path)
        except SourceError as error:
            table.problem("file", str(error))
            return None
        if kind == "files":
            table.problem("", f"{path.name} holds no arrays by name: it needs format, one of {', '.join(FORMATS)}")
            return None
        self.opened[path] = entries
        self.files.setdefault(path, [])
        if inner is None and len(entries) == 1:
            inner = next(iter(entries))
        if inner is None or inner not in entries:
            wanted = f"there is no array {inner!r} in it, {nearest(inner, list(entries))}" if inner else "name one with `array`"
            table.problem("array", f"{path.name} holds {len(entries)} arrays: {wanted}")
            return None
        return entries[inner].load

    # ------------------------------------------------------------ the account at the end

    def close(self) -> None:
        """Note every array and file with what became of it; report those used twice and those left over."""
        for name, paths in self.uses.items():
            if len(paths) > 1 and name not in self.shared:
                users = " and ".join(
                    paths if len(paths) <= MOST_USERS else [*paths[:MOST_USERS], f"{len(paths) - MOST_USERS} more"]
                )
                self.problems.append(f"{users} use the same array {name}; if that is meant, say shared = [{_quote(name)}]")
        for name, (table, load) in self.declared.items():
            if name not in self.uses and load is not None and not self.incomplete:
                table.problem("", "is declared but no layer uses it")
        left: list[str] = []
        for name, entry in self.entries.items():
            use = self.meanings.get(name)
            reason = self._ignored(name)
            if use is None and reason is None:
                left.append(name)
            if use is not None and name in self.ignore:
                self.top.problem("ignore", f"{name} is ignored, but {', '.join(self.uses[name]) or use} uses it")
            self.notes.tensors.append(TensorUse(name, entry.shape, entry.dtype, use or reason or "not mentioned", use is None))
        if left and not self.incomplete:
            self.problems.append(f"ignore: no layer uses {len(left)} of the arrays; {self._places(left)}")
        self._close_files()

    def _places(self, left: Sequence[str]) -> str:
        """What arrays that nobody uses may be: by their shapes a part of the network, or idle."""
        used = [self.entries[name].shape for name in self.uses if name in self.entries]
        sizes = {size for shape in used if len(shape) == 2 and min(shape) > 1 for size in shape}
        layers: list[str] = []
        vectors: list[str] = []
        idle: list[str] = []
        for name in left:
            wide = [size for size in self.entries[name].shape if size != 1]
            kind = layers if len(wide) > 1 else vectors if wide and wide[0] in sizes else idle
            kind.append(name)
        said = [
            f"{_listed(names)} {what}"
            for names, what in (
                (layers, "may be weights of layers"),
                (vectors, "may be bias, scale, prelu or a part of norm or threshold"),
            )
            if names
        ]
        if said:
            said[-1] += ": give them a place, or name them in ignore if nothing uses them"
        if idle:
            said.append(f"say ignore = [{_listed(idle)}]" + (" about the others" if said else ", or give them a place"))
        return "; ".join(said)

    def _ignored(self, name: str) -> str | None:
        spend_steps(len(self.ignore), "looking for arrays to ignore")
        for pattern in self.ignore:
            if name == pattern or fnmatch.fnmatchcase(name, pattern):
                return f"ignore = {_quote(pattern)}"
        return None

    def _close_files(self) -> None:
        for path, spans in self.files.items():
            end, last = 0, ""
            for begin, stop, trailing, where in sorted(spans):
                if begin < end:
                    self.problems.append(f"{where}: shares bytes {begin} to {min(end, stop)} of {path.name} with {last}")
                end, last = max(end, stop + trailing), where
            size = path.stat().st_size
            if spans and end < size:
                self.problems.append(
                    f"{last}: {size - end} bytes at the end of {path.name} are not used; check shape and dtype, or say "
                    f"trailing = {size - end}"
                )
        if not self.path.is_dir() or self.entries:
            return
        used = {path.resolve() for path in self.files}
        for path in sorted(self.path.iterdir()):
            if path.is_file() and path.resolve() not in used:
                use = "a file that the net.toml does not mention"
                self.notes.tensors.append(TensorUse(path.name, (path.stat().st_size,), "bytes", use, ignored=True))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(_quote(name) for name in names[:8]) + (", ..." if len(names) > 8 else "")


def _quote(name: str) -> str:
    return f'"{name}"'


def _transformed(
    where: str,
    array: NDArray[Any],
    unpack: str | None,
    shape: tuple[int, ...] | None,
    ranges: Sequence[tuple[int, int]] | None,
) -> NDArray[Any]:
    if unpack is not None:
        array = unpacked(where, array, unpack, shape)
    elif shape is not None:
        array = _reshaped(where, array, shape)
    if ranges is not None:
        if len(ranges) != array.ndim or any(end > n for (_, end), n in zip(ranges, array.shape, strict=True)):
            raise SourceError(f"{where}.slice: {[list(one) for one in ranges]} leaves the array's shape {array.shape}")
        array = array[tuple(slice(begin, end) for begin, end in ranges)]
    return array


def _reshaped(where: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """In the shape that is said.  Rows of characters may be longer than needed: each row of the shape ends in padding."""
    if array.size == element_count(shape):
        return array.reshape(shape)
    if len(shape) >= 2 and array.ndim == 2 and array.shape[0] % shape[0] == 0:
        width, wanted = array.size // shape[0], element_count(shape[1:])
        # Only whole words of padding would mean that the shape is wrong.
        if 0 <= width - wanted < array.shape[1]:
            return array.reshape(shape[0], width)[:, :wanted].reshape(shape)
    raise SourceError(f"{where}.shape: {list(shape)} are {element_count(shape)} values, but {array.size} are there")


def unpacked(where: str, words: NDArray[Any], order: str, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """Packed bits as 0 and 1: (..., words) of B-bit integers to (..., words * B), or to `shape` (rows, values), whose rows each
    begin in a new word; bits behind a row's last value are padding.  Kernels of convolutions have one row a neuron, or one for
    each place of its window, whichever the number of words is right for.  lsb: a word's lowest bit is its first value."""
    if words.dtype.kind not in "iu":
        raise SourceError(f"{where}.unpack: the array holds {words.dtype}, packed bits need whole numbers")
    bits = words.dtype.itemsize * 8
    if words.ndim == 0:
        words = words.reshape(1)
    width = 0
    if shape is not None:
        rows, width = element_count(shape[:-1]), shape[-1]
        per_row = -(-width // bits)
        of_neuron = element_count(shape[1:])
        if len(shape) > 2 and rows * per_row != words.size == shape[0] * -(-of_neuron // bits):
            rows, width, per_row = shape[0], of_neuron, -(-of_neuron // bits)
        if rows * per_row != words.size:
            raise SourceError(
                f"{where}.shape: {list(shape)} needs {rows} x {per_row} words of {bits} bits, but {words.size} are there"
            )
        words = words.reshape(rows, per_row)
    spend_bytes(words.size * (bits + words.dtype.itemsize), f"{where}, {words.size} words of {bits} bits unpacked,")
    data = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8)
    flat = np.unpackbits(data, axis=-1, bitorder="little")
    if order == "msb":
        flat = flat.reshape(*words.shape, bits)[..., ::-1].reshape(flat.shape)
    return flat if shape is None else flat[..., :width].reshape(shape)
