"""What the core does at most, and the floors that follow for nodes and whole runs: the arithmetic, on given peaks."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest
from branching_networks import PUBLISHED, random_branching_network
from conv_networks import MAPPINGS
from level_networks import random_net
from networks import INPUTS, random_network

from xnorinfer import kernels
from xnorinfer.engine.model import random_inputs
from xnorinfer.engine.passes import apart
from xnorinfer.engine.plan import Plan
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Binarize, Dot
from xnorinfer.speed import layertimes, roofline
from xnorinfer.speed.roofline import Floor, Peaks, Work

#: 1000 operations of bits a second, 10 of float32; 100 bytes up to 8 KiB, then 10; half of that written.
PEAKS = Peaks(
    {"binary": 1000.0, "float32": 10.0},
    {4096: 100.0, 8192: 10.0},
    {4096: 50.0, 8192: 5.0},
    (8191, 16384),
)


def test_the_larger_of_operations_and_bytes_bounds() -> None:
    assert PEAKS.floor(Work("binary", 10_000, 100, 50)) == Floor(10.0, "binary")
    assert PEAKS.floor(Work("float32", 10_000, 100, 50)) == Floor(1000.0, "float32")
    # Reading and writing go on at once: 2000 / 100 and 1500 / 50 seconds.
    assert PEAKS.floor(Work("binary", 10_000, 2000, 1500)) == Floor(30.0, "L1")
    assert PEAKS.floor(Work(None, 10_000, 2000, 0)) == Floor(20.0, "L1")
    assert PEAKS.floor(Work(None, 0, 10_000, 5000)) == Floor(1000.0, "L2")
    assert PEAKS.floor(Work(None, 0, 0, 20_000)) == Floor(4000.0, "memory")


def test_bytes_lie_in_the_nearest_cache_that_holds_them() -> None:
    assert [PEAKS.place(size) for size in (0, 8191, 8192, 16384, 16385)] == ["L1", "L1", "L2", "L2", "memory"]
    assert Peaks({}, {}, {}).place(1) == "bytes"
    sizes = (0, 1, 4095, 4097, 8191, 8192, 1 << 26, 1 << 40)
    assert [roofline.buffer_of(size) for size in sizes] == [4096, 4096, 4096, 4096, 4096, 8192, 1 << 26, 1 << 26]


def test_caches_are_read_as_linux_tells_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "_CACHES", tmp_path)
    assert roofline.caches() == ()
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "32K"), ("1", "Instruction", "64K"), ("3", "Unified", "16384K"), ("2", "Unified", "1024K")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert roofline.caches() == (32 << 10, 1 << 20, 16 << 20)
    (tmp_path / "index2" / "size").write_text("many\n")
    assert roofline.caches() == ()


@pytest.mark.parametrize("product", ["binary", "pixels", "reals", "float32"])
@pytest.mark.parametrize("kernel", kernels.KERNELS, ids=lambda kernel: kernel.name)
def test_every_kernel_has_every_peak(kernel: kernels.Kernel, product: roofline.Product) -> None:
    if kernel not in kernels.usable():
        pytest.skip(f"this CPU cannot run {kernel.name}")
    call, operations = roofline.looping(kernel, product)
    assert operations % (2 * roofline.TURNS) == 0
    assert operations > 0
    call()
    found = roofline.measured(kernel, [product, product], [5000, 9000, 8192])
    assert list(found.operations) == [product]
    assert list(found.read) == list(found.written) == [4096, 8192]
    assert all(rate > 0 for rates in (found.operations, found.read, found.written) for rate in rates.values())


def test_moving_goes_through_so_many_bytes() -> None:
    assert roofline.moving(4096)[1] == roofline.LEAST_MOVED
    assert roofline.moving(roofline.LEAST_MOVED * 2)[1] == roofline.LEAST_MOVED * 2
    assert roofline.moving(1536, least=4000)[1] == 3 * 1536


@pytest.mark.parametrize("name", INPUTS)
def test_work_of_dense_layers(name: str) -> None:
    packed = lower(random_network(0, [50, 130, 70, 10], INPUTS[name], awkward=name != "reals")).packed
    works = {node.name: layertimes.work_of(packed, index, 3) for index, node in enumerate(packed.nodes)}
    first, *_, last = (node for node in packed.nodes if isinstance(node.op, Dot))
    # Of a sample: a word of bits where they are made before, else the input's own numbers.
    entry = 8 if first is not packed.nodes[0] else 200 if first.op.reads == "reals" else 50
    product = "binary" if first.op.reads == "bits" else first.op.reads
    own = layertimes.weight_bytes(first)
    assert own >= first.op.weights.nbytes
    assert works[first.name] == (product, 2 * 3 * 50 * 130, 3 * entry + own, 3 * 3 * 8)
    assert works[last.name].written == 3 * 4 * 10


def test_work_of_levels_is_that_of_their_planes_and_windows_read_what_they_touch() -> None:
    seen = 0
    for seed in range(8):
        packed = lower(random_net(seed)).packed
        for index, node in enumerate(packed.nodes):
            if isinstance(node.op, Dot) and node.op.reads == "levels":
                planes, gives = packed.read_by(node).planes, packed.values[index]
                work = layertimes.work_of(packed, index, 1)
                read, own = sum(value.nbytes for value in packed.reads_of(node)), layertimes.weight_bytes(node)
                assert work[:2] == ("binary", 2 * node.op.depth * gives.width * planes)
                assert own < work.read <= read + own
                assert work.written == gives.nbytes
                seen += 1
    assert seen


def test_the_floors_of_a_run_leave_out_what_passes_join() -> None:
    packed = lower(PUBLISHED["reactnet"](3, MAPPINGS["range"])).packed
    plan = Plan(packed, threads=1)
    peaks = Peaks({"binary": 1e30, "float32": 1e30}, {4096: 1.0}, {4096: 1.0}, (1 << 40,))
    (joined,) = layertimes.floors_of(plan, peaks, 2)
    assert joined.bound == "L1"
    assert any(one.signs for one in plan.passes)
    alone = plan._apart()
    assert list(alone.passes) == apart(packed)
    (each,) = layertimes.floors_of(alone, peaks, 2)
    assert each.seconds > joined.seconds
    floors = [peaks.floor(layertimes.work_of(packed, index, 2)) for index in range(len(packed.nodes))]
    weights = sum(map(layertimes.weight_bytes, packed.nodes))
    assert each.seconds >= sum(floor.seconds for floor in floors) >= each.seconds - weights


def test_calls_of_nodes_keep_what_they_read() -> None:
    """Arrays live as long as the calls, whatever else goes; and the plan runs as before."""
    packed = lower(random_branching_network(3, MAPPINGS["range"], joins=6)).packed
    plan = Plan(packed, threads=1)
    x = random_inputs(packed, 2, 0)
    before = plan.run(x)
    calls = plan.node_calls(x)
    assert len(calls) == len(packed.nodes)
    gc.collect()
    for _ in range(3):
        for call in calls:
            call()
    assert (plan.run(x) == before).all()
    assert all((one == two).all() for one, two in zip(plan.trace(x), Plan(packed, threads=1).trace(x), strict=True))


def test_a_profile_on_one_thread_has_floors_and_shares() -> None:
    packed = lower(PUBLISHED["reactnet"](3, MAPPINGS["range"])).packed
    x = random_inputs(packed, 1, 0)
    found = layertimes.profile(Plan(packed, threads=1), x, 0.01)
    assert found.peaks is not None
    assert set(found.peaks.operations) == {"binary", "float32"}
    for node, op in zip(found.nodes, packed.nodes, strict=True):
        assert node.floor is not None
        assert node.reached == node.floor.seconds / node.timing.median > 0
        assert not isinstance(op.op, Binarize) or node.floor.bound not in found.peaks.operations
    assert found.reached == pytest.approx(sum(floor.seconds for floor in found.floors) / found.whole.median)
    assert list(found.floors) == sorted(found.floors, reverse=True)
    written = json.loads(json.dumps(found.to_json()))
    assert [node["floor"]["bound"] for node in written["nodes"]] == [node.floor.bound for node in found.nodes]  # type: ignore[union-attr]
    assert [node["of_roofline"] for node in written["nodes"]] == [node.reached for node in found.nodes]
    assert written["whole"]["of_roofline"] == found.reached
    assert {one["place"] for one in written["peaks"]["bytes_per_second"]} <= {"L1", "L2", "L3", "memory", "bytes"}
    several = layertimes.profile(Plan(packed, threads=2), x, 0.01)
    assert (several.peaks, several.floors, several.reached) == (None, (), None)
    assert several.to_json()["peaks"] is None


def test_kinds_of_nodes_and_where_the_rest_goes() -> None:
    branches = pytest.importorskip("benchmarks.branches")
    packed = lower(PUBLISHED["quicknet"](3, MAPPINGS["range"])).packed
    x = np.zeros((1, packed.depth), np.uint8)
    found = layertimes.profile(Plan(packed, threads=1), x, 0.01)
    kinds = branches.kinds_of(packed, found)
    assert sum(kind.nodes for kind in kinds) == len(packed.layers)
    assert sum(kind.seconds for kind in kinds) == pytest.approx(found.sum)
    assert [kind.seconds - kind.floor for kind in kinds] == sorted((kind.seconds - kind.floor for kind in kinds), reverse=True)
    names = {kind.name for kind in kinds}
    assert {"binary, 3 x 3", "compared", "float32, 3 x 3"} <= names
    assert any(name.endswith("depthwise") for name in names)
