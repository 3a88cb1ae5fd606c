"""Compares the tokenizers that nerve makes from vocabularies with those that transformers makes from the same files.

usage: python tests/parity/compare_tokenizers.py [FOLDER...] [--characters N] [--record] [--out FILE]

Compared are the small checkpoints of tests/vocabulary_cases.py, and FOLDER: a checkpoint, or a folder of them.
Each that has a vocabulary is compared with its tokenizer.json, if it has one, taken away: ids, offsets and special
tokens, on the texts of `corpus.py`, on hostile ones, and on N random characters of all scripts of Unicode in pieces.
--record: write the answers for the small checkpoints to tests/text/vocabularies.json, and the table of characters that
their models of sentencepiece have to tests/text/charsmap.txt. --out: write what was compared, and what differs, to a
file; tests/parity/tokenizers.json is of the small checkpoints and the zoo, with a million characters (`make
tokenizers`). Needs transformers and sentencepiece, and no PyTorch.

Where the model of sentencepiece wins over transformers 5 (`FILE_WINS`), the reference is what transformers'
`convert_slow_tokenizer` makes of it, as transformers 4 did.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import io
import json
import os
import random
import runpy
import shutil
import subprocess
import sys
import tempfile
import types
import unicodedata
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import sentencepiece
import tokenizers
import transformers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from nerve.checkpoint.settings import read_config, read_optional
from nerve.checkpoint.tokenizer import open_tokenizer
from nerve.errors import StartupError
from nerve.text.vocabularies.kinds import KINDS, class_name

sys.path.insert(0, str(Path(__file__).parents[1]))
import vocabulary_cases

HERE = Path(__file__).parent
CASES = HERE.parent / "text"
FILE_WINS = ("BigBirdTokenizer", "DebertaV2Tokenizer", "RemBertTokenizer")
# Of these, whose words end at white space, as in ALBERT's and XLM-RoBERTa's tokenizer.json: offsets have no spaces.
SPLIT_AT_SPACES = ("BigBirdTokenizer", "RemBertTokenizer")
PIECE = 60  # characters of a random text
SPACES = (
    "",
    " ",
    "   ",
    "\n",
    "\t\t",
    "\u3000",
    "a  b",
    " a",
    "a ",
    "  a   b  ",
    "a\n\nb",
    "\u00a0a\u00a0\u00a0b",
)
HOSTILE = (
    *SPACES,
    "``quoted'' words, 9,999,9 and 1,2",
    "Ünïcödé İstanbul ẞß ŉ ǰ ﬁ ﷺ ㎏ Å\u030a e\u0301\u0323",
    "[CLS] [SEP][MASK] <mask> <s></s><pad> <unk>[UNK] <|endoftext|> [cls] <S>",
    "a<mask>b  <mask>  c\u00a0<mask>",
    "<user><url> <USER> x<user>x <_> a<_>b",
    "▁under▁score ▁▁ _",
    "0x1F600 😀👨‍👩‍👧‍👦🇩🇪 \U000e0001\U000f0000",
    "\u0000\u0007\u200b\u200d\ufeff\ufffd\ue000\u0301\u0300",
    "x" * 250,
    "中文字符mixed日本語テキスト한국어",
)


def every_text(n_characters: int) -> list[str]:
    """Return the corpus, hostile texts, and `n_characters` random characters in pieces."""
    corpus = runpy.run_path(str(HERE / "corpus.py"))["texts"]()
    return [*corpus, *HOSTILE, *random_texts(n_characters)]


def random_texts(n_characters: int) -> list[str]:
    """Return seeded texts of all assigned characters: even over all, over each block, and blanks between."""
    chosen = random.Random(20261130)
    assigned = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cs", "Cn")]
    blocks: dict[int, list[str]] = {}
    for character in assigned:
        blocks.setdefault(ord(character) >> 8, []).append(character)
    small = [block for number, block in blocks.items() if number < 0x300]
    texts, n_left = [], n_characters
    while n_left > 0:
        pick = chosen.random()
        pool = assigned if pick < 0.2 else chosen.choice(small)
        text = "".join(
            " " if chosen.random() < 0.12 else chosen.choice(pool if chosen.random() < 0.8 else small[0])
            for _ in range(PIECE)
        )
        texts.append(text)
        n_left -= len(text)
    return texts


def reference(folder: Path) -> Tokenizer:
    """Return the library's tokenizer that transformers makes of a folder without tokenizer.json."""
    config, settings = read_config(folder), read_optional(folder, "tokenizer_config.json")
    name = class_name(config, settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = transformers.AutoTokenizer.from_pretrained(folder)
        if name not in FILE_WINS or int(transformers.__version__.split(".")[0]) < 5:
            return made.backend_tokenizer
        slow = types.SimpleNamespace(
            vocab_file=str(folder / KINDS[name].files[0]),
            convert_tokens_to_ids=made.convert_tokens_to_ids,
            do_lower_case=settings.get("do_lower_case", False),
            split_by_punct=settings.get("split_by_punct", False),
            keep_accents=settings.get("keep_accents", True),
            add_prefix_space=settings.get("add_prefix_space", True),
        )
        converters = importlib.import_module("transformers.convert_slow_tokenizer").SLOW_TO_FAST_CONVERTERS
        found = converters[name](slow).converted()
    if name == "BigBirdTokenizer":  # without its rule that writes several spaces as "▁", which joins words
        found.normalizer = found.normalizer[0]
    if name in SPLIT_AT_SPACES:
        found.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), found.pre_tokenizer])
    added = made.backend_tokenizer.get_added_tokens_decoder()
    found.add_tokens([AddedToken(**added[number].__getstate__()) for number in sorted(added)])
    return found


