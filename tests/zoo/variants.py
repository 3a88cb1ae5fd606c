"""Variants of the zoo's checkpoints, each with another oddity that repositories have, and what transformers answers.

usage: python tests/zoo/variants.py OUT [--only NAME,NAME...]   (the environment of make_zoo.py; about a minute)
       python tests/zoo/variants.py OUT --pack                  (writes variants.tar.xz, of those in KEPT)

OUT has the form of make_zoo.py's. `VARIANTS` is the table; test_variants.py tries those that are kept, and `make
variants` all of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import make_zoo as zoo
import torch
import transformers
from pack import pack as write_archive

HERE = Path(__file__).parent
BERT, BERT_VOCABULARY = "variant--bert-gamma-beta", "StanfordAIMI--stanford-deidentifier-base"
CASED_VOCABULARY = "savasy--bert-base-turkish-ner-cased"
ROBERTA = "Jean-Baptiste--roberta-large-ner-english"
XLMR, XLMR_JSON = "Davlan--xlm-roberta-base-ner-hrl", "tsmatz--xlm-roberta-ner-japanese"
CAMEMBERT = "Jean-Baptiste--camembert-ner-with-dates"
DEBERTA, DEBERTA_JSON = "variant--deberta-v3-spm-only", "tner--deberta-v3-large-ontonotes5"
ALBERT, MPNET, DISTILBERT = (
    "HooshvareLab--albert-fa-zwnj-base-v2-ner",
    "variant--mpnet-ner",
    "d4data--biomedical-ner-all",
)
ELECTRA, ERNIE, REMBERT = (
    "NlpHUST--ner-vietnamese-electra-base",
    "variant--ernie-3-ner",
    "variant--rembert-ner",
)
MODERNBERT, EUROBERT = "OpenMed--OpenMed-PII-GTEMed-Base-149M-v1", "OpenMed--eurobert-NER"
DATA2VEC = "variant--data2vec-text-ner"
GONE = "(gone)"  # of a key or of a whole file
PLAIN = ["config.json", "model.safetensors"]


@dataclass(frozen=True)
class Variant:
    """An entry of zoo.json, changed.

    config, settings, special: changes of config.json, tokenizer_config.json, special_tokens_map.json; `GONE` takes a
    key away, and the file where it stands for all of it. files: all of them, for those of the entry. weights,
    tokenizer: changes of these parts. after: is given the folder once it is written. is_written: transformers does not
    find the weights under their names, so the model that was written is the reference.
    """

    base: str
    config: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | str = field(default_factory=dict)
    special: dict[str, Any] | str = field(default_factory=dict)
    added: dict[str, Any] | None = None
    files: list[str] | None = None
    weights: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    after: Callable[[Path], None] = lambda _: None
    is_written: bool = False


def entry_of(name: str, variant: Variant, zoo: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return an entry in the form of zoo.json."""
    entry = copy.deepcopy(zoo[variant.base])
    entry |= {"slug": f"variant--{name}", "repo": f"variant/{name}"}
    entry["config"] = changed(entry["config"], variant.config)
    entry["weights"] = {**entry["weights"], "extra": [], "rename": []} | variant.weights
    entry["tokenizer"] = changed(entry["tokenizer"], variant.tokenizer)
    if variant.files is not None:
        entry["files"] = variant.files
    entry["files"] = [
        file for file in entry["files"] if not file.endswith((".h5", ".msgpack", ".ot", ".csv", ".md"))
    ]
    for key, changes, file in (
        ("tokenizer_config", variant.settings, "tokenizer_config.json"),
        ("special_tokens_map", variant.special, "special_tokens_map.json"),
        ("added_tokens", variant.added, "added_tokens.json"),
    ):
        if changes == GONE:
            entry[key] = None
            entry["files"] = [name for name in entry["files"] if name != file]
        elif changes:
            entry[key] = changed(entry[key] or {}, changes)
            entry["files"] = [*dict.fromkeys([*entry["files"], file])]
    return entry


