"""Extracted C, compiled by the system's compiler and run: predictions and scores equal the oracle's, to the last bit."""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networks
import numpy as np
import packed_networks
import packed_oracle
import pytest
import wide_networks
from branching_networks import PUBLISHED, random_branching_network
from command_line import CHECKPOINT, DIGITS, fine
from function_networks import nets
from mixed_networks import KINDS, MAPPINGS, random_mixed_network
from numpy.typing import NDArray

from xnorinfer.engine.model import Model, random_inputs
from xnorinfer.export import ccode
from xnorinfer.net.ops import Function
from xnorinfer.net.reference import forward
from xnorinfer.net.values import ChannelInput, PixelInput, RealInput, SignInput
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.packing.packed import Affine, Binarize, Dot, PackedModel, Threshold

WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", "-pedantic")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@functools.cache
def compiler(*flags: str) -> str:
    """The system's C compiler; skips the test where there is none, or none that takes the flags."""
    found = next((path for name in ("cc", "gcc", "clang") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no C compiler (cc, gcc or clang)")
    trial = subprocess.run(
        [found, "-x", "c", *flags, "-", "-o", os.devnull], input="int main(void) { return 0; }", text=True, capture_output=True
    )
    if trial.returncode:
        pytest.skip(f"{found} does not take {' '.join(flags)}")
    return found


def compiled(source: Path, *flags: str) -> Path:
    """Compile one file in its folder; the program."""
    program = source.with_suffix("")
    command = [compiler(*flags), *flags, *WARNINGS, source.name, "-o", program.name]
    done = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]
    return program


# ---------------------------------------------------------------- many networks in one program


@dataclass(frozen=True)
class Case:
    """A network with samples and the scores of an oracle."""

    packed: PackedModel
    x: NDArray[Any]
    want: NDArray[np.float32]


def from_sources() -> list[Case]:
    """Networks as frameworks train them, against the float oracle."""
    rng = np.random.default_rng(11)
    options: list[dict[str, Any]] = [
        {},
        {"form": "torch", "rule": "ge", "profile": "ge-zero", "h": 0.3},
        {"form": "lasagne", "rule": "round-away", "profile": "theano"},
        {"float_tail": True, "form": "torch"},
        {"float_tail": True, "form": "tf-fused"},
        {"float_tail": True, "tail_reads": "sign", "chains": True},
        {"chains": True},
        {"binarize_input": True},
        {"widths": (131, 10)},
        {"widths": (1, 1)},
        {"widths": (64, 128, 64, 2)},
    ]
    cases = []
    mappings = list(networks.INPUTS.values())
    for number, chosen in enumerate(options):
        # Every option with several inputs, every input with several options.
        for mapping in mappings[number % 3 :: 3]:
            if chosen.get("binarize_input") and not isinstance(mapping, PixelInput | RealInput):
                continue
            net = networks.random_network(90 + number, mapping=mapping, **{"widths": (70, 65, 9, 3), **chosen})
            x = networks.random_inputs(rng, mapping, 25, net.depth)
            cases.append(Case(lower(net).packed, x, forward(net, x)))
    functions: tuple[Function, ...] = ("tanh", "sigmoid")
    for net in (net for function in functions for net in nets(function).values()):
        x = networks.random_inputs(rng, net.input, 100, net.depth)
        cases.append(Case(lower(net).packed, x, forward(net, x)))
    return cases


def from_files() -> list[Case]:
    """Networks as a model file may hold them: every step, limits at both ends, several float layers."""
    rng = np.random.default_rng(12)
    cases = []
    for kind, floats in itertools.product(("range", "normalize", "threshold", "signs", "reals"), (0, 2)):
        packed = packed_networks.random_model(rng, networks.INPUTS[kind], (129, 63, 64, 9, 7, 5), floats)
        x = packed_networks.random_rows(rng, packed, 40)
        cases.append(Case(packed, x, packed_networks.expected(packed, x)[-1]))
    # More words than their bytes can count the ones of, all different.
    packed = packed_networks.random_model(rng, SignInput(), (64 * 61 + 3, 70, 5))
    first = packed.layers[0].op
    opposite = np.full_like(first.weights, 2**64 - 1)
    opposite[:, -1] = 7
    limits = np.resize(np.array([3906, 3907], np.int32), 70)
    layers = [("all", replace(first, weights=opposite, output=Threshold(limits))), ("head", packed.layers[1].op)]
    packed = packed_networks.network(SignInput(), layers)
    assert packed.check() == []
    x = np.where(np.arange(packed.depth) == np.arange(3)[:, None] - 1, 1, -1).astype(np.int8)
    cases.append(Case(packed, x, packed_networks.expected(packed, x)[-1]))
    for mapping in (PixelInput.range(-1, 1), RealInput(), SignInput()):
        packed = packed_networks.random_model(rng, mapping, (66, 33, 12))
        hidden, head = packed.layers
        values = rng.standard_normal((4, 2, 12)).astype(np.float32)
        values[0] = [[-5], [-6]]  # step: between the two it gives 0
        values[0, :, ::2] = [[np.inf], [-np.inf]]
        values[2] = [[-np.inf], [0.75]]
        steps = Affine(("step", "div", "clip", "fma"), values)
        last = Affine((), np.empty((0, 2, 12), np.float32))
        tail = Dot("reals", 12, rng.standard_normal((12, 12)).astype(np.float32), last)
        middle = Dot("bits", 33, head.op.weights, steps)
        packed = packed_networks.network(mapping, [("hidden", hidden.op), ("head", middle), ("tail", tail)])
        assert packed.check() == []
        x = packed_networks.random_rows(rng, packed, 40)
        cases.append(Case(packed, x, packed_networks.expected(packed, x)[-1]))
    return cases


def from_rounding() -> list[Case]:
    """Heads whose scores show every rounding that is left out or done twice."""
    # v * a is next to half a unit in the last place of b, by less than float64 can hold beside b.
    p = np.arange(2**23 + 1, 2**23 + 20_000)
    q = 2**46 // p + np.arange(2)[:, None]
    near = np.abs(p * q - 2**46) < 2**16
    p, q = (factors[near] for factors in np.broadcast_arrays(p, q))
    assert ((p * q < 2**46).sum() > 20) & ((p * q > 2**46).sum() > 20)
    p, q = np.repeat(p, 4), np.repeat(q, 4)
    b = np.resize([1, 1 + 2.0**-23, -1, -1 - 2.0**-23], p.size)
    values = np.zeros((2, 2, p.size), np.float32)
    values[0, 0], values[1, 0], values[1, 1] = p * 2.0**-35, q * 2.0**-35, b
    weights = np.ones((p.size, 1), np.uint64)
    fused = packed_networks.network(SignInput(), [("fused", Dot("bits", 1, weights, Affine(("mul", "fma"), values)))])
    signs = np.array([[1], [-1]], np.int8)
    twice = ((signs.astype(np.float32) * values[0, 0]).astype(np.float64) * values[1, 0] + values[1, 1]).astype(np.float32)
    want = packed_networks.expected(fused, signs)[-1]
    assert (twice != want).sum() > 20
    # A mapping whose sums nearly cancel: what is left is the rounding of the product.
    small = Affine((), np.empty((0, 2, 2), np.float32))
    plus = Dot("pixels", 2, np.array([[3], [1]], np.uint64), small)
    cancel = packed_networks.network(PixelInput(0.54, -68.85, 255.0), [("cancel", plus)])
    pixels = np.array([[k, 255 - k] for k in range(256)], np.uint8)
    left = packed_networks.expected(cancel, pixels)[-1]
    assert (left[:, 0] != 0).all() & (np.abs(left[:, 0]) < 1e-14).all()
    return [Case(fused, signs, want), Case(cancel, pixels, left)]


def from_input_bits() -> list[Case]:
    """Inputs that are binarized one by one, at every kind of limit."""
    rng = np.random.default_rng(13)
    inner = packed_networks.random_model(rng, SignInput(), (70, 20, 4))
    mirrored = rng.integers(0, 2, 70).astype(bool)
    limits = rng.integers(-300, 300, 70).astype(np.int32)
    limits[:16] = [-1, 0, 1, 254, 255, 256, -255, -256, -254, 2**31 - 1, -(2**31), 0, 128, -128, 127, -1]
    reals = rng.standard_normal(70).astype(np.float32)
    reals[:4] = [np.inf, -np.inf, 0.0, -0.0]
    pixels = rng.integers(0, 256, (60, 70), dtype=np.uint8)
    pixels[0], pixels[1] = 0, 255
    numbers = rng.standard_normal((60, 70)).astype(np.float32)
    numbers[::3] = np.where(mirrored, -reals, reals).clip(-3e38, 3e38)
    cases = []
    for mapping, limit, x in ((PixelInput.range(0, 1), limits, pixels), (RealInput(), reals, numbers)):
        layers = [("in*/\\\n", Binarize(limit, mirrored)), *((node.name, node.op) for node in inner.nodes)]
        packed = packed_networks.network(mapping, layers)
        assert packed.check() == []
        signs = np.where(np.where(mirrored, -x.astype(np.float64), x) <= limit, 1, -1)
        cases.append(Case(packed, x, packed_networks.expected(inner, signs)[-1]))
    return cases


def from_maps() -> list[Case]:
    """Random convolutional networks: windows, borders, groups, pools, floats of every kind."""
    cases = []
    mappings = (
        *(networks.INPUTS[kind] for kind in ("range", "threshold", "signs", "reals")),
        ChannelInput.normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.25)),
    )
    for seed in range(20):
        rng = np.random.default_rng(seed)
        packed = packed_networks.random_maps(rng, mappings[seed % 5], (6, 5, 3), 1 + seed % 3)
        x = packed_networks.random_rows(rng, packed, 12)
        cases.append(Case(packed, x, packed_oracle.expected(packed, x)[-1].reshape(12, -1)))
    for number, kind in enumerate(("range", "threshold", "reals", "channels")):
        net = wide_networks.network(wide_networks.MAPPINGS[kind], ("sums", "average")[number % 2], number, ends=number > 1)
        x = networks.random_inputs(np.random.default_rng(number), net.input, 12, net.depth)
        cases.append(Case(lower(net).packed, x, forward(net, x)))
    return cases


