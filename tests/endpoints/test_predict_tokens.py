from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nerve.config import LimitsConfig, RuntimeConfig, parse_config
from nerve.endpoints import bodies
from nerve.endpoints import predict_tokens as wire
from nerve.errors import InvalidRequest, MalformedRequest, PredictError, UnsupportedMediaType
from nerve.types import (
    AggregationStrategy,
    EntityFilter,
    OffsetUnit,
    PredictOptions,
    RawScoresAs,
    Row,
    TruncationDirection,
)

SECRET = "Anna-Schmidt-0170"
RUNTIME, LIMITS = RuntimeConfig(), LimitsConfig()


def encode(value: object, msgpack: bool) -> bytes:
    """Encode a body as a client would."""
    return (msgspec.msgpack if msgpack else msgspec.json).encode(value)


def resolve(body: bytes, msgpack: bool = False) -> tuple[list[str], PredictOptions]:
    """Decode and resolve a body with the default configuration."""
    return wire.resolve_request(wire.decode_request(body, msgpack=msgpack), RUNTIME, LIMITS)


@pytest.mark.parametrize("msgpack", [False, True])
@pytest.mark.parametrize(
    ("inputs", "texts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([["a"], ["b", "c"]], ["a", "b", "c"]),
        ([["a", "b"], [], ["c"]], ["a", "b", "c"]),
        (["e\u0301 😀 \u200f\x00"], ["e\u0301 😀 \u200f\x00"]),
    ],
)
def test_inputs_are_flattened_in_order(inputs: object, texts: list[str], msgpack: bool) -> None:
    """A string, a list of strings and a list of lists are one flat list of texts."""
    assert resolve(encode({"inputs": inputs}, msgpack), msgpack)[0] == texts


@pytest.mark.parametrize("msgpack", [False, True])
@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "inputs: required"),
        ({"truncate": True}, "inputs: required"),
        ({"inputs": None}, "inputs: expected"),
        ({"inputs": 7}, "inputs: expected"),
        ({"inputs": {"a": SECRET}}, "inputs: expected"),
        ({"inputs": [SECRET, 7]}, "inputs[1]: expected"),
        ({"inputs": [[SECRET, [SECRET]]]}, "inputs[0][1]: expected `str`"),
        ({"inputs": [[["deep"]]]}, "inputs[0][0]: expected `str`"),
        ({"inputs": []}, "inputs: no text"),
        ({"inputs": [[], []]}, "inputs: no text"),
        ({"inputs": [SECRET, [SECRET]]}, "inputs: strings and lists are mixed"),
        ({"inputs": ["a"] * 129}, "inputs: 129 texts, above limits.max_inputs = 128"),
        ({"inputs": "a", SECRET: 1}, "the body has an unknown field; known fields: inputs, truncate,"),
        ({"inputs": "a", "missing required field": 1}, "unknown field"),
        (
            {"input": "a"},
            "the body has an unknown field `input`, perhaps meant as inputs; known fields: inputs,",
        ),
        (
            {"text": "a"},
            "the body has an unknown field `text`, perhaps meant as inputs; known fields: inputs,",
        ),
        (
            {"inputs": "a", "threshold": 0.5},
            "the body has an unknown field `threshold`, perhaps meant as min_score; known ",
        ),
        (
            {"inputs": "a", "parameters": {}},
            "the body has an unknown field `parameters`, perhaps meant for POST /pipeline/token-classification; known ",
        ),
        ({"inputs": "a", "truncate": 1}, "truncate: expected `bool`"),
        ({"inputs": "a", "truncate": SECRET}, "truncate: expected `bool`"),
        ({"inputs": "a", "raw_scores": "yes"}, "raw_scores: expected `bool`"),
        ({"inputs": "a", "truncation_direction": 1}, "truncation_direction: expected `str`"),
        ({"inputs": "a", "truncation_direction": SECRET}, "truncation_direction: unknown value"),
        ({"inputs": "a", "aggregation_strategy": SECRET}, "known values: none, simple, first, average, max"),
        ({"inputs": "a", "aggregation_strategy": "MAX"}, "aggregation_strategy: unknown value"),
        ({"inputs": "a", "offset_unit": SECRET}, "known values: code_point, utf16, byte"),
        ([SECRET], "the body: expected `object`, got `array`"),
        (SECRET, "the body: expected `object`, got `str`"),
        (None, "the body: expected `object`"),
    ],
)
def test_wrong_requests_are_refused_without_an_echo(body: object, message: str, msgpack: bool) -> None:
    """Each mistake names its field and never quotes what the client sent."""
    with pytest.raises(InvalidRequest) as caught:
        resolve(encode(body, msgpack), msgpack)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None  # a chained error would be logged with its content