def changed(values: dict[str, Any], changes: Any) -> dict[str, Any]:
    """Return values with changes; those that are `GONE` are taken away."""
    return {key: value for key, value in {**values, **changes}.items() if value != GONE}


def rewrite(file: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    """Return what changes the text of a file."""

    def do(folder: Path) -> None:
        text = (folder / file).read_text(encoding="utf-8")
        (folder / file).write_bytes(change(text).encode())

    return do


def token(content: str, **flags: bool) -> dict[str, Any]:
    """Return an entry of added_tokens_decoder."""
    usual = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True, "special": False}
    return {"content": content, **usual, **flags}


IOB = {"id2label": {"0": "O", "1": "B-PER", "2": "I-PER", "3": "B-LOC", "4": "I-LOC"}}
IOB |= {"label2id": {name: int(number) for number, name in IOB["id2label"].items()}}
MORE = {"added_tokens_decoder": {"@size": token("Anna"), "@size+1": token("<phone>", special=True)}}
ODD = {
    "added_tokens_decoder": {
        "@size": token("lives", single_word=True),
        "@size+1": token("work", lstrip=True, rstrip=True),
        "@size+2": token("<X>", normalized=False, special=True),
    }
}
VOCABULARY = ["config.json", "vocab.txt", "tokenizer_config.json", "model.safetensors"]
PAIRS = ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
SHARDS = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"]
LOWER = {"lower": True}
BERT_TOKENS = {"bos_token": "[CLS]", "eos_token": "[SEP]", "unk_token": "[UNK]", "sep_token": "[SEP]"}
BERT_TOKENS |= {"pad_token": "[PAD]", "cls_token": "[CLS]", "mask_token": "[MASK]"}

