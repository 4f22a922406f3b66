"""`Model` as a user holds it: every kind of network equals the reference, and every odd input is taken or refused clearly."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import INPUTS, random_inputs, random_network

import xnorinfer
from xnorinfer.engine.model import Model, inputs_of
from xnorinfer.errors import InputError, KernelError, OptionError
from xnorinfer.net.ops import NORM_FORMS
from xnorinfer.net.reference import forward
from xnorinfer.net.values import PixelInput
from xnorinfer.packing.lower import lower


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("form", NORM_FORMS)
@pytest.mark.parametrize("name", INPUTS)
def test_scores_equal_the_reference(name: str, form: Any, tail: bool) -> None:
    net = random_network(len(name), [50, 130, 70, 65, 10], INPUTS[name], form=form, float_tail=tail)
    model = Model(lower(net).packed)
    x = random_inputs(np.random.default_rng(0), net.input, 90, 50)
    scores = model.scores(x)
    assert scores.dtype == np.float32
    assert (scores == forward(net, x)).all()
    assert (model.predict(x) == forward(net, x).argmax(axis=1)).all()


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("rule", ["round-even", "round-away", "ge", "gt", "sign"])
def test_a_float_layer_that_reads_signs(name: str, rule: Any) -> None:
    net = random_network(5, [50, 130, 65, 10], INPUTS[name], float_tail=True, tail_reads="sign", chains=True, rule=rule)
    x = random_inputs(np.random.default_rng(0), net.input, 33, 50)
    assert (Model(lower(net).packed).scores(x) == forward(net, x)).all()


@pytest.mark.parametrize("form", NORM_FORMS)
@pytest.mark.parametrize("name", ["range", "raw", "inverted", "normalize", "reals"])
def test_inputs_binarized_one_by_one(name: str, form: Any, tmp_path: Path) -> None:
    net = random_network(8, [50, 130, 65, 10], INPUTS[name], form=form, binarize_input=True)
    model = Model(lower(net).packed)
    x = random_inputs(np.random.default_rng(0), net.input, 300, 50)
    assert (model.scores(x) == forward(net, x)).all()
    model.save(tmp_path / "m")
    assert (xnorinfer.load(tmp_path / "m").scores(x) == forward(net, x)).all()


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_chains_of_operations(name: str, tail: bool) -> None:
    net = random_network(6, [50, 130, 65, 10], INPUTS[name], float_tail=tail, chains=True)
    x = random_inputs(np.random.default_rng(0), net.input, 33, 50)
    assert (Model(lower(net).packed).scores(x) == forward(net, x)).all()


@settings(max_examples=40)
@given(
    widths=st.lists(st.integers(1, 140), min_size=2, max_size=5),
    rows=st.integers(0, 40),
    name=st.sampled_from(sorted(INPUTS)),
    rule=st.sampled_from(["round-even", "round-away", "ge", "gt"]),
    form=st.sampled_from(NORM_FORMS),
    h=st.sampled_from([1.0, 0.0213]),
    seed=st.integers(0, 2**16),
)
def test_any_network_equals_the_reference(
    widths: list[int], rows: int, name: str, rule: Any, form: Any, h: float, seed: int
) -> None:
    net = random_network(seed, widths, INPUTS[name], rule=rule, form=form, h=h)
    x = random_inputs(np.random.default_rng(seed), net.input, rows, widths[0])
    assert (Model(lower(net).packed).scores(x) == forward(net, x)).all()


def model_for(name: str = "range", depth: int = 16) -> Model:
    return Model(lower(random_network(3, [depth, 20, 4], INPUTS[name])).packed)


def pixels(rows: int = 5, depth: int = 16) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (rows, depth), dtype=np.uint8)


def test_every_layout_of_the_same_pixels_gives_the_same_scores() -> None:
    model, x = model_for(), pixels()
    want = model.scores(x)
    read_only = x.copy()
    read_only.setflags(write=False)
    variants: list[Any] = [
        np.asfortranarray(x),
        np.repeat(x, 2, axis=0)[::2],
        np.hstack([x, x])[:, :16],
        read_only,
        x.reshape(5, 4, 4),
        x.reshape(5, 1, 4, 4),
        x.astype(np.int64),
        x.astype(">i4"),
        x.tolist(),
        (x / 255 * 2 - 1).astype(np.float32),
        np.float32(2) * (x.astype(np.float32) / np.float32(255)) - np.float32(1),
        x.astype(np.float64) * (2 / 255) - 1,
        (x / 255 * 2 - 1).astype(">f4"),
    ]
    for variant in variants:
        assert (model.scores(variant) == want).all()


@pytest.mark.parametrize("rows", [0, 1])
def test_empty_and_single_batches(rows: int) -> None:
    assert model_for().scores(pixels(rows)).shape == (rows, 4)
    assert model_for().predict(pixels(rows)).shape == (rows,)
    assert model_for().predict(pixels(rows)).dtype == np.int64


class NoArray:
    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError("on another device")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 15), np.uint8), r"shape \(2, 15\); this model takes \(rows, 16\)"),
        (np.zeros(16, np.uint8), r"looks like one sample; give it a row axis: x\[None\]"),
        (np.zeros((4, 4), np.uint8), "looks like one sample"),
        (np.uint8(3), r"shape \(\)"),
        (np.zeros((2, 16), bool), "dtype bool"),
        (np.zeros((2, 16), complex), "dtype complex128"),
        ([["a"] * 16], "dtype <U1"),
        ([[1, 2], [3]], "no rectangular array"),
        (np.full((2, 16), 256), "row 0, column 0 is 256; this model takes pixels 0..255"),
        (np.full((2, 16), -1), "is -1; this model takes pixels"),
        (np.full((2, 16), 0.1234), "is 0.1234, which is no mapped pixel"),
        (np.full((2, 16), 0.0), "is 0.0, which is no mapped pixel"),
        (np.full((2, 16), 1.01), "no mapped pixel.*--input-real"),
        (np.full((2, 16), 0.25), r"are these raw pixels, or scaled\? Give uint8 pixels 0..255: raw ones are model.predict"),
        (
            pixels() / 255,
            r"are these raw pixels, or scaled\? Pixels scaled to 0..1 are given as model.predict\(np.rint\(255 \* x\)",
        ),
        (np.eye(2, 16), r"is 0.0, which is no mapped pixel.*raw pixels, or scaled\?"),  # 0 and 1: which of both?
        (np.full((2, 16), 256.0), "is 256.0, which is no mapped pixel"),
        (np.full((2, 16), 200.5), r"Give uint8 pixels .* model.predict\(np.rint\(x\).astype\(np.uint8\)\)"),
        (NoArray(), "input is no array: on another device"),
        (np.full((2, 16), np.nan), "is nan, which is no mapped pixel"),
        (np.full((2, 16), np.inf), "is inf, which is no mapped pixel"),
    ],
)
def test_wrong_pixels_are_refused(x: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_for().scores(x)


@pytest.mark.parametrize("name", ["range", "raw", "inverted", "normalize", "threshold"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floats_that_are_raw_pixels_are_taken(name: str, dtype: Any) -> None:
    model, x = model_for(name), pixels()
    assert (model.predict(x.astype(dtype)) == model.predict(x)).all()
    assert (model.margins(x.astype(dtype)).gaps == model.margins(x).gaps).all()


def test_floats_that_enter_the_network_are_no_raw_pixels() -> None:
    """Where mappings are told apart by inputs, floats are what enters the network."""
    x = pixels().astype(np.float64)
    assert inputs_of(PixelInput.range(0, 255), (16,), x).dtype == np.uint8
    with pytest.raises(InputError, match="no mapped pixel"):
        inputs_of(PixelInput.range(-1, 1), (16,), x)
    # Whole numbers that are mapped pixels as well are neither.
    both = PixelInput.range(-128, 127)
    assert (inputs_of(both, (16,), x, raw=True) == pixels()).all()
    with pytest.raises(InputError, match=r"just as well: are these raw pixels, or scaled\?"):
        inputs_of(both, (16,), np.full((2, 16), 100.0), raw=True)
    assert (inputs_of(both, (16,), np.full((2, 16), -100.0), raw=True) == 28).all()


class Table:
    """What pandas and polars share."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = columns
        self.columns = list(columns)

    def to_numpy(self) -> np.ndarray:
        columns = [np.asarray(column) for column in self._columns.values()]
        one = len({column.dtype for column in columns}) == 1
        return np.stack(columns if one else [column.astype(object) for column in columns], axis=1)


