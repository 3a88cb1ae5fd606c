"""Tokenizers made from vocabularies give what transformers gives (answers recorded by parity/compare_tokenizers.py)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from nerve.errors import CheckpointError
from nerve.text.vocabularies import make_tokenizer
from nerve.text.vocabularies.kinds import CLASSES, KINDS, SLOW_CLASSES, class_name
from nerve.text.vocabularies.sentencepiece_model import read_model
from vocabulary_cases import (
    BERT_HEAD,
    CONTROL,
    FAIRSEQ_HEAD,
    TEXTS,
    UNK_BOS_EOS,
    UNKNOWN,
    byte_pairs,
    cases,
    sentence_pieces,
    word_pieces,
    write_case,
)

ANSWERS = json.loads((Path(__file__).parent / "vocabularies.json").read_text(encoding="utf-8"))


def make(
    folder: Path,
    config: dict[str, Any],
    settings: dict[str, Any] | None = None,
    special_tokens_map: dict[str, Any] | None = None,
    added_tokens: dict[str, Any] | None = None,
    *,
    is_trial: bool = False,
) -> Tokenizer:
    """Make the tokenizer of a folder with these JSON files."""
    return make_tokenizer(
        folder,
        "owner/name",
        config,
        settings or {},
        special_tokens_map or {},
        added_tokens or {},
        is_trial=is_trial,
    )


def write(folder: Path, vocabulary: dict[str, bytes]) -> Path:
    """Write the files of a vocabulary."""
    for name, data in vocabulary.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("name", sorted(cases()))
def test_ids_and_offsets_are_those_of_transformers(tmp_path: Path, name: str) -> None:
    """Each kind of vocabulary and setting, on texts with special tokens, accents, blanks and odd characters."""
    case = cases()[name]
    folder = write_case(tmp_path / "model", name)
    tokenizer = make(folder, case.config, case.settings, case.special_tokens_map, case.added_tokens)
    for text, (ids, offsets) in zip(TEXTS, ANSWERS[name], strict=True):
        encoding = tokenizer.encode(text)
        assert encoding.ids == ids, ascii(text)
        assert [place for pair in encoding.offsets for place in pair] == offsets, ascii(text)


@pytest.mark.parametrize("name", sorted(cases()))
def test_trial_finds_what_can_be_made(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """It says nothing of its own, and no tree of pieces is made: that of 250,000 stays in a process for good."""
    case = cases()[name]
    folder = write_case(tmp_path / "model", name)
    tried = make(
        folder, case.config, case.settings, case.special_tokens_map, case.added_tokens, is_trial=True
    )
    assert caplog.text == ""
    if isinstance(tried.model, models.Unigram):
        made = make(folder, case.config, case.settings, case.special_tokens_map, case.added_tokens)
        sizes = [found.get_vocab_size(with_added_tokens=False) for found in (tried, made)]
        assert sizes[0] < 16 < sizes[1]


def test_answers_are_those_of_the_cases() -> None:
    """No case goes without a recorded answer, and every row of the table that can have one is covered."""
    assert ANSWERS.keys() == cases().keys()
    covered = {class_name(case.config, case.settings or {}) for case in cases().values()}
    assert {id(KINDS[name]) for name in covered} >= {id(kind) for kind in KINDS.values()}


@pytest.mark.parametrize(
    ("config", "settings", "expected"),
    [
        ({"model_type": "bert"}, {}, "BertTokenizer"),
        ({"model_type": "bert"}, {"tokenizer_class": "XLMRobertaTokenizerFast"}, "XLMRobertaTokenizer"),
        ({"model_type": "bert", "tokenizer_class": "PhobertTokenizer"}, {}, "PhobertTokenizer"),
        (
            {"model_type": "bert", "tokenizer_class": "PhobertTokenizer"},
            {"tokenizer_class": "BertTokenizer"},
            "BertTokenizer",
        ),
        ({"model_type": "roberta", "tokenizer_class": None}, {"tokenizer_class": None}, "RobertaTokenizer"),
        ({"model_type": "bert"}, {"tokenizer_class": "PreTrainedTokenizerFast"}, "PreTrainedTokenizerFast"),
        ({"model_type": "modernbert"}, {"tokenizer_class": "BertTokenizer"}, "TokenizersBackend"),
        ({"model_type": "made-up"}, {}, "TokenizersBackend"),
        ({}, {}, "TokenizersBackend"),
    ],
)
def test_class_is_found_as_transformers_finds_it(
    config: dict[str, Any], settings: dict[str, Any], expected: str
) -> None:
    """tokenizer_config.json wins over config.json, and that over the model type; `Fast` makes no difference."""
    assert class_name(config, settings) == expected


def test_every_class_of_a_model_type_is_made_or_refused() -> None:
    """The tables agree; LUKE, whose entities are no tokens, is in neither."""
    assert set(CLASSES.values()) - KINDS.keys() - SLOW_CLASSES == {"FNetTokenizer", "LukeTokenizer"}


@pytest.mark.parametrize(
    ("vocabulary", "config", "settings", "message"),
    [
        (
            {},
            {"model_type": "bert"},
            {"tokenizer_class": "BertJapaneseTokenizer"},
            "Python only; choose a checkpoint",
        ),
        ({}, {"model_type": "canine"}, {}, "CanineTokenizer runs in Python only"),
        ({}, {"model_type": "luke"}, {}, "cannot make one for its LukeTokenizer; write tokenizer.json"),
        (
            {},
            {"model_type": "bert"},
            {"tokenizer_class": "OwnTokenizer"},
            "cannot make one for its OwnTokenizer",
        ),
        (word_pieces(*BERT_HEAD), {"model_type": "roberta"}, {}, "there is no vocab.json and no merges.txt"),
        (word_pieces("[PAD]"), {"model_type": "bert"}, {}, r"no \[UNK\] for words"),
        ({"vocab.txt": b"\xff\xfe"}, {"model_type": "bert"}, {}, "from vocab.txt of owner/name"),
        ({"vocab.txt": b""}, {"model_type": "bert"}, {}, "from vocab.txt of owner/name"),
        (
            word_pieces(*BERT_HEAD),
            {"model_type": "bert"},
            {"cls_token": None},
            "cls_token is null or not there",
        ),
        (
            word_pieces(*BERT_HEAD),
            {"model_type": "bert"},
            {"sep_token": ""},
            "the token '' cannot stand beside",
        ),
        (
            word_pieces(*BERT_HEAD),
            {"model_type": "bert"},
            {"added_tokens_decoder": {"x": "y"}},
            "and its settings",
        ),
        (
            word_pieces(*BERT_HEAD),
            {"model_type": "bert"},
            {"added_tokens_decoder": ["y"]},
            "and its settings",
        ),
        (
            {**byte_pairs(*FAIRSEQ_HEAD), "merges.txt": b"#version: 0.2\na b c\n"},
            {"model_type": "roberta"},
            {},
            "line 2 of merges.txt has 3 parts",
        ),
        (
            {**byte_pairs(*FAIRSEQ_HEAD), "merges.txt": b"x y\n"},
            {"model_type": "roberta"},
            {},
            "out of vocabulary",
        ),
        (
            {**byte_pairs(*FAIRSEQ_HEAD), "vocab.json": b"{"},
            {"model_type": "roberta"},
            {},
            "from vocab.json and",
        ),
        (
            {**byte_pairs(*FAIRSEQ_HEAD), "vocab.json": b'{"a": "b"}'},
            {"model_type": "roberta"},
            {},
            "from vocab.json",
        ),
        (
            {"spm.model": b"version https://git-lfs"},
            {"model_type": "deberta-v2"},
            {},
            "not a model of sentencepiece",
        ),
        ({"spm.model": b""}, {"model_type": "deberta-v2"}, {}, "not a model of sentencepiece"),
        (
            sentence_pieces("spm.model", *UNK_BOS_EOS, algorithm=3),
            {"model_type": "deberta-v2"},
            {},
            "only Unigram and BPE",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_remedy(
    tmp_path: Path,
    vocabulary: dict[str, bytes],
    config: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    """One line that names the checkpoint, the file or class at fault, and what to do."""
    with pytest.raises(CheckpointError, match=message) as caught:
        make(write(tmp_path, vocabulary), config, settings)
    text = str(caught.value)
    with pytest.raises(CheckpointError) as tried:
        make(tmp_path, config, settings, is_trial=True)
    assert str(tried.value) == text
    assert "owner/name" in text
    assert "\n" not in text
    assert "choose a checkpoint" in text or "tokenizer.json with transformers" in text


def test_id_that_cannot_be_given_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Fast tokenizers number added tokens on, whatever added_tokens.json says; that is no secret."""
    write(tmp_path, word_pieces("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
    n_words = len(set((tmp_path / "vocab.txt").read_text().splitlines()))
    with caplog.at_level(logging.WARNING):
        make(tmp_path, {"model_type": "bert"}, None, None, {"<a>": n_words, "[CLS]": 2})
        assert caplog.text == ""
        make(tmp_path, {"model_type": "bert"}, None, None, {"<a>": n_words + 7})
    assert f"'<a>' has {n_words}, not {n_words + 7}" in caplog.text


def test_model_of_pairs_stays_one_of_pairs(tmp_path: Path) -> None:
    """A class that has Unigram elsewhere does not read the ranks of BPE as log-probabilities."""
    write(tmp_path, sentence_pieces("sentencepiece.bpe.model", *UNK_BOS_EOS, algorithm=2))
    found = make(tmp_path, {"model_type": "xlm-roberta"}).encode("Anna lives")
    assert [token for token in found.tokens if token[0] != "<"] == ["▁Anna", "▁lives"]
    assert found.offsets == [(0, 0), (0, 4), (5, 10), (0, 0)]


def test_model_is_read_as_sentencepiece_wrote_it(tmp_path: Path) -> None:
    """Texts, scores, types, the unknown piece and the table, with the defaults of the format."""
    head = (("<pad>", CONTROL), ("?", UNKNOWN))
    write(tmp_path, sentence_pieces("spm.model", *head, unknown=1, more=(("last", -0.5, 4),)))
    found = read_model(tmp_path / "spm.model")
    assert found.pieces[:3] == [("<pad>", 0.0), ("?", 0.0), ("▁", -1.0)]
    assert found.pieces[-1] == ("last", -0.5)
    assert found.types[:3] == [3, 2, 1]
    assert (found.unknown, found.unknown_piece, found.algorithm, found.byte_fallback) == (1, "?", 1, False)
    assert found.symbols() == [("<pad>", True), ("last", False)]
    assert len(found.charsmap) > 1000
    write(tmp_path, sentence_pieces("spm.model", *UNK_BOS_EOS, table=False))
    assert read_model(tmp_path / "spm.model").unknown_piece == "<unk>"
    assert read_model(tmp_path / "spm.model").charsmap == b""