@pytest.mark.parametrize(
    ("body", "msgpack"),
    [
        (b"", False),
        (b"", True),
        (b"hello", False),
        (b'{"inputs": "a"', False),
        (b'{"inputs": "a"} {}', False),
        (b'{"inputs": 7', False),  # a wrong type, then cut short
        (b'{"inputs": "\xff"}', False),
        (b'{"inputs": 7, "x": "\xff"}', False),
        (b'{"inputs": "\\ud800"}', False),
        (b'{"inputs": "a\nb"}', False),
        (b"\xef\xbb\xbf{}", False),
        ('{"inputs": "a"}'.encode("utf-16"), False),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", False),
        (b'{"inputs": NaN}', False),
        (b"\x81\xa6inputs", True),
        (b"\x81\xa6inputs\xa2\xff\xfe", True),
        (b"\x81\xa6inputs\xdd\xff\xff\xff\xff", True),  # announces 4 billion texts
        (b"\x81\xa6inputs\xdb\xff\xff\xff\xff", True),  # announces a text of 4 GiB
        (b"\x81\xa6inputs" + b"\x91" * 100_000, True),
        (b"\xc1", True),
    ],
)
def test_undecodable_bodies_are_malformed(body: bytes, msgpack: bool) -> None:
    """What is not JSON or MessagePack, or is cut short, is 400 whatever else is wrong with it."""
    with pytest.raises(MalformedRequest):
        resolve(body, msgpack)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["inputs", "truncate", "raw_scores", "offset_unit"]) | st.text(max_size=3),
            children,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40), st.booleans())
@example(b"\x81\x91\x80\x01", True)  # a map as the key of a map
@example(b"\x82\xa6inputs\x01\x81\x80\x01\x02", True)
@example(b"\x81\xa6inputs\xc7\x0c\xff" + b"\xff" * 12, True)  # a time stamp out of range
def test_any_bytes_give_a_predict_error_or_texts(body: bytes, msgpack: bool) -> None:
    """No body makes decoding raise anything but a `PredictError`."""
    try:
        texts, _ = resolve(body, msgpack)
    except PredictError:
        return
    assert all(isinstance(text, str) for text in texts)


@given(json_like, st.booleans(), st.integers(0, 3))
def test_any_value_gives_a_predict_error_or_texts(value: object, msgpack: bool, cut: int) -> None:
    """No value, whole or cut short, makes decoding raise anything but a `PredictError`."""
    body = encode(value, msgpack)
    try:
        texts, _ = resolve(body[: len(body) - cut], msgpack)
    except PredictError:
        return
    assert all(isinstance(text, str) for text in texts)


def test_options_left_out_take_the_configured_default() -> None:
    """Each default comes from the section `runtime`; the direction's is Right."""
    runtime = RuntimeConfig(
        aggregation_strategy=AggregationStrategy.MAX,
        truncate=True,
        raw_scores=True,
        raw_scores_as=RawScoresAs.LOGITS,
        offset_unit=OffsetUnit.BYTE,
    )
    request = wire.decode_request(b'{"inputs": "a"}', msgpack=False)
    assert wire.resolve_request(request, runtime, LIMITS)[1] == PredictOptions(
        AggregationStrategy.MAX,
        True,
        TruncationDirection.RIGHT,
        True,
        RawScoresAs.LOGITS,
        OffsetUnit.BYTE,
        to_encode=True,
    )


@pytest.mark.parametrize("msgpack", [False, True])
def test_options_that_are_null_count_as_absent(msgpack: bool) -> None:
    """Clients that send every field of a class send null for those that were not set."""
    optional = {
        field.name: None for field in msgspec.structs.fields(wire.PredictRequest) if not field.required
    }
    assert sorted(optional) == [
        *("aggregation_strategy", "labels", "min_score", "offset_unit", "raw_scores"),
        *("truncate", "truncation_direction"),
    ]
    runtime = RuntimeConfig(truncate=True, raw_scores=True, aggregation_strategy=AggregationStrategy.MAX)
    for fields in (optional, *({name: None} for name in optional)):
        body = encode({"inputs": "a", **fields}, msgpack)
        found = wire.resolve_request(wire.decode_request(body, msgpack=msgpack), runtime, LIMITS)
        absent = wire.resolve_request(wire.PredictRequest(inputs="a"), runtime, LIMITS)
        assert found == absent
    schema = msgspec.json.encode(_properties())
    assert schema.count(b"null counts as absent") == len(optional)


