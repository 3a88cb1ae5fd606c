"""What the JSON files of a model folder say, and what is refused of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nerve.checkpoint.settings import (
    check_config,
    doubt_about_labels,
    label_names,
    other_heads,
    padding_id,
    position_padding_id,
    read_config,
    read_shards,
    read_tokenizer_settings,
    stated_length,
    stated_positions,
    unused_positions,
    why_made_up,
)
from nerve.errors import CheckpointError


def test_labels_are_in_the_order_of_their_ids() -> None:
    """The order in the file means nothing; "10" comes after "9"."""
    names = [f"L{index}" for index in range(12)]
    shuffled = sorted(enumerate(names), key=lambda item: str(item[0]))
    assert label_names({"id2label": {str(index): name for index, name in shuffled}}, "here") == tuple(names)


@pytest.mark.parametrize(
    ("id2label", "message"),
    [
        ({}, "config.json of here has no id2label that can be read; write it as in"),
        (["O"], "has no id2label"),
        ({"zero": "O"}, "0 to 0"),
        ({"0": "O", "2": "B-X"}, "0 to 1"),
        ({"1": "O", "2": "B-X"}, "0 to 1"),
        ({"-1": "O", "0": "B-X"}, "0 to 1"),
        ({"0": "O", "00": "B-X"}, "0 to 1"),
        ({"0": "O", "1": 1}, "a label that is not a name"),
    ],
)
def test_broken_id2label_is_refused(id2label: Any, message: str) -> None:
    """A gap or what is no name would misname scores; transformers fails there, too."""
    with pytest.raises(CheckpointError, match=message):
        label_names({"id2label": id2label}, "here")


def test_two_ids_may_have_one_name_and_one_may_be_empty() -> None:
    """Such a label set is served, as by transformers, and numbers are read as Python reads them."""
    assert label_names({"id2label": {"0": "O", " 1": "X", "2": "X"}}, "here") == ("O", "X", "X")
    assert label_names({"id2label": {"0": "", "1": "O"}}, "here") == ("", "O")


@pytest.mark.parametrize(
    "heads",
    [
        *(None, [], ["BertModel"], ["AutoModelForTokenClassification"], ["AutoModel"]),
        *(
            ["BertForNER"],
            "BertForTokenClassification",
            ["NerWithWeightedLoss", "BertForTokenClassification"],
        ),
    ],
)
def test_labels_tell_a_token_classifier_where_the_class_does_not(heads: Any) -> None:
    """The class of the layers alone, none, or one of somebody's own says nothing against a config with labels.

    Without labels it does.
    """
    check_config({"architectures": heads, "id2label": {"0": "O", "1": "B-X"}}, "here")
    if heads == ["BertModel"]:
        with pytest.raises(CheckpointError, match=r"not a token classifier: its .* says BertModel"):
            check_config({"architectures": heads}, "here")


@pytest.mark.parametrize(
    ("config", "expected", "reason"),
    [
        ({}, 2, "neither id2label nor num_labels"),
        ({"id2label": None, "num_labels": None}, 2, "neither id2label nor num_labels"),
        ({"num_labels": 5}, 5, "has num_labels, but no id2label"),
        ({"num_labels": 1, "label2id": {"O": 0}}, 1, "has num_labels, but no id2label"),
    ],
)
def test_labels_without_names_are_called_as_in_transformers(
    config: dict[str, Any], expected: int, reason: str
) -> None:
    """LABEL_0 and on; transformers leaves out what is its default, and ignores label2id alone."""
    assert label_names(config, "here") == tuple(f"LABEL_{index}" for index in range(expected))
    assert reason in str(why_made_up(config))


@pytest.mark.parametrize("n_labels", [0, -1, True, "5", 2.0])
def test_number_of_labels_that_is_none_is_refused(n_labels: Any) -> None:
    """Nothing is guessed of a key that makes no sense."""
    with pytest.raises(CheckpointError, match="its num_labels is not a number of labels; add id2label"):
        label_names({"num_labels": n_labels}, "here")


def test_names_that_are_there_are_taken() -> None:
    """Keys are numbers, however they are written; null counts as absent."""
    named = {"id2label": {"01": "B-X", "00": "O"}, "num_labels": None}
    assert label_names(named, "here") == ("O", "B-X")
    assert why_made_up(named) is None
    assert doubt_about_labels(named) is None


def test_names_count_where_the_number_of_labels_differs() -> None:
    """As in transformers 4; the log says so, and a classifier of another size is refused."""
    config = {"id2label": {"0": "O", "1": "B-X"}, "num_labels": 5}
    assert label_names(config, "here") == ("O", "B-X")
    assert "num_labels 5, but names 2 labels in id2label, which count" in str(doubt_about_labels(config))
    assert "called LABEL_0 to LABEL_4" in str(doubt_about_labels({"num_labels": 5}))


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        (None, []),
        ([], []),
        (["BertForTokenClassification"], []),
        (["BertModel", "BertForTokenClassification"], []),
        (["BertCrfForNer", "BertModel"], ["BertCrfForNer", "BertModel"]),
        ("BertForMaskedLM", ["BertForMaskedLM"]),
    ],
)
def test_heads_of_other_tasks(architectures: Any, expected: list[str]) -> None:
    """One token classifier among the classes is enough, and none named says nothing."""
    assert other_heads({"architectures": architectures}) == expected


def test_settings_of_the_tokenizer_come_from_two_files(tmp_path: Path) -> None:
    """tokenizer_config.json comes before special_tokens_map.json; either may be missing."""
    assert read_tokenizer_settings(tmp_path) == {}
    (tmp_path / "special_tokens_map.json").write_text('{"unk_token": "?", "cls_token": "<s>"}')
    assert read_tokenizer_settings(tmp_path) == {"unk_token": "?", "cls_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text('{"unk_token": "!"}')
    assert read_tokenizer_settings(tmp_path) == {"unk_token": "!", "cls_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json of .* is not a JSON object"):
        read_tokenizer_settings(tmp_path)


def test_every_file_is_refused_in_the_same_words(tmp_path: Path) -> None:
    """Missing, unreadable, not JSON: the message names the file and whose it is."""
    with pytest.raises(CheckpointError, match=r"^there has no config\.json; check"):
        read_config(tmp_path, "there")
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read .*config\.json: Is a directory"):
        read_config(tmp_path)
    index = tmp_path / "index.json"
    index.write_text("{")
    with pytest.raises(CheckpointError, match=r"^index\.json of there is not valid JSON"):
        read_shards(index, "there")


@pytest.mark.parametrize(
    "content", [{}, {"weight_map": []}, {"weight_map": {"x": 1}}, {"weight_map": {"x": []}}]
)
def test_index_that_names_no_files_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    """Only a map from tensors to names of files is an index."""
    index = tmp_path / "index.json"
    index.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="is not an index of weights"):
        read_shards(index)


@pytest.mark.parametrize(
    ("config", "fills", "counts_from"),
    [
        ({}, 0, None),
        ({"pad_token_id": None}, 0, None),
        ({"pad_token_id": 7}, 7, None),
        ({"model_type": "bert", "pad_token_id": 1}, 1, None),
        ({"model_type": "roberta"}, 1, 1),
        ({"model_type": "camembert", "pad_token_id": None}, 1, 1),
        ({"model_type": "xlm-roberta", "pad_token_id": 0}, 0, 0),
        ({"model_type": "longformer", "pad_token_id": 3}, 3, 3),
        ({"model_type": "mpnet"}, 1, 1),
        ({"model_type": "mpnet", "pad_token_id": 5}, 5, 1),
    ],
)
def test_padding_by_family(config: dict[str, Any], fills: int, counts_from: int | None) -> None:
    """RoBERTa's families number positions after the padding id, of which MPNet's is fixed."""
    assert padding_id(config) == fills
    assert position_padding_id(config) == counts_from
    assert unused_positions(config) == (0 if counts_from is None else counts_from + 1)
    assert stated_positions(config | {"max_position_embeddings": 100}) == 100 - unused_positions(config)
    assert stated_positions(config | {"max_position_embeddings": -1}) is None


@pytest.mark.parametrize("stated", ["[PAD]", 1.0, True])
def test_padding_id_that_is_no_number_is_refused(stated: Any) -> None:
    """The message quotes what config.json says."""
    with pytest.raises(CheckpointError, match="pad_token_id must be a whole number, not"):
        padding_id({"pad_token_id": stated})


@pytest.mark.parametrize(("stated", "expected"), [(512, 512), (10**30, None), (0, None), ("512", None)])
def test_length_of_the_tokenizer(stated: Any, expected: int | None) -> None:
    """Where there is no limit, transformers writes 10**30, or nothing."""
    assert stated_length({"model_max_length": stated}) == expected
    assert stated_length({}) is None
