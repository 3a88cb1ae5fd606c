"""Small checkpoints without tokenizer.json: every kind of vocabulary, and what is odd in those that people serve.

`write_case` writes one, from fixed material. `tests/parity/compare_tokenizers.py` compares each with transformers and
records the answers that `test_vocabularies` expects; a change here wants `--record` there.
"""

from __future__ import annotations

import base64
import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
TEXTS = (
    "Anna lives in São Paulo, near Zürich.",
    "  two  spaces\tand a tab\nline ",
    "[CLS] a [MASK] b[SEP] <mask> c</s> <s>x <unk>[UNK]",
    "<user> met<url>, then <USER>; new token and newer [USR]Anna",
    "中文abc Ünïcode ﬁ ﷺ ① e\u0301 ``quoted''",
    "İstanbul\u200b \u00a0x\u3000y \x00\ufeff 👍🏽 _▁a<_>b",
    "",
)
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
LETTERS = "abcdefghijklmnopqrstuvwxyzASPZ,.ãüöıé<>_0123456789中"
WORDS = (
    "Anna",
    "anna",
    "lives",
    "live",
    "in",
    "and",
    "Paulo",
    "tab",
    "line",
    "new",
    "token",
    "ne",
    "to",
    "sp",
    "ac",
)


@dataclass(frozen=True)
class Case:
    """A checkpoint: its JSON files and its vocabulary; a file that is None is not there.

    vocabulary: name of the file -> content. wins: a part of the vocabulary that transformers 5 drops is kept.
    """

    config: dict[str, Any]
    vocabulary: dict[str, bytes]
    settings: dict[str, Any] | None = None
    special_tokens_map: dict[str, Any] | None = None
    added_tokens: dict[str, Any] | None = None
    json_files: dict[str, dict[str, Any] | None] = field(init=False)

    def __post_init__(self) -> None:
        files = {
            "config.json": self.config,
            "tokenizer_config.json": self.settings,
            "special_tokens_map.json": self.special_tokens_map,
            "added_tokens.json": self.added_tokens,
        }
        object.__setattr__(self, "json_files", files)


def write_case(folder: Path, name: str) -> Path:
    """Write a case into a new folder and return it."""
    case = cases()[name]
    folder.mkdir(parents=True)
    for file, content in case.json_files.items():
        if content is not None:
            (folder / file).write_text(json.dumps(content), encoding="utf-8")
    for file, data in case.vocabulary.items():
        (folder / file).write_bytes(data)
    return folder


def word_pieces(
    *head: str, tail: tuple[str, ...] = (), end: str = "\n", last: str = "\n"
) -> dict[str, bytes]:
    """Return a vocab.txt: special tokens, letters, words and endings."""
    lines = [*head, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS, "##s", "##na", "##ives", *tail]
    return {"vocab.txt": (end.join(lines) + last).encode()}


def byte_pairs(
    *head: str,
    tail: tuple[str, ...] = (),
    version: bool = True,
    end: str = "\n",
    hole: int = 0,
    suffix: str = "",
) -> dict[str, bytes]:
    """Return a vocab.json and a merges.txt over the bytes of GPT-2, or over letters with a `suffix` of words."""
    symbols = [*LETTERS, *(letter + suffix for letter in LETTERS)] if suffix else _byte_letters()
    merges: list[tuple[str, str]] = []
    for word in WORDS if suffix else (*WORDS, *(f"Ġ{word}" for word in WORDS)):
        parts = [*word[:-1], word[-1] + suffix]
        while len(parts) > 1:
            pair = (parts[0], parts[1])
            if pair not in merges:
                merges.append(pair)
            parts[:2] = ["".join(pair)]
    tokens = list(dict.fromkeys([*head, *symbols, *(a + b for a, b in merges)]))
    ids = {token: number for number, token in enumerate(tokens)}
    ids |= {token: len(tokens) + hole + number for number, token in enumerate(tail)}
    lines = [*(["#version: 0.2"] if version else []), *(f"{a} {b}" for a, b in merges)]
    return {
        "vocab.json": json.dumps(ids, ensure_ascii=False).encode(),
        "merges.txt": (end.join(lines) + end).encode(),
    }


