"""The Open Inference Protocol: answers equal to the model's own, and an error body for everything that is wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import LENGTH, Asked, asked, binary_request, opened
from networks import INPUTS
from servers import conv_model

import xnorinfer
from xnorinfer.engine.model import Model, random_inputs
from xnorinfer.net.windows import Window
from xnorinfer.serve.limits import Limits
from xnorinfer.serve.protocol import ProtocolError, metadata, parse, respond

KINDS = {"range": "UINT8", "threshold": "UINT8", "signs": "INT8", "reals": "FP32"}


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Asked]:
    limits = Limits(body=20_000, rows=64, batch=32)
    with asked({kind: folder / f"{kind}.safetensors" for kind in KINDS}, limits) as one:
        yield one


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_models_own(server: Asked, folder: Path, kind: str) -> None:
    model = xnorinfer.load(folder / f"{kind}.safetensors")
    x = random_inputs(model.packed, 7, 1)
    scores, classes, margins = model.scores(x), model.predict(x), model.margins(x)
    assert np.array_equal(server.scores(kind, x), scores)
    names = ["margins", "classes", "scores", "gaps"]
    for binary in (False, True):
        wanted = [{"name": name, "parameters": {"binary_data": binary}} for name in names]
        answer = server.infer(kind, binary_request(x, id="a 7", outputs=wanted), x.tobytes())
        document, found = opened(answer)
        assert document["id"] == "a 7"
        assert [output["name"] for output in document["outputs"]] == names
        for one, expected in zip(
            found, [np.stack([layer.smallest for layer in margins.layers], 1), classes, scores, margins.gaps], strict=True
        ):
            assert np.array_equal(one, expected)
    shaped = x.reshape(7, 8, 8)
    for data in (x.ravel().tolist(), shaped.tolist()):
        tensor = {"name": "input", "shape": [7, 8, 8], "datatype": KINDS[kind], "data": data}
        document, found = opened(server.infer(kind, {"inputs": [tensor]}))
        assert "id" not in document
        assert np.array_equal(found[0], scores)
        assert np.array_equal(found[1], classes)
    raw = server.client.post(f"/v2/models/{kind}/infer", content=x.tobytes(), headers={LENGTH: "0"})
    assert np.array_equal(opened(raw)[1][0], scores)


def test_numbers_in_json_are_what_they_say(server: Asked, folder: Path) -> None:
    """Few values and many, flat and as the shape has them: whichever way they are read."""
    model = xnorinfer.load(folder / "range.safetensors")
    for high in (1, 2, 256):
        x = np.random.default_rng(high).integers(0, high, (4, 64), np.uint8)
        for data in (x.ravel().tolist(), x.tolist()):
            tensor = {"name": "input", "shape": [4, 64], "datatype": "UINT8", "data": data}
            assert np.array_equal(opened(server.infer("range", {"inputs": [tensor]}))[1][0], model.scores(x))


def test_a_boolean_among_floats_is_no_number(server: Asked) -> None:
    tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [0.5] * 63 + [True]}
    require_error(server.infer("reals", {"inputs": [tensor]}), 400, "is not numbers alone")


def test_json_that_only_the_standard_library_reads(server: Asked) -> None:
    half = server.infer("range", {**GOOD, "id": "\ud83d"})  # of a pair
    assert json.loads(half.content)["id"] == "\ud83d"
    tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}
    text = json.dumps({"inputs": [tensor]}).replace("0.0", "1e400").encode()
    require_error(server.infer("reals", text), 400, "must be finite")


def test_no_rows_are_no_scores(server: Asked) -> None:
    tensor = {"name": "input", "shape": [0, 64], "datatype": "UINT8", "data": []}
    _, (scores, classes) = opened(server.infer("range", {"inputs": [tensor]}))
    assert scores.shape == (0, 5)
    assert classes.shape == (0,)


def test_floats_that_begin_anywhere_are_read(server: Asked, folder: Path) -> None:
    x = random_inputs(xnorinfer.load(folder / "reals.safetensors").packed, 2, 1)
    want = server.scores("reals", x)
    for spaces in range(4):
        text = json.dumps(binary_request(x)).encode() + b" " * spaces
        assert np.array_equal(opened(server.infer("reals", text, x.tobytes()))[1][0], want)


def test_what_a_server_says_of_itself(server: Asked) -> None:
    get = server.client.get
    assert get("/v2").json() == {"name": "xnorinfer", "version": xnorinfer.__version__, "extensions": ["binary_tensor_data"]}
    assert get("/v2/health/live").json() == {"live": True}
    assert get("/v2/health/ready").json() == {"ready": True}
    assert get("/v2/models").json() == {"models": list(KINDS)}
    about = get("/v2/models/reals").json()
    assert about["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
    assert [output["name"] for output in about["outputs"]] == ["scores", "classes"]
    (version,) = about["versions"]
    assert get(f"/v2/models/reals/versions/{version}").json() == about
    assert get(f"/v2/models/reals/versions/{version}/ready").json() == {"name": "reals", "ready": True}


# ---------------------------------------------------------------- errors

X = np.zeros((2, 64), np.uint8)
GOOD = {"inputs": [{"name": "input", "shape": [2, 64], "datatype": "UINT8", "data": [0] * 128}]}


def changed(**parts: Any) -> dict[str, Any]:
    """The good request with other parts of its input; None leaves one out."""
    request = copy.deepcopy(GOOD)
    request["inputs"][0] = {name: value for name, value in {**request["inputs"][0], **parts}.items() if value is not None}
    return request


#: What is wrong -> request, binary data, what the error says.
WRONG: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (b'{"inputs": [', b"", "no JSON"),
    "nothing": (b"", b"", "no JSON"),
    "no UTF-8": (b'{"id": "\xff"}', b"", "no JSON"),
    "NaN": (b'{"inputs": [NaN]}', b"", "it holds NaN"),
    "infinite": (b'{"inputs": [-Infinity]}', b"", "it holds -Infinity"),
    "nested": (b"[" * 9000 + b"]" * 9000, b"", "nested too deeply"),
    "long number": (b"1" * 9000, b"", "no JSON"),
    "a list": ([1], b"", "the request is a list, needed is an object"),
    "unknown field": ({**GOOD, "input": 1}, b"", "'input', which is not known"),
    "unknown parameter": ({**GOOD, "parameters": {"priority": 1}}, b"", "'priority', which is not known"),
    "id": ({**GOOD, "id": 7}, b"", "id is a number"),
    "no inputs": ({}, b"", "has no inputs"),
    "inputs": ({"inputs": {}}, b"", "inputs is an object, needed is a list"),
    "two inputs": ({"inputs": GOOD["inputs"] * 2}, b"", "2 inputs"),
    "input": ({"inputs": [None]}, b"", "the input is null"),
    "name": (changed(name="x"), b"", "no input 'x'; this model takes 'input'"),
    "no name": (changed(name=None), b"", "no input None"),
    "datatype": (changed(datatype="FP32"), b"", "datatype 'FP32'; this model takes UINT8"),
    "datatype of no kind": (changed(datatype=[]), b"", "datatype []"),
    "shape": (changed(shape=[2, 65]), b"", "[2, 65]; this model takes [-1, 64]"),
    "shape of one": (changed(shape=[128]), b"", "[128]; this model takes"),
    "shape below 0": (changed(shape=[-2, 64]), b"", "whole numbers, 0 or above"),
    "shape of floats": (changed(shape=[2.0, 64]), b"", "whole numbers, 0 or above"),
    "shape of booleans": (changed(shape=[True, 64]), b"", "whole numbers, 0 or above"),
    "no shape": (changed(shape=None), b"", "no list of whole numbers"),
    "huge shape": (changed(shape=[2, 64, *[1] * 40]), b"", "42 dimensions"),
    "rows without values": (changed(shape=[2, 0]), b"", "[2, 0]; this model takes"),
    "no data": (changed(data=None), b"", "no data, and no binary_data_size"),
    "few data": (changed(data=[0] * 127), b"", "has shape [127]; needed is a flat list, or one of shape [2, 64]"),
    "other shape of data": (changed(data=[[0] * 2] * 64), b"", "has shape [64, 2]"),
    "ragged": (changed(data=[[0] * 64, [0] * 63]), b"", "is ragged"),
    "data is an object": (changed(data={}), b"", "is an object, needed is a list"),
    "text": (changed(data=["0"] * 128), b"", "not whole numbers alone"),
    "null": (changed(data=[None] * 128), b"", "not whole numbers alone"),
    "booleans": (changed(data=[True, False] * 64), b"", "not whole numbers alone"),
    "a boolean": (changed(data=[7] * 127 + [True]), b"", "not whole numbers alone"),
    "a boolean in rows": (changed(data=[[7] * 64, [7] * 63 + [False]]), b"", "not whole numbers alone"),
    "fractions": (changed(data=[0.5] * 128), b"", "not whole numbers alone"),
    "beyond the type": (changed(data=[256] * 128), b"", "reaches from 256 to 256; UINT8 holds 0 to 255"),
    "below the type": (changed(data=[-1] * 128), b"", "UINT8 holds 0 to 255"),
    "beyond all types": (changed(data=[10**30] * 128), b"", "not whole numbers alone"),
    "unknown field of the input": (changed(dtype="UINT8"), b"", "'dtype', which is not known"),
    "shared memory": (changed(parameters={"shared_memory_region": "a"}), b"", "'shared_memory_region', which is not known"),
    "output": ({**GOOD, "outputs": [{"name": "logits"}]}, b"", "no output 'logits'; there is scores, classes, gaps, margins"),
    "outputs": ({**GOOD, "outputs": "scores"}, b"", "outputs is a string"),
    "output twice": ({**GOOD, "outputs": [{"name": "scores"}] * 2}, b"", "asked for twice"),
    "classification": ({**GOOD, "outputs": [{"name": "scores", "parameters": {"classification": 3}}]}, b"", "'classification'"),
    "binary_data": ({**GOOD, "outputs": [{"name": "scores", "parameters": {"binary_data": 1}}]}, b"", "is true or false"),
    "binary_data_output": ({**GOOD, "parameters": {"binary_data_output": "yes"}}, b"", "is true or false"),
    "parameters": ({**GOOD, "parameters": []}, b"", "parameters is a list"),
    "truncated": (binary_request(X), X.tobytes()[:-1], "127 bytes follow the JSON; input takes 128"),
    "too long": (binary_request(X), X.tobytes() + b"0", "129 bytes follow the JSON"),
    "no binary section": (binary_request(X), b"", "0 bytes follow the JSON"),
    "binary of another shape": (
        {"inputs": [{**binary_request(X)["inputs"][0], "shape": [3, 64]}]}, X.tobytes(), "of 128; its shape"
    ),
    "size of no kind": (
        changed(data=None, parameters={"binary_data_size": "128"}), X.tobytes(), "binary_data_size of '128'"
    ),
    "both": (changed(parameters={"binary_data_size": 128}), X.tobytes(), "data as well as binary_data_size"),
    "bytes for nobody": (GOOD, b"00", "2 bytes follow the JSON, and no input has a binary_data_size"),
}  # fmt: skip


def require_error(answer: Any, status: int, says: str) -> None:
    """The protocol's error: a status, and a JSON object with a text and nothing else."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    body = answer.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    assert says in body["error"], body["error"]
    assert "\n" not in body["error"]


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_request_has_an_error_of_the_protocol(server: Asked, what: str) -> None:
    request, binary, says = WRONG[what]
    require_error(server.infer("range", request, binary), 400, says)
    assert server.infer("range", GOOD).status_code == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 40, "", "2000"])
