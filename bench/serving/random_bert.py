"""Make a BERT of any size with weights from a seed: as slow as a trained one, and as certain of its labels.

The tokenizer is the default model's. The table of words has the 30,522 rows of BERT's own vocabulary.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

WORDS, POSITIONS = 30_522, 512
LABELS = ["O", *(f"{prefix}-{kind}" for kind in ("PER", "ORG", "LOC", "MISC") for prefix in "BI")]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True)
class Size:
    """Layers, hidden values and heads; the feed-forward part is four times as wide."""

    layers: int
    hidden: int
    heads: int


SIZES = {
    "tiny": Size(2, 128, 2),
    "small": Size(6, 384, 12),
    "distil": Size(6, 768, 12),
    "base": Size(12, 768, 12),
    "large": Size(24, 1024, 16),
}


def make_folder(tokenizer: Path, out: Path, size: Size, seed: int = 0) -> Path:
    """Write config.json, the tokenizer and model.safetensors into `out`."""
    part = out.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, part / name)
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "vocab_size": WORDS,
        "max_position_embeddings": POSITIONS,
        "type_vocab_size": 2,
        "hidden_size": size.hidden,
        "intermediate_size": 4 * size.hidden,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "id2label": {str(index): label for index, label in enumerate(LABELS)},
        "label2id": {label: index for index, label in enumerate(LABELS)},
    }
    (part / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(make_tensors(size, seed), part / "model.safetensors", metadata={"format": "pt"})
    part.rename(out)
    return out


def make_tensors(size: Size, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}

    def table(name: str, rows: int, columns: int, scale: float = 0.02) -> None:
        tensors[name] = rng.standard_normal((rows, columns), np.float32) * np.float32(scale)

    def linear(name: str, outputs: int, inputs: int, scale: float = 0.02) -> None:
        table(f"{name}.weight", outputs, inputs, scale)
        tensors[f"{name}.bias"] = np.zeros(outputs, np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = np.ones(size.hidden, np.float32)
        tensors[f"{name}.bias"] = np.zeros(size.hidden, np.float32)

    for name, rows in (("word", WORDS), ("position", POSITIONS), ("token_type", 2)):
        table(f"bert.embeddings.{name}_embeddings.weight", rows, size.hidden)
    norm("bert.embeddings.LayerNorm")
    for layer in range(size.layers):
        at = f"bert.encoder.layer.{layer}."
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{at}attention.{name}", size.hidden, size.hidden)
        norm(f"{at}attention.output.LayerNorm")
        linear(f"{at}intermediate.dense", 4 * size.hidden, size.hidden)
        linear(f"{at}output.dense", size.hidden, 4 * size.hidden)
        norm(f"{at}output.LayerNorm")
    linear("classifier", len(LABELS), size.hidden, scale=0.2)  # wide apart: the last bits decide no label
    return tensors