def from_branches() -> list[Case]:
    """Networks that branch: sums of two values, values side by side, of bits and of reals, as maps and as vectors."""
    cases = []
    kinds = ("range", "threshold", "signs", "reals")
    for seed in range(12):
        net = random_branching_network(300 + seed, networks.INPUTS[kinds[seed % 4]], falling=seed % 2 == 0, moves=seed % 3 > 0)
        x = random_inputs(packed := lower(net).packed, 8, seed)
        cases.append(Case(packed, x, forward(net, x)))
    for kind in PUBLISHED.values():
        net = kind(1, PixelInput.range(-1, 1), (5, 4, 3), 7)
        x = random_inputs(packed := lower(net).packed, 4, 0)
        cases.append(Case(packed, x, forward(net, x)))
    return cases


def from_float_layers() -> list[Case]:
    """Networks with dense float layers in front of binary ones, of every kind and every input."""
    cases = []
    for seed in range(0, len(KINDS) * len(MAPPINGS), len(MAPPINGS) + 1):
        net = random_mixed_network(seed)
        x = random_inputs(packed := lower(net).packed, 8, seed)
        cases.append(Case(packed, x, forward(net, x)))
    return cases


@functools.cache
def all_cases() -> dict[str, Case]:
    """Every network under the name that it gets in C."""
    return {
        f"net{number}": case
        for number, case in enumerate(
            itertools.chain(
                *(from_rounding(), from_sources(), from_files(), from_input_bits(), from_maps(), from_branches()),
                from_float_layers(),
            )
        )
    }