VARIANTS = {
    # tokenizers from vocabularies
    "bert-bare": Variant(BERT_VOCABULARY, settings=GONE, special=GONE),
    "bert-lower-with-accents": Variant(
        BERT_VOCABULARY, settings={"do_lower_case": True, "strip_accents": False}
    ),
    "bert-cased-no-accents": Variant(
        CASED_VOCABULARY, settings={"do_lower_case": False, "strip_accents": True}
    ),
    "bert-chinese-whole": Variant(CASED_VOCABULARY, settings={"tokenize_chinese_chars": False}),
    "bert-never-split": Variant(CASED_VOCABULARY, settings={"never_split": ["Berlin", "[MASK]", "Acme"]}),
    "bert-never-split-null": Variant(
        CASED_VOCABULARY, settings={"never_split": None, "do_basic_tokenize": False, "max_len": 64}
    ),
    "bert-lower-in-config": Variant(
        CASED_VOCABULARY, config={"do_lower_case": False}, settings={"do_lower_case": GONE}
    ),
    "bert-added-decoder": Variant(BERT_VOCABULARY, config={"vocab_size": "@size+2"}, settings=MORE),
    "bert-added-odd": Variant(CASED_VOCABULARY, config={"vocab_size": "@size+3"}, settings=ODD),
    "bert-added-file": Variant(
        CASED_VOCABULARY, config={"vocab_size": "@size+2"}, added={"Berlin": "@size", "new word": "@size+1"}
    ),
    "bert-fast-class": Variant(BERT_VOCABULARY, settings={"tokenizer_class": "BertTokenizerFast"}),
    "bert-class-of-another": Variant(BERT_VOCABULARY, settings={"tokenizer_class": "ElectraTokenizer"}),
    "bert-class-in-config": Variant(
        CASED_VOCABULARY,
        config={"tokenizer_class": "DistilBertTokenizer"},
        settings={"tokenizer_class": GONE},
    ),
    "bert-generic-class": Variant(BERT, settings={"tokenizer_class": "PreTrainedTokenizerFast"}),
    "bert-crlf": Variant(
        CASED_VOCABULARY, after=rewrite("vocab.txt", lambda text: text.replace("\n", "\r\n"))
    ),
    "bert-no-last-line-feed": Variant(
        BERT_VOCABULARY, after=rewrite("vocab.txt", lambda text: text.rstrip("\n"))
    ),
    "bert-extra-special": Variant(
        BERT,
        config={"vocab_size": "@size+2"},
        settings={"extra_special_tokens": {"user_token": "<user>"}, "additional_special_tokens": None},
        tokenizer={"json": "2025"},
    ),
    "bert-chat-template": Variant(
        BERT,
        files=[*SHARDS[:-1], "model.safetensors", "vocab.txt", "chat_template.jinja"],
        settings={"chat_template": "{{ messages }}", "processor_class": None, "backend": "tokenizers"},
    ),
    "bert-no-limit": Variant(BERT, settings={"model_max_length": 1000000000000000019884624838656}),
    "bert-limit-above": Variant(BERT, settings={"model_max_length": 512}),
    "bert-limit-below": Variant(BERT, settings={"model_max_length": 24, "truncation_side": "right"}),
    "bert-truncation": Variant(
        BERT,
        tokenizer={
            "json_changes": {
                "truncation": {
                    "direction": "Right",
                    "max_length": 16,
                    "strategy": "LongestFirst",
                    "stride": 0,
                },
                "padding": {
                    "strategy": {"Fixed": 32},
                    "direction": "Left",
                    "pad_to_multiple_of": 8,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "[PAD]",
                },
            }
        },
        settings={"padding_side": "left", "stride": 4},
    ),
    "roberta-bare": Variant(ROBERTA, files=PAIRS, settings=GONE, special=GONE),
    "roberta-no-prefix": Variant(ROBERTA, settings={"add_prefix_space": False}, tokenizer={"prefix": False}),
    "roberta-trim": Variant(ROBERTA, settings={"trim_offsets": False}),
    "roberta-added": Variant(ROBERTA, config={"vocab_size": "@size+2"}, settings=MORE),
    "roberta-no-version": Variant(
        ROBERTA, after=rewrite("merges.txt", lambda text: text.split("\n", 1)[1].rstrip("\n"))
    ),
    "roberta-fast-class": Variant(
        ROBERTA, config={"tokenizer_class": "RobertaTokenizerFast"}, settings={"tokenizer_class": GONE}
    ),
    "xlmr-bare": Variant(
        XLMR,
        files=["config.json", "sentencepiece.bpe.model", "pytorch_model.bin"],
        settings=GONE,
        special=GONE,
    ),
    "xlmr-legacy": Variant(
        XLMR,
        settings={
            "sp_model_kwargs": {},
            "legacy": True,
            "use_fast": False,
            "vocab_file": "/x/y",
            "device_map": None,
        },
    ),
    "xlmr-added": Variant(XLMR, config={"vocab_size": "@size+3"}, settings=ODD),
    "xlmr-of-camembert": Variant(
        CAMEMBERT,
        files=["config.json", "sentencepiece.bpe.model", "tokenizer_config.json", "pytorch_model.bin"],
        special=GONE,
        settings={"tokenizer_class": "CamembertTokenizerFast"},
    ),
    "deberta-bare": Variant(DEBERTA, settings=GONE),
    "deberta-json-lower": Variant(DEBERTA_JSON, settings={"do_lower_case": True}),
    "albert-lower": Variant(
        ALBERT, settings={"do_lower_case": True, "keep_accents": False}, tokenizer=LOWER, special=GONE
    ),
    "albert-bare": Variant(
        ALBERT, files=["config.json", "spiece.model", "pytorch_model.bin"], settings=GONE, special=GONE
    ),
    "mpnet-vocabulary": Variant(MPNET, files=VOCABULARY),
    "mpnet-bare": Variant(
        MPNET, files=["config.json", "vocab.txt", "model.safetensors"], settings=GONE, special=GONE
    ),
    "rembert-spm": Variant(
        REMBERT,
        files=["config.json", "sentencepiece.model", "tokenizer_config.json", "model.safetensors"],
        special=GONE,
    ),
    "electra-vocabulary": Variant(ELECTRA, files=VOCABULARY),
    "json-in-onnx-folder": Variant(
        BERT,
        files=["config.json", "model.safetensors", "onnx/tokenizer.json", "onnx/tokenizer_config.json"],
        is_written=True,
    ),
    # a tokenizer of another family (klue/roberta-base, nlp-waseda/roberta-base-japanese, ...)
    "roberta-of-bert": Variant(
        ROBERTA,
        files=VOCABULARY,
        special=GONE,
        settings={**BERT_TOKENS, "tokenizer_class": "BertTokenizer", "add_prefix_space": GONE},
        tokenizer={"kind": "wordpiece", "order": "plain", "prefix": GONE},
    ),
    "roberta-of-albert": Variant(
        ROBERTA,
        files=["config.json", "spiece.model", "tokenizer_config.json", "model.safetensors"],
        special=GONE,
        settings={
            **BERT_TOKENS,
            **{"unk_token": "<unk>", "pad_token": "<pad>", "do_lower_case": False, "keep_accents": True},
            **{"tokenizer_class": "AlbertTokenizer", "add_prefix_space": GONE},
        },
        tokenizer={"kind": "unigram", "style": "albert", "prefix": GONE},
    ),
    "bert-of-xlmr": Variant(
        BERT,
        files=["config.json", "sentencepiece.bpe.model", "tokenizer_config.json", "model.safetensors"],
        special=GONE,
        config={"pad_token_id": 1},
        settings={
            **dict.fromkeys(BERT_TOKENS, GONE),
            **{"do_lower_case": GONE, "tokenizer_class": "XLMRobertaTokenizer"},
        },
        tokenizer={"kind": "unigram", "style": "xlm-roberta"},
    ),
    # labels
    "labels-by-name-only": Variant(BERT, config={"id2label": GONE}),
    "labels-by-name-as-text": Variant(
        BERT, config={"id2label": GONE, "label2id": {"O": "0", "B-PER": "1", "I-PER": "2"}}
    ),
    "labels-null": Variant(BERT, config={"id2label": None, "label2id": None}),
    "labels-by-id-only": Variant(BERT, config={"label2id": GONE}),
    "labels-out-of-order": Variant(
        BERT,
        config={
            "id2label": {"2": "I-PER", "0": "O", "1": "B-PER"},
            "label2id": {"I-PER": 2, "O": 0, "B-PER": 1},
        },
    ),
    "labels-differ": Variant(BERT, config={**IOB, "label2id": {"A": 0, "B": 1, "C": 2, "D": 3, "E": 4}}),
    "labels-lower": Variant(
        BERT, config={"id2label": {"0": "o", "1": "b-per", "2": "i-per", "3": "B_LOC", "4": "große x"}}
    ),
    "labels-two": Variant(BERT, config={"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": GONE}),
    "labels-bilou": Variant(
        BERT,
        config={
            "id2label": {str(n): v for n, v in enumerate(["O", "B-PER", "I-PER", "L-PER", "U-PER"])},
            "label2id": GONE,
        },
    ),
    "labels-count": Variant(BERT, config={"id2label": GONE, "label2id": GONE, "num_labels": 4}),
    "labels-count-legacy": Variant(BERT, config={"id2label": GONE, "label2id": GONE, "_num_labels": 7}),
    # weights
    "bin-shards": Variant(BERT, files=[*SHARDS[:-1], "vocab.txt", "pytorch_model.bin.index.json"]),
    "bf16-shards": Variant(BERT, files=SHARDS, weights={"dtype": "bfloat16"}),
    "f16-stream": Variant(
        BERT,
        files=["config.json", "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin"],
        weights={"dtype": "float16", "pickle": "legacy", "extra": ["position_ids", "pooler"]},
        config={"dtype": "float16", "torch_dtype": GONE},
    ),
    "bf16-pickle": Variant(
        XLMR,
        weights={"dtype": "bfloat16", "pickle": "zip", "extra": ["lm_head", "position_ids"]},
        config={"torch_dtype": "bfloat16"},
    ),
    "prefix-module": Variant(BERT, weights={"rename": [["^", "module."]]}, is_written=True),
    "prefix-model": Variant(BERT, weights={"rename": [["^", "model."]]}, is_written=True),
    "prefix-none": Variant(BERT, weights={"rename": [["^bert\\.", ""]]}),
    "prefix-none-roberta": Variant(ROBERTA, weights={"rename": [["^roberta\\.", ""]]}),
    "prefix-none-distilbert": Variant(DISTILBERT, weights={"rename": [["^distilbert\\.", ""]]}),
    "prefix-of-another": Variant(
        XLMR, weights={"rename": [["^roberta\\.", "xlm_roberta."]]}, is_written=True
    ),
    "old-names": Variant(
        BERT,
        weights={
            "extra": ["cls"],
            "rename": [["LayerNorm\\.weight$", "LayerNorm.gamma"], ["LayerNorm\\.bias$", "LayerNorm.beta"]],
        },
        files=["config.json", "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin"],
    ),
    # architectures
    "bert-relu": Variant(BERT, config={"hidden_act": "relu", "layer_norm_eps": 1e-5}),
    "bert-gelu-new": Variant(
        BERT, config={"hidden_act": "gelu_new", "type_vocab_size": 4, "pad_token_id": None}
    ),
    "bert-silu": Variant(BERT, config={"hidden_act": "silu", "pad_token_id": 3}),
    "bert-nan": Variant(BERT, after=rewrite("config.json", lambda text: text.replace("0.02", "NaN", 1))),
    "bert-one-layer": Variant(BERT, config={"num_hidden_layers": 1, "num_attention_heads": 1}),
    "bert-class-of-their-own": Variant(BERT, config={"architectures": ["BertForNER"]}),
    "bert-class-as-text": Variant(BERT, config={"architectures": "BertForTokenClassification"}),
    "bert-type-in-another-case": Variant(BERT, config={"architectures": GONE}),
    "roberta-pad-0": Variant(ROBERTA, config={"pad_token_id": 0}),
    "roberta-odd-positions": Variant(
        ROBERTA, config={"max_position_embeddings": 77}, settings={"model_max_length": GONE, "max_len": GONE}
    ),
    "roberta-types": Variant(ROBERTA, config={"type_vocab_size": 2}),
    "xlmr-json-positions": Variant(XLMR_JSON, config={"max_position_embeddings": 40}),
    "distilbert-sinusoidal": Variant(DISTILBERT, config={"sinusoidal_pos_embds": True, "activation": "relu"}),
    "albert-groups": Variant(
        ALBERT,
        config={"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "gelu"},
    ),
    "ernie-task": Variant(
        ERNIE, config={"use_task_id": True, "task_type_vocab_size": 3, "hidden_act": "relu"}
    ),
    "electra-no-projection": Variant(ELECTRA, config={"embedding_size": 32}),
    "deberta-v2-old": Variant(
        DEBERTA,
        config={
            "type_vocab_size": 2,
            "position_biased_input": True,
            "share_att_key": False,
            "pos_att_type": "c2p|p2c",
            "position_buckets": -1,
            "norm_rel_ebd": "none",
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
    ),
    "deberta-v2-c2p": Variant(DEBERTA, config={"pos_att_type": ["c2p"], "max_relative_positions": 24}),
    "deberta-absolute": Variant(
        DEBERTA, config={"relative_attention": False, "position_biased_input": True, "pos_att_type": None}
    ),
    "modernbert-biases": Variant(
        MODERNBERT,
        config={
            "classifier_bias": True,
            "mlp_bias": True,
            "norm_bias": True,
            "attention_bias": True,
            "local_attention": 10,
            "global_attn_every_n_layers": 2,
            "classifier_activation": "silu",
            "hidden_activation": "gelu_new",
        },
    ),
    "modernbert-new-config": Variant(
        MODERNBERT,
        config={
            "global_rope_theta": GONE,
            "local_rope_theta": GONE,
            "global_attn_every_n_layers": GONE,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 80000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0},
            },
        },
    ),
    "eurobert-all-heads": Variant(
        EUROBERT, config={"num_key_value_heads": 4, "rope_theta": 10000}, weights={"dtype": "float16"}
    ),
    "eurobert-new-config": Variant(
        EUROBERT,
        config={
            "rope_theta": GONE,
            "rope_scaling": GONE,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
        },
    ),
    "data2vec-bare": Variant(DATA2VEC, files=PAIRS, settings=GONE, special=GONE),
}