def _properties() -> dict[str, Any]:
    """Return what the OpenAPI document says of the fields."""
    model = {"checkpoint_repository": {"source": "LOCAL", "path": "."}}
    endpoint = wire.PredictTokens(parse_config({"model": model}, {}, Path("/")))
    properties: dict[str, Any] = endpoint.describe().schemas["PredictRequest"]["properties"]
    return properties


def test_options_of_the_request_win() -> None:
    """A field of the request overrides the configured default, `false` included."""
    runtime = RuntimeConfig(aggregation_strategy=AggregationStrategy.MAX, truncate=True, raw_scores=True)
    body = {
        "inputs": "a",
        "truncate": False,
        "raw_scores": False,
        "aggregation_strategy": "none",
        "truncation_direction": "LeFt",
        "offset_unit": "utf16",
    }
    request = wire.decode_request(encode(body, False), msgpack=False)
    assert wire.resolve_request(request, runtime, LIMITS)[1] == PredictOptions(
        truncation_direction=TruncationDirection.LEFT, offset_unit=OffsetUnit.UTF16, to_encode=True
    )


def test_filters_of_entities() -> None:
    """`labels` and `min_score` reach the engine with the names that it must check; other types are refused."""
    body = {
        "inputs": "a",
        "aggregation_strategy": "first",
        "labels": ["PER"],
        "min_score": {"LOC": 1, "*": 0.25},
    }
    _, options = resolve(encode(body, False))
    assert options.filter == EntityFilter(
        frozenset(["PER"]), {"LOC": 1.0}, 0.25, asked=(("labels", "PER"), ("min_score", "LOC"))
    )
    for wrong, message in (
        ({"labels": SECRET}, "labels: expected `array`, got `str`"),
        ({"labels": [5]}, r"labels\[0\]: expected `str`, got `int`"),
        ({"min_score": 1.5}, "min_score: expected `float` <= 1"),
        ({"min_score": SECRET}, "min_score: expected `float | object`, got `str`"),
        ({"min_score": {SECRET: -1}}, r"min_score\[...\]: expected `float` >= 0"),
        ({"aggregation_strategy": "none", "labels": []}, "labels: aggregation_strategy none answers tokens"),
    ):
        with pytest.raises(InvalidRequest, match=message) as caught:
            resolve(encode({"inputs": "a", "aggregation_strategy": "first", **wrong}, False))
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (None, False),
        ("", False),
        ("application/json", False),
        ("Application/JSON; charset=utf-8", False),
        ("application/msgpack", True),
        ("application/x-msgpack", True),
        ("application/vnd.msgpack; v=5", True),
    ],
)
def test_content_type(content_type: str | None, expected: bool) -> None:
    """MessagePack has three names; a missing content type is JSON."""
    assert bodies.is_msgpack(content_type) is expected


@pytest.mark.parametrize("content_type", ["text/plain", "application/jsonx", "*/*", SECRET])
def test_other_content_types_are_refused(content_type: str) -> None:
    """Any other content type is 415, and is not echoed."""
    with pytest.raises(UnsupportedMediaType) as caught:
        bodies.is_msgpack(content_type)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/msgpack", True),
        ("application/x-msgpack", True),
        ("APPLICATION/VND.MSGPACK", True),
        ("application/msgpack, application/json", True),
        ("application/json, application/msgpack", False),
        ("application/json;q=0.5, application/msgpack;q=0.9", True),
        ("application/msgpack;q=0.5, application/json", False),
        ("application/json;q=0.9,application/msgpack; Q=0.9", False),
        ("application/msgpack;q=0.1, */*", True),
        ("application/msgpack;q=0", False),
        ("application/msgpack;q=banana", False),
        ("application/msgpack;q=nan", False),
        ("text/html, application/msgpack;charset=x;q=0.2, */*;q=0.1", True),
        (",;,=;q=,msgpack", False),
    ],
)
def test_accept_negotiation(accept: str | None, expected: bool) -> None:
    """MessagePack is sent when it is named before JSON or has a higher q; JSON otherwise."""
    assert bodies.wants_msgpack(accept) is expected


