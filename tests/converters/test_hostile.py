"""Damaged and hostile files: every reader answers with a whole network or with one of xnorinfer's own errors.

`python tests/tools/fuzz.py --reader NAME --mutations 200000` does the same at length.
"""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import coverage_corpus
import fuzz_coverage
import fuzzing
import numpy as np
import pytest
from fuzz_targets import TARGETS
from waiting import HANGS

from xnorinfer import budget
from xnorinfer.converters import SOURCES, read_source
from xnorinfer.converters.containers.hdf5 import open_h5
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.converters.containers.textfile import read_numbers
from xnorinfer.converters.reading import ConvertOptions
from xnorinfer.errors import ModelFileError, OptionError, SourceError
from xnorinfer.net.values import PixelInput
from xnorinfer.packing import modelfile

COUNTS = {
    "keras": 150,
    "tf1": 250,
    "torch": 300,
    "torch-legacy": 300,
    "pickle": 400,
    "net": 300,
    "torch-programs": 60,
    "tf": 100,
    "tflite": 150,
}


def target_of(name: str) -> fuzzing.Target:
    if name.startswith("torch"):
        pytest.importorskip("torch")
    if name == "keras":
        pytest.importorskip("h5py")
    return TARGETS[name]()


@pytest.mark.parametrize("rest", [False, pytest.param(True, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files(tmp_path: Path, name: str, rest: bool) -> None:
    """A quarter of them usually, and the rest."""
    everything = COUNTS.get(name, 600)
    quarter = everything // 4
    count = everything - quarter if rest else quarter
    outcomes = fuzzing.run(target_of(name), 1_000_000 + quarter * rest, count, tmp_path)
    assert sum(outcomes.values()) == count
    assert len(outcomes) > 1, outcomes  # some rejected, and the harness really reads


@pytest.mark.parametrize("name", TARGETS)
def test_what_coverage_guided_fuzzing_found(tmp_path: Path, name: str) -> None:
    """The inputs that `fuzz_coverage.py` kept, and what it is told of them: each within its bounds."""
    target = target_of(name)
    inputs = coverage_corpus.kept(name)
    if not inputs:
        pytest.skip(f"no corpus of {name} is kept yet")
    target.contents_of(0, tmp_path)  # what libraries need once is not counted for an input
    for data in inputs:
        target.bounded(coverage_corpus.files_of(target, data), tmp_path, unchecked=True)


@pytest.mark.long
def test_coverage_guided_fuzzing_runs() -> None:
    pytest.importorskip("atheris")
    command = [sys.executable, fuzz_coverage.__file__, "--reader", "safetensors", "--seconds", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS, check=False)
    assert done.returncode == 0, done.stderr
    assert re.match(r"safetensors: [1-9]\d* inputs, [1-9]\d* edges", done.stdout)


def test_bounds_of_time_and_memory(tmp_path: Path) -> None:
    """Failures of the harness itself: what takes long, or much, is a defect, also where a reader has an error for it."""

    class Greedy(fuzzing.Target):
        def reading(self, path: Path) -> None:
            what = path.read_bytes()
            if what == b"time":
                while True:
                    pass
            if what == b"memory":
                np.ones(300_000_000, np.uint8)
            if what == b"error":
                with budget.memory_errors("it"):
                    np.ones(1 << 50, np.uint8)

    target = Greedy("npz", [{"a": b""}])
    for what, message in {"time": "of the processor", "memory": "allowed are 200,000", "error": "may not take"}.items():
        with pytest.raises(fuzzing.Defect, match=message):
            target.bounded({"a": what.encode()}, tmp_path)
    target.bounded({"a": b"nothing"}, tmp_path)


def test_every_source_is_fuzzed() -> None:
    assert {source.name for source in SOURCES} <= set(TARGETS)


def test_the_seeds_are_good(tmp_path: Path) -> None:
    for name in ("npz", "safetensors", "pickle", "tf1", "tf", "tflite", "bnnpynq", "onnx", "mxnet", "net"):
        target = TARGETS[name]()
        for seed in target.seeds:
            assert target.read(target.write(seed, tmp_path))[0] == "taken", name


def test_every_byte_of_a_model_file_matters(tmp_path: Path) -> None:
    """One bit flipped everywhere, and every length: refused, or (white space of the head) the very same model."""
    (good,) = TARGETS["model"]().seeds[0].values()
    path = tmp_path / "m"
    path.write_bytes(good)
    want = modelfile.header_of(modelfile.load(path))
    same = 0
    for at in range(0, len(good), 3):
        changed = bytearray(good)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        try:
            assert modelfile.header_of(modelfile.load(path)) == want
            same += 1
        except ModelFileError:
            pass
    assert same < 10
    for size in range(0, len(good), 31):
        path.write_bytes(good[:size])
        with pytest.raises(ModelFileError):
            modelfile.load(path)


def npz_bytes(folder: Path) -> bytes:
    (seed,) = TARGETS["npz"]().seeds[0].values()
    assert read(folder, seed).net.check() == []
    return seed


def read(folder: Path, content: bytes, name: str = "net.npz"):
    (folder / name).write_bytes(content)
    return read_source(folder / name, ConvertOptions(profile="ge-zero"))


def test_a_list_of_entries_that_hides_one_is_refused(tmp_path: Path) -> None:
    good = npz_bytes(tmp_path)
    last = good.rfind(b"PK\x01\x02", 0, good.rfind(b"PK\x01\x02"))
    hidden = bytearray(good)
    hidden[last + 32 : last + 34] = b"\xff\x7f"  # the length of a comment swallows the entry behind it
    with pytest.raises(SourceError, match="announces 12 entries, its list holds 11"):
        read(tmp_path, bytes(hidden))


def test_an_npy_head_that_python_cannot_even_split_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        head = b"{'descr': '<f4', 'shape': (2, 3"
        archive.writestr("arr_0.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    with pytest.raises(SourceError, match="arr_0: has a damaged or unusable header"):
        read(tmp_path, out.getvalue())


def test_names_of_entries_that_are_no_text_are_refused(tmp_path: Path) -> None:
    good = npz_bytes(tmp_path).replace(b"arr_0", b"arr_\xff")
    broken = bytearray(good)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        broken[good.find(signature) + flags + 1] |= 8  # "names are UTF-8"
    with pytest.raises(SourceError, match="damaged"):
        read(tmp_path, bytes(broken))


def test_a_flipped_bit_in_a_torch_file_is_no_trained_weight(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (good,) = TARGETS["torch"]().seeds[0].values()
    read(tmp_path, good, "net.pt")
    with zipfile.ZipFile(io.BytesIO(good)) as archive:
        weights = next(archive.read(name) for name in archive.namelist() if name.endswith("data/0"))
    broken = bytearray(good)
    broken[good.find(weights) + 3] ^= 0x80  # a sign
    with pytest.raises(SourceError, match="data/0 does not match its checksum"):
        read(tmp_path, bytes(broken), "net.pt")


def test_arrays_that_announce_the_moon_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        entry = io.BytesIO()
        np.lib.format.write_array_header_1_0(entry, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40, 1 << 20)})
        archive.writestr("arr_0.npy", entry.getvalue())
    with fuzzing.bounded_memory(0), pytest.raises(SourceError, match="bytes, but 0 follow"):
        read(tmp_path, out.getvalue())


def nested_npz() -> tuple[bytes, bytes]:
    """An archive that holds another one as it is, and that other one: weights that read as a network by themselves."""
    inner, outer = io.BytesIO(), io.BytesIO()
    np.savez(inner, **{"0.weight": np.ones((3, 6), np.float32)})
    np.savez(outer, **{"0.weight": -np.ones((3, 6), np.float32)})
    with zipfile.ZipFile(outer, "a") as archive:
        archive.writestr("1.bias.npy", inner.getvalue())
    return outer.getvalue(), inner.getvalue()


@pytest.mark.parametrize("cut", [1, 10, 21, 22, 60, 100])
def test_an_archive_inside_one_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    """As the example inputs in a .pt2: zipfile takes the last archive that it finds in a file."""
    outer, inner = nested_npz()
    path = tmp_path / "net.npz"
    path.write_bytes(inner)
    assert read_source(path, ConvertOptions(profile="ge-zero")).net.classes == 3
    path.write_bytes(outer[:-cut])
    for read_it in (lambda: read_source(path, ConvertOptions(format="npz")), lambda: open_container(path)):
        with pytest.raises(SourceError, match=r"net\.npz is (a|no)|damaged|truncated"):
            read_it()


@pytest.mark.parametrize(
    ("before", "after", "message"), [(b"#!sh\n", b"", "5 bytes come before"), (b"", b"xyz", "3 bytes follow")]
)
def test_archives_that_do_not_fill_their_file(tmp_path: Path, before: bytes, after: bytes, message: str) -> None:
    path = tmp_path / "net.npz"
    path.write_bytes(before + npz_bytes(tmp_path) + after)
    with pytest.raises(SourceError, match=message):
        read_source(path, ConvertOptions(format="npz", profile="ge-zero"))


@pytest.mark.parametrize("name", ["net.npz", "net.pt", "net.keras"])
def test_entries_that_take_more_than_their_file(tmp_path: Path, name: str) -> None:
    """zipfile asks for as much memory as an archive's list says, before it reads."""
    content = bytearray(npz_bytes(tmp_path))
    at = content.rindex(b"PK\x01\x02")
    content[at + 20 : at + 24] = struct.pack("<I", 0x7FFFFFF0)
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"takes 2147483632 bytes by its list, the whole file has"):
        read_source(
            path, ConvertOptions(profile="ge-zero", format={".npz": "npz", ".pt": "torch", ".keras": "keras"}[path.suffix])
        )


def test_addresses_beyond_all_memory_in_hdf5_inside_an_archive(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["w"] = np.ones((3, 2), np.float32)
    broken = bytearray(content.getvalue())
    broken[48] = 2  # "there is no driver" was all ones
    path = tmp_path / "net.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", broken)
    with pytest.raises(SourceError, match=r"net\.keras, model\.weights\.h5 is damaged"):
        open_container(path)


@pytest.mark.parametrize(
    ("text", "message"),
    {
        "float a[2] = {1e308, 2};": "holds 1e\\+308, which float32 cannot hold",
        "double a[] = {1e400};": "holds 1e400, which double cannot hold",
        "double a[] = {" + "1" * 400 + "};": "which double cannot hold",
        "int a[] = {" + "1" * 5000 + "};": "which is no number",
        "a[] = {" + "1" * 30 + "};": "which uint64 cannot hold",
        "int a[99999999999999999] = {1};": "is declared .* but 1 values follow",
    }.items(),
)
def test_numbers_in_c_that_no_type_holds(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "net.h").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_container(tmp_path / "net.h")


def test_decimals_beyond_float32_in_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1 2.5 1e308")
    with pytest.raises(SourceError, match=r"a\.txt holds 1e\+308, which float32 cannot hold"):
        read_numbers(tmp_path / "a.txt")


def test_a_heap_without_end_in_hdf5(tmp_path: Path) -> None:
    """libhdf5 passes free space of 0 bytes for ever, inside a call that no signal of Python ends."""
    pytest.importorskip("h5py")
    seeds = [seed for seed in TARGETS["keras"]().seeds if b"GCOL" in next(iter(seed.values()))]
    assert seeds
    for (name, content), *_ in (seed.items() for seed in seeds):
        if content[:2] == b"PK":
            continue
        heap = content.index(b"GCOL")
        broken = bytearray(content)
        broken[heap + 16 : heap + 32] = bytes(16)
        (tmp_path / name).write_bytes(broken)
        for read_it in (read_source, open_container):
            with pytest.raises(SourceError, match=f"{name} is damaged: its heap at byte {heap} has no end"):
                read_it(tmp_path / name)


def hdf5_seeds() -> list[tuple[str, bytes]]:
    pytest.importorskip("h5py")
    seeds = [(name, content) for seed in TARGETS["keras"]().seeds for name, content in seed.items()]
    return [(name, content) for name, content in seeds if content[:2] != b"PK" and b"GCOL" in content]


def test_a_list_of_free_space_that_is_a_circle(tmp_path: Path) -> None:
    """libhdf5 follows that of a local heap, where the names in a group stand, into all memory."""
    name, content = hdf5_seeds()[0]
    heap = next(
        at.start()
        for at in re.finditer(b"HEAP", content)
        if struct.unpack_from("<Q", content, at.start() + 16)[0] + 16 <= struct.unpack_from("<Q", content, at.start() + 8)[0]
    )
    free, start = struct.unpack_from("<QQ", content, heap + 16)
    broken = bytearray(content)
    struct.pack_into("<Q", broken, start + free, free)
    (tmp_path / name).write_bytes(broken)
    for read_it in (read_source, open_container):
        with pytest.raises(SourceError, match=f"{name} is damaged: its heap at byte {heap} has no end"):
            read_it(tmp_path / name)


def test_a_compressed_heap_of_attributes(tmp_path: Path) -> None:
    """What stands in it makes libhdf5 allocate gigabytes, and is not seen; the same heap uncompressed is read."""
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.update({f"name{number}": "a text" for number in range(20)})
    with open_h5(path) as content:
        assert content.text("name19") == "a text"
    written = bytearray(path.read_bytes())
    heap = written.index(b"FRHP")
    written[heap + 7] = 14
    path.write_bytes(written)
    with pytest.raises(SourceError, match=rf"net\.h5: its heap at byte {heap} is compressed"), open_h5(path):
        pass


def test_texts_that_are_longer_than_their_heap(tmp_path: Path) -> None:
    """libhdf5 makes room for as many bytes as an attribute says, before it looks."""
    for name, content in hdf5_seeds()[:4]:
        address = re.escape(struct.pack("<Q", content.index(b"GCOL")))
        # The first text of an attribute: its length, where it lies, and its number there.
        at = next(found.start() for found in re.finditer(address, content) if found.start() % 8 == 4)
        broken = bytearray(content)
        broken[at - 4 : at] = struct.pack("<I", 0x7FFFFFF0)
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(SourceError, match=f"{name} is damaged: a text at byte {at - 4} has 2147483632 bytes"):
            read_source(tmp_path / name)


def test_attributes_of_other_types_than_text_in_hdf5(tmp_path: Path) -> None:
    """Damaged types of variable length make libhdf5 write through a null pointer; only text is read."""
    h5py = pytest.importorskip("h5py")
    for name in ("model_config", "layer_names"):
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file.create_group("layers")
            values = np.empty(1, object)
            values[0] = np.arange(3, dtype=np.int32)
            file.attrs.create(name, values, dtype=h5py.vlen_dtype(np.int32))
        with pytest.raises(SourceError, match="it holds object, needed is text"):
            read_source(path)


@pytest.mark.parametrize("low", [1e308, -1e300, 1e39])
def test_input_mappings_beyond_float32(low: float) -> None:
    with pytest.raises(OptionError, match="out of the range of float32"):
        PixelInput.range(low, 1)
    with pytest.raises(OptionError, match="out of the range of float32"):
        PixelInput(1.0, low, 1.0)


def test_texts_whose_type_says_more_than_libhdf5_looks_at(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.h5"
    with h5py.File(path, "w") as file:
        file.attrs.create("layer_names", ["fc1"], dtype=h5py.string_dtype())
    content = bytearray(path.read_bytes())
    kind = content.index(b"\0\x10\0\0\0", content.index(b"layer_names"))
    at = content.index(struct.pack("<Q", content.index(b"GCOL")), kind)
    content[kind] = 1
    content[at - 4 : at] = struct.pack("<I", 1 << 29)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"a text at byte {at - 4} has 536870912 bytes"):
        read_source(path, ConvertOptions(format="keras"))


def test_types_of_attributes_that_stand_elsewhere_in_hdf5(tmp_path: Path) -> None:
    """Behind them no shape stands by which the lengths of texts are found."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["text"] = h5py.string_dtype()
        file.attrs.create("layer_names", ["fc1"], dtype=file["text"])
    with pytest.raises(SourceError, match="its type stands elsewhere in the file"):
        read_source(tmp_path / "net.h5", ConvertOptions(format="keras"))
