"""A new checkpoint source, as docs/extending.md makes one: one class, one entry in SOURCES or one entry point of another
package, and everything knows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import decide, random_layers
from command_line import CHECKPOINT, fine, wrong

import xnorinfer
from xnorinfer import converters
from xnorinfer.converters.assemble import Defaults, assemble
from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.networkparts import LayerPart
from xnorinfer.converters.reading import ConvertOptions, Notes, Reading, Source, TensorUse, net_line
from xnorinfer.errors import SourceError
from xnorinfer.net.ops import Norm
from xnorinfer.net.values import PixelInput


class JsonSource:
    """Layers as lists of numbers: [{"weight": [[...]], "mean": [...], "variance": [...]}, ...]."""

    name = "json"
    meaning = "layers as lists of numbers in JSON"

    def sniff(self, path: Path) -> bool:
        return path.suffix == ".json" and path.is_file()

    def read(self, path: Path, options: ConvertOptions) -> Reading:
        notes, problems, parts = Notes(), list[str](), list[LayerPart]()
        for index, stored in enumerate(json.loads(path.read_text())):
            found = {}
            for name, values in stored.items():
                tensor = RawTensor(f"{index}.{name}", np.array(values), "decimal")
                notes.tensors.append(TensorUse(tensor.name, tensor.shape, tensor.dtype, f"{index}: {name}"))
                found[name] = as_float32(RawTensor(tensor.name, tensor.array, "decimal"), [])
            if "weight" not in found:
                problems.append(f"layer {index} has no weight" + net_line('weight = "..."'))
                continue
            after = ((f"{index}.norm", Norm(found["mean"], found["variance"])),) if "mean" in found else ()
            parts.append(LayerPart(str(index), found["weight"], after=after))
        defaults = Defaults("ge-zero", "tf", 1e-3, "as everybody has it")
        return assemble(self.name, path.name, parts, options, defaults, notes, problems)


def install(monkeypatch: pytest.MonkeyPatch, folder: Path, entry: str) -> None:
    """A package beside the others, as pip leaves it, with one entry point."""
    info = folder / "jsonnets-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: jsonnets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[xnorinfer.sources]\n{entry}\n")
    monkeypatch.syspath_prepend(folder)


@pytest.fixture(params=["of this package", "of another package"])
def _registered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source: Source = JsonSource()
    if request.param == "of this package":
        monkeypatch.setattr(converters, "SOURCES", (*converters.SOURCES, source))
    else:
        install(monkeypatch, tmp_path / "site", f"json = {__name__}:JsonSource")


@pytest.mark.usefixtures("_registered")
def test_it_is_told_from_the_content_and_converted(tmp_path: Path) -> None:
    layers = random_layers([12, 9, 5], 1, bias=False, affine=False)
    stored = [{"weight": o.weight.tolist(), "mean": o.mean.tolist(), "variance": o.variance.tolist()} for o in layers]  # type: ignore[union-attr]
    path, model = tmp_path / "net.json", tmp_path / "net.safetensors"
    path.write_text(json.dumps(stored))
    said = fine("convert", path, "-o", model)
    assert "(format json)" in said
    # What the default would change is measured without more ado.
    assert "BatchNorm epsilon (the small number that is added to a variance): the file does not say it" in said
    assert "layers as lists of numbers in JSON" in " ".join(fine("convert", "--help").split())
    x = np.random.default_rng(2).integers(0, 256, (50, 12), dtype=np.uint8)
    expected, closest = decide(layers, 2 * x.astype(np.float64) / 255 - 1, epsilon=1e-3)
    assert closest > 1e-6
    np.testing.assert_allclose(xnorinfer.load(model).scores(x), expected, rtol=1e-5, atol=1e-5)
    assert "holds" in fine("verify", model, path)
    other = xnorinfer.convert(path, bn_epsilon=1e-5, input=PixelInput.range(0, 1), format="json")
    assert other.packed.provenance["options"]["format"] == "json"


@pytest.mark.usefixtures("_registered")
def test_its_refusals_are_those_of_every_source(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    last = {"weight": [[1, 1, 1]], "mean": [0], "variance": [1]}
    path.write_text(json.dumps([{"weight": [[1, -1]]}, {"mean": [1]}, last]))
    text = wrong("convert", path, "-o", tmp_path / "m")
    assert "net.json cannot be converted (3 problems)" in text


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("json = nowhere_at_all:JsonSource", "cannot be loaded: ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("json = json:dumps", r"is none: it needs name, meaning, sniff\(path\) and read\(path, options\)"),
        (f"net = {__name__}:JsonSource", "calls itself json; its entry point must have that name"),
        (f"npz = {__name__}:JsonSource", "has the name of another one"),
    ],
)
def test_a_source_of_another_package_that_is_none_is_named_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str
) -> None:
    install(monkeypatch, tmp_path / "site", entry)
    (tmp_path / "net.json").write_text("[]")
    with pytest.raises(SourceError, match=f"the checkpoint source {entry.split()[0]} of the package jsonnets {message}"):
        xnorinfer.convert(tmp_path / "net.json")
    assert xnorinfer.convert(CHECKPOINT)  # what this package reads needs no other