#: Flags that make compilers compute differently where C lets them, changes to the text of the headers, and which share of the
#: networks is usually built.
BUILDS: dict[str, tuple[tuple[str, ...], dict[str, str], int]] = {
    "sanitized": (("-std=c99", "-O0", *SANITIZERS), {}, 3),
    "contracted": (("-std=gnu99", "-O2", "-march=native", "-ffp-contract=fast"), {}, 2),
    "plain, small tables": (
        ("-std=c99", "-O3"),
        {"defined(__GNUC__)": "0", "SIZE_MAX > 0xffffffff": "0", "_SCRATCH\n#endif": "_SCRATCH static\n#endif"},
        3,
    ),
    "plain, large tables": (("-std=c99", "-O2"), {"defined(__GNUC__)": "0"}, 4),
    "the machine's": (("-std=c99", "-O3", "-march=native"), {}, 12),
    "C++": (("-x", "c++", "-std=c++17", "-O3"), {}, 4),
}

#: The others have what is special to these, each in its part.
LATER = ("contracted", "plain, large tables")

#: So many networks, those about rounding, are in every build.
ALWAYS = 2

DRIVER = """\
#include <stdio.h>
#include <stdlib.h>
{includes}
static FILE *opened(const char *name, const char *mode)
{{
    FILE *file = fopen(name, mode);
    if (file == NULL)
        exit(3);
    return file;
}}

#define ONE(net) classes[0] = net##_predict(input)
#define PIXELS(net) net##_predict(input, classes)
#define RUN(net, INPUTS, SCORES, COUNT, PREDICT) \\
    static void run_##net(void) \\
    {{ \\
        static net##_input input[INPUTS]; \\
        static float scores[SCORES]; \\
        static int classes[COUNT]; \\
        FILE *in = opened(#net ".in", "rb"), *out = opened(#net ".out", "wb"); \\
        while (fread(input, sizeof input, 1, in) == 1) {{ \\
            PREDICT(net); \\
            net##_scores(input, scores); \\
            fwrite(scores, sizeof scores, 1, out); \\
            fwrite(classes, sizeof classes, 1, out); \\
        }} \\
        fclose(in); \\
        fclose(out); \\
    }}
{runs}
int main(void)
{{
{calls}
    return 0;
}}
"""


