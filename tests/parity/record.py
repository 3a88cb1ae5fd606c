"""Record the goldens from the reference: `TokenClassificationPipeline` of transformers, in float32.

    python tests/parity/record.py RAMPART_FOLDER [--check]

RAMPART_FOLDER is the model folder of the default checkpoint (`nerve pull` prints it). `--check` writes
nothing: it computes everything again and exits 1 when an answer differs from the golden (labels and
offsets exactly, scores by 1e-5). The tokenizers of the families are trained when their golden is
missing, else kept. Needs `pip install torch transformers onnx`; a minute or two.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import re
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast, TokenClassificationPipeline, pipeline

sys.path.insert(0, str(Path(__file__).parent))
import golden
from rampart_to_hf import rebuild

import corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_SCORE_DRIFT = 1e-5


def main() -> int:
    """Record or check both goldens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("rampart", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Tokenizer does not support real words")
    torch.set_grad_enabled(False)
    made = {golden.RAMPART: record_rampart(arguments.rampart), golden.FAMILIES: record_families()}
    if arguments.check:
        return 1 if sum(report(path, content) for path, content in made.items()) else 0
    golden.FOLDER.mkdir(exist_ok=True)
    for path, content in made.items():
        golden.write(path, content)
        print(f"wrote {path} ({path.stat().st_size:,} bytes)")
    return 0


def facts(texts: list[str]) -> dict[str, Any]:
    """Give what every golden says of its making."""
    return {
        "versions": {
            "python": platform.python_version(),
            "tokenizers": tokenizers.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        "texts_sha256": corpus.checksum(texts),
    }


def record_rampart(folder: Path) -> dict[str, Any]:
    """Run the whole pipeline on the rebuilt checkpoint: tokenizer, model, grouping."""
    texts = corpus.texts()
    graph = folder / "onnx" / "model_q4.onnx"
    with tempfile.TemporaryDirectory() as out:
        rebuild(folder, Path(out))
        pipe = pipeline("token-classification", model=out, dtype=torch.float32, device="cpu")
        answers: golden.Answers = {strategy: [] for strategy in golden.STRATEGIES}
        for text in texts:
            # The pipeline's own three steps; the costly middle one is the same for every strategy.
            (inputs,) = pipe.preprocess(text, is_split_into_words=False)
            outputs = pipe.forward(inputs)
            for strategy in golden.STRATEGIES:
                answers[strategy].append(postprocess(pipe, outputs, strategy))
        same_as_call(pipe, texts, answers)
    return {
        **facts(texts),
        "wheel_sha256": wheel_sha256(),
        "model_sha256": hashlib.sha256(graph.read_bytes()).hexdigest(),
        **golden.pack(answers),
    }


def wheel_sha256() -> str:
    """Give the checksum by which `config.yaml` pins the wheel of the default checkpoint."""
    config = Path(__file__).parents[2] / "config.yaml"
    found = re.search(r"^\s+sha256: ([0-9a-f]{64})", config.read_text(), re.MULTILINE)
    assert found, "config.yaml no longer pins a wheel"
    return found[1]


def postprocess(pipe: TokenClassificationPipeline, outputs: Any, strategy: str) -> list[Any]:
    """Group with the reference; for `none` with no label ignored."""
    entities = pipe.postprocess(
        [outputs],
        aggregation_strategy=transformers.pipelines.token_classification.AggregationStrategy(strategy),
        ignore_labels=[] if strategy == "none" else None,
    )
    return [
        (
            entity.get("entity", entity.get("entity_group")),
            entity["start"],
            entity["end"],
            float(str(entity["score"])),
        )
        for entity in entities
    ]


def same_as_call(pipe: TokenClassificationPipeline, texts: list[str], answers: golden.Answers) -> None:
    """Prove on some texts that the steps taken apart give what calling the pipeline gives."""
    for index in range(0, len(texts), 97):
        for strategy in golden.STRATEGIES[1:]:
            called = pipe(texts[index], aggregation_strategy=strategy)
            rows = [(e["entity_group"], e["start"], e["end"], float(str(e["score"]))) for e in called]
            assert rows == answers[strategy][index], texts[index]


def record_families() -> dict[str, Any]:
    """Run the pipeline's postprocessing over other tokenizers, on logits made up from the token ids."""
    texts = corpus.texts()
    chosen = texts[:: golden.FAMILY_STEP]
    stored = golden.read(golden.FAMILIES)["families"] if golden.FAMILIES.exists() else {}
    families = {}
    for name, train in TRAINERS.items():
        # Training twice does not give the same tokenizer, so one that is stored is kept.
        kept = stored.get(name)
        source = Tokenizer.from_str(json.dumps(kept["tokenizer"])) if kept else train(texts)
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=source, unk_token="[UNK]" if name == "wordpiece_cased" else "<unk>"
        )
        pipe = without_model(tokenizer, golden.FAMILY_LABELS)
        answers: golden.Answers = {strategy: [] for strategy in golden.STRATEGIES}
        for text in chosen:
            encoding = tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
            outputs = {
                "logits": torch.from_numpy(golden.synthetic_logits(encoding["input_ids"]))[None],
                "sentence": text,
                "input_ids": torch.tensor([encoding["input_ids"]], dtype=torch.int64),
                "offset_mapping": torch.tensor(encoding["offset_mapping"]).reshape(1, -1, 2),
                "special_tokens_mask": torch.tensor([encoding["special_tokens_mask"]]),
            }
            for strategy in golden.STRATEGIES:
                answers[strategy].append(postprocess(pipe, outputs, strategy))
        stored_json = json.loads(source.to_str())
        families[name] = {"tokenizer": stored_json, **golden.pack(answers)}
    return {**facts(chosen), "families": families, "differences": record_differences(tokenizer)}


def without_model(tokenizer: Any, labels: Sequence[str]) -> TokenClassificationPipeline:
    """Give a pipeline that can only postprocess."""
    pipe = TokenClassificationPipeline.__new__(TokenClassificationPipeline)
    pipe.tokenizer = tokenizer
    pipe.model = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(labels))))
    return pipe


