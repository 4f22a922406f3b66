"""`info` of networks that branch: lanes from which the graph can be read again, on any screen; the picture; times."""

from __future__ import annotations

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from branching_networks import PUBLISHED, random_branching_network
from command_line import fine, wrong
from conv_networks import MAPPINGS
from networks import INPUTS, random_network
from test_screens import WIDTHS, Terminal, on_terminal, too_long, words

from xnorinfer.cli.lanes import Row, lanes_of
from xnorinfer.graph import INPUT
from xnorinfer.packing import modelfile
from xnorinfer.packing.description import describe
from xnorinfer.packing.lower import lower

SVG = "{http://www.w3.org/2000/svg}"


def packed(kind: str):  # type: ignore[no-untyped-def]
    return lower(PUBLISHED[kind](3, MAPPINGS["range"])).packed


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("branching") / "reactnet.safetensors"
    modelfile.save(packed("reactnet"), path)
    return path


def read_back(lines: list[str]) -> list[set[int]]:
    """What every node reads, as a person follows the lines."""
    value = {0: INPUT}  # by lane
    found = []
    for index, line in enumerate(lines):
        (at,) = [place for place, char in enumerate(line) if char == "●"]
        reads = set()
        if at // 2 in value:
            reads.add(value.pop(at // 2))
        for way in (-1, 1):
            place = at + way
            while 0 <= place < len(line) and line[place] in "─│┼┴├┤╰╯" and (line[place] != "│" or line[place - way] == "─"):
                if line[place] in "┼┴├┤╰╯":
                    reads.add(value[place // 2])
                    if line[place] in "┴╰╯":
                        del value[place // 2]
                if line[place] in "├┤╰╯":
                    break
                place += way
        assert all(line[2 * lane] in "│┼├┤" for lane in value)
        value[at // 2] = index
        found.append(reads)
    return found


@pytest.mark.parametrize("seed", range(30))
def test_the_graph_can_be_read_from_the_lanes(seed: int) -> None:
    net = random_branching_network(seed, MAPPINGS["range"], joins=4 + seed % 20)
    reads = [node.inputs for node in net.nodes]
    rows = lanes_of(reads)
    assert read_back([row.text() for row in rows]) == [set(one) for one in reads]
    assert rows[-1].lane == 0 or len(rows[-1].below) == 0
    width = max(row.width for row in rows)
    assert {len(row.text(width)) for row in rows} == {2 * width - 1}


def test_lines_turn_meet_and_pass() -> None:
    def drawn(*reads: tuple[int, ...]) -> list[str]:
        return [row.text() for row in lanes_of(reads)]

    assert drawn((-1,), (0,), (1,)) == ["●", "●", "●"]
    # A shortcut around one node; a value that is added to itself; an input that is read twice.
    assert drawn((-1,), (0,), (1, 0), (2, 2)) == ["●", "├─●", "●─╯", "●"]
    assert drawn((-1,), (-1,), (0, 1)) == ["├─●", "● │", "●─╯"]
    # Three side by side, of which the middle goes on; a line past a lane.
    assert drawn((-1,), (0,), (0,), (0, 1, 2), (1, 3)) == ["●", "├─●", "├─│─●", "●─┼─╯", "●─╯"]
    assert lanes_of([(-1,), (0,), (0, 1)])[1] == Row(1, {0: False}, frozenset(), frozenset({0, 1}))


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("timed", [False, True])
def test_screens(timed: bool, width: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line fits, every word of a pipe is on the screen, every layer has its lanes."""
    monkeypatch.setattr("xnorinfer.cli.info.PROFILE_SECONDS", 0.01)
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8, 3), np.uint8))
    arguments = ["info", model, *(["--profile", tmp_path / "x.npy"] if timed else [])]
    text = on_terminal(monkeypatch, width, *arguments)
    assert not too_long(text, width)
    layers = describe(modelfile.load(model))["layers"]
    nodes = [line for line in text.splitlines() if "●" in line]
    assert [re.split(r"[●│├─┤┼┴╯╰ ]+", line, maxsplit=1)[1].split()[0] for line in nodes] == [one["name"] for one in layers]
    plain = [re.match(r"[●│├─┤┼┴╯╰ ]+", line)[0].rstrip() for line in nodes]  # type: ignore[index]
    assert read_back(plain) == [set(one["from"]) for one in layers]
    said = {word.strip(";,") for word in words(text)}
    sizes = {f"{number} KiB" for number in re.findall(r"([\d.]+) KiB", fine("info", model))}
    assert {size.split()[0] for size in sizes} <= said
    assert ("the whole run" in " ".join(text.split())) == timed
    assert ("reads" in said) == (width == 140)


def test_a_screen_of_ascii(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii", raising=False)
    text = on_terminal(monkeypatch, 50, "info", model)
    assert text.isascii()
    assert "|-*  quantize3" in text


def test_times_in_json_are_of_the_layers(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xnorinfer.cli.info.PROFILE_SECONDS", 0.01)
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8, 3), np.uint8))
    info = json.loads(fine("info", model, "--profile", tmp_path / "x.npy", "--json"))
    assert [node["name"] for node in info["times"]["nodes"]] == [layer["name"] for layer in info["layers"]]
    assert info["times"]["batch"] == info["times"]["threads"] == 1
    assert sum(node["share"] for node in info["times"]["nodes"]) == pytest.approx(1)
    assert all(layer["gives_bytes"] > 0 for layer in info["layers"])
    assert "times" not in json.loads(fine("info", model, "--json"))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 3), np.uint8))
    assert "none.npy: no samples; --profile times the first one" in wrong("info", model, "--profile", tmp_path / "none.npy")


def test_a_chain_that_binarizes_its_inputs_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands before the layers is told below them."""
    monkeypatch.setattr("xnorinfer.cli.info.PROFILE_SECONDS", 0.01)
    net = random_network(2, (20, 30, 10), INPUTS["threshold"])
    modelfile.save(lower(net).packed, tmp_path / "m.safetensors")
    np.save(tmp_path / "x.npy", np.zeros((1, net.depth), np.uint8))
    text = fine("info", tmp_path / "m.safetensors", "--profile", tmp_path / "x.npy", "--svg", tmp_path / "m.svg")
    assert re.search(r" together, [\d.]+ us for \S+; the whole run ", text)
    assert "●" not in text
    assert len(boxes(tmp_path / "m.svg")) == 1 + len(json.loads(fine("info", tmp_path / "m.safetensors", "--json"))["layers"])


# ---------------------------------------------------------------- the picture


def boxes(path: Path) -> list[tuple[float, float, float, float]]:
    """Left, top, right and bottom of every box."""
    root = ElementTree.parse(path).getroot()
    found = []
    for group in root.iter(f"{SVG}g"):
        rect = group.find(f"{SVG}rect")
        assert rect is not None
        left, top, width, height = (float(rect.attrib[key]) for key in ("x", "y", "width", "height"))
        found.append((left, top, left + width, top + height))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_no_line_of_the_picture_crosses_a_box(seed: int, tmp_path: Path) -> None:
    made = lower(random_branching_network(seed, MAPPINGS["range"], joins=12)).packed
    modelfile.save(made, tmp_path / "m.safetensors")
    fine("info", tmp_path / "m.safetensors", "--svg", tmp_path / "m.svg")
    places = boxes(tmp_path / "m.svg")
    root = ElementTree.parse(tmp_path / "m.svg").getroot()
    assert len(places) == 1 + len(made.layers)
    edges = [edge.attrib["d"] for edge in root.iter(f"{SVG}path") if edge.get("class") == "edge"]
    assert len(edges) == sum(len(set(node.inputs)) for node in made.layers)
    for edge in edges:
        x, y = map(float, edge[1:].split("V")[0].split())
        for way, text in re.findall(r"([VH])([\d.]+)", edge[1:]):
            to = (float(text), y) if way == "H" else (x, float(text))
            for left, top, right, bottom in places:
                low, high = (min(x, to[0]), min(y, to[1])), (max(x, to[0]), max(y, to[1]))
                assert not (high[0] > left and low[0] < right and high[1] > top and low[1] < bottom), edge
            x, y = to


def test_names_in_the_picture_are_escaped_and_shortened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xnorinfer.cli.svg import ROOM, picture

    info = describe(packed("quicknet"))
    info["layers"][0]["name"] = "<b>&" + "x" * 100 + "\n\x07"
    root = ElementTree.fromstring(picture(info))
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert max(map(len, texts)) <= ROOM
    assert any(text.startswith("<b>&xxx") and text.endswith("...") for text in texts)
    assert any("x" * 100 + "\\n\\x07" in (title.text or "") for title in root.iter(f"{SVG}title"))


def test_the_picture_is_no_model(model: Path) -> None:
    before = model.read_bytes()
    assert "reactnet.safetensors" in wrong("info", model, "--svg", model)
    assert model.read_bytes() == before