def _byte_letters() -> list[str]:
    """Return the 256 letters that stand for bytes in GPT-2's vocabularies, as its encoder orders them."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    others = [chr(256 + number) for number in range(256 - len(printable))]
    return [*map(chr, printable), *others]


def sentence_pieces(
    file: str,
    *head: tuple[str, int],
    algorithm: int = 1,
    unknown: int = 0,
    table: bool = True,
    more: tuple[tuple[str, float, int], ...] = (),
    byte_fallback: bool = False,
) -> dict[str, bytes]:
    """Return a model of sentencepiece. head: text and type of the first pieces, whose score is 0."""
    pieces = [(text, 0.0, kind) for text, kind in head]
    if byte_fallback:
        pieces += [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]
    words = [f"▁{word}" for word in WORDS]
    plain = list(
        dict.fromkeys(["▁", *LETTERS, '"', *words, *WORDS, *_beginnings([*words, *WORDS], algorithm)])
    )
    pieces += [(text, -1.0 - number / 16, NORMAL) for number, text in enumerate(plain)]
    pieces += more
    trainer = _number(3, algorithm) + _number(40, unknown)
    if byte_fallback:
        trainer += _number(35, 1)
    if head[unknown][0] != "<unk>":
        trainer += _bytes(45, head[unknown][0].encode())
    charsmap = base64.b64decode((HERE / "text" / "charsmap.txt").read_text()) if table else b""
    body = b"".join(
        _bytes(1, _bytes(1, text.encode()) + _float(2, score) + (_number(3, kind) if kind != NORMAL else b""))
        for text, score, kind in pieces
    )
    return {file: body + _bytes(2, trainer) + _bytes(3, _bytes(1, b"test") + _bytes(2, charsmap))}


def _beginnings(words: list[str], algorithm: int) -> list[str]:
    """Return what BPE builds the words from."""
    return [word[:stop] for word in words for stop in range(2, len(word))] if algorithm == 2 else []


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _number(field_number: int, value: int) -> bytes:
    return _varint(field_number << 3) + _varint(value)


def _float(field_number: int, value: float) -> bytes:
    return _varint(field_number << 3 | 5) + struct.pack("<f", value)


def _bytes(field_number: int, value: bytes) -> bytes:
    return _varint(field_number << 3 | 2) + _varint(len(value)) + value


def token(content: str, **flags: bool) -> dict[str, Any]:
    """Return an AddedToken written out."""
    usual = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
    return {"content": content, **usual, **flags}


BERT_HEAD = ("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FAIRSEQ_HEAD = ("<s>", "<pad>", "</s>", "<unk>")
UNK_BOS_EOS = (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
DEBERTA_HEAD = (("[PAD]", CONTROL), ("[CLS]", CONTROL), ("[SEP]", CONTROL), ("[UNK]", UNKNOWN))
ALBERT_HEAD = (
    ("<pad>", CONTROL),
    ("<unk>", UNKNOWN),
    ("[CLS]", CONTROL),
    ("[SEP]", CONTROL),
    ("[MASK]", CONTROL),
)
BIG_BIRD_HEAD = (
    ("<pad>", CONTROL), ("</s>", CONTROL), ("<s>", CONTROL), ("<unk>", UNKNOWN), ("[CLS]", CONTROL),
    ("[SEP]", CONTROL), ("[MASK]", CONTROL),
)  # fmt: skip
XLNET_HEAD = (
    *UNK_BOS_EOS, ("<cls>", CONTROL), ("<sep>", CONTROL), ("<pad>", CONTROL), ("<mask>", CONTROL), ("<eod>", CONTROL),
)  # fmt: skip


def cases() -> dict[str, Case]:
    """Return all cases by name."""
    return {**_bert_cases(), **_byte_cases(), **_sentence_cases()}


def _bert_cases() -> dict[str, Case]:
    bert = {"model_type": "bert"}
    plain = word_pieces(*BERT_HEAD)
    decoder = {str(n): token(t, normalized=False, special=True) for n, t in enumerate(BERT_HEAD) if n != 1}
    return {
        "bert silent": Case(bert, plain),
        "bert cased": Case(bert, plain, {"do_lower_case": False}),
        "bert class of the config": Case({**bert, "tokenizer_class": "BertTokenizerFast"}, plain),
        "bert accents kept": Case(bert, plain, {"do_lower_case": True, "strip_accents": False}),
        "bert accents only": Case(bert, plain, {"do_lower_case": False, "strip_accents": True}),
        "bert chinese as it is": Case(bert, plain, {"tokenize_chinese_chars": False, "strip_accents": None}),
        "bert never split": Case(bert, plain, {"never_split": ["anna"], "do_basic_tokenize": True}),
        "bert odd lines": Case(
            bert,
            word_pieces(
                "\ufeff[PAD]",
                *BERT_HEAD[1:],
                "",
                "Anna",
                "tab ",
                "in\u3000",
                tail=("", "Anna", "new"),
                end="\r\n",
                last="",
            ),
            {"do_lower_case": False},
        ),
        "bert renamed": Case(
            bert,
            word_pieces("<pad>", "<s>", "</s>", "<unk>", "<mask>"),
            {"tokenizer_class": "BertTokenizer", "do_lower_case": False},
            {
                "cls_token": "<s>",
                "sep_token": "</s>",
                "unk_token": "<unk>",
                "pad_token": "<pad>",
                "mask_token": "<mask>",
            },
        ),
        "bert token objects": Case(
            bert,
            plain,
            {"do_lower_case": True, "cls_token": "[UNK]"},
            {
                "cls_token": token("[CLS]", normalized=False),
                "sep_token": token("[SEP]", rstrip=True, normalized=False),
                "mask_token": token("[MASK]", lstrip=True),
                "unk_token": token("[UNK]", single_word=True),
                "pad_token": "[PAD]",
            },
        ),
        "bert typed objects": Case(
            bert,
            plain,
            {"mask_token": {**token("[MASK]", lstrip=True), "__type": "AddedToken"}, "sep_token": "[SEP]"},
        ),
        "bert added tokens": Case(
            bert,
            plain,
            {"do_lower_case": False},
            {"additional_special_tokens": ["<url>", "[USR]"]},
            {"<user>": 145, "<url>": 144, "new token": 200, "Anna": 111},
        ),
        "bert decoder": Case(
            bert,
            plain,
            {
                "do_lower_case": True,
                "added_tokens_decoder": {
                    **decoder,
                    "150": token("<user>"),
                    "149": token("[USR]", special=True),
                },
                "additional_special_tokens": ["[USR]", "<url>"],
                "extra_special_tokens": {},
            },
            {"cls_token": "[UNK]"},
            {"Anna": 7},
        ),
        "bert named token": Case(
            bert, plain, {"user_token": "<user>", "extra_special_tokens": {"url_token": "<url>"}}
        ),
        "bert split special tokens": Case(bert, plain, {"split_special_tokens": True}),
        "bert without mask": Case(bert, plain, {"mask_token": None}),
        "distilbert": Case({"model_type": "distilbert"}, plain, {"tokenizer_class": "DistilBertTokenizer"}),
        "electra": Case({"model_type": "electra"}, plain, {"do_lower_case": False, "model_max_length": 512}),
        "mpnet": Case(
            {"model_type": "mpnet"},
            word_pieces(*FAIRSEQ_HEAD, "[UNK]", tail=("<mask>",)),
            {"do_lower_case": True},
        ),
        "funnel": Case(
            {"model_type": "funnel"}, word_pieces("<pad>", "<unk>", "<cls>", "<sep>", "<mask>", "<s>", "</s>")
        ),
    }


def _byte_cases() -> dict[str, Case]:
    roberta = {"model_type": "roberta"}
    plain = byte_pairs(*FAIRSEQ_HEAD, tail=("<mask>",))
    gpt2 = byte_pairs(tail=("<|endoftext|>",))
    return {
        "roberta silent": Case(roberta, plain),
        "roberta prefix": Case(
            roberta, plain, {"add_prefix_space": True, "tokenizer_class": "RobertaTokenizer"}
        ),
        "roberta untrimmed": Case(roberta, plain, {"trim_offsets": False}),
        "roberta untrimmed prefix": Case(roberta, plain, {"trim_offsets": False, "add_prefix_space": True}),
        "roberta mask object": Case(roberta, plain, None, {"mask_token": token("<mask>", lstrip=True)}),
        "roberta holes": Case(
            roberta, byte_pairs(*FAIRSEQ_HEAD, tail=("<mask>", "<user>"), hole=9), None, None, {"<url>": 999}
        ),
        "roberta odd lines": Case(
            roberta, byte_pairs(*FAIRSEQ_HEAD, tail=("<mask>",), version=False, end="\r\n")
        ),
        "roberta own tokens": Case(
            roberta,
            byte_pairs("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
            {"bos_token": "[CLS]", "eos_token": "[SEP]", "model_max_length": 512},
            {
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "unk_token": "[UNK]",
                "pad_token": "[PAD]",
                "mask_token": "[MASK]",
            },
        ),
        "longformer": Case(
            {"model_type": "longformer"}, plain, {"tokenizer_class": "LongformerTokenizerFast"}
        ),
        "deberta": Case(
            {"model_type": "deberta"}, byte_pairs("[PAD]", "[CLS]", "[SEP]", "[UNK]", tail=("[MASK]",))
        ),
        "gpt2": Case({"model_type": "gpt2"}, gpt2, {"add_prefix_space": True}),
        "gpt2 first token": Case({"model_type": "gpt2"}, gpt2, {"add_bos_token": True}),
        "gpt_neox": Case({"model_type": "gpt_neox"}, byte_pairs(tail=("<|endoftext|>", "<|padding|>"))),
        "qwen2": Case(
            {"model_type": "qwen3"}, gpt2, {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False}
        ),
        "herbert": Case(
            {"model_type": "bert", "tokenizer_class": "HerbertTokenizerFast"},
            byte_pairs("<s>", "<pad>", "</s>", "<unk>", "<mask>", suffix="</w>"),
        ),
    }


def _sentence_cases() -> dict[str, Case]:
    xlmr = {"model_type": "xlm-roberta"}
    plain = sentence_pieces("sentencepiece.bpe.model", *UNK_BOS_EOS)
    deberta = {"model_type": "deberta-v2"}
    spm = sentence_pieces("spm.model", *DEBERTA_HEAD, unknown=3)
    albert = {"model_type": "albert"}
    spiece = sentence_pieces("spiece.model", *ALBERT_HEAD, unknown=1)
    user = (("<_>", 0.0, USER_DEFINED), ("unused", -3.0, UNUSED))
    pairs = sentence_pieces("tokenizer.model", *UNK_BOS_EOS, algorithm=2, byte_fallback=True, table=False)
    return {
        "xlm-roberta silent": Case(xlmr, plain),
        "xlm-roberta no table": Case(
            xlmr, sentence_pieces("sentencepiece.bpe.model", *UNK_BOS_EOS, table=False)
        ),
        "xlm-roberta no prefix": Case(
            xlmr, plain, {"add_prefix_space": False, "tokenizer_class": "XLMRobertaTokenizer"}
        ),
        "xlm-roberta renamed": Case(
            xlmr,
            plain,
            {"bos_token": "[CLS]", "eos_token": "[SEP]"},
            {"cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": token("<mask>", lstrip=True)},
        ),
        "xlm-roberta added tokens": Case(
            xlmr, plain, None, {"mask_token": token("<mask>", lstrip=True)}, {"<user>": 130, "new token": 131}
        ),
        "xlm-roberta decoder": Case(
            xlmr,
            plain,
            {
                "added_tokens_decoder": {
                    "0": token("<s>", normalized=False, special=True),
                    "140": token("<user>", normalized=False),
                },
                "additional_special_tokens": ["<url>"],
            },
        ),
        "camembert": Case(
            {"model_type": "camembert"}, plain, {"additional_special_tokens": ["<s>NOTUSED", "</s>NOTUSED"]}
        ),
        "camembert further tokens": Case(
            {"model_type": "camembert"},
            sentence_pieces("sentencepiece.bpe.model", *UNK_BOS_EOS, more=user),
            None,
            {"additional_special_tokens": ["<s>NOTUSED", "<user>"]},
            {"<user>": 140},
        ),
        "camembert symbols": Case(
            {"model_type": "camembert"}, sentence_pieces("sentencepiece.bpe.model", *UNK_BOS_EOS, more=user)
        ),
        "deberta-v2 silent": Case(deberta, spm),
        "deberta-v2 lower": Case(
            deberta, spm, {"do_lower_case": True, "vocab_type": "spm"}, None, {"[MASK]": 150}
        ),
        "deberta-v2 punctuation": Case(
            deberta, spm, {"split_by_punct": True, "tokenizer_class": "DebertaV2TokenizerFast"}
        ),
        "deberta-v2 no table": Case(
            deberta, sentence_pieces("spm.model", *DEBERTA_HEAD, unknown=3, table=False)
        ),
        "albert silent": Case(albert, spiece),
        "albert as written": Case(
            albert, spiece, {"do_lower_case": False, "keep_accents": True, "remove_space": True}
        ),
        "albert accents kept": Case(
            albert, spiece, {"keep_accents": True}, {"mask_token": token("[MASK]", lstrip=True)}
        ),
        "rembert": Case(
            {"model_type": "rembert"}, sentence_pieces("sentencepiece.model", *ALBERT_HEAD, unknown=1)
        ),
        "rembert lower": Case(
            {"model_type": "rembert"},
            sentence_pieces("sentencepiece.model", *ALBERT_HEAD, unknown=1),
            {"do_lower_case": True, "keep_accents": False},
        ),
        "big_bird": Case(
            {"model_type": "big_bird"}, sentence_pieces("spiece.model", *BIG_BIRD_HEAD, unknown=3)
        ),
        "xlnet": Case({"model_type": "xlnet"}, sentence_pieces("spiece.model", *XLNET_HEAD)),
        "t5": Case(
            {"model_type": "mt5"},
            sentence_pieces(
                "spiece.model", ("<pad>", CONTROL), ("</s>", CONTROL), ("<unk>", UNKNOWN), unknown=2
            ),
            {"extra_ids": 2},
        ),
        "llama": Case(
            {"model_type": "llama", "tokenizer_class": "LlamaTokenizer"}, pairs, {"add_bos_token": True}
        ),
        "llama legacy": Case(
            {"model_type": "llama"}, pairs, {"tokenizer_class": "LlamaTokenizer", "legacy": True}
        ),
        "gemma": Case(
            {"model_type": "gemma"},
            sentence_pieces(
                "tokenizer.model",
                ("<pad>", CONTROL),
                ("<eos>", CONTROL),
                ("<bos>", CONTROL),
                ("<unk>", UNKNOWN),
                ("<mask>", CONTROL),
                unknown=3,
                algorithm=2,
                byte_fallback=True,
                table=False,
            ),
            {"add_bos_token": True, "add_eos_token": True},
        ),
        "no class": Case(
            {"model_type": "umt5"},
            sentence_pieces("tokenizer.model", *UNK_BOS_EOS, byte_fallback=True),
            {"tokenizer_class": "PreTrainedTokenizerFast"},
        ),
    }