def record_differences(tokenizer: Any) -> list[list[list[Any]]]:
    """Group the cases that we answer differently: one token per letter of "a b c d e"."""
    answers = []
    for _, names, wanted in golden.DIFFERENCES:
        labels = names.split()
        outputs = {
            "logits": torch.from_numpy(np.eye(len(labels), dtype=np.float32))[
                [labels.index(name) for name in wanted.split()]
            ][None],
            "sentence": "a b c d e",
            "input_ids": torch.full((1, 5), 5),
            "offset_mapping": torch.tensor([[[2 * index, 2 * index + 1] for index in range(5)]]),
            "special_tokens_mask": torch.zeros((1, 5), dtype=torch.int64),
        }
        rows = postprocess(without_model(tokenizer, labels), outputs, "simple")
        answers.append([list(row[:3]) for row in rows])
    return answers


def _byte_level(texts: list[str], *, add_prefix_space: bool) -> Tokenizer:
    """As RoBERTa (leading space, trimmed offsets) or as GPT-2 (neither, and no special tokens)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<s>", "</s>", "<unk>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if add_prefix_space:
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), True, True)
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def _byte_level_prefix_space(texts: list[str]) -> Tokenizer:
    return _byte_level(texts, add_prefix_space=True)


def _byte_level_plain(texts: list[str]) -> Tokenizer:
    return _byte_level(texts, add_prefix_space=False)


def _unigram(texts: list[str]) -> Tokenizer:
    """As XLM-RoBERTa: SentencePiece rules, with characters left out so that unknown tokens occur."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    latin = [text for text in texts if text.isascii() or max(text) < "\u0180"]
    trainer = trainers.UnigramTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(latin, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair=None, special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def _wordpiece_cased(texts: list[str]) -> Tokenizer:
    """As cased BERT: no lower-casing, accents kept, a word above 100 characters is unknown."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=800,
        limit_alphabet=200,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair=None, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


TRAINERS = {
    "byte_level_prefix_space": _byte_level_prefix_space,
    "byte_level_plain": _byte_level_plain,
    "unigram_metaspace": _unigram,
    "wordpiece_cased": _wordpiece_cased,
}


def report(path: Path, content: dict[str, Any]) -> int:
    """Print how a new recording differs from the golden; give the number of texts that do."""
    stored = golden.read(path)
    print(f"{path.name}: recorded with {stored['versions']}, now {content['versions']}")
    if stored["texts_sha256"] != content["texts_sha256"]:
        print("  the texts have changed: record again")
        return 1
    pairs = [(stored, content)]
    if "families" in stored:
        pairs = [(stored["families"][name], content["families"][name]) for name in content["families"]]
    differing = 0
    for old, new in pairs:
        before, after = golden.unpack(old), golden.unpack(new)
        for strategy, rows in after.items():
            differing += sum(not _agree(a, b) for a, b in zip(before[strategy], rows, strict=True))
    print(f"  {differing} answers differ")
    return differing


def _agree(before: list[Any], after: list[Any]) -> bool:
    return len(before) == len(after) and all(
        a[:3] == b[:3] and abs(a[3] - b[3]) <= MAX_SCORE_DRIFT for a, b in zip(before, after, strict=True)
    )


if __name__ == "__main__":
    sys.exit(main())
