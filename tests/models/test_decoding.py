"""New names of labels, the strategy of a model, and what the configuration may say of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nerve.config import RuntimeConfig
from nerve.errors import ConfigError
from nerve.models.decoding import Decoding, read_decoding

IOB = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
BIOES = ["O", "B-PER", "I-PER", "E-PER", "S-PER"]
PLAIN = ["O", "PER"]
ZEROS = {
    f"transition_bias_{name}": 0
    for name in (
        *("background_stay", "background_to_start", "inside_to_continue"),
        *("inside_to_end", "end_to_background", "end_to_start"),
    )
}


def read(names: list[str], folder: Path, **runtime: Any) -> Decoding:
    """Read with some keys of the section `runtime`."""
    return read_decoding(names, folder, msgspec.convert(runtime, RuntimeConfig))


def test_tags_get_new_names(tmp_path: Path) -> None:
    """Entities have them; tokens keep the model's names."""
    labels = read(IOB, tmp_path, rename_labels={"PER": "PERSON"}).labels
    assert labels.entity_labels == ("PERSON", "LOC")
    assert labels.names == tuple(IOB)
    assert labels.full_names == ("O", "B-PERSON", "I-PERSON", "B-LOC", "I-LOC")


def test_two_tags_with_one_name_stay_two_entities(tmp_path: Path) -> None:
    """The model says that one ends where the other begins."""
    labels = read(IOB, tmp_path, rename_labels={"PER": "X", "LOC": "X"}).labels
    assert labels.entity_labels == ("X",)
    assert len(set(labels.tag_ids)) == 3


def test_a_swap_is_no_chain(tmp_path: Path) -> None:
    """Each new name is given once."""
    labels = read(IOB, tmp_path, rename_labels={"PER": "LOC", "LOC": "PER"}).labels
    assert labels.entity_labels == ("LOC", "PER")


def test_the_strategy_of_a_model(tmp_path: Path) -> None:
    """`auto` is viterbi for schemes with an end and for calibrated checkpoints, else first."""
    assert read(IOB, tmp_path).entity_strategy == "first"
    assert read(PLAIN, tmp_path).entity_strategy == "first"
    assert read(BIOES, tmp_path).entity_strategy == "viterbi"
    assert read(["O", "B-P", "I-P", "L-P", "U-P"], tmp_path).entity_strategy == "viterbi"
    assert read(BIOES, tmp_path, entity_strategy="max").entity_strategy == "max"
    (tmp_path / "viterbi_calibration.json").write_text(
        json.dumps({"operating_points": {"default": {"biases": ZEROS}}})
    )
    assert read(IOB, tmp_path).entity_strategy == "viterbi"
    assert read(PLAIN, tmp_path).entity_strategy == "first"


@pytest.mark.parametrize(
    ("names", "runtime", "message"),
    [
        (
            PLAIN,
            {"aggregation_strategy": "viterbi"},
            "runtime.aggregation_strategy: viterbi needs labels with",
        ),
        (
            PLAIN,
            {"entity_strategy": "viterbi"},
            "runtime.entity_strategy: viterbi needs labels with prefixes",
        ),
        (
            IOB,
            {"rename_labels": {"ORG": "X"}},
            "runtime.rename_labels.ORG: unknown label; known: PER, LOC, EMAIL",
        ),
        (IOB, {"rename_labels": {"B-PER": "X"}}, "runtime.rename_labels.B-PER: unknown label"),
        (IOB, {"rename_labels": {"O": "X"}}, "runtime.rename_labels.O: unknown label"),
        (IOB, {"labels": ["ORG"]}, "runtime.labels: unknown label ORG; known: PER, LOC, EMAIL"),
        (
            IOB,
            {"labels": ["PER"], "rename_labels": {"PER": "X"}},
            "runtime.labels: unknown label PER; known: X",
        ),
        (IOB, {"min_score": {"ORG": 0.5, "*": 0.1}}, "runtime.min_score: unknown label ORG"),
    ],
)
def test_what_is_refused(names: list[str], runtime: dict[str, Any], message: str, tmp_path: Path) -> None:
    """The message names the key and what is known there."""
    with pytest.raises(ConfigError, match=message):
        read(names, tmp_path, **runtime)


def test_labels_of_patterns_are_known(tmp_path: Path) -> None:
    """Under their new names, too."""
    read(IOB, tmp_path, labels=["EMAIL"])
    read(IOB, tmp_path, rename_labels={"EMAIL": "MAIL"}, labels=["MAIL", "IBAN_CODE"])