@pytest.mark.parametrize(
    ("build", "rest"),
    [
        *((build, False) for build in BUILDS if build not in LATER),
        *(pytest.param(build, False, marks=pytest.mark.long) for build in LATER),
        *(pytest.param(build, True, marks=pytest.mark.long) for build in ("sanitized", "plain, small tables")),
    ],
)
def test_scores_and_predictions_equal_the_oracles(build: str, rest: bool, tmp_path: Path) -> None:
    """Many networks in one program, a share of them or the rest: their names do not meet."""
    flags, changes, share = BUILDS[build]
    compiler(*flags)
    cases = {name: case for n, (name, case) in enumerate(all_cases().items()) if (n % share == 0 or n < ALWAYS) != rest}
    for name, case in cases.items():
        text = ccode.header(case.packed, name)
        for old, new in changes.items():
            text = text.replace(old, new)
        (tmp_path / f"{name}.h").write_text(text)
        case.x.tofile(tmp_path / f"{name}.in")
    driver = DRIVER.format(
        includes="".join(f'#include "{name}.h"\n' for name in cases),
        runs="".join(f"RUN({name}, {run_of(name, case.packed)})\n" for name, case in cases.items()),
        calls="".join(f"    run_{name}();\n" for name in cases),
    )
    (tmp_path / "driver.c").write_text(driver)
    subprocess.run([compiled(tmp_path / "driver.c", *flags)], cwd=tmp_path, check=True)
    for name, case in cases.items():
        found = np.fromfile(tmp_path / f"{name}.out", np.int32).reshape(len(case.x), -1)
        scores, classes = np.split(found, [case.want.shape[1]], axis=1)
        assert np.array_equal(np.ascontiguousarray(scores).view(np.float32), case.want, equal_nan=True), name
        assert np.array_equal(classes, case.want.reshape(len(case.x), -1, case.packed.classes).argmax(axis=2)), name


def run_of(name: str, packed: PackedModel) -> str:
    """How the driver runs it: a network whose scores are a map gives a class of every pixel."""
    pixels, upper = math.prod(packed.score_shape[:-1]), name.upper()
    if pixels == 1:
        return f"{upper}_INPUTS, {upper}_CLASSES, 1, ONE"
    return f"{upper}_INPUTS, {pixels * packed.classes}, {upper}_PIXELS, PIXELS"