def frame(columns: dict[str, Any]) -> Any:
    return pytest.importorskip("pandas").DataFrame(columns)


@pytest.mark.parametrize("made", [Table, frame])
@pytest.mark.parametrize("mixed", [False, True])
def test_data_frames(made: Any, mixed: bool) -> None:
    model, x = model_for(), pixels()
    columns: dict[str, Any] = {f"p{i}": x[:, i].astype(float if mixed and i % 2 else np.int64) for i in range(16)}
    assert (model.predict(made(columns)) == model.predict(x)).all()
    with pytest.raises(InputError, match=r"shape \(5, 17\).*x\.drop\(columns=\['label'\]\)"):
        model.predict(made({"label": np.arange(5), **columns}))
    with pytest.raises(InputError, match="column 'p3' of the inputs holds 'dark', which is no number"):
        model.predict(made({**columns, "p3": np.array(["dark"] * 5, object)}))
    with pytest.raises(InputError, match="is 300"):
        model.predict(made({**columns, "p3": np.full(5, 300)}))


def test_the_other_inputs() -> None:
    signs = model_for("signs")
    x = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), (3, 16))
    assert (signs.scores(x) == signs.scores(x.astype(np.int8))).all()
    with pytest.raises(InputError, match=r"row 0, column 0 is 0\.0; this model takes values that are exactly -1 or"):
        signs.scores(x * 0)
    reals = model_for("reals")
    assert (reals.scores(x.astype(np.float64)) == reals.scores(x.astype(np.int32))).all()
    bad = x.copy()
    bad[1, 2] = np.nan
    with pytest.raises(InputError, match="row 1, column 2 is nan; real inputs must be finite"):
        reals.scores(bad)
    threshold = model_for("threshold")
    assert (threshold.scores(pixels()) == threshold.scores(pixels().astype(np.float32))).all()
    with pytest.raises(InputError, match=r"is 0\.5, which is no mapped pixel"):
        threshold.scores(np.full((1, 16), 0.5))
    # An image of zeros and ones as floats: scaled, or as dark as can be?
    binary = np.zeros((2, 16), np.float32)
    assert threshold.scores(binary).shape[0] == 2
    binary[1, 3] = 1
    with pytest.raises(InputError, match=r"raw pixels of 0\.\.255, or scaled ones\?.*uint8"):
        threshold.scores(binary)
    threshold.scores(binary.astype(np.uint8))


