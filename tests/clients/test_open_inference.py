"""Clients of Triton and KServe, and OpenMed's remote pipeline."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

TEXT = "Anna Maria lives in Paris."
FOUND = [("PERSON", "Anna Maria"), ("LOCATION", "Paris")]
IDS = np.array([[2, 4, 5, 3], [2, 7, 3, 0]], dtype=np.int64)
MASK = (IDS != 0).astype(np.int64)


def found_in(element: bytes | str) -> list[tuple[str, str]]:
    """Return what one element of the answer says."""
    return [(row["entity_group"], row["word"]) for row in json.loads(element)]


def text_input(texts: list[str], *, binary: bool) -> triton.InferInput:
    """Make a tensor of texts."""
    tensor = triton.InferInput("text", [len(texts)], "BYTES")
    tensor.set_data_from_numpy(np.array([text.encode() for text in texts], dtype=object), binary_data=binary)
    return tensor


def test_triton_tells(url: str) -> None:
    """Health and metadata."""
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("ner")
    assert client.is_model_ready("ner", "1")
    assert not client.is_model_ready("other")
    assert client.get_server_metadata()["name"] == "nerve"
    assert [each["name"] for each in client.get_model_metadata("ner")["outputs"]] == ["entities", "logits"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_triton_texts(url: str, binary: bool, asks: bool, compression: str | None) -> None:
    """Binary is its default; what it asks for in binary it takes as JSON, too."""
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    outputs = [triton.InferRequestedOutput("entities")] if asks else None
    tensor = text_input([TEXT, "é Paris"], binary=binary)
    answer = client.infer(
        "ner", [tensor], request_id="7", outputs=outputs, request_compression_algorithm=compression
    )
    found = answer.as_numpy("entities")
    assert [found_in(each) for each in found] == [FOUND, FOUND[1:]]
    assert answer.get_response()["id"] == "7"


def test_triton_ids(url: str) -> None:
    """Token ids to logits."""
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    inputs = []
    for name, values in (("input_ids", IDS), ("attention_mask", MASK)):
        tensor = triton.InferInput(name, list(values.shape), "INT64")
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    logits = client.infer("ner", inputs, outputs=[triton.InferRequestedOutput("logits")]).as_numpy("logits")
    assert (logits.shape, logits.dtype) == ((2, 4, 5), np.float32)
    assert logits.argmax(axis=2).tolist() == [[0, 1, 2, 0], [0, 3, 0, 0]]


def test_triton_errors(url: str, guarded: str) -> None:
    """The client shows the server's message and status."""
    client = triton.InferenceServerClient(url.removeprefix("http://"))
    with pytest.raises(InferenceServerException, match="no such route"):
        client.infer("other", [text_input([TEXT], binary=True)])
    with pytest.raises(InferenceServerException, match="token's logits send input_ids"):
        client.infer("ner", [text_input([TEXT], binary=True)], parameters={"aggregation_strategy": "none"})
    client = triton.InferenceServerClient(guarded.removeprefix("http://"))
    assert client.is_server_ready()
    with pytest.raises(InferenceServerException, match="API key"):
        client.infer("ner", [text_input([TEXT], binary=True)])
    answer = client.infer("ner", [text_input([TEXT], binary=True)], headers={"x-api-key": "s3cret-key"})
    assert found_in(answer.as_numpy("entities")[0]) == FOUND


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_kserve(url: str, protocol: str) -> None:
    """Its REST client, with both protocols."""
    kserve = pytest.importorskip("kserve")

    async def ask() -> None:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol=protocol))
        assert await client.is_model_ready(url, "ner")
        if protocol == "v1":
            answer = await client.infer(url, {"instances": [TEXT]}, model_name="ner")
            rows = answer["predictions"][0]
            assert [(row["entity_group"], row["word"]) for row in rows] == FOUND
        else:
            assert await client.is_server_live(url)
            assert await client.is_server_ready(url)
            for binary in (False, True):
                tensor = kserve.InferInput("text", [1], "BYTES")
                tensor.set_data_from_numpy(np.array([TEXT.encode()], dtype=object), binary_data=binary)
                request = kserve.InferRequest("ner", [tensor])
                answer = await client.infer(url, request, model_name="ner")
                assert found_in(answer.outputs[0].data[0]) == FOUND
        await client.close()

    asyncio.run(ask())


class Tokens:
    """A tokenizer as OpenMed calls one: that of the lookup model, by its words."""

    model_input_names = ("input_ids", "token_type_ids", "attention_mask")
    words = ("anna", "maria", "bob", "paris", "new", "york", "##ville", "lives", "in")

    def __call__(self, texts: list[str], **options: object) -> dict[str, np.ndarray]:
        """Return tensors, with offsets in the text."""
        text = texts[0] if isinstance(texts, list) else texts
        ids, offsets, position = [2], [(0, 0)], 0
        for word in text.rstrip(".").split():
            position = text.index(word, position)
            ids.append(4 + self.words.index(word.lower()))
            offsets.append((position, position + len(word)))
        ids.append(3)
        offsets.append((0, 0))
        return {
            "input_ids": np.array([ids]),
            "token_type_ids": np.zeros((1, len(ids)), dtype=np.int64),
            "attention_mask": np.ones((1, len(ids)), dtype=np.int64),
            "offset_mapping": np.array([offsets]),
        }


def test_openmed(url: str) -> None:
    """Its remote pipeline tokenizes and groups by itself, and asks for logits."""
    remote = pytest.importorskip("openmed.service.backends.remote_inference")
    settings = remote.RemoteInferenceSettings(endpoint=url, model_name="ner")
    labels = dict(enumerate(("O", "B-PER", "I-PER", "B-LOC", "I-LOC")))
    pipeline = remote.RemoteInferencePipeline(settings, "none", tokenizer=Tokens(), id2label=labels)
    found = pipeline(TEXT)
    assert [(TEXT[row["start"] : row["end"]], row["entity_group"]) for row in found] == [
        ("Anna Maria", "PER"),
        ("Paris", "LOC"),
    ]
