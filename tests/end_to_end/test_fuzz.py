"""Bytes that a client may send: whatever they are, the answer is one of the contract's, and soon.

A short, deterministic form; `make fuzz` takes many more, and new ones each time.
"""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import ServerProcess
from formats import BODIES, OTHER_BODIES, message_of, nested
from nerve.config import LimitsConfig, RuntimeConfig
from nerve.endpoints import predict_tokens as wire
from nerve.errors import InvalidRequest, MalformedRequest

IS_LONG = settings.default.max_examples > 1000  # the profile "fuzz" of conftest.py
RUNTIME, LIMITS = RuntimeConfig(), LimitsConfig(max_inputs=8)
MOST_SECONDS = 5.0  # far above what the largest of these bodies takes

FIELDS = [field.name for field in msgspec.structs.fields(wire.PredictRequest)]
WORDS = ["Anna", "max", "none", "byte", "utf16", "Left", "right", "\u0000", "😀e\u0301", "\u202e", ""]
texts = st.one_of(st.sampled_from(WORDS), st.text(max_size=40))
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=10), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
documents = st.one_of(
    values,
    st.fixed_dictionaries(
        {"inputs": st.one_of(texts, st.lists(texts, max_size=10), st.lists(st.lists(texts, max_size=4)))},
        optional={
            **dict.fromkeys(FIELDS[1:], st.one_of(values, st.booleans(), texts)),
            "unknown": values,
        },
    ),
)


@st.composite
def bodies(draw: st.DrawFn, msgpack: bool) -> bytes:
    """Draw bytes at random, or a body that was valid, or nearly so, with some bytes changed."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200))
    document = draw(documents)
    return changed(draw, msgspec.msgpack.encode(document) if msgpack else json.dumps(document).encode())


def changed(draw: st.DrawFn, valid: bytes) -> bytes:
    """Change some bytes of a body, or none."""
    body = bytearray(valid)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        match draw(st.sampled_from(["set", "insert", "cut", "repeat", "end"])):
            case "set" if at < len(body):
                body[at] = draw(st.integers(0, 255))
            case "insert":
                body[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "cut":
                del body[at : at + draw(st.integers(1, 8))]
            case "repeat":
                body[at:at] = body[max(0, at - 8) : at] * draw(st.integers(1, 50))
            case "end":
                del body[at:]
    return bytes(body)


def fuzzed(share: int) -> Any:
    """Return the settings of a test: a tenth of `share` times the usual examples, the same in every run."""
    return settings(
        max_examples=settings.default.max_examples * share // 10,
        derandomize=not IS_LONG,
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )


@pytest.mark.parametrize("msgpack", [False, True])
@pytest.mark.timeout(3600 if IS_LONG else 120)
def test_decoding(msgpack: bool) -> None:
    """A body is decoded and resolved, or refused with one of two errors; nothing else is raised."""

    @fuzzed(40)
    @given(bodies(msgpack))
    def check(body: bytes) -> None:
        try:
            texts, _ = wire.resolve_request(wire.decode_request(body, msgpack=msgpack), RUNTIME, LIMITS)
        except (MalformedRequest, InvalidRequest):
            return
        assert texts
        assert all(isinstance(text, str) for text in texts)
        "".join(texts).encode()  # no lone surrogate gets as far as the tokenizer

    check()


@pytest.mark.parametrize("msgpack", [False, True])
@pytest.mark.timeout(3600 if IS_LONG else 120)
def test_bodies(server: ServerProcess, msgpack: bool) -> None:
    """A running server answers any body with rows or with the contract's error, and goes on."""
    headers = {"content-type": "application/msgpack" if msgpack else "application/json"}

    @fuzzed(30)
    @given(bodies(msgpack), st.booleans())
    def check(body: bytes, wants_msgpack: bool) -> None:
        accept = "application/msgpack" if wants_msgpack else "*/*"
        started = time.perf_counter()
        answer = server.client.post("/predict_tokens", content=body, headers={**headers, "accept": accept})
        assert time.perf_counter() - started < MOST_SECONDS
        if answer.status_code == 200:
            rows = (msgspec.msgpack if wants_msgpack else msgspec.json).decode(answer.content)
            assert all(isinstance(text, list) for text in rows)
        else:
            assert answer.status_code in (400, 422), answer.text
            assert sorted(answer.json()) == ["error", "error_type"]

    check()
    assert server.predict("Anna").status_code == 200


