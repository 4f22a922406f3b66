from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from networks import INPUTS, random_network

from xnorinfer.errors import NetworkError, OptionError
from xnorinfer.netspec import (
    BatchNorm,
    Dense,
    FloatDense,
    NetSpec,
    PixelInput,
    Sign,
    SignInput,
    ThresholdInput,
    input_from_json,
    input_to_json,
)

f = np.float32


def test_random_networks_are_valid() -> None:
    for mapping in INPUTS.values():
        assert random_network(1, [30, 20, 10, 5], mapping).check() == []
        assert random_network(2, [30, 20, 10, 5], mapping, float_tail=True).check() == []


def test_all_problems_are_reported_at_once() -> None:
    latent = np.ones((4, 3), f)
    latent[1, 2] = np.nan
    net = NetSpec(
        SignInput(),
        (
            Dense("a", latent, "ge", bias=np.ones(3, f)),
            BatchNorm("bn", np.ones(4, f), variance=np.array([1, -2, 1, 1], f), epsilon=-1.0),
            Sign("s", "ge"),
            Dense("b", np.ones((2, 5), f), "ge", h=0.0),
        ),
        "nobody",
    )
    problems = "\n".join(net.check())
    for part in (
        "tie profile 'nobody' is none of tf1-round",
        "a: bias has shape (3,), needed is (4,)",
        "b: takes 5 inputs but a gives 4",
        "a: latent weights has 1 values that are NaN or infinite, the first at [1, 2]",
        "bn: variance is -2 at [1], it cannot be negative",
        "bn: epsilon is -1.0",
        "b: H is 0.0",
    ):
        assert part in problems
    with pytest.raises(NetworkError) as caught:
        net.require_valid()
    assert len(caught.value.problems) == 7


def dense(name: str = "fc", neurons: int = 4, depth: int = 4) -> Dense:
    return Dense(name, np.ones((neurons, depth), f), "ge")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((), "first layer must be a binary dense"),
        ((FloatDense("f", np.ones((1, 1), f)),), "first layer must be a binary dense"),
        ((dense("a"), dense("b")), "b: a binary layer follows a without a sign between"),
        ((dense(), Sign("s", "ge")), "the last layer is a sign"),
        ((dense(), Sign("s", "ge"), Sign("t", "ge"), dense()), "t: a sign must follow"),
        (
            (dense(), Sign("s", "ge"), BatchNorm("n", np.ones(4, f), variance=np.ones(4, f)), dense()),
            "n: BatchNorm must follow",
        ),
        (
            (dense(), FloatDense("f", np.ones((4, 4), f)), Sign("s", "ge"), dense("b")),
            "s: binary layers cannot follow the float",
        ),
        ((dense(), BatchNorm("n", np.ones(4, f))), "n: exactly one of variance and inv_std is needed"),
        ((dense(), BatchNorm("n", np.ones(4, f), inv_std=np.ones(4, f))), "n: inv_std belongs to the form 'lasagne'"),
        ((Dense("d", np.ones((4, 4)), "ge"),), "d: latent weights has dtype float64"),  # type: ignore[arg-type]
        ((Dense("d", np.ones((0, 4), f), "ge"),), r"d: weights have shape \(0, 4\)"),
        (
            (Dense("d", np.eye(2, dtype=f), "sign"),),
            r"d: 2 latent weights are exactly 0, the first at \[0, 1\].*--profile ge-zero",
        ),
    ],
)
def test_each_structural_problem_is_named(layers: tuple, message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        NetSpec(SignInput(), layers, "ge-zero").require_valid()


def test_infinite_inv_std_is_left_to_folding() -> None:
    norm = BatchNorm("bn", np.ones(4, f), inv_std=np.array([np.inf, 1, 1, 1], f), form="lasagne")
    assert NetSpec(SignInput(), (dense(), norm), "theano").check() == []
    assert "NaN" in replace_inv_std(norm).check()[0]


def replace_inv_std(norm: BatchNorm) -> NetSpec:
    return NetSpec(SignInput(), (dense(), replace(norm, inv_std=np.array([np.nan, 1, 1, 1], f))), "theano")


@pytest.mark.parametrize("name", INPUTS)
def test_input_mappings_survive_json(name: str) -> None:
    assert input_from_json(input_to_json(INPUTS[name])) == INPUTS[name]


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"kind": "video"}, {"kind": "pixels", "slope": 1.0}, {"kind": "threshold", "threshold": 2.5}]
    + [
        {"kind": "pixels", "slope": s, "intercept": 0.0, "divisor": d}
        for s, d in ((0.0, 1.0), (1.0, 0.0), (True, 1.0), ("1", 1.0))
    ]
    + [{"kind": "pixels", "slope": float("nan"), "intercept": 0.0, "divisor": 1.0}, {"kind": "reals", "extra": 1}],
)
def test_malformed_input_mappings_are_refused(data: object) -> None:
    with pytest.raises(OptionError):
        input_from_json(data)


def test_useless_input_mappings_are_refused() -> None:
    for make in (
        lambda: PixelInput.range(1, 1),
        lambda: PixelInput.range(0, float("inf")),
        lambda: PixelInput.normalize(0.5, 0),
        lambda: ThresholdInput(0),
        lambda: ThresholdInput(256),
    ):
        with pytest.raises(OptionError):
            make()


def test_whole_numbers_and_floats_are_one_mapping() -> None:
    assert input_to_json(PixelInput.range(-1, 1)) == input_to_json(PixelInput.range(-1.0, 1.0))
    assert str(input_to_json(PixelInput.range(-1, 1))) == str(input_to_json(PixelInput.range(-1.0, 1.0)))


def test_usual_mappings_are_exact() -> None:
    assert PixelInput.range(-1, 1) == PixelInput(2, -255, 255)
    assert PixelInput.range(0, 255) == PixelInput(1, 0, 1)
    assert PixelInput.range(0, 1) == PixelInput(1, 0, 255)
