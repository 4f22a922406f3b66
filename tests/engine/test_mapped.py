"""Models whose bits stay in a mapped file: the same network, the same refusals, pages shared by processes."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import INPUTS, random_inputs, random_network
from places import ROOT
from waiting import HANGS

import xnorinfer
from xnorinfer.errors import ModelFileError
from xnorinfer.net.reference import forward
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_the_same_network(tmp_path: Path, name: str, tail: bool) -> None:
    net = random_network(2, [70, 65, 40, 6], INPUTS[name], float_tail=tail)
    path = tmp_path / "m"
    modelfile.save(lower(net).packed, path)
    path.chmod(0o444)
    mapped = modelfile.load(path, mapped=True)
    assert modelfile.header_of(mapped) == modelfile.header_of(modelfile.load(path))
    for _, array in mapped.tensors():
        assert not array.flags.writeable
        assert not array.flags.owndata
    model = xnorinfer.load(path, mapped=True)
    x = random_inputs(np.random.default_rng(0), net.input, 33, 70)
    want = forward(net, x)
    path.unlink()  # its pages live on
    assert (model.scores(x) == want).all()
    assert (model.margins(x).classes == want.argmax(axis=1)).all()
    assert (pickle.loads(pickle.dumps(model)).scores(x) == want).all()
    assert (copy.deepcopy(model).scores(x) == want).all()
    model.save(path)
    assert (xnorinfer.load(path).scores(x) == want).all()


def test_replacing_the_file_under_a_mapped_model_is_safe(tmp_path: Path) -> None:
    nets = [random_network(seed, [70, 65, 6], INPUTS["range"]) for seed in (1, 2)]
    path = tmp_path / "m"
    modelfile.save(lower(nets[0]).packed, path)
    mapped = modelfile.load(path, mapped=True)
    before = modelfile.header_of(mapped)
    modelfile.save(lower(nets[1]).packed, path)
    assert modelfile.header_of(mapped) == before
    assert modelfile.header_of(modelfile.load(path, mapped=True)) != before


def answer(path: Path, mapped: bool) -> str:
    """What loading gives, in full."""
    try:
        return str(modelfile.header_of(modelfile.load(path, mapped=mapped)))
    except ModelFileError as error:
        return f"{type(error).__name__}: {error}"


def test_damaged_files_are_refused_alike(tmp_path: Path) -> None:
    path = tmp_path / "m"
    modelfile.save(lower(random_network(3, [40, 20, 6], INPUTS["range"])).packed, path)
    good = path.read_bytes()
    for at in range(0, len(good), 41):
        changed = bytearray(good)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(changed)
        answers = [answer(path, mapped) for mapped in (False, True)]
        assert answers[0] == answers[1]


SHARER = """
import re, sys
import numpy as np
import xnorinfer
from xnorinfer.engine.model import random_inputs

model = xnorinfer.load(sys.argv[1], threads=1, mapped=True)
x = random_inputs(model.packed, 5, 0)
print(model.scores(x).tobytes().hex(), flush=True)
sys.stdin.readline()  # all have loaded
kib = {}
for part in open("/proc/self/smaps").read().split("VmFlags")[:-1]:
    if sys.argv[1] in part:
        for name, value in re.findall(r"(\\w+): +(\\d+) kB", part):
            kib[name] = kib.get(name, 0) + int(value)
print(kib["Size"], kib["Shared_Clean"], kib["Pss"], kib["Private_Dirty"] + kib["Private_Clean"], flush=True)
sys.stdin.readline()  # all have looked
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages as Linux counts them")
def test_processes_share_the_pages(tmp_path: Path) -> None:
    path = tmp_path / "m"
    modelfile.save(lower(random_network(4, [784, 2048, 2048, 10], INPUTS["range"])).packed, path)
    path.chmod(0o444)
    size_kib = path.stat().st_size // 1024
    command = [sys.executable, "-W", "ignore", "-c", SHARER, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": dict(os.environ)}
    running = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    scores = {child.stdout.readline() for child in running}
    assert len(scores) == 1
    assert scores != {""}
    for child in running:
        print("go", file=child.stdin, flush=True)
    counts = [list(map(int, child.stdout.readline().split())) for child in running]
    for child in running:
        child.communicate("go\n", timeout=HANGS)
        assert child.returncode == 0
    for mapped, shared, share, private in counts:
        assert mapped >= size_kib
        assert shared >= 0.95 * size_kib
        assert share <= 0.4 * size_kib + 8  # a third each
        assert private <= 8