# Those whose oddity nothing else in the tests has.
KEPT = (
    "bert-nan", "bert-truncation", "bert-limit-above", "prefix-none", "prefix-none-roberta", "prefix-none-distilbert",
    "prefix-module", "bin-shards", "f16-stream", "labels-by-name-only", "labels-null", "labels-out-of-order",
    "labels-differ", "json-in-onnx-folder", "roberta-pad-0", "roberta-odd-positions", "distilbert-sinusoidal",
    "albert-groups", "ernie-task", "deberta-v2-old", "deberta-absolute", "modernbert-biases", "modernbert-new-config",
    "eurobert-all-heads", "eurobert-new-config",
)  # fmt: skip


def make(out: Path, only: list[str]) -> int:
    """Write checkpoints and references."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    entries = {e["slug"]: e for e in json.loads((HERE / "zoo.json").read_text(encoding="utf-8"))["entries"]}
    (out / "references").mkdir(parents=True, exist_ok=True)
    texts = {"names": [name for name, _ in zoo.TEXTS], "texts": [text for _, text in zoo.TEXTS]}
    zoo.write_json(out / "texts.json", texts)
    n_failed = 0
    for name, variant in VARIANTS.items():
        if only and name not in only:
            continue
        entry = entry_of(name, variant, entries)
        folder = out / "models" / entry["slug"]
        if folder.exists():
            zoo.shutil.rmtree(folder)
        try:
            written = zoo.make_checkpoint(entry, folder)
            variant.after(folder)
            if variant.is_written:
                load, zoo.load_reference = zoo.load_reference, _as_written(folder)
            try:
                found = zoo.record(entry, folder, written)
            finally:
                if variant.is_written:
                    zoo.load_reference = load
            missing = found["missing_weights"]
            note = f"gap {found['min_gap']:.0e}" + (f" MISSING {missing[:3]}" if missing else "")
            (out / "references" / f"{entry['slug']}.json").write_text(
                json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n"
            )
        except Exception as error:  # noqa: BLE001 - whatever transformers cannot make
            n_failed += 1
            note = f"FAILED {type(error).__name__}: {str(error)[:300]}"
        sys.stdout.write(f"{name}: {note}\n")
        sys.stdout.flush()
    return n_failed


def _as_written(folder: Path) -> Callable[..., Any]:
    """Return what gives the model that was written, and the tokenizer of the folder or of onnx/ in it."""

    def load(_: Path, written: Any) -> tuple[Any, Any, None]:
        place = folder if (folder / "tokenizer_config.json").exists() else folder / "onnx"
        return transformers.AutoTokenizer.from_pretrained(place), written, None

    return load


def pack(out: Path) -> None:
    """Write the archive of those that are kept."""
    with tempfile.TemporaryDirectory() as scratch:
        kept = Path(scratch)
        (kept / "references").mkdir()
        shutil.copy(out / "texts.json", kept)
        for slug in (f"variant--{name}" for name in KEPT):
            shutil.copytree(out / "models" / slug, kept / "models" / slug)
            shutil.copy(out / "references" / f"{slug}.json", kept / "references")
        write_archive(kept, HERE / "variants.tar.xz")


def main() -> int:
    """Make, or pack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", default="")
    parser.add_argument("--pack", action="store_true")
    options = parser.parse_args()
    if options.pack:
        pack(options.out)
        return 0
    return 1 if make(options.out, [name for name in options.only.split(",") if name]) else 0


if __name__ == "__main__":
    sys.exit(main())