def test_models_pickle_copy_and_save(tmp_path: Path) -> None:
    model, x = model_for(), pixels()
    want = model.scores(x)
    assert (pickle.loads(pickle.dumps(model)).scores(x) == want).all()
    assert (copy.deepcopy(model).scores(x) == want).all()
    model.save(tmp_path / "m.safetensors")
    loaded = xnorinfer.load(tmp_path / "m.safetensors", threads=1, kernel="portable")
    assert (loaded.scores(x) == want).all()
    assert (loaded.threads, loaded.kernel) == (1, "portable")
    assert loaded.info == model.info
    assert "16-20-4" in repr(loaded)


def test_info_counts_bits_and_bytes() -> None:
    info = model_for().info
    assert (info["inputs"], info["classes"]) == (16, 4)
    assert [(layer["inputs"], layer["neurons"], layer["weight_bits"]) for layer in info["layers"]] == [
        (16, 20, 320),
        (20, 4, 80),
    ]
    assert info["layers"][0]["packed_bytes"] == 20 * 8 + 20 * 4
    assert info["packed_bytes"] < info["float32_bytes"]


def test_unknown_options_and_kernels_are_refused() -> None:
    with pytest.raises(OptionError, match="unknown options epsilon; known are format, profile"):
        xnorinfer.convert("x.npz", epsilon=1)
    with pytest.raises(KernelError, match="portable"):
        Model(lower(random_network(3, [16, 20, 4], INPUTS["range"])).packed, kernel="abacus")