def test_a_wrong_header_has_an_error_of_the_protocol(server: Asked, length: str) -> None:
    answer = server.client.post("/v2/models/range/infer", content=json.dumps(GOOD).encode(), headers={LENGTH: length})
    require_error(answer, 400, "the header inference-header-content-length is")


def test_wrong_values_have_an_error_of_the_protocol(server: Asked) -> None:
    x = np.zeros((2, 64), np.float32)
    x[1, 3] = np.nan
    require_error(server.infer("reals", binary_request(x), x.tobytes()), 400, "input row 1, column 3 is nan")
    tensor = {"name": "input", "shape": [1, 64], "datatype": "FP32", "data": [1e39] * 64}
    require_error(server.infer("reals", {"inputs": [tensor]}), 400, "must be finite float32")
    signs = np.zeros((1, 64), np.int8)
    require_error(server.infer("signs", binary_request(signs), signs.tobytes()), 400, "input row 0, column 0 is 0")
    ragged = server.client.post("/v2/models/range/infer", content=b"0" * 65, headers={LENGTH: "0"})
    require_error(ragged, 400, "whole rows of 64 values of UINT8, 64 bytes each")


def test_what_is_not_there_has_an_error_of_the_protocol(server: Asked) -> None:
    client = server.client
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/other/versions/1"):
        require_error(client.get(path), 404, "there is no model 'other'; there is range, ")
    for path in ("/v2/models/range/versions/1", "/v2/models/range/versions/1/ready"):
        require_error(client.get(path), 404, "model range has no version '1'; there is ")
    require_error(server.infer("range/versions/1", GOOD), 404, "no version '1'")
    for path in ("/v2/", "/v1/models", "/v2/models/range/config", "/nothing", "/v2/models/a/b/c/d"):
        require_error(client.get(path), 404, f"GET {path}: Not Found")
    require_error(client.get("/v2/models/range/infer"), 405, "Method Not Allowed")
    require_error(client.post("/v2/health/live"), 405, "Method Not Allowed")
    require_error(client.post("/v2/models/%1B%5B1m%0A/infer", content=b"{}"), 404, "no model '\\x1b[1m\\n'")


def test_what_is_too_much_has_an_error_of_the_protocol(server: Asked) -> None:
    require_error(server.infer("range", b"0" * 20_001), 413, "this server takes 20000")
    x = np.zeros((65, 64), np.uint8)
    require_error(server.infer("range", binary_request(x), x.tobytes()), 413, "65 rows; this server takes 64 at once")
    request = binary_request(x[:33], outputs=[{"name": "gaps"}])
    require_error(server.infer("range", request, x[:33].tobytes()), 413, "margins of 33 rows; this server gives those of 32")
    require_error(server.infer("range", GOOD, **{"content-encoding": "gzip"}), 415, "encoding 'gzip'")


def test_numbers_that_json_lacks_are_given_as_binary_data_only(tmp_path: Path) -> None:
    from networks import random_network
    from packed_networks import with_layer

    from xnorinfer.packing import modelfile
    from xnorinfer.packing.lower import lower
    from xnorinfer.packing.packed import Affine

    packed = lower(random_network(1, [64, 8, 2], INPUTS["range"])).packed
    endless = Affine(("mul", "add"), np.array([[[1, 1], [0, 0]], [[np.inf, 1], [0, 0]]], np.float32))
    modelfile.save(with_layer(packed, 1, output=endless), tmp_path / "endless.safetensors")
    with asked({"endless": tmp_path / "endless.safetensors"}) as server:
        require_error(server.infer("endless", GOOD), 400, "infinite numbers or NaN, which JSON does not have")
        assert np.isinf(server.scores("endless", X)[:, 0]).all()


# ---------------------------------------------------------------- images


def test_images_come_in_the_order_of_axes_that_the_network_has() -> None:
    model = conv_model()
    about = metadata("net", "1", model)
    assert about["inputs"][0]["shape"] == [-1, 4, 6, 3]
    assert about["outputs"][0]["shape"] == [-1, 5]
    images = np.random.default_rng(2).integers(0, 256, (2, 4, 6, 3), np.uint8)

    def scores(x: np.ndarray[Any, Any], model: Model = model) -> np.ndarray[Any, Any]:
        text = json.dumps(binary_request(x)).encode()
        return model.scores(parse(text + x.tobytes(), str(len(text)), model.packed, 10).x)

    want = model.scores(images)
    assert np.array_equal(scores(images), want)
    assert np.array_equal(scores(images.reshape(2, 72)), want)
    first = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    assert np.array_equal(scores(first, conv_model(channels_first=True)), want)
    with pytest.raises(ProtocolError, match="channels first; this model takes them last"):
        scores(first)
    with pytest.raises(ProtocolError, match="this model takes images"):
        scores(images.reshape(2, 6, 4, 3))


@pytest.mark.parametrize("mapped", [False, True])
def test_networks_of_images_are_served(tmp_path: Path, mapped: bool) -> None:
    model = conv_model()
    model.save(tmp_path / "net.safetensors")
    images = np.random.default_rng(2).integers(0, 256, (2, 4, 6, 3), np.uint8)
    with asked({"net": tmp_path / "net.safetensors"}, snapshots=tmp_path if mapped else None) as server:
        assert np.array_equal(server.scores("net", images), model.scores(images))
        wanted = [{"name": "margins"}, {"name": "gaps"}]
        answer = server.infer("net", binary_request(images, outputs=wanted), images.tobytes())
    margins = model.margins(images)
    _, found = opened(answer)
    for one, expected in zip(found, [np.stack([layer.smallest for layer in margins.layers], 1), margins.gaps], strict=True):
        assert np.array_equal(one, expected)


def test_scores_of_maps_have_their_shape() -> None:
    model = conv_model(Window((2, 2)))
    about = metadata("net", "1", model)
    assert [output["shape"] for output in about["outputs"]] == [[-1, 2, 3, 5], [-1, 2, 3]]
    images = np.random.default_rng(2).integers(0, 256, (2, 4, 6, 3), np.uint8)
    request = parse(images.tobytes(), "0", model.packed, 10)
    body, _ = respond(("net", "1"), request, model.scores(request.x), None, {})
    scores, classes = json.loads(body)["outputs"]
    assert scores["shape"] == [2, 2, 3, 5]
    assert classes["shape"] == [2, 2, 3]
    assert np.array_equal(np.array(classes["data"]).reshape(2, 2, 3), model.predict(images))
