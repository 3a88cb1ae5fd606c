"""Tokenizers that put no special tokens around a text: noticed at start, and served down to the empty text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors

from builders import open_engine, write_lookup_model
from nerve.engine.engine import Engine
from nerve.engine.in_process import collect, submit
from nerve.types import AggregationStrategy, PredictOptions

BOTH = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
FIRST = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])


def write(folder: Path, template: Any = None, **settings: Any) -> Path:
    """Write a lookup model whose tokenizer has another template, or none."""
    write_lookup_model(folder)
    file = str(folder / "tokenizer.json")
    document = json.loads(Path(file).read_text())
    document["post_processor"] = None
    tokenizer = Tokenizer.from_str(json.dumps(document))
    if template is not None:
        tokenizer.post_processor = template
    tokenizer.save(file)
    (folder / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]", **settings}))
    return folder


@pytest.mark.parametrize(
    ("template", "settings", "said"),
    [
        (None, {"cls_token": "[CLS]", "sep_token": "[SEP]"}, "no [CLS] and no [SEP] around a text"),
        (None, {}, "no [CLS] and no [SEP] around a text"),  # BertTokenizer has them without being told
        (
            None,
            {"tokenizer_class": "BertTokenizer"},
            "where transformers' own class adds them: write both anew",
        ),
        (None, {"tokenizer_class": "PreTrainedTokenizerFast"}, "and so it is in transformers"),
        (FIRST, {"cls_token": {"content": "[CLS]"}, "sep_token": "[SEP]"}, "no [SEP] around a text"),
        (FIRST, {"cls_token": "[CLS]"}, None),
        (None, {"bos_token": "[CLS]", "add_bos_token": True}, "no [CLS] around a text"),
        (None, {"bos_token": "[CLS]", "add_bos_token": False, "eos_token": "[SEP]"}, None),  # as GPT-2
        (None, {"cls_token": "[START]"}, None),  # no token of this vocabulary
        (None, {"cls_token": 5, "sep_token": ["[SEP]"]}, None),
        (BOTH, {"cls_token": "[CLS]", "sep_token": "[SEP]"}, None),
        (BOTH, {}, None),
    ],
)
def test_missing_special_tokens_are_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    template: Any,
    settings: dict[str, Any],
    said: str | None,
) -> None:
    """tokenizer.json is used as it is; that a class of transformers would add tokens is said at start."""
    engine = open_engine(write(tmp_path / "model", template, **settings), runtime={"window_stride": 4})
    engine.close()
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]


def ask(engine: Engine, texts: list[str], options: PredictOptions) -> list[list[tuple[int, int, int]]]:
    """Return id and place of every row."""
    rows = collect(engine, submit(engine, texts, options)).rows
    return [[(row.token_id, row.start, row.end) for row in text] for text in rows]


@pytest.mark.parametrize("strategy", AggregationStrategy)
@pytest.mark.parametrize("raw_scores", [False, True])
def test_text_without_a_token_has_no_rows(
    tmp_path: Path, strategy: AggregationStrategy, raw_scores: bool
) -> None:
    """It fails neither alone nor beside others, and the others are answered as alone."""
    engine = open_engine(write(tmp_path / "model"), runtime={"window_stride": 4})
    options = PredictOptions(aggregation_strategy=strategy, raw_scores=raw_scores)
    try:
        assert engine.model.tokenizer.special_tokens == {}
        (alone,) = ask(engine, ["anna in paris"], options)
        assert alone
        assert ask(engine, [""], options) == [[]]
        assert ask(engine, [" "], options) == [[]]
        assert ask(engine, ["", "anna in paris", " ", ""], options) == [[], alone, [], []]
    finally:
        engine.close()


def test_warm_up_without_a_token(tmp_path: Path) -> None:
    """A tokenizer that knows no word of the text for warming up is warmed up with one that it knows."""
    folder = write(tmp_path / "model")
    document = json.loads((folder / "tokenizer.json").read_text())
    known = {token: index for token, index in document["model"]["vocab"].items() if not token.isascii()}
    document["model"] = {"type": "BPE", "vocab": known, "merges": []}
    document["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "tokenizer_config.json").write_text("{}")
    engine = open_engine(folder, runtime={"window_stride": 4})
    try:
        assert ask(engine, ["warm up"], PredictOptions()) == [[]]
        assert len(ask(engine, ["é"], PredictOptions())[0]) == 1
    finally:
        engine.close()
