"""Certificates, sensitivity and the run in the framework: what they say is recomputed here in other ways."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CHECKPOINT, DIGITS, fine, run, wrong
from networks import INPUTS, random_inputs, random_network

import xnorinfer
from xnorinfer.conversion import digest_of
from xnorinfer.errors import InputError
from xnorinfer.net.network import Net
from xnorinfer.net.ops import Linear, Norm, Quantize
from xnorinfer.net.reference import binary_weights, forward, node_outputs
from xnorinfer.net.ties import BINARIZE
from xnorinfer.packing import modelfile
from xnorinfer.packing.lower import lower
from xnorinfer.proof import certificate
from xnorinfer.proof.agreement import Agreement, compare
from xnorinfer.proof.frameworks import program as base
from xnorinfer.proof.frameworks.as_read import open_as_read
from xnorinfer.proof.sensitivity import sensitivity


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    fine("convert", CHECKPOINT, "-o", path)
    return path


def test_a_certificate_says_what_was_checked(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    assert "wrote the certificate" in fine("verify", model, CHECKPOINT, "--data", f"{DIGITS}:x", "--certificate", out)
    found = certificate.check(out, model, CHECKPOINT)
    assert found["holds"] is True
    assert found["model"]["sha256"] == digest_of(model)
    assert found["model"]["content_digest"] == modelfile.header_of(modelfile.load(model))["content_digest"]
    assert found["source"]["sha256"] == digest_of(Path(CHECKPOINT))
    assert found["source"]["is_what_the_model_was_made_from"] is True
    assert found["comparison"]["rows"] == 400
    assert found["comparison"]["data"] == f"{DIGITS}:x"
    assert found["proof"]["weights"] == 64 * 256 + 256 * 256 + 256 * 10
    hidden = found["proof"]["layers"][1]
    assert (hidden["method"], hidden["values"], hidden["compared"]) == ("every value", 257, 257 * 256)
    assert found["proof"]["values"] == sum(layer["compared"] for layer in found["proof"]["layers"])
    assert {other["what"] for other in found["sensitivity"]["alternatives"]} >= {"epsilon", "tie rule of weights"}
    text = tmp_path / "c.txt"
    fine("verify", model, CHECKPOINT, "--rows", 20, "--certificate", text)
    words = " ".join(text.read_text().split())
    assert "computes, bit for bit, the network as it was read from digits-64-256-256-10.npz" in words
    assert "reading 0.sign: sign (0 is -1, as up to 2^-24)" in words
    assert digest_of(model) in words
    assert "65,792 in all" in words
    assert max(map(len, text.read_text().splitlines())) <= 120


def test_a_changed_certificate_is_told(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    fine("verify", model, CHECKPOINT, "--rows", 5, "--certificate", out)
    content = json.loads(out.read_text())
    content["comparison"]["rows"] = 10_000
    (tmp_path / "forged.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="was changed after it was written"):
        certificate.check(tmp_path / "forged.json")
    with pytest.raises(InputError, match="speaks of another source"):
        certificate.check(out, model, DIGITS)
    for content, message in (("[1", "no JSON"), ("{}", "no certificate")):
        (tmp_path / "odd").write_text(content)
        with pytest.raises(InputError, match=message):
            certificate.check(tmp_path / "odd")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        certificate.check(tmp_path / "none")


def signed(content: dict[str, Any], path: Path) -> Path:
    """A certificate with a digest that matches, whatever it says."""
    body = {name: value for name, value in content.items() if name != "digest"}
    path.write_text(json.dumps({**body, "digest": certificate._digest(body)}))
    return path


@pytest.mark.parametrize("data", [[], ["--data", f"{DIGITS}:x", "--rows", 50]])
def test_a_kept_certificate_is_confirmed(model: Path, tmp_path: Path, data: list[Any]) -> None:
    out = tmp_path / "c.json"
    fine("verify", model, CHECKPOINT, *(data or ["--rows", 33]), "--certificate", out)
    done = run("verify", model, CHECKPOINT, *data, "--check", out)
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.stderr.splitlines() if line.startswith(str(out)))
    assert "c.json: confirmed, 84,480 weights and" in line
    if data:
        told = run("verify", model, CHECKPOINT, "--check", out)
        assert told.exit_code == 0
        assert f"its comparison on {DIGITS}:x was not repeated" in told.stderr
    assert json.loads(run("verify", model, CHECKPOINT, "--check", out, "--json").stdout)["holds"] is True


def test_a_certificate_that_says_something_else_is_told(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    fine("verify", model, CHECKPOINT, "--rows", 5, "--certificate", out)
    content = json.loads(out.read_text())
    content["proof"]["layers"][1]["compared"] -= 1
    content["source"]["options"] = {"bn_epsilon": 0.5}
    content["versions"]["numpy"] = "1.0"
    done = run("verify", model, CHECKPOINT, "--check", signed(content, tmp_path / "other.json"))
    assert done.exit_code == 1
    assert "proof.layers[1].compared: 65791 in the certificate, 65792 now" in done.stderr
    assert "source.options.bn_epsilon: 0.5 in the certificate, null now" in done.stderr
    assert 'made with another numpy: "1.0" in the certificate' in done.stderr
    assert "DOES NOT AGREE" in done.stderr
    content["proof"] = []
    assert "is incomplete: proof missing" in wrong(
        "verify", model, CHECKPOINT, "--check", signed(content, tmp_path / "bad.json")
    )
    out.write_text(out.read_text().replace('"holds": true', '"holds": false', 1))
    assert "was changed after it was written" in wrong("verify", model, CHECKPOINT, "--check", out)


def test_a_certificate_of_other_files_is_told(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    fine("verify", model, CHECKPOINT, "--rows", 5, "--certificate", out)
    arrays = dict(np.load(CHECKPOINT))
    np.savez(tmp_path / "other.npz", **arrays)
    error = wrong("verify", model, tmp_path / "other.npz", "--check", out)
    assert "speaks of another source than" in error
    assert digest_of(Path(CHECKPOINT)) in error


def test_an_older_certificate_is_still_confirmed(model: Path, tmp_path: Path) -> None:
    """One that says neither what it proves nor which reading, as none did once."""
    out = tmp_path / "c.json"
    fine("verify", model, CHECKPOINT, "--rows", 5, "--certificate", out)
    kept = json.loads(out.read_text())
    for name in ("digest", "proves", "expected"):
        del kept[name]
    del kept["source"]["reading"]
    kept["digest"] = hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    out.write_text(json.dumps(kept))
    done = run("verify", model, CHECKPOINT, "--check", out)
    assert done.exit_code == 0, done.output
    assert "confirmed" in done.stderr


def test_a_certificate_says_that_answers_were_compared(model: Path, tmp_path: Path) -> None:
    x = np.load(DIGITS)["x"]
    np.savez(tmp_path / "e.npz", x=x, scores=xnorinfer.load(model).scores(x))
    given = ("verify", model, CHECKPOINT, "--rows", 5, "--expect", tmp_path / "e.npz")
    text = fine(*given, "--certificate", tmp_path / "c.txt")
    claim = f"as it was read from {Path(CHECKPOINT).name}, which gives the classes of the 400 answers of {tmp_path / 'e.npz'}"
    assert claim in text
    words = " ".join((tmp_path / "c.txt").read_text().split())
    assert "Expected all 400 classes are those of" in words
    fine(*given, "--certificate", tmp_path / "c.json")
    assert json.loads((tmp_path / "c.json").read_text())["expected"]["unexplained"] == 0
    assert run("verify", model, CHECKPOINT, "--check", tmp_path / "c.json").exit_code == 0
    np.savez(tmp_path / "e.npz", x=x, classes=(xnorinfer.load(model).predict(x) + 1) % 10)
    done = run(*given)
    assert done.exit_code == 1
    assert "but THAT IS NOT the 400 answers of" in done.stdout


@pytest.mark.parametrize("turned", [0, 1])
def test_a_file_that_its_framework_runs_is_the_network_itself(
    model: Path, monkeypatch: pytest.MonkeyPatch, turned: int
) -> None:
    """A program that gives other classes contradicts the reading, however well the model equals that."""
    from xnorinfer.proof import frameworks
    from xnorinfer.proof.frameworks.program import Program

    def opened(path: Path, reading: Any, options: Any) -> Program:
        net = reading.net
        return Program("oracle", "1", net.input, None, (64,), lambda x: np.roll(forward(net, unmapped(x)), turned, axis=1))

    def unmapped(x: Any) -> Any:
        return np.rint((x + 1) * 127.5).astype(np.uint8)

    monkeypatch.setattr(frameworks, "open_program", opened)
    done = run("verify", model, CHECKPOINT, "--data", f"{DIGITS}:x", "--framework")
    first = done.stdout.strip().splitlines()[0]
    source = Path(CHECKPOINT).name
    if turned:
        assert done.exit_code == 1
        assert first.endswith(f", but THAT IS NOT {source} itself, run by oracle on 400 samples")
        assert f"does not hold: {first}" in done.stdout
    else:
        assert done.exit_code == 0
        assert first.endswith(f", which gives the classes of {source} itself, run by oracle on 400 samples")


def test_a_certificate_of_inequality(model: Path, tmp_path: Path) -> None:
    arrays = dict(np.load(CHECKPOINT))
    arrays["2.bn.beta"][4] += 1
    np.savez(tmp_path / "other.npz", **arrays)
    done = run("verify", model, tmp_path / "other.npz", "--rows", 5, "--certificate", tmp_path / "c.json")
    assert done.exit_code == 1
    found = certificate.check(tmp_path / "c.json")
    assert found["holds"] is False
    assert found["source"]["is_what_the_model_was_made_from"] is False
    assert found["first_difference"].startswith("2: output 4")
    assert "DOES NOT EQUAL" in "\n".join(certificate.text_lines(found))


def test_the_certificate_never_replaces_what_it_is_about(model: Path, tmp_path: Path) -> None:
    assert "is an input of this command" in wrong("verify", model, CHECKPOINT, "--certificate", model)
    assert "there is no folder" in wrong("verify", model, CHECKPOINT, "--certificate", tmp_path / "no" / "c.json")


# ---------------------------------------------------------------- sensitivity


def with_rule(net: Net, kind: type, rule: Any) -> Net:
    return net.mapped(lambda op: dataclasses.replace(op, rule=rule) if isinstance(op, kind) else op)


def with_epsilon(net: Net, epsilon: float) -> Net:
    return net.mapped(lambda op: dataclasses.replace(op, epsilon=epsilon) if isinstance(op, Norm) else op)


def decisions(net: Net) -> list[np.ndarray]:
    """Per hidden layer that reads bits: +1 or not at every dot, (depth + 1, neurons), from the float32 expressions."""
    found = []
    layers = list(net.ops)
    for index, layer in enumerate(layers):
        if isinstance(layer, Linear) and index and index + 3 < len(layers):
            dots = np.arange(-layer.depth, layer.depth + 1, 2, dtype=np.float32)[:, None].repeat(layer.neurons, 1)
            norm, sign = layers[index + 1 : index + 3]
            assert isinstance(norm, Norm)
            assert isinstance(sign, Quantize)
            inner = Linear(np.ones((layer.neurons, 1), np.float32), "ge", layer.h, layer.bias, layer.scale)
            from xnorinfer.net.reference import batch_norm, finish_linear

            with np.errstate(all="ignore"):
                found.append(BINARIZE[sign.rule](batch_norm(norm, finish_linear(inner, dots))) > 0)
    return found


@pytest.mark.parametrize("name", ["range", "signs"])
def test_sensitivity_counts_what_really_changes(name: str) -> None:
    net = random_network(21, [40, 50, 45, 30, 6], INPUTS[name], rule="ge", profile="ge-zero")
    x = random_inputs(np.random.default_rng(1), net.input, 300, 40)
    found = sensitivity(net, lower(net).packed, x)
    assert found.rows == 300
    by_name = {(other.what, other.value): other for other in found.alternatives}
    assert ("epsilon", "0.0001") not in by_name  # that is what the network has
    before = forward(net, x).argmax(axis=1)
    cases = {
        ("epsilon", "1e-05"): with_epsilon(net, 1e-5),
        ("epsilon", "0.001"): with_epsilon(net, 1e-3),
        ("tie rule of weights", "gt"): with_rule(net, Linear, "gt"),
        ("tie rule of activations", "gt"): with_rule(net, Quantize, "gt"),
        ("tie rule of activations", "round-even"): with_rule(net, Quantize, "round-even"),
    }
    for key, other in cases.items():
        told = by_name[key]
        assert told.impossible is None
        assert told.changed_predictions == int((forward(other, x).argmax(axis=1) != before).sum()), key
        pairs = zip(net.ops, other.ops, strict=True)
        weights = sum(
            int((binary_weights(a) != binary_weights(b)).sum())
            for a, b in pairs
            if isinstance(a, Linear) and isinstance(b, Linear)
        )
        assert told.weight_bits == weights
        moved = [int((a != b).any(axis=0).sum()) for a, b in zip(decisions(net), decisions(other), strict=True)]
        if not weights:
            assert [told.thresholds_by_layer[layer] for layer in ("fc2", "fc3")] == moved, key
    assert by_name["tie rule of weights", "gt"].weight_bits > 0
    assert by_name["tie rule of activations", "gt"].thresholds > 0
    ties = found.layers[1]
    latent = dict(net.linears)["fc2"].weight
    assert ties.latents_zero == int((latent == 0).sum())
    assert ties.latents_close == int(((np.abs(latent) <= 2.0**-24) & (latent != 0)).sum())


def test_reachable_zeros_are_counted() -> None:
    mean = np.array([0.0, 1.0, 2.0], np.float32)  # dots of 4 bits are even: neurons 0 and 2 reach 0
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    norm = ("bn", Norm(mean, one, None, one, zero, 0.0, "tf"))
    first = ("a", Linear(np.ones((3, 4), np.float32), "ge"))
    last = ("b", Linear(np.ones((2, 3), np.float32), "ge"))
    net = Net.chain(INPUTS["signs"], (first, norm, ("s", Quantize("ge")), last), "ge-zero")
    found = sensitivity(net, lower(net).packed)
    assert (found.layers[0].neurons_with_zero, found.layers[0].sums_with_zero) == (2, 2)
    assert all(other.changed_predictions is None for other in found.alternatives)
    assert next(other for other in found.alternatives if other.value == "gt" and "activations" in other.what).thresholds == 2


# ---------------------------------------------------------------- framework


def in_torch(net: Net, x: Any, source: str = "npz") -> Agreement:
    return compare(open_as_read(net, source).answers("net", x), net, lower(net).packed)


@pytest.mark.parametrize("rule", ["round-even", "round-away", "sign", "ge", "gt"])
@pytest.mark.parametrize("form", ["tf", "torch", "tf-fused"])
def test_pytorch_has_every_rule_and_order(rule: Any, form: Any) -> None:
    pytest.importorskip("torch")
    net = random_network(31, [40, 50, 45, 6], INPUTS["signs"], rule=rule, form=form)
    told = in_torch(net, random_inputs(np.random.default_rng(1), net.input, 300, 40))
    assert (told.first_bits, told.different, told.unexplained, told.largest_score_difference) == (0, 0, 0, 0)


@pytest.mark.parametrize("tail", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_pytorch_agrees_where_nothing_is_rounded(name: str, tail: bool) -> None:
    pytest.importorskip("torch")
    net = random_network(31, [40, 50, 45, 6], INPUTS[name], float_tail=tail)
    x = random_inputs(np.random.default_rng(1), net.input, 300, 40)
    told = in_torch(net, x)
    assert told.run is not None
    assert (told.rows, told.run.original) == (300, False)
    assert told.first_bits_of == 300 * 50
    assert told.unexplained == 0
    if name in ("raw", "threshold", "signs"):  # integers: float32 sums are exact in any order
        assert (told.first_bits, told.different) == (0, 0)
    if not tail:
        assert told.largest_score_difference == 0


@pytest.mark.parametrize("much", [False, True], ids=["within rounding", "more than rounding"])
def test_a_rounding_of_the_first_layer_is_told_as_such(monkeypatch: pytest.MonkeyPatch, much: bool) -> None:
    """PyTorch is given inputs that are a little off, which stands for another order of its sums."""
    pytest.importorskip("torch")
    net = random_network(31, [40, 50, 45, 6], INPUTS["range"])
    x = random_inputs(np.random.default_rng(1), net.input, 300, 40)
    if not much:  # every neuron's threshold lies at the sum of a sample
        norm, sums = net.ops[1], next(node_outputs(net, x))[1]
        assert isinstance(norm, Norm)
        mean = sums[np.arange(50) * 5, np.arange(50)]
        norm = dataclasses.replace(norm, mean=mean, variance=np.ones_like(mean), gamma=None, beta=None)
        changed = {net.ops[1]: norm, net.ops[2]: Quantize("ge")}
        net = net.mapped(lambda op: changed.get(op, op))
    off = np.float32(0.02 if much else 2e-7)
    real = base.mapped_input
    monkeypatch.setattr(base, "mapped_input", lambda mapping, x: real(mapping, x) + off)
    told = in_torch(net, x, "torch")
    assert told.run is not None
    assert told.run.original
    assert told.first_bits
    assert told.different > 0
    if much:  # which no order of its sums makes of them
        assert told.unexplained > 0
        assert told.by_rounding < told.different
    else:
        assert told.by_rounding == told.different
        assert told.other_bits >= told.different
        assert told.unexplained == 0


def test_no_other_difference_is_taken_for_a_rounding() -> None:
    """Behind the first sign PyTorch computes what the reference computes: a tie that falls otherwise there is no rounding."""
    pytest.importorskip("torch")
    net = random_network(31, [40, 50, 45, 6], INPUTS["signs"])
    x = random_inputs(np.random.default_rng(1), net.input, 300, 40)
    dense = net.ops[3]
    assert isinstance(dense, Linear)
    mean = np.full(45, 2, np.float32)  # sums of 50 signs are even
    ours, theirs = (
        [("fc2", Linear(dense.weight, "ge")), ("bn", Norm(m, np.ones_like(m), epsilon=0.0)), ("s", Quantize("ge"))]
        for m in (mean, np.nextafter(mean, np.float32(3)))
    )
    ours, theirs = (Net.chain(net.input, (*net.named[:3], *second, *net.named[6:]), net.profile) for second in (ours, theirs))
    answers = open_as_read(theirs, "torch").answers("net", x)
    told = compare(answers, ours, lower(ours).packed)
    assert told.first_bits == 0
    assert told.different > 0
    assert told.by_rounding == 0


def test_no_samples_are_no_answers(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    np.save(tmp_path / "none.npy", np.zeros((0, 64), np.uint8))
    text = " ".join(fine("verify", model, CHECKPOINT, "--data", tmp_path / "none.npy", "--framework", "--sensitivity").split())
    assert "on 0 samples: 0 predictions differ" in text


def test_the_command_runs_pytorch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import checkpoints

    arrays = checkpoints.state_arrays(checkpoints.random_layers([64, 40, 10], 3))
    torch.save({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}, tmp_path / "net.pt")
    fine("convert", tmp_path / "net.pt", "-o", tmp_path / "m", "--profile", "ge-zero")
    text = " ".join(fine("verify", tmp_path / "m", tmp_path / "net.pt", "--framework", "--rows", 200).split())
    # PyTorch runs what the file was read as: that says nothing of the reading.
    assert "(the framework of the checkpoint; it runs the reading, and tells nothing about it) on 200 samples: 0 pred" in text
    assert "that this reading is the trained network is not proved" in text
    told = json.loads(fine("verify", tmp_path / "m", tmp_path / "net.pt", "--framework", "--rows", 50, "--json"))
    assert told["framework"]["rows"] == 50


def test_a_framework_that_ran_other_samples_does_not_contradict(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    out, given = tmp_path / "c.json", ("verify", model, CHECKPOINT, "--framework")
    fine(*given, "--rows", 30, "--certificate", out)
    content = json.loads(out.read_text())
    content["framework"]["version"] = "1.0"
    older = signed(content, tmp_path / "older.json")
    for rows in (30, 20):
        assert run(*given, "--rows", rows, "--check", older).exit_code == 0
    content["framework"]["different"] = 1
    done = run(*given, "--rows", 30, "--check", signed(content, tmp_path / "other.json"))
    assert (done.exit_code, "framework.different: 1 in the certificate, 0 now" in done.stderr) == (1, True)
