"""`verify` proves what is equal and finds, by name and place, what is not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from networks import INPUTS, random_inputs, random_network
from packed_networks import network, with_layer

from xnorinfer.conversion import convert_file
from xnorinfer.converters.reading import ConvertOptions, Reading
from xnorinfer.engine.model import Model
from xnorinfer.errors import SourceError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.reference import forward
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, ThresholdInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.canonical import canonical_mapping
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Affine, Binarize, Dot, Threshold
from xnorinfer.proof.equal import verify


def write_npz(net: Net, path: Path) -> None:
    """The documented layout with names."""
    arrays: dict[str, np.ndarray] = {}
    index = -1
    for layer in net.ops:
        if isinstance(layer, Linear):
            index += 1
            arrays[f"{index}.weight"] = layer.weight
            for name in ("bias", "scale"):
                if getattr(layer, name) is not None:
                    arrays[f"{index}.{name}"] = getattr(layer, name)
        elif isinstance(layer, Norm):
            parts = {
                "gamma": layer.gamma,
                "beta": layer.beta,
                "mean": layer.mean,
                "var": layer.variance,
                "inv_std": layer.inv_std,
            }
            arrays.update({f"{index}.bn.{name}": part for name, part in parts.items() if part is not None})
    np.savez(path, **arrays)


def convert(folder: Path, mapping: InputMapping, *, tail: bool = False, form: str = "tf") -> tuple[Path, Path]:
    """A checkpoint and the model it converts to."""
    net = random_network(11, [40, 70, 65, 6], mapping, float_tail=tail, form=form)  # type: ignore[arg-type]
    source, target = folder / "net.npz", folder / "net.safetensors"
    write_npz(net, source)
    floats = ("2",) if tail else ()
    options = ConvertOptions(profile="tf1-round", bn_epsilon=1e-4, input=mapping, float_layers=floats)
    modelfile.save(convert_file(source, options).packed, target)
    return target, source


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_what_was_converted_holds(tmp_path: Path, name: str, tail: bool) -> None:
    target, source = convert(tmp_path, INPUTS[name], tail=tail)
    seen: list[tuple[str, int, int]] = []
    result = verify(target, source, rows=40, progress=lambda *step: seen.append(step))
    assert result.holds
    assert result.first_difference is None
    assert (result.rows, result.differing_rows, result.data) == (40, 0, "random")
    hidden = result.layers[-2]  # of real inputs with a scale of 0, signs stand between
    assert not any(proof.differences for proof in result.layers)
    assert (hidden.values, hidden.method) == (71, "every value")
    assert result.source_unchanged
    assert result.to_json()["holds"] is True
    assert seen[-1] == ("comparing on data", 40, 40)


def test_lasagne_form_holds(tmp_path: Path) -> None:
    target, source = convert(tmp_path, INPUTS["range"], form="lasagne")
    assert verify(target, source, rows=10).holds


def test_given_data_is_compared_whole(tmp_path: Path) -> None:
    target, source = convert(tmp_path, INPUTS["range"])
    data = random_inputs(np.random.default_rng(3), INPUTS["range"], 700, 40).reshape(700, 5, 8)
    result = verify(target, source, data)
    assert result.holds
    assert (result.rows, result.data) == (700, "given")


def test_scores_that_are_nan_hold(tmp_path: Path) -> None:
    """A scale of 0 makes them of infinite sums."""
    norm = Norm(np.zeros(3, np.float32), np.ones(3, np.float32), gamma=np.array([1, 0, 0], np.float32), epsilon=1e-4)
    net = Net.chain(RealInput(), [("fc", Linear(np.ones((3, 4), np.float32), "ge")), ("bn", norm)], "ge-zero")
    source, target = tmp_path / "net.npz", tmp_path / "net.safetensors"
    write_npz(net, source)
    options = ConvertOptions(profile="ge-zero", bn_epsilon=1e-4, input=RealInput())
    modelfile.save(convert_file(source, options).packed, target)
    x = np.array([[3e38] * 4, [-3e38] * 4, [1, 2, 3, 4]], np.float32)
    assert np.isnan(forward(net, x)).any(axis=1).tolist() == [True, True, False]
    result = verify(target, source, x)
    assert result.holds
    assert (result.rows, result.differing_rows) == (3, 0)


@pytest.mark.parametrize("name", ["range", "reals"])
def test_inputs_binarized_one_by_one_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    net = random_network(4, [40, 70, 6], INPUTS[name], binarize_input=True)
    monkeypatch.setattr("xnorinfer.converters.read_source", lambda path, options: Reading("test", net, (), ()))
    source, target = tmp_path / "source", tmp_path / "model"
    source.write_bytes(b"")
    packed = lower(net).packed
    modelfile.save(packed, target)
    result = verify(target, source, rows=50)
    assert result.holds
    assert [proof.kind for proof in result.layers] == ["input", "binary", "binary"]
    first = packed.binarize
    assert first is not None
    mirrored = first.op.mirrored.copy()
    mirrored[7] ^= True
    wrong = dataclasses.replace(first, op=Binarize(first.op.limits, mirrored))
    modelfile.save(dataclasses.replace(packed, nodes=(wrong, *packed.nodes[1:])), target)
    result = verify(target, source, rows=50)
    assert not result.holds
    assert result.first_difference is not None
    assert result.first_difference.startswith("input.sign: neuron 7 at accumulator")


@pytest.mark.parametrize("mapping", [PixelInput.range(-1, 1), PixelInput.range(1, -1), PixelInput.range(0, 255)])
def test_one_threshold_for_all_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapping: PixelInput) -> None:
    """A sign of all inputs at one pixel is stored as that threshold's network is; models of older versions stay right."""
    inner = random_network(4, [40, 30, 6], INPUTS["threshold"], rule="ge").named
    norm = (
        "bn",
        Norm(np.full(40, mapping.ends[0] / 2 + mapping.ends[1] / 2, np.float32), np.ones(40, np.float32), epsilon=0.0),
    )
    net = Net.chain(mapping, (norm, ("input.sign", Quantize("ge")), *inner), "ge-zero")
    monkeypatch.setattr("xnorinfer.converters.read_source", lambda path, options: Reading("test", net, (), ()))
    source, target = tmp_path / "source", tmp_path / "model"
    source.write_bytes(b"")
    packed = lower(net).packed
    assert packed.input == ThresholdInput(128)
    assert packed.binarize is not None
    assert packed.binarize.op.threshold == 128
    x = np.random.default_rng(0).integers(0, 256, (200, 40), dtype=np.uint8)
    assert (Model(packed).scores(x) == forward(net, x)).all()
    if mapping.slope > 0:
        same = lower(Net.chain(ThresholdInput(128), inner, "ge-zero")).packed
        assert modelfile.header_of(packed)["content_digest"] == modelfile.header_of(same)["content_digest"]
    modelfile.save(packed, target)
    result = verify(target, source, rows=50, with_sensitivity=True)
    assert result.holds
    assert (result.layers[0].kind, result.layers[0].compared) == ("input", 256 * 40)
    modelfile.save(network(ThresholdInput(127), [(node.name, node.op) for node in packed.layers]), target)
    assert not verify(target, source, rows=50).holds
    # As versions before kept it: a limit for each input.
    falls = mapping.slope < 0
    bits = Binarize(np.full(40, 127 if falls else -128, np.int32), np.full(40, not falls))
    weights = lower(Net.chain(ThresholdInput(128), inner, "ge-zero")).packed.layers
    older = network(canonical_mapping(mapping), [("input.sign", bits), *((node.name, node.op) for node in weights)])
    modelfile.save(older, target)
    assert verify(target, source, rows=50).holds
    assert (Model(older).scores(x) == forward(net, x)).all()


