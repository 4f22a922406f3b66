"""Concurrent callers, forks and exits: never a crash, a hang or a wrong bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import packed_networks as nets
import pytest
from places import TOOLS
from waiting import HANGS

from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan
from xnorinfer.kernels import fields
from xnorinfer.kernels import pool as pool_module
from xnorinfer.kernels.pool import pool
from xnorinfer.net.values import PixelInput, RealInput, SignInput


def test_concurrent_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many Python threads on one plan and on two, helpers wanted by all."""
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    monkeypatch.setattr(pool_module._Account, "PAYBACK", 0)  # helpers work, whatever they bring
    rng = np.random.default_rng(8)
    models = [nets.random_model(rng, PixelInput.range(-1, 1), widths) for widths in ((90, 200, 70, 10), (33, 65, 3))]
    inputs = [nets.random_rows(rng, model, 150) for model in models]
    wants = [nets.expected(model, x)[-1] for model, x in zip(models, inputs, strict=True)]
    plans = [Plan(model, threads=2) for model in models]
    wrong: list[tuple[int, int]] = []

    def caller(seed: int) -> None:
        own = np.random.default_rng(seed)
        for _ in range(60):
            which, rows = int(own.integers(2)), int(own.integers(1, 151))
            if not nets.same(plans[which].run(inputs[which][:rows].copy()), wants[which][:rows]):
                wrong.append((which, rows))

    threads = [threading.Thread(target=caller, args=(seed,), daemon=True) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_helpers_sleep_wake_and_can_be_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    monkeypatch.setattr(pool_module._Account, "PAYBACK", 0)  # helpers work, whatever they bring
    rng = np.random.default_rng(9)
    model = nets.random_model(rng, PixelInput.range(-1, 1), (90, 200, 10))
    x = nets.random_rows(rng, model, 100)
    want = nets.expected(model, x)[-1]
    plan = Plan(model, threads=2)
    for _ in range(3):
        assert nets.same(plan.run(x), want)
        threading.Event().wait(0.02)  # long enough for the helper to fall asleep
    pool().stop()
    assert nets.same(plan.run(x), want)


#: A process of its own begins with this.
HELPERS_WORK = """
import os, random, signal, sys, threading, time
import numpy as np
import packed_networks as nets
from xnorinfer.engine import plan as plan_module
from xnorinfer.engine.plan import Plan
from xnorinfer.kernels import pool as pool_module
from xnorinfer.net import PixelInput

plan_module.THREAD_WORK = 0
pool_module._Account.PAYBACK = 0  # helpers work, whatever they bring
"""


def output_of(code: str, *arguments: str) -> str:
    """What a process in which helpers work prints, once it has ended well."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HELPERS_WORK + code, *arguments],
        env={**os.environ, "PYTHONPATH": str(TOOLS)}, capture_output=True, text=True, timeout=HANGS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


FORK = """
rng = np.random.default_rng(2)
model = nets.random_model(rng, PixelInput.range(-1, 1), (90, 200, 70, 10))
x = nets.random_rows(rng, model, 100)
want = nets.expected(model, x)[-1]
plan = Plan(model, threads=2)
assert nets.same(plan.run(x), want)
stop = threading.Event()

def busy():
    while not stop.is_set():
        assert nets.same(plan.run(x), want)

thread = threading.Thread(target=busy)
if sys.argv[1] == "busy":
    thread.start()
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        right = all(nets.same(plan.run(x), want) for _ in range(20))
        right = right and all(nets.same(plan.run(x[:1].copy()), want[:1]) for _ in range(20))
        os._exit(0 if right else 3)
    children.append(child)
codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
stop.set()
if sys.argv[1] == "busy":
    thread.join()
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("when", ["idle", "busy"])
def test_after_a_fork(when: str) -> None:
    """A forked child has no helpers and maybe a copy of a job in the middle: it must compute all the same."""
    assert output_of(FORK, when) == "[0, 0, 0, 0]"


INTERRUPT = """
rng = np.random.default_rng(3)
model = nets.random_model(rng, PixelInput.range(-1, 1), (90, 600, 600, 10))
x = nets.random_rows(rng, model, 3000)
want = nets.expected(model, x)[-1]
plan = Plan(model, threads=2)
assert nets.same(plan.run(x), want)
begin = time.perf_counter()
plan.run(x)
once = time.perf_counter() - begin
signal.signal(signal.SIGALRM, signal.default_int_handler)
moments, hits, wrong = random.Random(4), 0, 0
while hits < 300:
    try:
        signal.setitimer(signal.ITIMER_REAL, moments.uniform(0.00005, 1.5 * once))
        for _ in range(10):
            wrong += not nets.same(plan.run(x.copy()), want)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hits += 1
    # What a helper that went on would now write into.
    others = [np.zeros(moments.randrange(1, 40000)) for _ in range(20)]
    wrong += any(other.any() for other in others)
print(wrong)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this system")
def test_an_interrupted_run_leaves_no_helper_at_work() -> None:
    """Arrays of a run that Ctrl-C ended are freed: helpers must be done with them by then."""
    assert output_of(INTERRUPT) == "0"


def test_a_long_run_is_cut_into_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that Ctrl-C has a chance: Python handles signals between calls of the driver only."""
    rng = np.random.default_rng(10)
    model = nets.random_model(rng, PixelInput.range(-1, 1), (33, 65, 40, 3))
    x = nets.random_rows(rng, model, 1700)
    monkeypatch.setattr(plan_module, "CALL_WORK", 256 * Plan(model)._work)
    calls: list[int] = []
    run = pool().run
    monkeypatch.setattr(pool(), "run", lambda *arguments: (calls.append(arguments[1]), run(*arguments)))
    want = nets.expected(model, x)
    plan = Plan(model, threads=2)
    assert nets.same(plan.run(x), want[-1])
    assert calls == [512, 512, 512, 164]
    assert all(map(nets.same, plan.trace(x), want))
    # One sample after the other where each is that much work.
    monkeypatch.setattr(plan_module, "CALL_WORK", 1)
    calls.clear()
    assert nets.same(Plan(model, threads=2).run(x[:5].copy()), want[-1][:5])
    assert max(calls) <= 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("share", [0, 3, 20])
def test_a_sample_of_much_work_is_cut_into_calls(monkeypatch: pytest.MonkeyPatch, share: int, threads: int) -> None:
    """Of some nodes each, or of some groups of one node: what passes from one call to the next is where it was."""
    rng = np.random.default_rng(11)
    for number, mapping in enumerate((PixelInput.range(-1, 1), SignInput(), RealInput())):
        model = nets.random_maps(rng, mapping, (9, 7, 3), 3 + number)
        x = nets.random_rows(rng, model, 3)
        want = nets.expected(model, x)
        monkeypatch.setattr(plan_module, "CALL_WORK", 10**12)
        plan = Plan(model, threads=threads)
        most = max(1, plan._work // share) if share else 1
        monkeypatch.setattr(plan_module, "CALL_WORK", most)
        monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
        plan = Plan(model, threads=threads)
        calls = plan._calls(0, len(plan._table))
        for first, last, begin, end in calls:
            work = plan._table[first:last, fields.GROUPS] * plan._table[first:last, fields.WORK]
            assert work.sum() <= most or end - begin == 1 or end == 0 == begin
        if share == 0:
            assert len(calls) == plan._table[:, fields.GROUPS].sum()
        assert nets.same(plan.run(x), want[-1])
        assert all(map(nets.same, plan.trace(x), want))
        assert nets.same(plan.run(x), want[-1])


def test_helpers_are_left_out_where_they_cost_more_than_they_bring() -> None:
    """An account of seconds: credit for what they save, up to a limit; losses beyond it are paid back in time without them."""
    account = pool_module._Account()
    account.enter(0.001, 0.001, 0.5)  # alone it would have taken twice the time
    assert account.owed == 0.0
    assert account.balance == pytest.approx(0.001)
    for _ in range(100):
        account.enter(0.001, 0.001, 0.5)
    assert account.balance == account.CREDIT
    account.enter(0.004, 0.001, 0.5)  # waited for three of four milliseconds: alone it would have taken two
    assert account.owed == 0.0
    account.enter(0.011, 0.001, 0.5)
    assert account.owed == pytest.approx(account.PAYBACK * (0.009 - 0.003))
    assert account.balance == 0.0


def test_a_run_without_helpers_while_they_do_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "THREAD_WORK", 0)
    rng = np.random.default_rng(12)
    model = nets.random_model(rng, PixelInput.range(-1, 1), (33, 65, 3))
    x = nets.random_rows(rng, model, 300)
    plan, want = Plan(model, threads=2), nets.expected(model, x)[-1]
    assert nets.same(plan.run(x), want)
    started = len(pool()._threads)
    assert started
    roles: list[int] = []
    drive = pool()._drive
    monkeypatch.setattr(pool(), "_drive", lambda *arguments: (roles.append(arguments[0]), drive(*arguments))[1])
    monkeypatch.setattr(pool()._account, "owed", 1e-9)
    assert nets.same(plan.run(x), want)
    assert roles == [0]  # no control block: nobody to share with
    assert nets.same(plan.run(x), want)
    assert roles[1]  # paid back
