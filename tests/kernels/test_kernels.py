"""Every kernel of the table on every family of shapes, against integers multiplied by numpy."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import guarded
import numpy as np
import packed_networks as nets
import pytest
from numpy.typing import NDArray
from places import TOOLS
from waiting import HANGS

from xnorinfer import kernels
from xnorinfer.engine.plan import Plan
from xnorinfer.errors import KernelError
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput, ThresholdInput
from xnorinfer.packing.packed import Affine, Dot

NAMES = [kernel.name for kernel in kernels.KERNELS]
USABLE = {kernel.name for kernel in kernels.usable()}

INPUTS: dict[str, InputMapping] = {
    "pixels": PixelInput.range(-1, 1),
    "normalized": PixelInput.normalize(0.1307, 0.3081),
    "threshold": ThresholdInput(128),
    "threshold1": ThresholdInput(1),
    "signs": SignInput(),
    "reals": RealInput(),
}

#: Widths of layers and rows.  The tails: one word less and more, one neuron, one input, panels and groups not full.
SHAPES: dict[str, tuple[tuple[int, ...], int]] = {
    "square": ((192, 192, 192, 10), 5),
    "deep": ((4161, 70, 10), 3),
    "deep-hidden": ((30, 8200, 70, 10), 3),
    "deeper": ((9, 65400, 65, 3), 19),
    "shallow": ((16, 300, 10), 9),
    "few": ((70, 24, 33, 10), 3),
    "narrow": ((200, 1, 2, 3), 4),
    "single-row": ((130, 129, 10), 1),
    "ones": ((1, 1, 1), 2),
    "tail-63": ((63, 63, 63, 2), 18),
    "tail-64": ((64, 64, 64, 2), 3),
    "tail-65": ((65, 65, 65, 2), 17),
    "tail-511": ((511, 7, 511, 2), 2),
    "tail-512": ((512, 8, 512, 2), 2),
    "tail-513": ((513, 9, 513, 2), 2),
    "no-rows": ((65, 3, 2), 0),
}


def check(kernel: str, mapping: InputMapping, widths: tuple[int, ...], rows: int, floats: int = 0) -> None:
    """One random network: every layer's output and the scores, exactly."""
    rng = np.random.default_rng([len(widths), rows, widths[0], ord(mapping.kind[0])])
    model = nets.random_model(rng, mapping, widths, floats)
    x = nets.random_rows(rng, model, rows)
    plan = Plan(model, threads=1, kernel=kernel)
    want = nets.expected(model, x)
    for node, got, right in zip(model.nodes, plan.trace(x), want, strict=True):
        assert nets.same(got, right), (kernel, node.name, widths, rows)
    assert nets.same(plan.run(x), want[-1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("source", INPUTS)
def test_networks(kernel: str, source: str, shape: str) -> None:
    widths, rows = SHAPES[shape]
    check(kernel, INPUTS[source], widths, rows)


@pytest.mark.parametrize("widths", [(100, 64, 33, 10), (65, 10, 1), (20, 40, 17, 65)])
def test_float_tails(kernel: str, widths: tuple[int, ...]) -> None:
    check(kernel, SignInput(), widths, 5, floats=1)
    check(kernel, PixelInput(1.0, 0.0, 1.0), widths, 2, floats=len(widths) - 2)


@pytest.mark.parametrize("at_start", [False, True])
@pytest.mark.parametrize("source", ["pixels", "threshold", "signs", "reals"])
def test_nothing_is_touched_beyond_its_end(kernel: str, source: str, at_start: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that the compiled code reads or writes lies between unmapped pages."""
    guarded.guard_layouts(monkeypatch, at_start)
    rng = np.random.default_rng(5)
    for widths, floats in (
        ((77, 130, 65, 9), 0),
        ((785, 40, 3), 0),
        ((130, 17, 3), 0),
        ((9, 2), 0),
        ((64, 64, 5), 0),
        ((1, 33, 12, 2), 1),
        ((4200, 9, 2), 0),
    ):
        model = nets.random_model(rng, INPUTS[source], widths, floats)
        plan = Plan(model, threads=1, kernel=kernel)
        for rows in (1, 3, 17):
            x = nets.random_rows(rng, model, rows)
            target = guarded.guarded((rows, widths[-1]), np.float32, 4, at_start)
            plan.run_nodes(guarded.copy_of(x, at_start), target, 0, len(model.nodes))
            assert nets.same(target.copy(), nets.expected(model, x)[-1])


# ---------------------------------------------------------------- float32 steps


def nearest_single(exact: Fraction) -> np.float32:
    """The float32 nearest to an exact number, ties to the even one."""
    guess = np.float32(float(exact))
    candidates = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    candidates = [c for c in candidates if np.isfinite(c)]
    return min(candidates, key=lambda c: (abs(Fraction(float(c)) - exact), int(c.view(np.int32)) & 1))


def head_of_one(kernel: str, ops: tuple[Any, ...], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """The float32 steps on the number 1, for many neurons at once."""
    neurons = values.shape[2]
    layer = Dot("bits", 1, np.ones((neurons, 1), np.uint64), Affine(ops, values))
    plan = Plan(nets.network(SignInput(), [("head", layer)]), threads=1, kernel=kernel)
    return plan.run(np.ones((1, 1), np.int8))[0]


def fma_cases() -> NDArray[np.float32]:
    """(3, n) float32: x, y, z, random and near ties of the second rounding."""
    rng = np.random.default_rng(11)
    n = 500
    x, y = (rng.integers(2**23, 2**24, n) * 2.0 ** rng.integers(-30, 30, n) for _ in range(2))
    far = rng.integers(2**23, 2**24, n) * 2.0 ** rng.integers(-60, 60, n)
    # z close to minus the product, and z so large that the product decides a tie only.
    close = -np.float32(x) * np.float32(y)
    tie = np.ldexp(rng.integers(2**23, 2**24, n).astype(float), 40)
    half = np.ldexp(np.ones(n), 39) * rng.choice([-1, 1], n)
    tiny = np.ldexp(1 + rng.integers(0, 2, n) * 2.0**-23, 0)
    columns = [(x, y, far), (x, -y, -far), (x, y, close), (half, tiny, tie), (half, 1 + 0 * tiny, tie)]
    return np.concatenate([np.stack(c).astype(np.float32) for c in columns], axis=1)


def test_fma_rounds_once(kernel: str) -> None:
    x, y, z = cases = fma_cases()
    zero = np.zeros_like(x)
    got = head_of_one(kernel, ("mul", "fma"), np.stack([np.stack([x, zero]), np.stack([y, z])]))
    exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in cases.T]
    want = np.array([nearest_single(e) for e in exact], np.float32)
    assert nets.same(got, want)
    assert (want != (x * y + z)).any(), "the cases must tell a fused from an unfused result"


def test_mul_and_add_round_each(kernel: str) -> None:
    x, y, z = fma_cases()
    zero = np.zeros_like(x)
    got = head_of_one(kernel, ("mul", "mul", "add"), np.stack([np.stack([v, zero]) for v in (x, y, z)]))
    assert nets.same(got, x * y + z)


# ---------------------------------------------------------------- choosing


def test_unknown_kernel_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match=r"'fast'.*does not exist.*portable"):
        kernels.choose("fast")
    monkeypatch.setenv("XNORINFER_KERNEL", "faster")
    with pytest.raises(KernelError, match=r"XNORINFER_KERNEL names kernel 'faster'.*portable"):
        kernels.choose()
    monkeypatch.setenv("XNORINFER_KERNEL", "portable")
    assert kernels.choose().name == "portable"


def run_restricted(tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Print the chosen kernel and check small networks and fma in a process with other environment variables."""
    code = (
        "import test_kernels as t, xnorinfer.kernels as k\n"
        "name = k.choose().name\n"
        "print(name)\n"
        "for source in ('pixels', 'threshold', 'reals'):\n"
        "    t.check(name, t.INPUTS[source], (785, 70, 129, 10), 5)\n"
        "t.check(name, t.INPUTS['signs'], (65, 64, 10, 3), 3, floats=1)\n"
        "t.test_fma_rounds_once(name)\n"
        "t.test_mul_and_add_round_each(name)\n"
        "print('right')\n"
    )
    here = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(TOOLS)]), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=here, cwd=tmp_path, capture_output=True, text=True, timeout=HANGS, check=False
    )


