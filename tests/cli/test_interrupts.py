"""Ctrl-C: commands end soon, with one line and no unfinished file.  `python tests/tools/interrupts.py` measures how soon."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import interrupts
import pytest
from waiting import HANGS

from xnorinfer.cli import _interrupted
from xnorinfer.cli.stopping import Stopping

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, interrupts.Case]:
    return {case.name: case for case in interrupts.cases(tmp_path_factory.mktemp("cases"))}


@pytest.mark.parametrize(
    ("name", "delay"),
    [
        ("run", 0.2),
        ("run", 1.0),
        ("run, compiling", 1.0),
        ("run, compiling", 2.0),
        ("run, convolutions", 1.5),
        ("convert", 0.25),
    ],
)
def test_commands(cases: dict[str, interrupts.Case], name: str, delay: float) -> None:
    _, code, errors, left = interrupts.interrupted(cases[name], delay)
    assert interrupts.wrong(code, errors, left) is None
    assert code != 0 or name == "convert"  # the others have work for minutes


@pytest.mark.parametrize("first", ["the thread", "the command"])
def test_what_ends_late_is_said_once(first: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The thread gives a command up in the moment in which it ends by itself."""
    monkeypatch.setattr(os, "_exit", lambda code: None)
    state = Stopping()
    if first == "the command":
        _interrupted(state)
    state._end_process(signal.SIGINT)
    _interrupted(state)
    assert capfd.readouterr().err == "interrupted\n"


#: What a library may do to an exception in a callback, and what it may make of one.
STUBBORN = """
import sys, time
from pathlib import Path
import click
from xnorinfer.cli import CommandLine
from xnorinfer.files import replacing

class Stubborn(CommandLine):
    def get_command(self, ctx, name):
        return command

class Finalized:
    def __del__(self):
        time.sleep(100)

Finalized.only = Finalized()

@click.command()
def command():
    with replacing(Path(sys.argv[2])) as stream:
        stream.write(b"half")
        stream.flush()
        print("ready", flush=True)
        if sys.argv[1] == "finalizes":
            del Finalized.only
        while True:
            try:
                time.sleep(100)
            except KeyboardInterrupt:
                if sys.argv[1] == "converts":
                    raise RuntimeError("no compiled object yet")

@click.group(cls=Stubborn)
def main():
    pass

main(["command"])
"""


@pytest.mark.parametrize(
    ("how", "number"),
    [
        ("converts", signal.SIGINT),
        ("swallows", signal.SIGINT),
        ("finalizes", signal.SIGINT),
        ("converts", signal.SIGTERM),
        ("finalizes", signal.SIGTERM),
    ],
)
def test_lost_exceptions(tmp_path: Path, how: str, number: signal.Signals) -> None:
    """Python drops exceptions in finalizers and callbacks from C; an interrupted import fails with another one."""
    interrupts.require_interruptible()
    running = subprocess.Popen(
        [sys.executable, "-c", STUBBORN, how, str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    _, errors = running.communicate(timeout=HANGS)
    assert (running.returncode, errors) == (128 + number, "interrupted\n" if number == signal.SIGINT else "")
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Only when it is old, ours by its name, and held by nobody."""
    import fcntl

    from xnorinfer.files import write_bytes

    names = [f".xnorinfer-{digit * 16}.part" for digit in "012"]
    for name in (*names, ".xnorinfer-x.part", ".part"):
        (tmp_path / name).write_bytes(b"half")
        if name != names[2]:
            os.utime(tmp_path / name, (time.time() - 1000,) * 2)
    with (tmp_path / names[1]).open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_bytes(tmp_path / "out", b"whole")
    assert sorted(os.listdir(tmp_path)) == sorted([*names[1:], ".xnorinfer-x.part", ".part", "out"])
