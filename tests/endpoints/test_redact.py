"""POST /redact: what is read of a request, and what is written."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from builders import ServerProcess, open_engine, write_config, write_lookup_model
from nerve.config import load_config
from nerve.endpoints.redact import RedactEndpoint, encode_redacted
from nerve.engine.engine import Engine
from nerve.engine.in_process import collect, submit
from nerve.errors import InvalidRequest, MalformedRequest
from nerve.text.redaction import Item, Redacted

SECRET = "Anna-Schmidt-0170"
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def engine(lookup_model: Path) -> Iterator[Engine]:
    """Open the lookup model: labels PER and LOC, windows of 16 tokens."""
    opened = open_engine(lookup_model, runtime={"window_stride": 4})
    yield opened
    opened.close()


@pytest.fixture
def ask(engine: Engine, tmp_path: Path) -> Ask:
    """Give what answers a body, under some configuration."""

    def answer(body: Any, msgpack: bool = False, **sections: dict[str, Any]) -> Any:
        config = load_config(write_config(tmp_path / "config.yaml", tmp_path, **sections))
        codec = RedactEndpoint(config).choose_codec(
            {"content-type": "application/msgpack", "accept": "application/msgpack"}.get
            if msgpack
            else {}.get
        )
        library = msgspec.msgpack if msgpack else msgspec.json
        query = codec.decode(body if isinstance(body, bytes) else library.encode(body))
        rows = collect(engine, submit(engine, query.texts, query.options)).rows
        return library.decode(codec.encode(query, rows))

    return answer


@pytest.mark.parametrize("msgpack", [False, True])
def test_texts_come_back_without_their_entities(ask: Ask, msgpack: bool) -> None:
    """One object for each text, in order."""
    first, second = ask({"inputs": ["😀 Anna Maria lives in Paris.", "x"]}, msgpack)
    assert first["text"] == "😀 <PER> lives in <LOC>."
    assert [tuple(item.values())[0:1] + tuple(item.values())[2:] for item in first["items"]] == [
        ("PER", 2, 12, 2, 7, "replace"),
        ("LOC", 22, 27, 17, 22, "replace"),
    ]
    assert list(first["items"][0]) == [
        *("label", "score", "start", "end", "redacted_start", "redacted_end", "operator")
    ]
    assert second == {"text": "x", "items": []}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"labels": ["LOC"]}, "Anna a@x.org in <LOC>"),
        ({"min_score": 1}, "Anna a@x.org in Paris"),
        ({"min_score": 1, "patterns": ["email"]}, "Anna <EMAIL> in Paris"),
        ({"patterns": ["email"], "labels": ["EMAIL"]}, "Anna <EMAIL> in Paris"),
        ({"aggregation_strategy": "viterbi"}, "<PER> a@x.org in <LOC>"),
        ({"aggregation_strategy": "auto", "patterns": []}, "<PER> a@x.org in <LOC>"),
        ({"operators": {"PER": {"type": "mask"}, "LOC": {"type": "redact"}}}, "**** a@x.org in "),
        ({"operators": {"DEFAULT": {"type": "number"}, "LOC": {"type": "keep"}}}, "<PER_1> a@x.org in Paris"),
        (
            {"operators": {"PER": {"type": "replace", "new_value": None}}, "labels": None},
            "<PER> a@x.org in <LOC>",
        ),
    ],
)
def test_fields(ask: Ask, fields: dict[str, Any], text: str) -> None:
    """Each by what it does."""
    assert ask({"inputs": "Anna a@x.org in Paris", **fields})[0]["text"] == text


def test_the_configuration_gives_the_defaults(ask: Ask) -> None:
    """Patterns, operators, labels and units; fields of the request replace them."""
    sections = {
        "runtime": {
            "patterns": ["email"],
            "rename_labels": {"EMAIL": "MAIL"},
            "offset_unit": "byte",
            "truncate": True,
        },
        "redaction": {"operators": {"MAIL": {"type": "mask", "chars_to_mask": 2}}},
    }
    body = {"inputs": "é a@x.org " + "x " * 30 + "Anna"}  # beyond a window: nothing is cut off
    found = ask(body, **sections)[0]
    assert found["text"] == "é **x.org " + "x " * 30 + "<PER>"
    assert (found["items"][0]["start"], found["items"][0]["redacted_end"]) == (3, 10)
    assert ask({**body, "patterns": []}, **sections)[0]["text"].startswith("é a@x.org")
    assert (
        ask({**body, "operators": {}, "offset_unit": "code_point"}, **sections)[0]["items"][0]["start"] == 2
    )


def test_numbers_are_those_of_the_request(ask: Ask) -> None:
    """The same string with the same label has one number in all texts."""
    body = {"inputs": ["Anna Paris", "Bob Anna"], "operators": {"DEFAULT": {"type": "number"}}}
    assert [found["text"] for found in ask(body)] == ["<PER_1> <LOC_1>", "<PER_2> <PER_1>"]


@pytest.mark.parametrize("msgpack", [False, True])
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": 5}, "inputs: expected"),
        ({"inputs": []}, "inputs: no text"),
        ({SECRET: 1}, "the body has an unknown field; known fields: inputs, aggregation_strategy, labels, min_score"),
        ({"aggregation_strategy": "none"}, "aggregation_strategy: unknown value; known values: auto, simple, first"),
        ({"patterns": [SECRET]}, "patterns: unknown value; known values: email, url, ip_address"),
        ({"labels": [SECRET]}, "labels: unknown label; known labels: PER, LOC$"),
        ({"labels": ["EMAIL"]}, "labels: unknown label; known labels: PER, LOC$"),
        ({"labels": [SECRET], "patterns": ["email"]}, "labels: unknown label; known labels: PER, LOC, EMAIL$"),
        ({"min_score": {SECRET: 1}}, "min_score: unknown label; known labels: PER, LOC$"),
        ({"operators": {SECRET: {"type": "mask"}}}, "operators: unknown label; known labels: PER, LOC$"),
        (
            {"operators": {"PER": {"type": "replace", "new_value": SECRET * 50}}},
            r"operators\[...\].new_value: expected `str` of length <= 256",
        ),
        ({"operators": {"PER": {"type": SECRET}}}, r"operators\[...\].type: unknown value; known values: replace"),
        ({"operators": {"PER": {}}}, r"operators\[...\].type: required, but missing; known fields: type, and"),
        ({"operators": {"PER": {"type": "mask", "mask_char": 1}}}, ", perhaps meant as masking_char;"),
        ({"operators": {"PER": {"type": "hash", "hash_type": SECRET}}}, "hash_type: unknown value; known values: sha"),
        ({"operators": {"PER": {"type": "hash", "salt": "Anna-Schmidt"}}}, "salt must have at least 16 bytes"),
        ({"offset_unit": SECRET}, "offset_unit: unknown value"),
    ],
)  # fmt: skip
def test_what_is_refused(ask: Ask, fields: dict[str, Any], message: str, msgpack: bool) -> None:
    """The message names the field and what is known there, and quotes nothing."""
    with pytest.raises(InvalidRequest, match=message) as caught:
        ask({"inputs": "Anna", **fields}, msgpack)
    assert "Schmidt" not in str(caught.value)


def test_bodies_that_are_cut_short(ask: Ask) -> None:
    """400, as everywhere."""
    with pytest.raises(MalformedRequest):
        ask(b'{"inputs": "Anna"')


def test_a_large_answer_is_the_same_in_parts() -> None:
    """Texts with many items are encoded piece by piece, to the same bytes or value."""
    items = [Item("PER", 0.5, k, k + 1, k, k + 1, "keep") for k in range(1500)]
    texts = [Redacted('é"x\n' * 800, items), Redacted("", []), Redacted("😀", items[:40])]
    assert encode_redacted(texts, msgpack=False) == msgspec.json.encode(texts)
    assert msgspec.msgpack.decode(encode_redacted(texts, msgpack=True)) == msgspec.to_builtins(texts)


def test_description(tmp_path: Path) -> None:
    """Schemas are complete: every reference leads to one of them; names are enumerated."""
    found = RedactEndpoint(load_config(write_config(tmp_path / "c.yaml", tmp_path))).describe()
    names = set(re.findall(r"#/components/schemas/(\w+)", repr((found.request, found.answer, found.schemas))))
    assert names == set(found.schemas)
    fields = found.schemas["RedactRequest"]["properties"]
    assert fields["aggregation_strategy"]["enum"] == [
        *("auto", "simple", "first", "average", "max", "viterbi", None)
    ]
    assert "us_ssn" in fields["patterns"]["anyOf"][0]["items"]["enum"]


def test_workers_have_one_key(serve: Callable[..., ServerProcess], monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal values have equal pseudonyms, whichever worker answers; the log says that the key is random."""
    monkeypatch.delenv("NERVE_REDACTION_KEY", raising=False)
    server = serve(server={"workers": 2})
    body = {"inputs": "Anna", "operators": {"DEFAULT": {"type": "hash"}}}
    texts = set()
    for _ in range(12):  # each on a connection of its own
        with type(server.client)(base_url=server.client.base_url) as client:
            texts.add(client.post("/redact", json=body).json()[0]["text"])
    assert len(texts) == 1
    assert server.log().count("hash of /redact has a random key") == 1


def test_a_calibrated_checkpoint_is_decoded_by_viterbi(tmp_path: Path) -> None:
    """BIOES labels are grouped by their best allowed path where nothing else is asked for."""
    labels = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    opened = open_engine(write_lookup_model(tmp_path / "model", labels=labels), runtime={"window_stride": 4})
    try:
        assert opened.model.entity_strategy == "viterbi"
    finally:
        opened.close()
