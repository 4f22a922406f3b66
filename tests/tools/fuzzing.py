"""Mutation of files, and what every reader must answer: a network that is whole, or one of xnorinfer's own errors.

A `Target` is one reader with its seed files.  Files are mutated as bytes, and, where a container would hide what lies inside
behind its checksums and lengths (zip, the head of safetensors, blocks of TensorFlow's bundles), inside the intact container.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import random
import re
import resource
import shutil
import signal
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xnorinfer.converters import SOURCES, read_source
from xnorinfer.converters.containers import tfbundle
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.engine.model import Model, random_inputs
from xnorinfer.errors import ModelFileError, XnorinferError
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower

#: A checkpoint as its files, name -> content; the first one is the path given to the reader unless `folder` is set.
Files = dict[str, bytes]


class Defect(AssertionError):
    """A reader crashed, hung, took too much memory, or took a damaged file for a good one."""


# ---------------------------------------------------------------- mutation of bytes

INTERESTING = (0, 1, 2, 7, 8, 63, 64, 127, 128, 255, 256, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
HUGE = (2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (b"0", b"1", b"-1", b"2", b"65", b"4294967296", b"9223372036854775807", b"1" + b"0" * 30, b"1e400", b"NaN", b"null")
WORDS = (b"null", b"[]", b"{}", b'""', b"true", b"Infinity", b"-0", b"\\u0000", b"[" * 2000)


#: Values in TOML, or for C: numbers of every kind, and every other type.
VALUES = (b"0", b"-1", b"1", b"3", b"0.5", b"1e308", b"1e-46", b"nan", b"-inf", b"0x1F", b"010", b"1" + b"0" * 25)
VALUES += (
    b'""',
    b'"x"',
    b"true",
    b"[]",
    b"[1, 2]",
    b"[-1, 1e400]",
    b"[[0, 2]]",
    b"{}",
    b"{mean = 0}",
    b"1979-05-27",
    b"{",
    b"#",
)


def mutate(rng: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """One to four changes of one file; `other` is a file to take pieces from."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(rng, changed, other)
    return bytes(changed)


def _place(rng: random.Random, data: bytearray) -> int:
    """A place in the file, often near its start, where headers are."""
    if not data:
        return 0
    return rng.randrange(len(data)) if rng.random() < 0.6 else rng.randrange(min(len(data), 64))


def _flip(rng: random.Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[_place(rng, data)] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, other: bytes) -> None:
    if data:
        data[_place(rng, data)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))


def _word(rng: random.Random, data: bytearray, other: bytes) -> None:
    size = rng.choice((2, 4, 8))
    value = rng.choice(INTERESTING + HUGE) & (256**size - 1)
    at = _place(rng, data)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))  # type: ignore[arg-type]


def _delete(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _place(rng, data)
    del data[at : at + rng.choice((1, 2, 4, 8, 64, len(data)))]


def _repeat(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _place(rng, data)
    piece = data[at : at + rng.choice((1, 4, 16, 128))]
    data[at:at] = piece * rng.choice((1, 1, 2, 50))


def _insert(rng: random.Random, data: bytearray, other: bytes) -> None:
    at = _place(rng, data)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))


def _cut(rng: random.Random, data: bytearray, other: bytes) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _swap(rng: random.Random, data: bytearray, other: bytes) -> None:
    size = rng.choice((1, 4, 8, 32))
    a, b = _place(rng, data), _place(rng, data)
    if abs(a - b) >= size and max(a, b) + size <= len(data):
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def _splice(rng: random.Random, data: bytearray, other: bytes) -> None:
    if other:
        start = rng.randrange(len(other))
        at = _place(rng, data)
        data[at : at + rng.choice((0, 8, 64))] = other[start : start + rng.choice((8, 64, 512))]


def _number(rng: random.Random, data: bytearray, other: bytes) -> None:
    """Another number, or another word, in place of one written as text."""
    found = list(re.finditer(rb'\d+|"[^"]{1,40}"|true|false', bytes(data)))
    if found:
        match = rng.choice(found)
        data[match.start() : match.end()] = rng.choice(NUMBERS + WORDS)


MUTATIONS = (_flip, _byte, _word, _delete, _repeat, _insert, _cut, _swap, _splice, _number, _number)