def difference(ours: Tokenizer, theirs: Tokenizer, texts: list[str]) -> list[str]:
    """Return the texts whose tokens differ."""
    for tokenizer in (ours, theirs):
        tokenizer.no_truncation()
        tokenizer.no_padding()
    found = []
    for start in range(0, len(texts), 512):
        part = texts[start : start + 512]
        pairs = zip(part, ours.encode_batch(part), theirs.encode_batch(part), strict=True)
        found += [
            text
            for text, a, b in pairs
            if a.ids != b.ids or a.offsets != b.offsets or a.special_tokens_mask != b.special_tokens_mask
        ]
    return found


def without_tokenizer(folder: Path, target: Path) -> Path | None:
    """Copy what a tokenizer is made from into a new folder and return it; None where there is no vocabulary."""
    names = {name for kind in KINDS.values() for name in kind.files}
    settings = {"config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    target.mkdir(parents=True)
    for name in names | settings:
        if (folder / name).is_file():
            shutil.copy(folder / name, target)
    return target if any((target / name).exists() for name in names) else None


def table_of_characters() -> str:
    """Return a small table of sentencepiece's: some compatibility forms, blanks and controls, in base64."""
    rules = {"\u00a0": " ", "\u3000": " ", "\t": " ", "\n": " ", "\u200b": " ", "\ufeff": "", "\x01": ""}
    rules |= {
        text: unicodedata.normalize("NFKC", text) for text in ("ﬁ", "ﷺ", "①", "e\u0301", "u\u0308", "½")
    }
    lines = (f"{_codes(text)}\t{_codes(form)}\n" for text, form in sorted(rules.items()))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "rules.tsv").write_text("".join(lines))
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(["a b c", "b c d"] * 9), model_writer=model, hard_vocab_limit=False, vocab_size=12,
            minloglevel=2, normalization_rule_tsv=f"{folder}/rules.tsv",
        )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()


def _codes(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


def record(folders: list[Path]) -> None:
    """Write what the references answer for the small checkpoints."""
    found = {}
    for folder in folders:
        tokens = [reference(folder).encode(text) for text in vocabulary_cases.TEXTS]
        found[folder.name] = [[e.ids, [place for pair in e.offsets for place in pair]] for e in tokens]
    content = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in sorted(found.items()))
    (CASES / "vocabularies.json").write_text(f"{{\n{content}\n}}\n")


def compare(folder: Path, texts: list[str]) -> dict[str, Any]:
    """Compare the two tokenizers of a folder; say what they are, and how many texts differ, or why one is not made."""
    kind = class_name(read_config(folder), read_optional(folder, "tokenizer_config.json"))
    row = {
        "checkpoint": folder.name,
        "class": kind,
        "vocabulary": KINDS[kind].files[0] if kind in KINDS else None,
    }
    try:
        ours = open_tokenizer(folder)[0]
    except StartupError as error:
        print(f"refused {folder.name}: {error}", flush=True)
        return {**row, "refused": str(error).replace(str(folder), folder.name)}
    row["model"] = type(ours.model).__name__
    try:
        found = difference(ours, reference(folder), texts)
    except Exception as error:  # noqa: BLE001 - whatever the reference cannot make
        print(f"FAILED {folder.name}: {type(error).__name__}: {error}", flush=True)
        return {**row, "failed": f"{type(error).__name__}: {error}"}
    print(
        f"{'DIFFERS' if found else 'equal':8}{folder.name}: {len(texts)} texts, {len(found)} differ",
        flush=True,
    )
    for text in found[:5]:
        print(f"    {ascii(text)[:150]}")
    return {**row, "differ": len(found)}


def main() -> int:
    """Compare every folder; 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*")
    parser.add_argument("--characters", type=int, default=1_000_000)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    texts = every_text(options.characters)
    given = [
        folder
        for path in options.folders
        for folder in ([path] if (path / "config.json").exists() else sorted(path.iterdir()))
    ]
    if options.record:
        (CASES / "charsmap.txt").write_text(table_of_characters() + "\n")
    with tempfile.TemporaryDirectory() as scratch:
        small = [vocabulary_cases.write_case(Path(scratch, name), name) for name in vocabulary_cases.cases()]
        if options.record:
            record(small)
        copies = [
            copy
            for folder in given
            if (copy := without_tokenizer(folder, Path(scratch, "given", folder.name)))
        ]
        rows = [compare(folder, texts) for folder in (*small, *copies)]
    different = [row for row in rows if row.get("differ", 1)]
    if options.out is not None:
        options.out.write_text(written(rows, texts, options.characters))
    print(f"{len(rows)} compared, {len(different)} differ; transformers {transformers.__version__}")
    return 1 if different else 0


def written(rows: list[dict[str, Any]], texts: list[str], n_random: int) -> str:
    """Return a result file: what was compared with what, then a line for each tokenizer."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git is there
        capture_output=True,
        text=True,
        check=False,
        cwd=HERE,
    )
    facts = {
        "commit": commit.stdout.strip(),
        "random_characters": n_random,
        "texts": len(texts),
        "characters": sum(map(len, texts)),
        "scripts_of": f"Unicode {unicodedata.unidata_version}",
        "versions": {
            module.__name__: module.__version__ for module in (transformers, tokenizers, sentencepiece)
        },
    }
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{json.dumps(facts)[:-1]}, "tokenizers": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
