"""Inputs beside the first BatchNorm's statistics: which mapping of pixels a network was trained with."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from places import PACKAGE_DATA

from xnorinfer.converters import read_source
from xnorinfer.converters.evidence.inputmapping import MappingEvidence, apply_mapping, judge_mapping, option_of
from xnorinfer.converters.reading import INPUT, Assumption, ConvertOptions, Reading, Remark
from xnorinfer.errors import InputError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.values import InputMapping, PixelInput, RealInput, SignInput, ThresholdInput

RANGE = PixelInput.range
ENTERS: dict[str, tuple[InputMapping, Any]] = {
    "-1..1": (RANGE(-1, 1), lambda p: p / 127.5 - 1),
    "0..1": (RANGE(0, 1), lambda p: p / 255),
    "0..255": (RANGE(0, 255), lambda p: p),
    "normalized": (PixelInput.normalize(0.1307, 0.3081), lambda p: (p / 255 - 0.1307) / 0.3081),
    "threshold": (ThresholdInput(128), lambda p: np.where(p >= 128, 1.0, -1.0)),
}


@functools.cache
def images(seed: int, rows: int = 1500, depth: int = 100) -> NDArray[np.uint8]:
    """Pictures of strokes: mostly dark, a little grey at the edges, pixels that go together, a frame that never is drawn on."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(2, 8, (rows, 3, 2))
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10), indexing="ij"), -1).reshape(-1, 2)
    nearest = np.linalg.norm(grid[None, None] - centres[:, :, None], axis=-1).min(axis=1)
    return np.clip(900 - 500 * nearest, 0, 255).astype(np.uint8)[:, :depth]


def trained(enters: Any, mapping: InputMapping, *, bias: bool = True, inv_std: bool = False, h: float = 1.0) -> Net:
    """A network whose first BatchNorm saw the sums of `images(0)`."""
    rng = np.random.default_rng(1)
    latent = rng.uniform(-h, h, (48, 100)).astype(np.float32)
    shift = rng.normal(size=48).astype(np.float32) if bias else None
    sums = h * (enters(images(0).astype(np.float64)) @ np.where(latent >= 0, 1, -1).T) + (0 if shift is None else shift)
    mean, variance = sums.mean(axis=0).astype(np.float32), sums.var(axis=0).astype(np.float32)
    norm = ("bn", Norm(mean, None if inv_std else variance, 1 / np.sqrt(variance) if inv_std else None, epsilon=0.0))
    head = ("head", Linear(rng.uniform(-1, 1, (10, 48)).astype(np.float32), "ge"))
    return Net.chain(mapping, (("fc", Linear(latent, "ge", h, shift)), norm, ("sign", Quantize("ge")), head), "ge-zero")


def judged(net: Net, rows: Any) -> MappingEvidence:
    evidence = judge_mapping(net, rows)
    assert evidence is not None
    return evidence


@pytest.mark.parametrize("name", ENTERS)
@pytest.mark.parametrize("options", [{}, {"bias": False}, {"inv_std": True}, {"h": 0.05}], ids=str)
def test_the_right_mapping_is_confirmed_and_wrong_ones_are_not(name: str, options: dict[str, Any]) -> None:
    mapping, enters = ENTERS[name]
    right = judged(trained(enters, mapping, **options), images(2))
    assert right.confirmed
    assert right.fits[0] is right.assumed
    assert right.assumed.variance == pytest.approx(1, abs=0.2)
    assert right.assumed.offset < 0.2
    for other, (wrong, _) in ENTERS.items():
        evidence = judged(trained(enters, wrong, **options), images(2))
        # Images cut at 128 and grey ones are nearly one thing: statistics say that they cannot tell.
        alike = {name, other} <= {"-1..1", "threshold"}
        assert evidence.confirmed == (alike or other == name)
        assert evidence.fits[0].mapping == mapping
        if alike and other != name:
            assert mapping in [fit.mapping for fit in evidence.rivals]
            assert f"cannot tell it from {option_of(mapping)}" in evidence.describe()