@pytest.mark.long
@pytest.mark.parametrize("cpu", ["generic", "haswell"])
def test_other_cpus(cpu: str, tmp_path: Path) -> None:
    """LLVM restricted to an older CPU: no vector popcount, no FMA (generic); AVX2 (haswell)."""
    if "x86_64" not in os.uname().machine:
        pytest.skip("CPU names are those of x86-64")
    done = run_restricted(tmp_path, NUMBA_CPU_NAME=cpu)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] != "avx512-vpopcntdq"
    assert done.stdout.split()[-1] == "right"


@pytest.mark.parametrize("name", NAMES)
def test_forced_by_environment(name: str, tmp_path: Path) -> None:
    if name not in USABLE:
        pytest.skip(f"this CPU cannot run {name}")
    done = run_restricted(tmp_path, XNORINFER_KERNEL=name)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [name, "right"]


def test_kernel_that_this_cpu_lacks(tmp_path: Path) -> None:
    if "x86_64" not in os.uname().machine:
        pytest.skip("CPU names are those of x86-64")
    done = run_restricted(tmp_path, NUMBA_CPU_NAME="generic", XNORINFER_KERNEL="avx512-vpopcntdq")
    assert done.returncode == 1
    assert "needs avx512bw, avx512vpopcntdq; this CPU runs: portable" in done.stderr
