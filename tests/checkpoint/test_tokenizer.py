"""Which file a tokenizer comes from, and that it can be had before anything large is fetched."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from builders import open_engine, predict_blocking, write_lookup_model
from nerve.checkpoint.choice import choose_tokenizer
from nerve.checkpoint.settings import stated_length
from nerve.checkpoint.tokenizer import open_tokenizer, prove_tokenizer
from nerve.errors import CheckpointError
from nerve.types import AggregationStrategy, PredictOptions
from vocabulary_cases import write_case


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"tokenizer.json", "onnx/tokenizer.json", "vocab.txt"}, ("tokenizer.json",)),
        ({"onnx/tokenizer.json", "vocab.txt", "added_tokens.json"}, ("onnx/tokenizer.json",)),
        ({"vocab.txt", "added_tokens.json", "config.json"}, ("vocab.txt", "added_tokens.json")),
        ({"merges.txt", "vocab.json", "spm.model"}, ("merges.txt", "spm.model", "vocab.json")),
        ({"added_tokens.json", "tokenizer_config.json", "other/vocab.txt"}, ()),
        (set(), ()),
    ],
)
def test_whole_tokenizer_wins_over_vocabularies(files: set[str], expected: tuple[str, ...]) -> None:
    """tokenizer.json, else that of onnx/, else every vocabulary and what was added to it."""
    assert choose_tokenizer(files) == expected


def test_tokenizer_is_opened_in_the_same_order(tmp_path: Path) -> None:
    """What a folder holds whole is used as it is; the vocabulary only without."""
    folder = write_case(tmp_path / "model", "bert cased")
    whole = write_lookup_model(tmp_path / "lookup") / "tokenizer.json"
    made, is_made = open_tokenizer(folder)
    assert is_made
    (folder / "onnx").mkdir()
    shutil.copy(whole, folder / "onnx")
    found, is_made = open_tokenizer(folder)
    assert not is_made
    assert found.get_vocab_size() != made.get_vocab_size()
    made.save(str(folder / "tokenizer.json"))
    found, is_made = open_tokenizer(folder)
    assert (found.to_str(), is_made) == (made.to_str(), False)


def test_what_takes_long_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tokenizer of a large vocabulary takes seconds, in which nothing else is said."""
    caplog.set_level(logging.INFO)
    folder = write_case(tmp_path / "model", "bert cased")
    open_tokenizer(folder)
    assert caplog.messages == []
    monkeypatch.setattr("nerve.checkpoint.tokenizer._LARGE_BYTES", 0)
    open_tokenizer(folder)
    assert caplog.messages == [
        f"making the tokenizer of {folder} from its vocabulary, since it has no tokenizer.json"
    ]


def test_whole_tokenizer_needs_no_proof(tmp_path: Path) -> None:
    """A class that cannot be made is no obstacle where there is a tokenizer.json."""
    folder = write_case(tmp_path / "model", "bert cased")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')
    prove_tokenizer(folder, {"tokenizer.json", "vocab.txt"}, "owner/name")
    with pytest.raises(CheckpointError, match="owner/name has no tokenizer"):
        prove_tokenizer(folder, {"vocab.txt"}, "owner/name")


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"])
def test_settings_that_are_not_json_are_named(tmp_path: Path, name: str) -> None:
    """Whichever of the settings is broken, the message says so."""
    folder = write_case(tmp_path / "model", "bert cased")
    (folder / name).write_text("[]")
    with pytest.raises(CheckpointError, match=rf"{name} of owner/name is not a JSON object"):
        prove_tokenizer(folder, {"vocab.txt"}, "owner/name")


def test_entities_are_the_same_from_a_vocabulary(tmp_path: Path) -> None:
    """A model folder without tokenizer.json is served as one with it."""
    folder = write_lookup_model(tmp_path / "model")
    texts = ["Anna lives in New York.", "", "maria sees [MASK] PARIS é ó"]
    answers = [entities(folder, texts)]
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in vocabulary))
    settings = {"unk_token": "[UNK]", "strip_accents": False, "mask_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    answers.append(entities(folder, texts))
    assert answers[0] == answers[1]
    assert [(start, end) for _, start, end in answers[1][0]] == [(0, 4), (14, 22)]


def entities(folder: Path, texts: list[str]) -> list[list[tuple[str, int, int]]]:
    """Return text and place of the entities of texts."""
    engine = open_engine(folder, runtime={"window_stride": 4})
    try:
        options = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)
        rows = predict_blocking(engine, texts, options).rows
        return [[(row.token, row.start, row.end) for row in text] for text in rows]
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"max_len": 512}, 512),
        ({"max_len": 512, "model_max_length": 128}, 128),
        ({"max_len": 512, "model_max_length": 10**30}, None),
        ({"max_len": "512"}, None),
        ({}, None),
    ],
)
def test_old_name_of_the_length_counts(settings: dict[str, Any], expected: int | None) -> None:
    """`max_len` is `model_max_length` of old tokenizer_config.json files; the new name wins."""
    assert stated_length(settings) == expected