def test_pixels_that_were_divided_already_and_signs() -> None:
    enters = ENTERS["normalized"][1]
    evidence = judged(trained(enters, RANGE(-1, 1)), images(2) / 255)
    assert evidence.best is not None
    assert evidence.best.mapping == PixelInput.normalize(0.1307, 0.3081)
    signs = np.where(images(2) >= 128, 1, -1)
    evidence = judged(trained(ENTERS["threshold"][1], SignInput()), signs)
    assert evidence.confirmed
    assert [fit.mapping for fit in evidence.fits] == [SignInput()]
    evidence = judged(trained(enters, RealInput()), enters(images(2).astype(np.float64)))
    assert evidence.confirmed


def test_inputs_that_are_binarized_one_by_one() -> None:
    pixels = images(0).astype(np.float64)
    norm = ("bn0", Norm(pixels.mean(axis=0).astype(np.float32), pixels.var(axis=0).astype(np.float32), epsilon=0.0))
    net = trained(ENTERS["threshold"][1], RANGE(-1, 1))
    net = Net.chain(RANGE(-1, 1), (norm, ("input.sign", Quantize("ge")), *net.named), "ge-zero")
    evidence = judged(net, images(2))
    assert evidence.norm == "bn0"
    assert evidence.contradicted
    assert evidence.fits[0].mapping == RANGE(0, 255)


def test_where_there_is_nothing_to_compare() -> None:
    net = trained(ENTERS["0..1"][1], RANGE(0, 1))
    assert judge_mapping(Net.chain(net.input, (net.named[0], *net.named[2:]), "ge-zero"), images(2)) is None
    with pytest.raises(InputError, match=r"shape \(1500, 90\).*rows of 100 numbers"):
        judge_mapping(net, images(2, depth=90))
    with pytest.raises(InputError, match="15 rows; at least 16"):
        judge_mapping(net, images(2)[:15])
    with pytest.raises(InputError, match="NaN"):
        judge_mapping(net, np.full((20, 100), np.nan))


def reading(net: Net, origin: Any) -> Reading:
    warnings = ("of something else", Remark("a default", INPUT))
    return Reading("torch", net, (), (Assumption(INPUT, net.input.describe(), origin),), warnings)


def test_a_default_is_replaced_and_what_is_stated_is_warned_about() -> None:
    mapping, enters = ENTERS["0..1"]
    net = trained(enters, RANGE(-1, 1))
    evidence = judged(net, images(2))
    found = apply_mapping(reading(net, "default"), evidence, ConvertOptions())
    assert found.net.input == mapping
    assert found.assumptions[0].origin == "data"
    assert "variance ratio 1" in found.assumptions[0].value
    assert found.warnings == ("of something else",)
    found = apply_mapping(reading(net, "option"), evidence, ConvertOptions(input=RANGE(-1, 1)))
    assert found.net.input == RANGE(-1, 1)
    assert found.warnings[-1].endswith("--input-range=0:1 says that")
    # A mapping that is confirmed, but not alone, is still a guess.
    net = trained(ENTERS["-1..1"][1], RANGE(-1, 1))
    found = apply_mapping(reading(net, "default"), judged(net, images(2)), ConvertOptions())
    assert found.net.input == RANGE(-1, 1)
    assert "cannot tell it from --input-threshold 128" in found.warnings[-1]
    found = apply_mapping(reading(net, "option"), judged(net, images(2)), ConvertOptions(input=RANGE(-1, 1)))
    assert found.warnings == ("of something else",)


def test_the_digits_network_confirms_its_own_mapping() -> None:
    found = read_source(PACKAGE_DATA / "digits-64-256-256-10.npz")
    with np.load(PACKAGE_DATA / "digits-test.npz") as archive:
        assert judged(found.net, archive["x"]).confirmed
