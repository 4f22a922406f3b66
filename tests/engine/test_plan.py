"""Plans: the same bits for any batch size and number of threads, canonical inputs only, options checked."""

from __future__ import annotations

import numpy as np
import packed_networks as nets
import pytest

from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan, default_threads
from xnorinfer.errors import OptionError
from xnorinfer.net.values import PixelInput, RealInput, SignInput


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("mapping", [PixelInput.range(-1, 1), RealInput()], ids=["pixels", "reals"])
def test_any_batch_size_and_thread_count(
    mapping: PixelInput | RealInput, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    rng = np.random.default_rng(3)
    model = nets.random_model(rng, mapping, (100, 200, 130, 33, 10), floats=1)
    x = nets.random_rows(rng, model, 600)
    want = nets.expected(model, x)[-1]
    plan = Plan(model, threads=threads)
    assert plan.threads == threads
    for rows in (1, 2, 7, 31, 32, 63, 64, 65, 95, 96, 97, 255, 256, 257, 600):
        assert nets.same(plan.run(x[:rows].copy()), want[:rows]), rows


def test_trace_matches_run_and_pads_with_zeros() -> None:
    rng = np.random.default_rng(4)
    model = nets.random_model(rng, SignInput(), (70, 65, 129, 3))
    x = nets.random_rows(rng, model, 5)
    plan = Plan(model)
    outputs = plan.trace(x)
    assert [o.dtype.name for o in outputs] == ["uint64", "uint64", "float32"]
    assert [o.shape for o in outputs] == [(5, 2), (5, 3), (5, 3)]
    assert not (outputs[0][:, -1] >> np.uint64(1)).any()
    assert nets.same(plan.run(x), np.asarray(outputs[-1]))


def test_no_rows() -> None:
    model = nets.random_model(np.random.default_rng(0), PixelInput.range(-1, 1), (5, 3, 2))
    assert Plan(model).run(np.zeros((0, 5), np.uint8)).shape == (0, 2)


@pytest.mark.parametrize(
    "x", [np.zeros((2, 5), np.float32), np.zeros((2, 6), np.uint8), np.zeros(5, np.uint8), np.zeros((5, 2), np.uint8).T]
)
def test_only_canonical_inputs_reach_compiled_code(x: np.ndarray) -> None:
    model = nets.random_model(np.random.default_rng(0), PixelInput.range(-1, 1), (5, 3, 2))
    with pytest.raises(ValueError, match=r"C-contiguous \(rows, 5\) uint8"):
        Plan(model).run(x)


def test_addresses_without_looking_behind_array_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other interpreters than CPython ask numpy for addresses."""
    assert plan_module._DIRECT
    monkeypatch.setattr(plan_module, "_DIRECT", False)
    rng = np.random.default_rng(6)
    model = nets.random_model(rng, SignInput(), (70, 65, 3))
    x = nets.random_rows(rng, model, 5)
    assert nets.same(Plan(model).run(x), nets.expected(model, x)[-1])


def test_results_do_not_share_memory() -> None:
    model = nets.random_model(np.random.default_rng(0), SignInput(), (5, 3, 2))
    plan = Plan(model)
    first, second = (plan.run(np.ones((1, 5), np.int8)) for _ in range(2))
    assert not np.shares_memory(first, second)


def test_threads_option(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nets.random_model(np.random.default_rng(0), SignInput(), (5, 3, 2))
    with pytest.raises(OptionError, match="threads is 0"):
        Plan(model, threads=0)
    monkeypatch.setenv("XNORINFER_NUM_THREADS", "3")
    assert Plan(model).threads == 3
    for bad in ("0", "two", "-1"):
        monkeypatch.setenv("XNORINFER_NUM_THREADS", bad)
        with pytest.raises(OptionError, match="XNORINFER_NUM_THREADS"):
            Plan(model)
    monkeypatch.delenv("XNORINFER_NUM_THREADS")
    assert default_threads() >= 1
