"""Drafts of graphs with nodes that are not known: all others are written, those say what they read, and once somebody has said
what they compute, the network is that of the same graph with such nodes."""

from __future__ import annotations

import re
from pathlib import Path

import mxnet_files
import numpy as np
import pytest
from command_line import run
from test_bad_graphs import WRITERS, read

from xnorinfer.converters import ConvertOptions, read_source
from xnorinfer.errors import NetworkError
from xnorinfer.net.ops import Steps
from xnorinfer.net.reference import forward

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks that write files
GRAPHS = ("onnx", "torch.export", "TorchScript", "Keras", "TensorFlow Lite")
OPEN = re.compile(r"^open = .*$", re.MULTILINE)


def draft(folder: Path, source: str, kind: str) -> tuple[Path, str]:
    """The file, and its draft."""
    path = WRITERS[source](folder, kind)
    done = run("convert", path, "--dry-run", "--write-net", folder / "net.toml", "--input-range", "-1:1")
    assert done.exit_code == 2
    assert "a draft" in done.output
    return path, (folder / "net.toml").read_text()


def told_back(path: Path) -> str:
    """What is said of the draft itself."""
    done = run("convert", path, "--dry-run", "--net", path.with_name("net.toml"))
    assert done.exit_code == 2
    return done.stderr


def answered(text: str, answer: str, idle: str = "") -> str:
    """A draft with an answer for everything that is open, and what nothing uses."""
    text = re.sub(r"^draft = true.*\n", idle, text, flags=re.MULTILINE)
    return OPEN.sub(answer, text)


@pytest.mark.parametrize("source", GRAPHS)
def test_answers_complete_a_draft(source: str, tmp_path: Path) -> None:
    (tmp_path / "known").mkdir()
    path, text = draft(tmp_path, source, "unknown")
    if source == "TensorFlow Lite":  # an operator that spreads a norm over a map, in parts; one of them is not known
        assert len(OPEN.findall(text)) >= 1
        assert "open: " in told_back(path)
        return
    assert len(OPEN.findall(text)) == 2
    assert "[[layers]]" not in text
    told = told_back(path)
    assert "draft: is true" in told
    assert len(re.findall(r"nodes\[\d+\]\.open: \S+ is not .*; say what it computes, in a node or several", told)) == 2
    idle = 'ignore = ["g", "zero", "one", "minus"]\n' if source == "onnx" else ""
    text = re.sub(r"^ignore = \[.*?\]\n", "", text, flags=re.MULTILINE | re.DOTALL) if idle else text
    found = read_source(path, ConvertOptions(net=answered(text, "steps = [{tanh = true}]", idle)))
    wanted = read(WRITERS[source](tmp_path / "known", "known"))
    rows = np.random.default_rng(0).integers(0, 256, (40, found.net.depth), dtype=np.uint8)
    assert (forward(found.net, rows) == forward(wanted.net, rows)).all()
    assert len(np.unique(forward(found.net, rows), axis=0)) > 1


@pytest.mark.parametrize("source", ["SavedModel", "frozen"])
def test_answers_complete_a_draft_of_tensorflow(source: str, tmp_path: Path) -> None:
    """Whose graph says in parts what a layer computes."""
    path, text = draft(tmp_path, source, "unknown")
    assert [re.split(r"[/\"]", name)[-2] for name in re.findall(r"^name = (.*)\n.*\nopen = ", text, re.MULTILINE)] == [
        "ResizeNearestNeighbor",
        "Sum",
        "Rsqrt",
    ]
    found = read_source(path, ConvertOptions(net=answered(text, "steps = [{tanh = true}]")))
    rows = np.random.default_rng(0).integers(0, 256, (40, found.net.depth), dtype=np.uint8)
    assert len(np.unique(forward(found.net, rows), axis=0)) > 1


def test_answers_complete_a_draft_of_a_symbol(tmp_path: Path) -> None:
    def written(name: str, operation: str, **said: str) -> Path:
        rng, net = np.random.default_rng(2), mxnet_files.Symbol()
        net.nodes[0]["attrs"] = {"__shape__": "(1, 2, 5, 4)"}
        net.conv("stem", rng.normal(size=(4, 2, 3, 3)).astype(np.float32), binary=False, pad=(1, 1))
        net.add(operation, "act", **said)
        net.add("QActivation", "signs", act_bit=1)
        net.add("Flatten", "flat")
        net.dense("fc", rng.uniform(-1, 1, (3, 80)).astype(np.float32))
        return net.write(tmp_path, name)

    path, wanted = written("unknown", "erfinv"), read(written("known", "Activation", act_type="tanh"), input_shape=None)
    done = run("convert", path, "--dry-run", "--write-net", tmp_path / "net.toml", "--input-range", "-1:1")
    assert done.exit_code == 2
    text = (tmp_path / "net.toml").read_text()
    assert len(OPEN.findall(text)) == 1
    found = read_source(path, ConvertOptions(net=answered(text, "steps = [{tanh = true}]")))
    rows = np.random.default_rng(0).integers(0, 256, (40, found.net.depth), dtype=np.uint8)
    assert (forward(found.net, rows) == forward(wanted.net, rows)).all()


@pytest.mark.parametrize("source", ["onnx", "torch.export", "TorchScript", "Keras"])
def test_a_node_that_joins_says_all_that_it_reads(source: str, tmp_path: Path) -> None:
    path, text = draft(tmp_path, source, "unlike")
    (match,) = re.findall(r'^inputs = \["([^"]+)", "([^"]+)"\]\nopen = "(.*?)"', text, re.MULTILINE)
    assert all(f'name = "{name}"' in text for name in match[:2])
    assert re.match(r"adds values 6 x 6 x 8 and \d x \d x 8 and not two of one shape", match[2])
    told = told_back(path)
    assert "adds values 6 x 6 x 8 and" in told
    assert "inputs: " not in told


def test_only_who_asks_for_a_draft_waits_for_it(tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as caught:
        read(WRITERS["onnx"](tmp_path, "unknown"))
    assert callable(caught.value.understood)
    reading = caught.value.understood()
    assert {name: one.inputs for name, one in reading.open.items()} == {
        "Det_e": ("Det_e.steps",),
        "Loop_h": ("Conv_c.steps",),
    }
    assert [node.name for node in reading.net.nodes if isinstance(node.op, Steps) and not node.op.steps] == [*reading.open]


def test_open_is_a_text_and_excludes_nothing_else(tmp_path: Path) -> None:
    path, text = draft(tmp_path, "onnx", "unknown")
    for line, reason in (("open = 3", "open: "), ('open = "it"\nsign = true', "open: Det_e it; say what it computes")):
        with pytest.raises(NetworkError) as caught:
            read_source(path, ConvertOptions(net=answered(text, line)))
        assert any(reason in problem for problem in caught.value.problems)