# ---------------------------------------------------------------- mutation inside containers


def mutate_zip(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change one entry, or the list of entries; the archive around it is right, checksums included."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
        stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    which = rng.randrange(len(entries))
    name, content = entries[which]
    action = rng.random()
    if action < 0.8:
        entries[which] = (name, mutate(rng, content, entries[rng.randrange(len(entries))][1]))
    elif action < 0.85:
        del entries[which]
    elif action < 0.9:
        entries[which] = (entries[rng.randrange(len(entries))][0] + rng.choice(("", "x", "/../x", "\0")), content)
    elif action < 0.95:
        rng.shuffle(entries)
    else:
        entries.append((name + rng.choice(("2", ".npy", "0" * 300)), content))
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as made:
        warnings.simplefilter("ignore")  # entries of one name are part of the game
        for entry_name, entry in entries:
            made.writestr(entry_name, entry)
    return out.getvalue()


def mutate_safetensors(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change the JSON head; its length is right."""
    length = int.from_bytes(data[:8], "little")
    head = data[8 : 8 + length]
    changed = mutate_json(rng, head) if rng.random() < 0.6 else mutate(rng, head, other)
    return len(changed).to_bytes(8, "little") + changed + data[8 + length :]


def inside(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Whatever gets deeper into this content."""
    if data[:2] == b"PK":
        return mutate_zip(rng, data, other)
    return mutate_safetensors(rng, data, other) if data[8:9] == b"{" else mutate(rng, data, other)


def mutate_text(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Change one line, or one word, of a text into another that stands in it, or into an odd one."""
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    action = rng.random()
    if action < 0.1:
        del lines[at]
    elif action < 0.2:
        lines.insert(rng.randrange(len(lines) + 1), lines[at])
    elif action < 0.25:
        rng.shuffle(lines)
    elif action < 0.6:
        # A value behind "=", or a whole line.
        key, sign, _ = lines[at].partition(b" = ")
        values = [line.partition(b" = ")[2] for line in lines if b" = " in line]
        lines[at] = key + sign + rng.choice([*VALUES, *values]) if sign else rng.choice(lines)
    else:
        words = list(re.finditer(rb"[\w.+-]+", lines[at]))
        if words:
            word = rng.choice(words)
            new = rng.choice([*VALUES, *re.findall(rb"[\w.+-]+", rng.choice(lines))])
            lines[at] = lines[at][: word.start()] + new + lines[at][word.end() :]
    return b"\n".join(lines)


def mutate_json(rng: random.Random, text: bytes) -> bytes:
    """Change one value of a JSON document, also of JSON that is kept as a string inside it."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return json.dumps(_change_json(rng, value)).encode()


def _change_json(rng: random.Random, value: Any) -> Any:
    odd: list[Any] = [None, True, 0, -1, 1, 2**31, 2**63, 10**30, 0.5, 1e308, "", "bits", "x" * 300, [], {}, [0, 0], "affine"]
    if isinstance(value, str) and value[:1] == "{" and rng.random() < 0.9:
        with contextlib.suppress(ValueError):
            return json.dumps(_change_json(rng, json.loads(value)))
    if isinstance(value, dict) and value and rng.random() < 0.93:
        key = rng.choice(sorted(value))
        changed = dict(value)
        if rng.random() < 0.06:
            changed[rng.choice((key + "x", rng.choice(sorted(value))))] = changed.pop(key)
        else:
            changed[key] = _change_json(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        changed_list = list(value)
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            changed_list.insert(at, changed_list.pop(rng.randrange(len(value))))
        else:
            changed_list[at] = _change_json(rng, value[at])
        return changed_list
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.5:
        return value + rng.choice((-64, -8, -1, 1, 8, 64))
    return rng.choice(odd)


# ---------------------------------------------------------------- targets

#: Target -> the source that reads it, where their names differ.
_SOURCE_OF = dict.fromkeys(("safetensors", "torch-legacy", "torch-programs", "pickle"), "torch") | {"tf": "tf1"}


@dataclass
class Target:
    """A reader and its seeds.

    folder: the reader is given the folder, not the first file.  deeper: mutations inside the container, by suffix of the file
    name ("" for any).  sealed: for a file name, whether checksums cover all in it that makes the network, so that it must give
    the same network when it is changed and still taken.
    """

    name: str
    seeds: list[Files]
    options: ConvertOptions = field(default_factory=ConvertOptions)
    folder: bool = False
    deeper: dict[str, Callable[[random.Random, bytes, bytes], bytes]] = field(default_factory=dict)
    sealed: Callable[[str], bool] = lambda name: False
    unchecked: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    contents: list[str] = field(default_factory=list)

    def attempt(self, rng: random.Random, folder: Path) -> str:
        """One mutated checkpoint: "taken", or the name of the error.  Raises Defect (also by way of any other exception)."""
        which = rng.randrange(len(self.seeds))
        files = dict(self.seeds[which])
        changed = rng.choice(sorted(files))
        inner = next((way for suffix, way in self.deeper.items() if changed.endswith(suffix)), None)
        deep = inner is not None and rng.random() < 0.6
        other = rng.choice([content for seed in self.seeds for content in seed.values()])
        before = files[changed]
        files[changed] = inner(rng, before, other) if inner and deep else mutate(rng, before, other)
        unchecked = not deep and rng.random() < 0.5 and self.unchecked is not contextlib.nullcontext
        outcome, content = self.bounded(files, folder, unchecked)
        if (
            outcome == "taken"
            and self.sealed(changed)
            and not deep
            and not unchecked
            and content != self.contents_of(which, folder)
        ):
            raise Defect(f"{changed} was changed and is read as another network")
        return outcome

    def bounded(self, files: Files, folder: Path, unchecked: bool = False) -> tuple[str, str]:
        """`read` within the time and memory that files of this size may take.  Raises Defect."""
        path = self.write(files, folder)
        size = sum(map(len, files.values()))
        with self.unchecked() if unchecked else contextlib.nullcontext(), bounded_memory(size), bounded_time():
            return self.read(path)

    def write(self, files: Files, folder: Path) -> Path:
        """Put one checkpoint into the folder, alone; the path that the reader is given."""
        for old in folder.iterdir():
            if old.is_dir():
                shutil.rmtree(old)
            else:
                old.unlink()
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
        return folder if self.folder else folder / next(iter(files))

    def reading(self, path: Path) -> Reading | None:
        """Hand the checkpoint to the reader; None where no file is left to be read."""
        source = next(source for source in SOURCES if source.name == self.source)
        if not source.sniff(path) and not path.exists():
            return None
        return read_source(path, dataclasses.replace(self.options, format=source.name))

    def read(self, path: Path) -> tuple[str, str]:
        """Read, check and pack; the content digest of what came out."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                reading = self.reading(path)
                if reading is None:
                    return "not there", ""
                net = reading.net
                if net.check():
                    raise Defect(f"a network with problems is handed out: {net.check()[0]}")
                packed = lower(net).packed
        except XnorinferError as error:
            _require_message(error)
            return type(error).__name__, ""
        if packed.check():
            raise Defect(f"packed without being whole: {packed.check()[0]}")
        return "taken", modelfile.header_of(packed)["content_digest"]

    @property
    def source(self) -> str:
        """Name of the source that reads it."""
        return _SOURCE_OF.get(self.name, self.name)

    def contents_of(self, which: int, folder: Path) -> str:
        """Content digest of a seed as it is."""
        if not self.contents:
            self.contents = [self.read(self.write(seed, folder))[1] for seed in self.seeds]
        return self.contents[which]


class ModelTarget(Target):
    """Model files: a changed one is refused, or holds the very same; with digests made right, it is safe to run."""

    def read(self, path: Path) -> tuple[str, str]:
        try:
            packed = modelfile.load(path)
        except ModelFileError as error:
            _require_message(error)
            return type(error).__name__, ""
        if modelfile.header_of(modelfile.load(path, mapped=True)) != modelfile.header_of(packed):
            raise Defect("mapped, the file holds another network")
        return "taken", modelfile.header_of(packed)["header_digest"]

    def attempt(self, rng: random.Random, folder: Path) -> str:
        if rng.random() < 0.7:
            return super().attempt(rng, folder)
        return self._forge(rng, folder)

    def _forge(self, rng: random.Random, folder: Path) -> str:
        """A file whose digests an adversary made right: refused as malformed, or run within its own memory."""
        (data,) = rng.choice(self.seeds).values()
        path = self.write({"forged": b""}, folder)
        path.write_bytes(mutate_safetensors(rng, data, b"") if rng.random() < 0.7 else mutate(rng, data))
        try:
            text, tensors = modelfile._read_container(path)
            header = json.loads(text)
            if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
                return "no forgery"
            version = header.get("format_version")
            if type(version) is not int or not 1 <= version <= modelfile.FORMAT_VERSION:  # True is 1, too
                return "no forgery"
            packed = modelfile._build(path, header, tensors)
            problems = packed.check()
        except (ModelFileError, ValueError, RecursionError):
            return "no forgery"
        if problems:
            return "no forgery"
        try:
            modelfile.save(packed, path)
        except (XnorinferError, ValueError, TypeError):  # e.g. NaN in the provenance
            return "no forgery"
        try:
            with bounded_memory(len(data)), bounded_time():
                loaded = modelfile.load(path)
        except ModelFileError as error:
            raise Defect(f"a file that was just saved is refused: {error}") from None
        if loaded.depth * max(value.width for value in loaded.values) < 1 << 20:
            Model(loaded, threads=1).scores(random_inputs(loaded, 3, 0))
        return "ran"


def _require_message(error: XnorinferError) -> None:
    require_own_memory(error)
    text = str(error)
    if not text.strip() or "Traceback" in text or len(text) > 20_000:
        raise Defect(f"an error without a useful message: {text[:200]!r}")


@contextlib.contextmanager
def without_crc() -> Iterator[None]:
    """TensorFlow's checksums always match, so that mutations get behind them."""

    class Matches(int):
        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = int.__hash__

    before = tfbundle.masked
    tfbundle.masked = lambda crc: Matches(0)
    try:
        yield
    finally:
        tfbundle.masked = before


# ---------------------------------------------------------------- bounds

#: Seconds of the processor that one file may take; seconds on the clock after which it is held to wait for something.
SECONDS = 2
WAITING_SECONDS = 60
#: Memory that reading a file may add: so many times its size, and this.
MEMORY_FACTOR, MEMORY_BYTES = 20, 200_000_000


@contextlib.contextmanager
def bounded_memory(size: int) -> Iterator[None]:
    """Raise Defect when the block adds more memory than a file of this size may take, where the system counts it (Linux).

    The peak of memory in use counts; the address space is bounded to twice as much, so that this process survives, and a
    reader that makes an error of its own of the end of memory is found by it.
    """
    allowed = MEMORY_FACTOR * size + MEMORY_BYTES
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again
        used, before = _status("VmSize"), _status("VmRSS")
    except OSError:
        yield
        return
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2 * allowed, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    added = _status("VmHWM") - before
    if added > allowed:
        raise Defect(f"took {added:,} bytes of memory for a file of {size:,}, allowed are {allowed:,}")


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


@contextlib.contextmanager
def bounded_time() -> Iterator[None]:
    """Raise Defect when the block takes more than SECONDS of the processor, or WAITING_SECONDS on the clock."""

    def late(signum: int, frame: object) -> None:
        waited = signum == signal.SIGALRM
        raise Defect(
            f"took longer than {WAITING_SECONDS} seconds" if waited else f"took more than {SECONDS} s of the processor"
        )

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, WAITING_SECONDS))
    handlers = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, handlers, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def require_own_memory(error: BaseException) -> None:
    """Raise Defect for an error that came from the end of memory: a budget should have said so before."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            raise Defect(f"memory was asked for that the file may not take: {error}") from error
        cause = cause.__cause__ or cause.__context__


def run(target: Target, seed: int, count: int, folder: Path, counter: Callable[[int], None] = lambda n: None) -> dict[str, int]:
    """`count` mutations, each with its own seed (seed + n), so that one can be repeated alone.  Returns outcomes and how many.

    Raises Defect that names the seed.
    """
    outcomes: dict[str, int] = {}
    target.contents_of(0, folder)  # reads all seeds: what libraries need once is not counted for the first file
    for number in range(seed, seed + count):
        counter(number)
        try:
            outcome = target.attempt(random.Random(number), folder)
        except Exception as error:
            raise Defect(f"{target.name}, mutation {number}: {type(error).__name__}: {error}") from error
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes
