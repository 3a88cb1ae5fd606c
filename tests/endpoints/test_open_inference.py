"""The Open Inference Protocol: texts and token ids, as JSON and in binary."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

TEXT = "Anna Maria lives in Paris."
INFER = "/v2/models/lookup/infer"
IDS = [[2, 4, 5, 3], [2, 7, 3, 0]]  # [CLS] anna maria [SEP]; [CLS] paris [SEP] [PAD]
MASK = [[1, 1, 1, 1], [1, 1, 1, 0]]


def tensor(name: str, data: Any, datatype: str = "INT64", **more: Any) -> dict[str, Any]:
    """Make a tensor; its shape is that of its data."""
    return {"name": name, "datatype": datatype, "shape": list(np.shape(data)), "data": data, **more}


def binary(document: dict[str, Any], *parts: bytes) -> tuple[bytes, dict[str, str]]:
    """Put binary data after a document; returns the body and its headers."""
    head = json.dumps(document).encode()
    headers = {"inference_header_content_length": str(len(head)), "content_type": "application/octet-stream"}
    return head + b"".join(parts), headers


def packed(*texts: str) -> bytes:
    """Encode texts as a binary BYTES tensor."""
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def entities(answer: Any) -> list[list[tuple[str, str]]]:
    """Return labels and words of the entities of an answer."""
    assert answer.status == 200, answer.body
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"]) == ("entities", "BYTES")
    assert output["shape"] == [len(output["data"])]
    return [[(row["entity_group"], row["word"]) for row in json.loads(each)] for each in output["data"]]


@pytest.mark.parametrize("route", [INFER, "/v2/models/lookup/versions/1/infer"])
@pytest.mark.parametrize(
    ("shape", "data"),
    [([2], [TEXT, "in Paris"]), ([2, 1], [[TEXT], ["in Paris"]]), ([], [TEXT, ["in Paris"]])],
)
def test_texts(ask: Callable[..., Any], route: str, shape: list[int], data: list[Any]) -> None:
    """One element for each text, a JSON list, however the tensor is shaped; the id comes back."""
    body = {"id": "7", "inputs": [{"name": "any", "shape": shape, "datatype": "BYTES", "data": data}]}
    answer = ask(route, body)
    assert entities(answer) == [[("PER", "Anna Maria"), ("LOC", "Paris")], [("LOC", "Paris")]]
    head = {key: value for key, value in answer.json().items() if key != "outputs"}
    assert head == {"model_name": "lookup", "model_version": "1", "id": "7"}


def test_texts_in_binary(ask: Callable[..., Any]) -> None:
    """As Triton's clients send them; what is not ASCII is counted in bytes there."""
    part = packed("é Paris", "", TEXT)
    document = {
        "inputs": [
            {
                "name": "text",
                "shape": [3],
                "datatype": "BYTES",
                "parameters": {"binary_data_size": len(part)},
            }
        ],
        "parameters": {"binary_data_output": True},
    }
    body, headers = binary(document, part)
    assert entities(ask(INFER, body, **headers)) == [
        [("LOC", "Paris")],
        [],
        [("PER", "Anna Maria"), ("LOC", "Paris")],
    ]


def expected_logits() -> np.ndarray:
    """Give the logits of the lookup model for `IDS`, 0 where there is padding."""
    logits = np.zeros((2, 4, 5), np.float32)
    for row, column, label in ((0, 0, 0), (0, 1, 1), (0, 2, 2), (0, 3, 0), (1, 0, 0), (1, 1, 3), (1, 2, 0)):
        logits[row, column, label] = 6.0
    return logits


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("types", [False, True])
def test_ids(ask: Callable[..., Any], flat: bool, types: bool) -> None:
    """Logits for each token, in the shape of the ids; padding at the right has zeros."""
    inputs = [tensor("input_ids", IDS), tensor("attention_mask", MASK)]
    inputs += [tensor("token_type_ids", np.zeros((2, 4), int).tolist())] if types else []
    if flat:
        for each in inputs:
            each["data"] = [number for row in each["data"] for number in row]
    answer = ask(
        INFER, {"inputs": inputs, "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    )
    assert answer.status == 200, answer.body
    (output,) = answer.json()["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [2, 4, 5])
    np.testing.assert_array_equal(np.array(output["data"], np.float32).reshape(2, 4, 5), expected_logits())
    assert answer.headers["x-compute-tokens"] == "7"


@pytest.mark.parametrize(("datatype", "kind"), [("INT64", "<i8"), ("INT32", "<i4")])
def test_ids_in_binary(ask: Callable[..., Any], datatype: str, kind: str) -> None:
    """Little endian, in row-major order; one tensor may be JSON while the other is not."""
    part = np.array(IDS).astype(kind).tobytes()
    ids = {
        "name": "input_ids",
        "shape": [2, 4],
        "datatype": datatype,
        "parameters": {"binary_data_size": len(part)},
    }
    body, headers = binary({"inputs": [ids, tensor("attention_mask", MASK)]}, part)
    answer = ask(INFER, body, **headers)
    assert answer.status == 200, answer.body
    data = answer.json()["outputs"][0]["data"]
    np.testing.assert_array_equal(np.array(data, np.float32).reshape(2, 4, 5), expected_logits())


def test_ids_are_what_the_tokenizer_would_have_given(ask: Callable[..., Any]) -> None:
    """The logits of ids are those that /predict_tokens prints of the text."""
    body = {"inputs": "anna maria", "raw_scores": True}
    rows = ask("/predict_tokens", body).json()[0]
    answer = ask(INFER, {"inputs": [tensor("input_ids", [[row["token_id"] for row in rows]])]})
    logits = np.array(answer.json()["outputs"][0]["data"], np.float32).reshape(len(rows), 5)
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, [list(row["results"].values()) for row in rows], rtol=1e-5)


TEXTS = tensor("text", [TEXT], "BYTES")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"{", "the body is not valid JSON in UTF-8, or is cut short"),
        ({}, "inputs: required, but missing; known fields: inputs, id, parameters, outputs"),
        ({"inputs": []}, "inputs: send one BYTES tensor of texts, or input_ids and attention_mask"),
        ({"inputs": [TEXTS, TEXTS]}, "inputs[1].name: two inputs have this name"),
        ({"inputs": [{**TEXTS, "datatype": "FP32"}]}, "inputs[0].datatype: must be BYTES"),
        ({"inputs": [{**TEXTS, "data": [1]}]}, "inputs[0].data: a BYTES tensor holds strings"),
        ({"inputs": [{**TEXTS, "data": "abc"}]}, "inputs[0].data: required, as a list"),
        ({"inputs": [{**TEXTS, "data": []}]}, "inputs[0].data: no text; send at least one"),
        ({"inputs": [{**TEXTS, "data": ["a"] * 20}]}, "inputs[0].data: 9 texts, above limits.max_inputs = 8"),
        (
            {"inputs": [{**TEXTS, "data": [[[[[[[[["a"]]]]]]]]]}]},
            "inputs[0].data: lists are nested too deeply",
        ),
        (
            {"inputs": [TEXTS], "outputs": [{"name": "logits"}]},
            "outputs: of these inputs there is entities only",
        ),
        (
            {"inputs": [TEXTS], "parameters": {"aggregation_strategy": "none"}},
            "parameters.aggregation_strategy: texts are answered with entities only",
        ),
        (
            {"inputs": [TEXTS], "parameters": {"aggregation_strategy": 1}},
            "parameters.aggregation_strategy: must be",
        ),
        (
            {"inputs": [tensor("input_ids", [[2, 26]])]},
            "input_ids[0]: an id is not within the model's table of 26",
        ),
        (
            {"inputs": [tensor("input_ids", [[2, -1]])]},
            "input_ids[0]: an id is not within the model's table of 26",
        ),
        ({"inputs": [tensor("input_ids", [[2] * 17])]}, "input_ids[0]: 17 tokens, above the 16 of a window"),
        ({"inputs": [tensor("input_ids", [[2]] * 9)]}, "input_ids: 9 texts, above limits.max_inputs = 8"),
        ({"inputs": [tensor("input_ids", [2, 3])]}, "inputs[0].shape: must be two numbers"),
        (
            {"inputs": [{**tensor("input_ids", [[2, 3]]), "shape": [1, 3]}]},
            "inputs[0].data: has not as many elements",
        ),
        (
            {"inputs": [{**tensor("input_ids", [[2]]), "shape": [-1, -1]}]},
            "inputs[0].shape: must be two numbers",
        ),
        ({"inputs": [tensor("input_ids", [[2]], "FP32")]}, "inputs[0].datatype: must be INT64 or INT32"),
        (
            {"inputs": [{**tensor("input_ids", [[2, 3]]), "data": [[2.0, 3.5]]}]},
            "inputs[0].data: must be whole",
        ),
        (
            {"inputs": [{**tensor("input_ids", [[2, 3]]), "data": [[2], [3, 4]]}]},
            "inputs[0].data: must be whole",
        ),
        (
            {"inputs": [{**tensor("input_ids", [[2, 3]]), "data": ["a", "b"]}]},
            "inputs[0].data: must be whole",
        ),
        ({"inputs": [{**tensor("input_ids", [[2]]), "data": [2**70]}]}, "inputs[0].data: must be whole"),
        ({"inputs": [{**tensor("input_ids", [[2]]), "data": None}]}, "inputs[0].data: must be whole"),
        (
            {"inputs": [tensor("input_ids", [[2, 3]]), tensor("attention_mask", [[1]])]},
            "inputs: the shapes of input_ids, attention_mask must be equal",
        ),
        (
            {"inputs": [tensor("input_ids", [[2, 3]]), tensor("attention_mask", [[0, 1]])]},
            "attention_mask: a row must be ones and then zeros; pad at the right",
        ),
        (
            {"inputs": [tensor("input_ids", [[2, 3]]), tensor("attention_mask", [[2, 0]])]},
            "attention_mask: a row must be ones and then zeros; pad at the right",
        ),
        (
            {"inputs": [tensor("input_ids", [[2, 3]]), tensor("attention_mask", [[0, 0]])]},
            "input_ids[0]: no token; a row of attention_mask must have a 1",
        ),
        (
            {"inputs": [tensor("input_ids", [[2, 3]]), tensor("token_type_ids", [[0, 1]])]},
            "token_type_ids: must be 0 throughout",
        ),
        ({"inputs": [tensor("input_ids", [[2]]), TEXTS]}, "inputs: known beside input_ids are"),
    ],
)
def test_bad_bodies(ask: Callable[..., Any], body: object, error: str) -> None:
    """All are 400 with the message alone, and the server goes on."""
    answer = ask(INFER, body)
    assert answer.status == 400, answer.body
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(error)


def test_bad_binary_data(ask: Callable[..., Any]) -> None:
    """Sizes that do not fit, elements that end beyond the body, bytes that are no text."""

    def refusal(size: Any, part: bytes, document: dict[str, Any] | None = None, **headers: str) -> str:
        tensor = {"name": "t", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
        body, given = binary(document or {"inputs": [tensor]}, part)
        answer = ask(INFER, body, **{**given, **headers})
        assert answer.status == 400, answer.body
        error: str = answer.json()["error"]
        return error

    part = packed("Anna")
    assert "must be bytes that follow" in refusal(len(part) + 1, part)
    assert "must be bytes that follow" in refusal(-1, part)
    assert "must be bytes that follow" in refusal(True, part)
    assert "more bytes follow" in refusal(len(part) - 1, part)
    assert "an element is longer" in refusal(8, struct.pack("<I", 5) + b"Anna")
    assert "an element is longer" in refusal(2, b"\0\0")
    assert "not text in UTF-8" in refusal(5, struct.pack("<I", 1) + b"\xff")
    assert "above the length of the body" in refusal(8, part, inference_header_content_length="9999")
    assert "not valid JSON" in refusal(8, part, inference_header_content_length="5")
    for length in ("-1", "1.5", "x", "9" * 10):
        assert "must be a whole number" in refusal(8, part, inference_header_content_length=length)
    ids = {"name": "input_ids", "shape": [1, 2], "datatype": "INT64", "parameters": {"binary_data_size": 8}}
    assert "not as many bytes as its shape says" in refusal(0, b"\0" * 8, {"inputs": [ids]})


def test_binary_needs_its_header(ask: Callable[..., Any]) -> None:
    """Without it the content type is one that is not read."""
    assert ask(INFER, {"inputs": [TEXTS]}, content_type="application/octet-stream").status == 415


def test_what_is_told(ask: Callable[..., Any]) -> None:
    """Server, model and probes."""
    assert ask("/v2").json()["name"] == "nerve"
    for path in ("/v2/models/lookup", "/v2/models/lookup/versions/1"):
        facts = ask(path).json()
        assert (facts["name"], facts["versions"]) == ("lookup", ["1"])
        assert {each["name"] for each in facts["inputs"]} == {"text", "input_ids", "attention_mask"}
        assert {each["name"] for each in facts["outputs"]} == {"entities", "logits"}
        assert ask(f"{path}/ready").json() == {"name": "lookup", "ready": True}
    assert ask("/v2/health/live").json() == {"live": True}
    assert ask("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/other", "/v2/models/other/ready", "/v2/models/lookup/versions/2"):
        assert ask(path).status == 404
    assert ask("/v2/models/other/infer", {"inputs": [TEXTS]}).status == 404
