"""A new checkpoint source, made as the README's section says: one class, one entry in SOURCES, and everything knows it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import decide, random_layers
from command_line import fine, wrong

import xnorinfer
from xnorinfer import converters
from xnorinfer.converters.assemble import Defaults, LayerPart, assemble
from xnorinfer.converters.containers.arrays import RawTensor, as_float32
from xnorinfer.converters.reading import ConvertOptions, Notes, Reading, Source, TensorUse, net_line
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


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    source: Source = JsonSource()
    monkeypatch.setattr(converters, "SOURCES", (*converters.SOURCES, source))


def test_it_is_told_from_the_content_and_converted(tmp_path: Path) -> None:
    layers = random_layers([12, 9, 5], 1, bias=False, affine=False)
    stored = [{"weight": o.weight.tolist(), "mean": o.mean.tolist(), "variance": o.variance.tolist()} for o in layers]  # type: ignore[union-attr]
    path, model = tmp_path / "net.json", tmp_path / "net.safetensors"
    path.write_text(json.dumps(stored))
    said = fine("convert", path, "-o", model)
    assert "(format json)" in said
    assert "BatchNorm epsilon: nothing says it" in said  # what the default would change is measured without more ado
    assert "layers as lists of numbers in JSON" in " ".join(fine("convert", "--help").split())
    x = np.random.default_rng(2).integers(0, 256, (50, 12), dtype=np.uint8)
    expected, closest = decide(layers, 2 * x.astype(np.float64) / 255 - 1, epsilon=1e-3)
    assert closest > 1e-6
    np.testing.assert_allclose(xnorinfer.load(model).scores(x), expected, rtol=1e-5, atol=1e-5)
    assert "holds" in fine("verify", model, path)
    other = xnorinfer.convert(path, bn_epsilon=1e-5, input=PixelInput.range(0, 1), format="json")
    assert other.packed.provenance["options"]["format"] == "json"


def test_its_refusals_are_those_of_every_source(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    last = {"weight": [[1, 1, 1]], "mean": [0], "variance": [1]}
    path.write_text(json.dumps([{"weight": [[1, -1]]}, {"mean": [1]}, last]))
    text = wrong("convert", path, "-o", tmp_path / "m")
    assert "net.json cannot be converted (3 problems)" in text