@given(st.text())
def test_any_accept_header_is_understood(accept: str) -> None:
    """No header makes the negotiation fail."""
    assert bodies.wants_msgpack(accept) in (True, False)


def test_rows_are_the_same_in_both_encodings() -> None:
    """JSON and MessagePack carry the fields of the contract, in its order."""
    rows = [[Row("Apple", 6207, 0, 5, {"B-ORG": 0.9975586})], []]
    expected: list[Any] = [
        [{"token": "Apple", "token_id": 6207, "start": 0, "end": 5, "results": {"B-ORG": 0.9975586}}],
        [],
    ]
    assert msgspec.msgpack.decode(wire.encode_rows(rows, msgpack=True)) == expected
    assert wire.encode_rows(rows, msgpack=False) == msgspec.json.encode(expected)


@pytest.mark.parametrize("n_rows", [0, 1, 15, 16, 64, 65, 999, 1000, 1001, 70_000])
def test_many_rows_are_encoded_as_few_are(n_rows: int) -> None:
    """Encoding in parts gives the bytes of one call in JSON, and the same value in MessagePack."""
    rows = [[Row(f"é{k}", k, k, k + 1, {"B-PER": 0.25}) for k in range(n_rows)], []]
    assert wire.encode_rows(rows, msgpack=False) == msgspec.json.encode(rows)
    decoded = msgspec.msgpack.decode(wire.encode_rows(rows, msgpack=True))
    assert decoded == msgspec.to_builtins(rows)


def test_many_texts_are_encoded_as_few_are() -> None:
    """Many rows in all, few in each text: parts of another kind, and the same answer."""
    rows = [[Row(f"é{k}", k, k, k + 1, {"B-PER": 0.25})] * (k % 80) for k in range(200)]
    assert wire.encode_rows(rows, msgpack=False) == msgspec.json.encode(rows)
    decoded = msgspec.msgpack.decode(wire.encode_rows(rows, msgpack=True))
    assert decoded == msgspec.to_builtins(rows)


# --- the endpoint -------------------------------------------------------------------------------------


def make_endpoint(**limits: int) -> wire.PredictTokens:
    """Make the endpoint of a configuration with its defaults."""
    model = {"checkpoint_repository": {"source": "LOCAL", "path": "."}}
    return wire.PredictTokens(parse_config({"model": model, "limits": limits}, {}, Path("/")))


@pytest.mark.parametrize("reads", [None, "application/msgpack"])
@pytest.mark.parametrize("writes", [None, "application/msgpack"])
def test_codec_is_chosen_by_the_headers(reads: str | None, writes: str | None) -> None:
    """The body is read as it says, the answer is written as is asked for; no state is kept of a request."""
    headers = {"content-type": reads, "accept": writes}
    endpoint = make_endpoint()
    codec = endpoint.choose_codec(headers.get)
    assert codec is endpoint.choose_codec(headers.get)
    query = codec.decode(encode({"inputs": ["a", "b"], "offset_unit": "byte"}, reads is not None))
    assert (query.texts, query.options.offset_unit) == (["a", "b"], OffsetUnit.BYTE)
    rows = [[Row("a", 1, 0, 1, {"B-PER": 0.5})], []]
    assert codec.media_type == (writes or "application/json")
    decode = msgspec.json.decode if writes is None else msgspec.msgpack.decode
    assert decode(codec.encode(query, rows)) == msgspec.to_builtins(rows)


def test_body_of_another_kind_has_no_codec() -> None:
    """It is refused before anything is read."""
    with pytest.raises(UnsupportedMediaType):
        make_endpoint().choose_codec({"content-type": "text/plain"}.get)


def test_description_names_limits_and_values() -> None:
    """Schemas are complete: every reference leads to one of them, and the limits are the configured ones."""
    found = make_endpoint(max_inputs=7).describe()
    assert found.media_types == ("application/json", "application/msgpack")
    names = set(re.findall(r"#/components/schemas/(\w+)", repr((found.request, found.answer, found.schemas))))
    assert names == set(found.schemas)
    fields = found.schemas["PredictRequest"]["properties"]
    assert fields["inputs"]["anyOf"][1]["maxItems"] == 7
    strategies = ["none", "simple", "first", "average", "max", "viterbi", None]
    assert fields["aggregation_strategy"]["enum"] == strategies
