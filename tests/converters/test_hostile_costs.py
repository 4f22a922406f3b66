"""Small files that describe much: each is refused before it costs anything, by the budget of its file.

What is measured is bytes and steps, which `--max-memory` makes small here, not seconds.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx_writer
import pytest
from checkpoints import npy_bytes, write_zip
from onnx_writer import field, node, number
from tf1_writer import HEADER, entry, masked_crc, write_bundle, write_table

from xnorinfer import budget
from xnorinfer.bits import bitpack
from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.converters.containers.arrays import RawTensor, as_float32, unique_name
from xnorinfer.converters.containers.crc32c import crc32c
from xnorinfer.converters.containers.opening import open_container
from xnorinfer.converters.containers.tfbundle import read_v2, slice_key
from xnorinfer.converters.containers.torchpickle import Thing, named_tensors
from xnorinfer.converters.tfgraphs.tfgraph import Graph
from xnorinfer.converters.tfgraphs.tfnetwork import network_of
from xnorinfer.converters.tfgraphs.tfnodes import Function, TfGraph, TfNode, inline
from xnorinfer.converters.tfgraphs.tfvalues import NotFollowed
from xnorinfer.errors import InputError, NetworkError, SourceError
from xnorinfer.net.ops import Linear
from xnorinfer.net.reference import binary_weights
from xnorinfer.packing import lower
from xnorinfer.samples import dataio

SMALL = ConvertOptions(max_memory=1 << 20)
DIGITS = "9" * 5000


def refused(path: Path, match: str, options: ConvertOptions = SMALL) -> None:
    """The one line that names the file."""
    with pytest.raises(SourceError, match=match) as caught:
        read_source(path, options)
    assert path.stem in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- numpy and safetensors


def test_many_arrays_of_a_small_archive_are_summed(tmp_path: Path) -> None:
    bomb = {f"arr_{i}.npy": npy_bytes(np.zeros((100, 300), np.float32)) for i in range(20)}
    refused(write_zip(tmp_path / "net.npz", bomb, zipfile.ZIP_DEFLATED), "unpacking it would take .* --max-memory")
    bomb = {f"arr_{i}.npy": npy_bytes(np.zeros((100, 300), np.float32)) for i in range(8)}
    path = write_zip(tmp_path / "net.npz", bomb, zipfile.ZIP_DEFLATED)
    refused(path, r"a kernel of shape \(300, 100\) in another order would take 117 KiB")


def test_numbers_of_thousands_of_digits_are_names(tmp_path: Path) -> None:
    array = npy_bytes(np.ones((4, 4), np.float32))
    for name in (f"arr_{DIGITS}", f"{DIGITS}.weight", f"fc{DIGITS}.weight"):
        with contextlib.suppress(SourceError, NetworkError):
            read_source(write_zip(tmp_path / "net.npz", {f"{name}.npy": array}), ConvertOptions())
    read_source(write_bundle(tmp_path, {f"d_{DIGITS}/kernel": np.ones((4, 4))}), ConvertOptions())


def safetensors(path: Path, shape: list[int], raw: bytes, key: str = "0.weight") -> Path:
    header = json.dumps({key: {"dtype": "F32", "shape": shape, "data_offsets": [0, len(raw)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + raw)
    return path


@pytest.mark.parametrize(("shape", "raw"), [([1] * 100, bytes(4)), ([1 << 62, 0], b"")])
def test_shapes_that_no_array_can_have(tmp_path: Path, shape: list[int], raw: bytes) -> None:
    refused(safetensors(tmp_path / "net.safetensors", shape, raw), "100 dimensions|beyond all memory")
    dims = b"".join(field(1, n) for n in shape)
    graph = field(1, node("MatMul", ["x", "w"], "y")) + field(5, dims + field(2, 1) + field(8, "w") + field(9, raw))
    (tmp_path / "net.onnx").write_bytes(field(1, 8) + field(7, graph + field(11, field(1, "x")) + field(12, field(1, "y"))))
    refused(tmp_path / "net.onnx", "100 dimensions|beyond all memory")
    write_table(tmp_path / "net.index", {b"": HEADER, b"d/kernel": entry(tuple(shape), len(raw), checksum=masked_crc(raw))})
    (tmp_path / "net.data-00000-of-00001").write_bytes(raw)
    with pytest.raises(SourceError, match=r"100 dimensions|beyond all memory"):
        read_v2(tmp_path / "net")["d/kernel"].load()


def test_exactness_is_counted_in_pieces_as_in_one() -> None:
    wide = np.random.default_rng(0).standard_normal((300, 400))
    wide[0, :3] = 0.5, np.inf, np.nan
    warnings: list[str] = []
    single = as_float32(RawTensor("w", wide.T, "float64"), warnings)
    np.testing.assert_array_equal(single, wide.T.astype(np.float32))
    changed = int((single.astype(np.float64) != wide.T)[~np.isnan(wide.T)].sum())
    assert warnings == [f"w: {changed} of {wide.size} float64 values are not exact in float32 and were rounded"]


# ---------------------------------------------------------------- TensorFlow


def raw_table(path: Path, body: bytes, handles: int = 1) -> Path:
    """A table whose one block is listed several times."""

    def place(content: bytes, offset: int) -> tuple[bytes, bytes]:
        marked = content + b"\0"
        return marked + masked_crc(marked), number(offset) + number(len(content))

    def block(entries: bytes) -> bytes:
        return entries + bytes(4) + (1).to_bytes(4, "little")

    data, handle = place(block(body), 0)
    meta, meta_handle = place(block(b""), len(data))
    listed = b"".join(b"\0" + number(4) + number(len(handle)) + b"\xff%03d" % i + handle for i in range(handles))
    index, index_handle = place(block(listed), len(data) + len(meta))
    footer = (meta_handle + index_handle).ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")
    path.write_bytes(data + meta + index + footer)
    return path


def test_keys_that_grow_by_what_they_share(tmp_path: Path) -> None:
    grown = b"".join(number(i) + number(1) + number(0) + b"k" for i in range(3000))
    raw_table(tmp_path / "net.index", b"\0\0" + number(len(HEADER)) + HEADER + grown)
    refused(tmp_path / "net.index", r"a name of \d+ bytes would take")


def test_blocks_are_read_once_and_keys_are_in_order(tmp_path: Path) -> None:
    body = b"\0\0" + number(len(HEADER)) + HEADER
    refused(raw_table(tmp_path / "net.index", body, handles=500), "blocks that overlap")
    refused(raw_table(tmp_path / "net.index", body + b"\0\1\0b" + b"\0\1\0a"), "keys that are not in order")


def test_a_part_of_a_variable_that_is_its_own_part(tmp_path: Path) -> None:
    extents = [(0, 4), (0, 4)]
    raw = bytes(64)
    sliced = field(7, b"".join(field(1, field(1, start) + field(2, length)) for start, length in extents))
    message = entry((4, 4), 64, checksum=masked_crc(raw)) + sliced
    write_table(tmp_path / "net.index", {b"": HEADER, b"d/kernel": message, slice_key("d/kernel", extents): message})
    (tmp_path / "net.data-00000-of-00001").write_bytes(raw)
    with pytest.raises(SourceError, match="a part of it is partitioned again"):
        read_v2(tmp_path / "net")["d/kernel"].load()


def test_variables_of_the_same_bytes_are_summed(tmp_path: Path) -> None:
    raw = bytes(4 * 100 * 100)
    same = {b"v%03d" % i: entry((100, 100), len(raw), checksum=masked_crc(raw, crc32c)) for i in range(40)}
    write_table(tmp_path / "net.index", {b"": HEADER, **same})
    (tmp_path / "net.data-00000-of-00001").write_bytes(raw)
    with budget.reading(tmp_path / "net.index", 1 << 20), pytest.raises(SourceError, match=r"would take 39\.1 KiB after"):
        assert [one.load().size for one in read_v2(tmp_path / "net").values()]


def graph_of(*nodes: tuple[str, str, tuple[str, ...]]) -> Graph:
    return Graph(
        {
            name: TfNode(index, name, operation, tuple((source, 0) for source in inputs))
            for index, (name, operation, inputs) in enumerate(nodes)
        }
    )


def test_a_circle_of_identities_ends() -> None:
    graph = graph_of(
        ("v", "VariableV2", ()), ("loop", "Identity", ("loop",)), ("add", "Add", ("v", "loop")), ("r", "Rsqrt", ("add",))
    )
    assert graph.epsilons() == {}


def test_walks_of_a_graph_are_summed(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(400)]
    chain = [(name, "Neg", (before,)) for before, name in zip(["x", *names], names, strict=False)]
    products = [(f"m{i}", "MatMul", ("x", names[-1])) for i in range(400)]
    graph = graph_of(*chain, *products)
    with budget.reading(tmp_path, 1 << 20), pytest.raises(SourceError, match="walking its graph takes more than 4096 steps"):
        graph.binarization("kernel")


def test_values_that_depend_on_many_sources_are_summed(tmp_path: Path) -> None:
    graph = TfGraph()
    previous = ("p0", 0)
    graph.nodes["p0"] = TfNode(0, "p0", "Placeholder", ())
    for index in range(1, 300):
        graph.nodes[f"p{index}"] = TfNode(2 * index, f"p{index}", "Placeholder", ())
        graph.nodes[f"a{index}"] = TfNode(2 * index + 1, f"a{index}", "AddN", (previous, (f"p{index}", 0)))
        previous = (f"a{index}", 0)
    graph.nodes["m"] = TfNode(1000, "m", "MatMul", (previous, previous))
    with budget.reading(tmp_path, 1 << 20), pytest.raises(SourceError, match="depend on would take"):
        network_of(graph, lambda name: None)


def test_functions_that_call_functions_twice_are_summed(tmp_path: Path) -> None:
    graph = TfGraph(nodes={"top": TfNode(0, "top", "PartitionedCall", (("x", 0),))})
    graph.functions["f"] = Function(("a",), tuple(TfNode(i, f"n{i}", "Neg", (("a", 0),)) for i in range(5000)), (("n0", 0),))
    with budget.reading(tmp_path, 1 << 20), pytest.raises(SourceError, match="in the place of their calls"):
        inline(graph, graph.nodes["top"], "f", (("x", 0),))


@pytest.mark.parametrize("operation", ["MatMul", "Switch", "LogicalNot", "Merge", "FusedBatchNorm", "If"])
def test_operations_without_their_inputs_are_no_network(operation: str) -> None:
    graph = TfGraph(nodes={name: TfNode(i, name, "Placeholder", ()) for i, name in enumerate("xy")})
    graph.nodes["o"] = TfNode(3, "o", operation, ())
    graph.nodes["m"] = TfNode(4, "m", "MatMul", (("x", 0), ("o", 0)))
    graph.nodes["s"] = TfNode(5, "s", "Softmax", (("m", 0),))
    with pytest.raises(NotFollowed):
        network_of(graph, lambda name: None)


def test_names_made_unique_are_found_at_once() -> None:
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for _ in range(5000):
        taken.add(unique_name("a", taken, counts))
    assert len(taken) == 5000
    assert {"a", "a'", "a'2", "a'4999"} <= taken


# ---------------------------------------------------------------- HDF5


def test_heaps_within_heaps_of_hdf5(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    size, count = 3200 * 32, 3200
    heap = struct.pack("<HHIQ", 1, 0, 0, 16) + b"GCOL\x01\0\0\0" + struct.pack("<Q", size)
    (tmp_path / "net.weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n\x02\x08\x08\x00" + b"\xff" * 36 + heap * count)
    refused(tmp_path / "net.weights.h5", "reading its heap takes more than")


NET = '[input]\nsigns = true\n[[layers]]\nweight = "w"\nlayout = "in_out"\n'


def write_chunk(path: Path, chunk: bytes, filters: int | None = 1, **kind: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        dataset = file.create_dataset("w", (4, 4), "f4", **{"chunks": (4, 4), "compression": "gzip", **kind})
        dataset.id.write_direct_chunk((0, 0), chunk, 0)
    return path


def load_h5(path: Path, max_memory: int = 1 << 20) -> Any:
    with budget.reading(path, max_memory):
        _, entries = open_container(path)
        return entries["w"].load()


def test_chunks_of_hdf5_are_no_larger_than_they_say(tmp_path: Path) -> None:
    honest = write_chunk(tmp_path / "honest.h5", zlib.compress(np.arange(16, dtype="<f4").tobytes()))
    np.testing.assert_array_equal(load_h5(honest), np.arange(16, dtype="f4").reshape(4, 4))
    bomb = write_chunk(tmp_path / "bomb.h5", zlib.compress(bytes(1 << 20)))
    with pytest.raises(SourceError, match="holds a chunk that unpacks to more than its 64 bytes"):
        load_h5(bomb)
    huge = write_chunk(tmp_path / "huge.h5", zlib.compress(bytes(64)), chunks=(4000, 4000), maxshape=(None, None))
    with pytest.raises(SourceError, match=r"1 chunks of \(4000, 4000\) would take"):
        load_h5(huge)
    odd = write_chunk(tmp_path / "odd.h5", bytes(64), compression=None, scaleoffset=3)
    with pytest.raises(SourceError, match=r"packed by the filters \[6\], which are not read"):
        load_h5(odd)


def test_a_dataset_of_hdf5_that_was_never_written_is_summed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.create_dataset("w", (1 << 20, 1 << 20), "f4", chunks=(16, 16), compression="gzip")[:16, :16] = 1
    with pytest.raises(SourceError, match="would take 4096 GiB"):
        load_h5(tmp_path / "net.h5")


@pytest.mark.parametrize("compression", ["gzip", "lzf"])
def test_compressed_hdf5_of_many_chunks_is_read(tmp_path: Path, compression: str) -> None:
    h5py = pytest.importorskip("h5py")
    array = np.random.default_rng(0).standard_normal((70, 90)).astype(np.float32)
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.create_dataset("w", data=array, chunks=(16, 32), compression=compression, shuffle=True, fletcher32=True)
    np.testing.assert_array_equal(load_h5(tmp_path / "net.h5", 10 << 20), array)


def test_an_attribute_of_hdf5_that_names_one_text_many_times(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file["dense/kernel:0"] = np.ones((4, 4), np.float32)
        file.attrs.create("layer_names", np.array(["x" * 4000] + ["y"] * 400, dtype=object), dtype=h5py.string_dtype())
    refused(tmp_path / "net.h5", "its attribute layer_names would take")


# ---------------------------------------------------------------- ONNX and PyTorch


def test_constants_that_broadcast(tmp_path: Path) -> None:
    sides = {f"a{d}": np.ones([60 if d == k else 1 for k in range(6)], np.float32) for d in range(6)}
    sums = [node("Add", ["a0" if d == 1 else f"c{d - 1}", f"a{d}"], f"c{d}") for d in range(1, 6)]
    refused(onnx_writer.write(tmp_path / "net.onnx", [*sums, node("MatMul", ["x", "c5"], "y")], sides, "y"), "would take")


def test_names_that_double(tmp_path: Path) -> None:
    sums = [node("Add", [f"c{i}"] * 2, f"c{i + 1}") for i in range(40)]
    path = onnx_writer.write(
        tmp_path / "net.onnx", [*sums, node("MatMul", ["x", "c40"], "y")], {"c0": np.ones((4, 4), np.float32)}, "y"
    )
    assert read_source(path, ConvertOptions()).net.ops


def test_a_tensor_that_a_thousand_layers_use(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x" if i == 0 else f"s{i - 1}", "w"], f"m{i}") for i in range(1000)]
    signs = [node("Sign", [f"m{i}"], f"s{i}") for i in range(1000)]
    ordered = [one for pair in zip(nodes, signs, strict=True) for one in pair]
    weight = np.random.default_rng(0).standard_normal((50, 50)).astype(np.float32)
    refused(onnx_writer.write(tmp_path / "net.onnx", ordered, {"w": weight}, "m999"), r"would take|takes more than \d+ steps")


def test_tensors_of_one_file_beside_the_model_are_summed(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(4 * 100 * 100))
    outside = field(13, field(1, "location") + field(2, "w.bin"))
    tensors = [field(1, 100) * 2 + field(2, 1) + field(8, f"w{i}") + outside + field(14, 1) for i in range(40)]
    graph = b"".join(field(5, one) for one in tensors) + field(11, field(1, "x")) + field(12, field(1, "y"))
    (tmp_path / "net.onnx").write_bytes(field(1, 8) + field(7, graph + field(1, node("MatMul", ["x", "w0"], "y"))))
    refused(tmp_path / "net.onnx", "tensor 'w.*' of 40000 bytes in 'w.bin' would take")


def test_tensors_of_one_file_of_an_export_are_summed(tmp_path: Path) -> None:
    meta = {
        "dtype": 7,
        "layout": 7,
        "sizes": [{"as_int": 10_000}],
        "strides": [{"as_int": 1}],
        "storage_offset": {"as_int": 0},
    }
    config = {f"t{i}": {"path_name": "w", "use_pickle": False, "tensor_meta": meta} for i in range(40)}
    model = {"schema_version": {"major": 8, "minor": 1}, "graph_module": {}}
    entries = {
        "a/archive_format": b"pt2",
        "a/models/model.json": json.dumps(model).encode(),
        "a/data/weights/model_weights_config.json": json.dumps({"config": config}).encode(),
        "a/data/weights/w": bytes(40_000),
    }
    refused(write_zip(tmp_path / "net.pt2", entries), r"tensor t\d+ \(10000,\) float32 would take")


def test_modules_that_share_modules_are_walked_within_the_budget(tmp_path: Path) -> None:
    thing = Thing("__torch__.Net")
    for _ in range(45):
        above = Thing("__torch__.Net")
        above.attributes.update(a=thing, b=thing)
        thing = above
    with budget.reading(tmp_path, 1 << 20), pytest.raises(SourceError):
        named_tensors(thing)


def test_a_shared_view_of_torch_is_summed(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    whole = torch.zeros(100, 100)
    torch.save({f"{i}.weight": whole.T for i in range(40)}, tmp_path / "net.pt")
    refused(tmp_path / "net.pt", r"would take 39\.1 KiB after")


# ---------------------------------------------------------------- text, bits and net.toml


def test_one_text_that_many_arrays_are_read_from(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("1 -1\n" * 2000)
    arrays = "".join(f'[arrays.a{i}]\nfile = "w.txt"\nformat = "numbers"\n' for i in range(20))
    layers = "".join(f'[[layers]]\nweight = "a{i}"\nlayout = "out_in"\n' for i in range(20))
    with pytest.raises(Exception, match=r"the (text|numbers) of w\.txt would take"):
        read_source(tmp_path, ConvertOptions(net=f"[input]\nsigns = true\n{layers}{arrays}", max_memory=1 << 20))


def test_a_container_is_opened_once_for_all_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "net.npz", **{f"w{i}": np.ones((2, 2), np.float32) for i in range(50)})
    opened: list[object] = []
    original = zipfile.ZipFile.__init__

    def counted(self: Any, *arguments: Any, **kinds: Any) -> None:
        opened.append(self)
        original(self, *arguments, **kinds)

    monkeypatch.setattr(zipfile.ZipFile, "__init__", counted)
    _, entries = open_container(tmp_path / "net.npz")
    assert all((one.load() == 1).all() for one in entries.values())
    assert len(opened) < 6


# ---------------------------------------------------------------- what a packed model is made of


@pytest.mark.parametrize("shape", [(3, 700), (5, 64), (1, 1), (7, 129)])
def test_weights_packed_in_pieces_are_those_packed_at_once(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    dense = Linear(rng.standard_normal(shape).astype(np.float32), "ge")
    flipped = rng.integers(0, 2, shape[0]).astype(bool)
    signs = binary_weights(dense)
    for words in (1, 2, 3, 1 << 14):
        monkeypatch.setattr(lower, "PIECE_WORDS", words)
        np.testing.assert_array_equal(lower._packed_signs(dense), bitpack(signs))
        np.testing.assert_array_equal(lower._packed_signs(dense, flipped), bitpack(np.where(flipped[:, None], -signs, signs)))


# ---------------------------------------------------------------- data


def npy_head(shape: str, *, fortran: bool = False) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': {fortran}, 'shape': {shape}, }}".encode().ljust(500) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@pytest.mark.parametrize(
    ("head", "match"),
    [
        (npy_head("(" + "1," * 70 + ")"), "70 dimensions"),
        (npy_head(f"({1 << 62}, 2)"), "beyond all memory"),
        (npy_head("(-5, 64)"), "negative dimension"),
        (npy_head("(" + "-" * 300 + "1,)"), r"too large|damaged or unusable \.npy header"),
        (b"\0\0\x0e\x08" + b"\xff" * 32, "beyond all memory"),
    ],
)
def test_heads_of_data_that_no_array_can_have(tmp_path: Path, head: bytes, match: str) -> None:
    (tmp_path / "x").write_bytes(head)
    (tmp_path / "x.gz").write_bytes(gzip.compress(head))
    for name in ("x", "x.gz"):
        with pytest.raises(InputError, match=match) as caught:
            dataio.open_array(str(tmp_path / name))
        assert len(str(caught.value)) < 500


def test_compressed_data_in_fortran_order_is_held_against_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.npy.gz"
    path.write_bytes(gzip.compress(npy_head("(500000, 64)", fortran=True) + bytes(64)))
    samples = dataio.open_samples([str(path)], max_memory=1 << 20)
    with pytest.raises(InputError, match=r"\(500000, 64\) uint8, in Fortran order and compressed, would take 30\.5 MiB"):
        next(samples.batches(10))
    rows = dataio.open_samples([str(path)], max_memory=100 << 20).batches(10)
    with pytest.raises(InputError, match="is truncated"):
        next(rows)


def test_a_batch_of_data_is_held_against_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.npy.gz"
    path.write_bytes(gzip.compress(npy_head("(4, 1000000)") + bytes(4_000_000)))
    with pytest.raises(InputError, match=r"2 rows of shape \(1000000,\) uint8 at once would take"):
        next(dataio.open_samples([str(path)], max_memory=1_500_000).batches(2))
    assert next(dataio.open_samples([str(path)], max_memory=1_500_000).batches(1)).shape == (1, 1_000_000)


def test_an_image_is_held_against_its_size_before_it_is_decoded(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.new("L", (500, 500)).save(out, "png")
    (tmp_path / "x.png").write_bytes(out.getvalue())
    with pytest.raises(InputError, match="decoding 500x500 pixels would take"):
        dataio.open_samples([str(tmp_path / "x.png")], max_memory=1 << 20)
    assert dataio.open_samples([str(tmp_path / "x.png")]).shape == (1, 500, 500)


def test_tensors_of_the_writers_here_are_read(tmp_path: Path) -> None:
    """The refusals above are about sizes: the same files with less in them are taken."""
    weight = np.sign(np.random.default_rng(0).standard_normal((4, 4))).astype(np.float32)
    path = onnx_writer.write(tmp_path / "net.onnx", [node("MatMul", ["x", "w"], "y")], {"w": weight}, "y")
    assert read_source(path, SMALL).net.ops
    assert read_source(safetensors(tmp_path / "net.safetensors", [4, 4], weight.tobytes()), SMALL).net.ops