def test_fast_math_is_refused(tmp_path: Path) -> None:
    packed = packed_networks.random_model(np.random.default_rng(0), SignInput(), (5, 3))
    (tmp_path / "net.h").write_text(ccode.header(packed, "net"))
    (tmp_path / "main.c").write_text('#include "net.h"\n')
    command = [compiler(), "-ffast-math", "-c", "main.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "-ffast-math would change scores" in done.stderr


def test_the_class_of_equal_scores_and_of_nan(tmp_path: Path) -> None:
    packed = packed_networks.random_model(np.random.default_rng(0), SignInput(), (5, 4))
    (tmp_path / "net.h").write_text(ccode.header(packed, "net"))
    rows = np.array([[1, 2, 2, 0], [0, 0, 0, 0], [1, np.nan, 5, np.nan], [np.nan, 1, 2, 3], [-np.inf, np.inf, 1, np.inf]])
    cells = ", ".join("NAN" if value != value else f"(float){value}".replace("inf", "INFINITY") for value in rows.flat)
    (tmp_path / "main.c").write_text(
        f"""#include <math.h>
#include <stdio.h>
#include "net.h"
int main(void)
{{
    const float rows[] = {{{cells}}};
    for (int r = 0; r < {len(rows)}; r++)
        printf("%d\\n", net_class_of(rows + 4 * r));
    return 0;
}}
"""
    )
    printed = subprocess.run([compiled(tmp_path / "main.c", "-std=c99")], capture_output=True, text=True, check=True).stdout
    assert printed.split() == [str(best) for best in rows.argmax(axis=1)]


# ---------------------------------------------------------------- the text


def test_the_header_says_what_it_holds_and_depends_on_nothing_else() -> None:
    packed = packed_networks.random_model(np.random.default_rng(0), PixelInput.range(-1, 1), (20, 9, 3))
    text = ccode.header(packed, "my_net")
    assert text == ccode.header(packed, "my_net")
    assert modelfile.header_of(packed)["content_digest"] in text
    assert "Binarized network 20-9-3" in text
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 132
    assert "#ifndef MY_NET_H\n#define MY_NET_H" in text
    # Its head has a fused step, which needs the last two.
    assert set(re.findall(r"#include <(\w+)\.h>", text)) == {"stddef", "stdint", "float", "string"}


def test_names_of_layers_cannot_leave_their_comment() -> None:
    packed = packed_networks.random_model(np.random.default_rng(0), SignInput(), (5, 3))
    text = ccode.header(packed_networks.with_layer(packed, 0, name="*/ int x; /* ??/\n\\ net_NET_ é"), "a")
    assert "Layer 0 (__ int x_ __ _____ net_NET_ _)" in text


@pytest.mark.parametrize(
    ("text", "name"), [("mnist", "mnist"), ("my-net.v2", "my_net_v2"), ("2nd", "net_2nd"), ("_x_", "x"), ("äö", "net")]
)
def test_names_made_of_files(text: str, name: str) -> None:
    assert ccode.identifier(text) == name


# ---------------------------------------------------------------- the program


def run(program: Path, *arguments: object, text: str | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [f"./{program.name}", *map(str, arguments)]
    done = subprocess.run(command, cwd=program.parent, input=text or "", capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo's network as model, header, program and vectors of its 400 test images."""
    folder = tmp_path_factory.mktemp("digits")
    fine("convert", CHECKPOINT, "-o", folder / "model.safetensors")
    output = folder / "digits-v1.h"
    fine("extract", folder / "model.safetensors", "-o", output, "--runner", "--data", f"{DIGITS}:x", "--rows", 400)
    return folder


@pytest.fixture(scope="module")
def program(digits: Path) -> Path:
    return compiled(digits / "digits-v1_runner.c", "-std=c99", "-O1", *SANITIZERS)


def test_the_program_predicts_the_shipped_samples(digits: Path, program: Path) -> None:
    model = Model(modelfile.load(digits / "model.safetensors"))
    x = np.load(DIGITS)["x"]
    done = run(program, "digits-v1_vectors.txt")
    assert done.stderr == "400 samples, 400 compared, 0 different\n"
    assert done.stdout.split() == [str(best) for best in model.predict(x)]
    scores = run(program, "--scores", "digits-v1_vectors.txt").stdout
    assert np.array_equal(np.array([line.split("\t") for line in scores.splitlines()], np.float32), model.scores(x))


def test_samples_from_standard_input_without_scores(program: Path) -> None:
    x = np.load(DIGITS)["x"][:3]
    text = "# three\n" + "\n".join(" ".join(map(str, row)) for row in x) + "\n# the end"
    done = run(program, text=text)
    assert done.stderr == "3 samples, 0 compared, 0 different\n"
    assert done.stdout.split() == run(program, "digits-v1_vectors.txt").stdout.split()[:3]
    assert run(program, text="").stderr == "0 samples, 0 compared, 0 different\n"


def test_a_score_that_differs_in_its_last_bit_is_found(digits: Path, program: Path) -> None:
    lines = (digits / "digits-v1_vectors.txt").read_text().splitlines()
    *start, last = lines[4].split(" ")
    changed = np.nextafter(np.float32(float.fromhex(last)), np.float32(np.inf))
    lines[4] = " ".join([*start, float(changed).hex()])
    done = run(program, text="\n".join(lines), code=1)
    assert "sample 2: scores differ" in done.stderr
    assert "400 samples, 400 compared, 1 different" in done.stderr


GOOD = " ".join(["7"] * 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{GOOD}\n7 7 7", "error: sample 1: the file ends within it"),
        (f"{GOOD} : 0 0", "error: sample 0: the file ends within it"),
        (f"{GOOD[2:]} 256", "error: sample 0: has an input that is out of range"),
        (f"{GOOD[2:]} -1", "error: sample 0: has an input that is out of range"),
        (f"{GOOD[2:]} 1.5", "error: sample 0: has an input that is out of range"),
        (f"{GOOD[2:]} nan", "error: sample 0: has an input that is out of range"),
        (f"{GOOD[2:]} 1e99", "error: sample 0: has an input that is out of range"),
        (f"{GOOD[2:]} cat", "error: sample 0: holds something that is no number"),
        (f"{GOOD[2:]} 7,", "error: sample 0: holds something that is no number"),
        (f"{GOOD[2:]} {'0' * 99}7", "error: sample 0: holds something that is no number"),
        (f"{GOOD[2:]} : 7", "error: sample 0: a number is missing"),
    ],
)
def test_the_program_refuses_bad_samples(program: Path, text: str, message: str) -> None:
    assert run(program, text=text, code=2).stderr.strip() == message


def test_the_program_refuses_wrong_use(program: Path) -> None:
    assert "cannot open" in run(program, "nothing.txt", code=2).stderr
    assert "usage: digits-v1_runner [--scores] [FILE]" in run(program, "digits-v1_vectors.txt", "more", code=2).stderr
    assert "cannot be read" in run(program, ".", code=2).stderr


@pytest.mark.parametrize("kind", ["threshold", "signs", "reals"])
def test_the_program_of_other_inputs(kind: str, tmp_path: Path) -> None:
    """Random samples where the user names none, every kind of input."""
    packed = packed_networks.random_model(np.random.default_rng(5), networks.INPUTS[kind], (33, 9, 4))
    modelfile.save(packed, tmp_path / "model.safetensors")
    fine("extract", tmp_path / "model.safetensors", "-o", tmp_path / "net.h", "--name", "other", "--runner", "--rows", 5)
    program = compiled(tmp_path / "net_runner.c", "-std=c99", "-O1", *SANITIZERS)
    assert run(program, "net_vectors.txt").stderr == "5 samples, 5 compared, 0 different\n"
    bad = {"threshold": "-1", "signs": "0", "reals": "inf"}[kind]
    assert "out of range" in run(program, text=" ".join([bad] * 33), code=2).stderr


# ---------------------------------------------------------------- other people's builds

ARDUINO = """\
#include <stdio.h>
static struct {
    void begin(long) {}
    void print(const char *text) { fputs(text, stdout); }
    void print(int number) { printf("%d", number); }
    void print(unsigned long number) { printf("%lu", number); }
    void println(const char *text) { puts(text); }
} Serial;
static unsigned long micros() { return 0; }
static void delay(int) {}
#include "SKETCH"
int main() { setup(); loop(); }
"""


@pytest.mark.parametrize("kind", ["range", "signs", "reals"])
def test_the_sketch_of_an_arduino_library_prints_the_class(kind: str, tmp_path: Path) -> None:
    packed = packed_networks.random_model(np.random.default_rng(6), networks.INPUTS[kind], (70, 9, 4))
    modelfile.save(packed, tmp_path / "model.safetensors")
    library = tmp_path / "My-Net"
    for _ in range(2):  # the second one replaces the first
        fine("extract", tmp_path / "model.safetensors", "-o", library, "--arduino")
    files = {str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()}
    assert files == {"library.properties", "src/My_Net.h", "examples/My_Net/My_Net.ino"}
    lines = (library / "library.properties").read_text().splitlines()
    properties = dict(line.split("=", 1) for line in lines)
    assert (properties["name"], properties["includes"]) == ("My_Net", "My_Net.h")
    assert {"version", "author", "maintainer", "sentence", "paragraph", "category", "url", "architectures"} < properties.keys()
    best = Model(packed).predict(random_inputs(packed, 1, 0))[0]
    (tmp_path / "main.cpp").write_text(ARDUINO.replace("SKETCH", "My-Net/examples/My_Net/My_Net.ino"))
    flags = ("-x", "c++", "-std=gnu++11", "-Os", "-Wno-error=pedantic", "-I", str(library / "src"))
    printed = run(compiled(tmp_path / "main.cpp", *flags)).stdout
    assert printed == f"class {best}, as expected, in 0 microseconds\n"


def test_programs_of_a_network_that_ends_in_a_map_give_a_class_of_every_pixel(tmp_path: Path) -> None:
    case = next(case for case in from_maps() if len(case.packed.score_shape) > 1)
    modelfile.save(case.packed, tmp_path / "model.safetensors")
    fine("extract", tmp_path / "model.safetensors", "-o", tmp_path / "net.h", "--runner", "--rows", 3)
    x = random_inputs(case.packed, 3, 0)
    done = run(compiled(tmp_path / "net_runner.c", "-std=c99", "-O1", *SANITIZERS), "net_vectors.txt")
    assert done.stderr == "3 samples, 3 compared, 0 different\n"
    classes = Model(case.packed).predict(x).reshape(3, -1)
    assert done.stdout == "".join("\t".join(map(str, row)) + "\n" for row in classes.tolist())
    fine("extract", tmp_path / "model.safetensors", "-o", tmp_path / "lib", "--arduino")
    (tmp_path / "main.cpp").write_text(ARDUINO.replace("SKETCH", "lib/examples/lib/lib.ino"))
    flags = ("-x", "c++", "-std=gnu++11", "-Os", "-Wno-error=pedantic", "-I", str(tmp_path / "lib" / "src"))
    printed = run(compiled(tmp_path / "main.cpp", *flags)).stdout
    assert printed == f"class {' '.join(map(str, classes[0].tolist()))}, as expected, in 0 microseconds\n"


def test_the_first_sample_of_a_file_is_the_sketchs(digits: Path, tmp_path: Path) -> None:
    fine("extract", digits / "model.safetensors", "-o", tmp_path / "lib", "--arduino", "--name", "d", "--data", f"{DIGITS}:x")
    text = (tmp_path / "lib" / "examples" / "d" / "d.ino").read_text()
    x = np.load(DIGITS)["x"][0]
    values = re.search(r"sample\[D_INPUTS\] = \{(.*?)\};", text, re.DOTALL)
    assert values is not None
    assert [int(cell, 16) for cell in re.findall(r"0x\w+", values[1])] == x.tolist()
    assert f"expected[] = {{{Model(modelfile.load(digits / 'model.safetensors')).predict(x[None])[0]}}};" in text


def test_the_documents_cmake_builds_the_program(digits: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("there is no cmake")
    compiler()
    page = (Path(__file__).parents[2] / "docs" / "microcontrollers.md").read_text(encoding="utf-8")
    snippet = re.search(r"^```cmake\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert snippet is not None
    (tmp_path / "CMakeLists.txt").write_text("cmake_minimum_required(VERSION 3.13)\nproject(trial C)\n" + snippet[1])
    fine("extract", digits / "model.safetensors", "-o", tmp_path / "mine.h", "--runner")
    for step in (("-S", ".", "-B", "build"), ("--build", "build")):
        done = subprocess.run([cmake, *step], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.copy(tmp_path / "build" / "mine_runner", tmp_path / "built")
    assert run(tmp_path / "built", "mine_vectors.txt").stderr == "16 samples, 16 compared, 0 different\n"
