"""The Open Inference Protocol, version 2, as clients of Triton, KServe and MLServer speak it over HTTP.

Texts (BYTES) to entities, and token ids (INT64) to logits, for clients that tokenize and group by themselves. Tensors
come as JSON or in binary (`tensors`), and go as JSON. https://github.com/kserve/open-inference-protocol
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

import nerve
from nerve.config import model_name
from nerve.endpoints.bodies import encode_list
from nerve.endpoints.entity_options import entity_options, entity_rows
from nerve.endpoints.json_bodies import JsonBody, check_count, check_texts, error_in_field, require_json
from nerve.endpoints.protocol import EXAMPLE_TEXT, JSON_TYPE, Description, GetRoute, PostRoute
from nerve.endpoints.tensors import (
    InferRequest,
    InputTensor,
    integers_of,
    split_body,
    texts_of,
    with_binary,
)
from nerve.engine.codec import IdQuery, Query
from nerve.errors import InvalidRequest, MalformedRequest
from nerve.text.numbers import float32_json
from nerve.types import AggregationStrategy

if TYPE_CHECKING:
    from nerve.config import Config, LimitsConfig, RuntimeConfig
    from nerve.endpoints.protocol import Header
    from nerve.types import FloatArray, IntArray, Row

    Tensors = dict[str, tuple[int, InputTensor, memoryview | None]]

_VERSION = "1"
_BINARY_TYPE = "application/octet-stream"
_HEADER_LENGTH = "inference-header-content-length"
_MOST_DIGITS = 9
_ENTITIES, _LOGITS = "entities", "logits"
_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
# A wrong body is 400, whatever is wrong with it.
ERRORS = error_in_field("error", {422: 400})

_body = JsonBody(InferRequest)
_encode = msgspec.json.Encoder().encode


class TextTensorQuery(Query, frozen=True):
    """What a request with texts asks for. id: of the request, to be sent back."""

    id: str | None

    def place(self, index: int) -> str:
        """See `Query`; there is one tensor of texts."""
        return f"inputs[0].data[{index}]"


@dataclass(frozen=True, slots=True)
class InferCodec:
    """Reads and writes one request. header_length: bytes of the document before binary data; None for no such data."""

    model: str
    runtime: RuntimeConfig
    limits: LimitsConfig
    header_length: int | None = None
    media_type: str = JSON_TYPE

    def decode(self, body: bytes | bytearray) -> Query | IdQuery:
        """See `Codec`."""
        document, rest = split_body(body, self.header_length)
        request = _body.decode(document)
        tensors: Tensors = {}
        for index, (tensor, binary) in enumerate(with_binary(request.inputs, rest)):
            if tensor.name in tensors:
                raise InvalidRequest(f"inputs[{index}].name: two inputs have this name")
            tensors[tensor.name] = (index, tensor, binary)
        if _IDS in tensors:
            return self._read_ids(request, tensors)
        if len(tensors) != 1:
            raise InvalidRequest(f"inputs: send one BYTES tensor of texts, or {_IDS} and {_MASK}")
        (index, tensor, binary) = next(iter(tensors.values()))
        if tensor.datatype != "BYTES":
            raise InvalidRequest(f"inputs[{index}].datatype: must be BYTES; a tensor of ids is called {_IDS}")
        _check_outputs(request, _ENTITIES)
        texts = texts_of(tensor, binary, index, self.limits.max_inputs)
        check_texts(texts, f"inputs[{index}].data", self.limits)
        strategy = (request.parameters or {}).get("aggregation_strategy")
        if strategy is not None and not isinstance(strategy, str):
            raise InvalidRequest("parameters.aggregation_strategy: must be a string")
        options = entity_options(self.runtime, strategy)
        if options.aggregation_strategy is AggregationStrategy.NONE:
            raise InvalidRequest(
                "parameters.aggregation_strategy: texts are answered with entities only; for each token's logits send "
                f"{_IDS}"
            )
        return TextTensorQuery(texts, options, request.id)

    def encode(self, query: Query, rows: list[list[Row]]) -> bytes:
        """See `Codec`."""
        assert isinstance(query, TextTensorQuery)  # noqa: S101 - `decode` has made it
        data = [encode_list(entity_rows(each), msgpack=False).decode() for each in rows]
        tensor = {
            "name": _ENTITIES,
            "datatype": "BYTES",
            "shape": [len(data)],
            "parameters": {"content_type": "hg_jsonlist"},
            "data": data,
        }
        return _encode({**self._head(query.id), "outputs": [tensor]})

    def _read_ids(self, request: InferRequest, tensors: Tensors) -> IdQuery:
        """Read token ids; what the mask leaves out at the end of a row is padding."""
        unknown = set(tensors) - {_IDS, _MASK, _TYPES}
        if unknown:
            raise InvalidRequest(f"inputs: known beside {_IDS} are {_MASK} and {_TYPES} only")
        _check_outputs(request, _LOGITS)
        found = {
            name: integers_of(tensor, binary, index) for name, (index, tensor, binary) in tensors.items()
        }
        ids = found[_IDS]
        check_count(len(ids), _IDS, self.limits)
        if any(each.shape != ids.shape for each in found.values()):
            raise InvalidRequest(f"inputs: the shapes of {', '.join(found)} must be equal")
        if _TYPES in found and found[_TYPES].any():
            raise InvalidRequest(f"{_TYPES}: must be 0 throughout: a text has one segment")
        lengths = _lengths(found[_MASK]) if _MASK in found else [ids.shape[1]] * len(ids)
        sequences = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]
        return IdQuery(sequences, partial(self._write_logits, request.id, ids.shape[1]))

    def _write_logits(self, request_id: str | None, width: int, logits: list[FloatArray]) -> bytes:
        """Write the logits (B, T, L); those of padding are 0."""
        n_labels = logits[0].shape[1]
        padded = np.zeros((len(logits), width, n_labels), dtype=np.float32)
        for row, each in zip(padded, logits, strict=True):
            row[: len(each)] = each
        head = _encode(self._head(request_id))[:-1]
        shape = _encode(padded.shape)
        tensor = b'{"name":"%b","datatype":"FP32","shape":%b,"data":%b}' % (
            _LOGITS.encode(),
            shape,
            float32_json(padded.reshape(-1)),
        )
        return head + b',"outputs":[' + tensor + b"]}"

    def _head(self, request_id: str | None) -> dict[str, Any]:
        head = {"model_name": self.model, "model_version": _VERSION}
        return head if request_id is None else {**head, "id": request_id}


class OpenInference:
    """The endpoint."""

    name = "open_inference"

    def __init__(self, config: Config) -> None:
        self._limits = config.limits
        self._runtime = config.runtime
        self._model = model_name(config.model)
        self._codec = InferCodec(self._model, config.runtime, config.limits)
        model = f"/v2/models/{self._model}"
        versioned = f"{model}/versions/{_VERSION}"
        self.routes = (
            PostRoute(f"{model}/infer", self._choose_codec, self._describe, ERRORS),
            PostRoute(f"{versioned}/infer", self._choose_codec, self._describe, ERRORS),
            _told("/v2", "The server", _SERVER),
            _told(model, "The tensors of the model", self._model_facts()),
            _told(versioned, "The tensors of the model", self._model_facts()),
            _probe("/v2/health/live", {"live": True}, when_ready=False),
            _probe("/v2/health/ready", {"ready": True}),
            _probe(f"{model}/ready", {"name": self._model, "ready": True}),
            _probe(f"{versioned}/ready", {"name": self._model, "ready": True}),
        )

    def _choose_codec(self, header: Header) -> InferCodec:
        length = header(_HEADER_LENGTH)
        require_json(header, *(() if length is None else (_BINARY_TYPE,)))
        if length is None:
            return self._codec
        if not length.isascii() or not length.isdigit() or len(length) > _MOST_DIGITS:
            raise MalformedRequest(f"header {_HEADER_LENGTH} must be a whole number of bytes")
        return InferCodec(self._model, self._runtime, self._limits, int(length))

    def _model_facts(self) -> dict[str, Any]:
        ids = [{"name": name, "datatype": "INT64", "shape": [-1, -1]} for name in (_IDS, _MASK)]
        return {
            "name": self._model,
            "versions": [_VERSION],
            "platform": "onnx_onnxv1",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}, *ids],
            "outputs": [
                {"name": _ENTITIES, "datatype": "BYTES", "shape": [-1]},
                {"name": _LOGITS, "datatype": "FP32", "shape": [-1, -1, -1]},
            ],
        }

    def _describe(self) -> Description:
        request, schemas = _body.schema()
        return Description(
            summary="Find the entities of texts, or the logits of token ids, by the Open Inference Protocol",
            answer_text="Of texts: `entities`, a JSON list for each. Of ids: `logits`",
            media_types=(JSON_TYPE,),
            request=request,
            answer=_ANSWER,
            schemas=schemas,
            examples={
                "texts": {
                    "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [EXAMPLE_TEXT]}]
                },
                "ids": {
                    "inputs": [
                        {"name": name, "shape": [1, 2], "datatype": "INT64", "data": [[1, 1]]}
                        for name in (_IDS, _MASK)
                    ]
                },
            },
        )


_SERVER = {"name": "nerve", "version": nerve.__version__, "extensions": ["binary_tensor_data"]}
_STRING = {"type": "string"}
_TENSOR = {
    "type": "object",
    "properties": {
        "name": _STRING,
        "datatype": {"enum": ["BYTES", "FP32"]},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array"},
    },
    "required": ["name", "datatype", "shape", "data"],
}
_ANSWER = {
    "type": "object",
    "properties": {
        "model_name": _STRING,
        "model_version": _STRING,
        "id": _STRING,
        "outputs": {"type": "array", "items": _TENSOR},
    },
    "required": ["model_name", "model_version", "outputs"],
}


def _told(path: str, summary: str, facts: dict[str, Any]) -> GetRoute:
    """Return a route that tells what does not change."""
    schema = {"type": "object", "required": list(facts)}
    return GetRoute(path, summary, _encode(facts), schema, when_ready=False, errors=ERRORS)


def _probe(path: str, facts: dict[str, Any], *, when_ready: bool = True) -> GetRoute:
    """Return a route that a probe asks; its status is what counts."""
    summary = "Readiness" if when_ready else "Liveness"
    schema = {"type": "object", "required": list(facts)}
    return GetRoute(
        path, summary, _encode(facts), schema, is_health=True, when_ready=when_ready, errors=ERRORS
    )


def _check_outputs(request: InferRequest, name: str) -> None:
    """Raise `InvalidRequest` when a request wants a tensor that there is not."""
    if any(output.name != name for output in request.outputs or ()):
        raise InvalidRequest(f"outputs: of these inputs there is {name} only")


def _lengths(mask: IntArray) -> list[int]:
    """Return how many tokens of each row are no padding. Raises `InvalidRequest` unless all of it is at the end."""
    lengths = mask.sum(axis=1)
    expected = np.arange(mask.shape[1]) < lengths[:, None]
    if not np.array_equal(mask, expected):
        raise InvalidRequest(f"{_MASK}: a row must be ones and then zeros; pad at the right")
    return [int(length) for length in lengths]