@st.composite
def bodies_of(draw: st.DrawFn, route: str) -> bytes:
    """Draw a body of a route with another value in some of its places, and some bytes changed."""
    text = draw(texts)
    forms = [BODIES[route], *(form for path, form in OTHER_BODIES if path == route)]
    found: Any = draw(st.sampled_from(forms))(text)
    for _ in range(draw(st.integers(0, 2))):
        mark = draw(st.uuids()).hex
        found = draw(st.sampled_from(nested(found, mark)))
        found = json.loads(json.dumps(found).replace(f'"{mark}"', json.dumps(text)))
        found = draw(st.one_of(st.just(found), replaced(found)))
    return changed(draw, json.dumps(found).encode())


@st.composite
def replaced(draw: st.DrawFn, value: Any) -> Any:
    """Draw a copy of a value with any other one in one of its places."""
    if isinstance(value, dict) and value and draw(st.booleans()):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: draw(replaced(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        index = draw(st.integers(0, len(value) - 1))
        return [*value[:index], draw(replaced(value[index])), *value[index + 1 :]]
    return draw(values)


@pytest.mark.parametrize("route", sorted(set(BODIES) - {"/", "/predict_tokens"}))
@pytest.mark.timeout(3600 if IS_LONG else 120)
def test_bodies_of_other_formats(server: ServerProcess, route: str) -> None:
    """Whatever comes in a format, the answer is that of the format or an error in its form."""

    @fuzzed(8)
    @given(bodies_of(route), st.sampled_from([None, "0", "1", "17", "40"]))
    def check(body: bytes, header_length: str | None) -> None:
        headers = {} if header_length is None else {"inference-header-content-length": header_length}
        started = time.perf_counter()
        answer = server.client.post(route, content=body, headers=headers)
        assert time.perf_counter() - started < MOST_SECONDS
        if answer.status_code == 200:
            answer.json()
        else:
            assert answer.status_code in (400, 422), answer.text
            assert message_of(route, answer)

    check()
    assert server.client.post(route, json=BODIES[route]("Anna")).status_code == 200


header_values = st.one_of(
    st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=60),  # hyper refuses controls
    st.from_regex(r"[a-z*]+/[a-z*+-]+(;q=[0-9.]+)?(, ?[a-z]+/[a-z-]+;q=[ -~]{1,5})*", fullmatch=True),
    st.integers(-(10**20), 10**20).map(str),
).map(lambda value: value.strip().encode("latin-1"))


@pytest.mark.timeout(3600 if IS_LONG else 120)
def test_headers(server: ServerProcess) -> None:
    """Whatever the headers that are read say, the answer is one of the contract's; 504 is theirs to ask for."""
    names = ["accept", "content-type", "authorization", "x-request-id", "x-baseten-customer-request-id"]
    names += ["request-timeout-ms", "request-deadline-ms", "traceparent"]

    @fuzzed(15)
    @given(st.dictionaries(st.sampled_from(names), header_values, max_size=4))
    def check(headers: dict[str, bytes]) -> None:
        answer = server.client.post("/", content=b'{"inputs": "Anna"}', headers=headers)
        expected = {200, 400, 415, 422}
        if "request-timeout-ms" in headers or "request-deadline-ms" in headers:
            expected.add(504)
        assert answer.status_code in expected, answer.text
        assert answer.headers["x-request-id"].isascii()

    check()