def nudge_limit(layer: Dot) -> Dot:
    assert isinstance(layer.output, Threshold)
    limits = layer.output.limits.copy()
    live = int(np.argmax((limits > 0) & (limits < layer.depth)))
    limits[live] += 1
    return dataclasses.replace(layer, output=Threshold(limits))


def nudge_weight(layer: Dot) -> Dot:
    weights = layer.weights.copy()
    weights[5, 0] ^= np.uint64(1 << 9)
    return dataclasses.replace(layer, weights=weights)


def nudge_steps(layer: Dot) -> Dot:
    assert isinstance(layer.output, Affine)
    values = layer.output.values.copy()
    values[-1, 0, 2] = np.nextafter(values[-1, 0, 2], np.float32(np.inf))
    return dataclasses.replace(layer, output=Affine(layer.output.ops, values))


@pytest.mark.parametrize(
    ("index", "nudge", "message"),
    [
        (1, nudge_limit, "1: neuron [0-9]+ at accumulator .*: the source has .* before sign, the model decides"),
        (0, nudge_limit, "0: neuron [0-9]+ at accumulator"),
        (0, nudge_weight, "0: weight bits of neuron 5 differ from its latents, first at input 9"),
        (1, nudge_weight, "1: weight bits of neuron 5 differ"),
        (2, nudge_steps, "2: output 2 at accumulator"),
    ],
)
def test_one_nudged_value_is_found(tmp_path: Path, index: int, nudge: Callable[[Dot], Dot], message: str) -> None:
    target, source = convert(tmp_path, INPUTS["range"])
    packed = modelfile.load(target)
    modelfile.save(with_layer(packed, index, nudge(packed.layers[index].op)), target)
    result = verify(target, source, rows=20)
    assert not result.holds
    assert result.layers[index].differences > 0
    assert result.first_difference is not None
    assert re.match(message, result.first_difference), result.first_difference


def test_another_checkpoint_does_not_hold(tmp_path: Path) -> None:
    target, source = convert(tmp_path, INPUTS["range"])
    write_npz(random_network(12, [40, 70, 65, 6], INPUTS["range"]), source)
    result = verify(target, source, rows=5)
    assert not result.holds
    assert not result.source_unchanged
    write_npz(random_network(12, [40, 70, 6], INPUTS["range"]), source)
    result = verify(target, source, rows=5)
    assert not result.holds
    assert result.first_difference == "the model has 3 layers, the source 2"


def test_a_missing_source_is_one_error(tmp_path: Path) -> None:
    target, source = convert(tmp_path, INPUTS["range"])
    source.unlink()
    with pytest.raises(SourceError, match=r"net\.npz"):
        verify(target, source)
