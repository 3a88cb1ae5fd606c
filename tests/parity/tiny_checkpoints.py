"""Tiny checkpoints of every architecture that can be built, made of numbers from a seed.

Used by the component tests, without PyTorch, and by record_architectures.py, with it: both get the same
tensors for the same case, so the file of expected logits needs no checkpoint beside it.
"""

from __future__ import annotations

import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from pathlib import Path

N_LABELS = 5
N_WORDS = 100
N_POSITIONS = 48
N_HIDDEN = 32
N_INNER = 64
N_HEADS = 4
N_LAYERS = 3
N_EMBEDDING = 16  # ELECTRA's embeddings are smaller than its layers

_CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
}
_PADDING_FIRST = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})

# name of the case -> (model type, what its config says differently)
CASES: dict[str, tuple[str, dict[str, Any]]] = {model_type: (model_type, {}) for model_type in _CLASSES}
CASES |= {
    "bert gelu_new": ("bert", {"hidden_act": "gelu_new"}),
    "bert gelu_fast": ("bert", {"hidden_act": "gelu_fast"}),
    "bert gelu_pytorch_tanh": ("bert", {"hidden_act": "gelu_pytorch_tanh"}),
    "bert relu": ("bert", {"hidden_act": "relu"}),
    "distilbert relu": ("distilbert", {"activation": "relu"}),
    "roberta padding id 3": ("roberta", {"pad_token_id": 3}),
    "electra one size": ("electra", {"embedding_size": N_HIDDEN}),
    "bert epsilon 1e-5": ("bert", {"layer_norm_eps": 1e-5}),
}


def padding_id(model_type: str) -> int:
    """Return the padding id that the tiny config states."""
    return 1 if model_type in _PADDING_FIRST else 0


def make_config(case: str) -> dict[str, Any]:
    """Return the config.json of a case."""
    model_type, changes = CASES[case]
    config: dict[str, Any] = {
        "architectures": [_CLASSES[model_type] + "ForTokenClassification"],
        "model_type": model_type,
        "vocab_size": N_WORDS,
        "max_position_embeddings": N_POSITIONS,
        "pad_token_id": padding_id(model_type),
        "id2label": {str(index): f"L{index}" for index in range(N_LABELS)},
        "label2id": {f"L{index}": index for index in range(N_LABELS)},
    }
    if model_type == "distilbert":
        config |= {"dim": N_HIDDEN, "hidden_dim": N_INNER, "n_layers": N_LAYERS, "n_heads": N_HEADS}
        config |= {"activation": "gelu"}
    else:
        config |= {
            "hidden_size": N_HIDDEN,
            "intermediate_size": N_INNER,
            "num_hidden_layers": N_LAYERS,
            "num_attention_heads": N_HEADS,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "type_vocab_size": 2,
        }
    if model_type == "electra":
        config |= {"embedding_size": N_EMBEDDING}
    if model_type == "mpnet":
        config |= {"relative_attention_num_buckets": 32}
    return config | changes


def tensor_shapes(case: str) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a case, as transformers saves it."""
    model_type, _ = CASES[case]
    config = make_config(case)
    prefix = {"xlm-roberta": "roberta", "camembert": "roberta"}.get(model_type, model_type)
    size = config.get("embedding_size", N_HIDDEN)
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.embeddings.word_embeddings.weight": (N_WORDS, size),
        f"{prefix}.embeddings.position_embeddings.weight": (N_POSITIONS, size),
        **_norm(f"{prefix}.embeddings.LayerNorm", size),
        **_linear("classifier", N_LABELS, N_HIDDEN),
    }
    if model_type not in ("distilbert", "mpnet"):
        shapes[f"{prefix}.embeddings.token_type_embeddings.weight"] = (2, size)
    if size != N_HIDDEN:
        shapes |= _linear(f"{prefix}.embeddings_project", N_HIDDEN, size)
    if model_type == "mpnet":
        buckets = config["relative_attention_num_buckets"]
        shapes[f"{prefix}.encoder.relative_attention_bias.weight"] = (buckets, N_HEADS)
    square, up, down, norms = _layer_names(model_type)
    for index in range(N_LAYERS):
        start = f"{prefix}.{'transformer' if model_type == 'distilbert' else 'encoder'}.layer.{index}."
        for name in square:
            shapes |= _linear(start + name, N_HIDDEN, N_HIDDEN)
        shapes |= _linear(start + up, N_INNER, N_HIDDEN) | _linear(start + down, N_HIDDEN, N_INNER)
        for name in norms:
            shapes |= _norm(start + name, N_HIDDEN)
    return shapes


def make_tensors(case: str) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the float32 tensors of a case; each depends on its name only."""
    tensors = {}
    for name, shape in tensor_shapes(case).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scale = 0.3 if len(shape) == 2 else 0.1
        values = rng.standard_normal(shape) * scale
        if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
            values += 1
        tensors[name] = values.astype(np.float32)
    return tensors


def make_texts(case: str) -> list[list[int]]:
    """Return token ids of three texts: a long one, a short one, and one with the padding id inside."""
    pad = make_config(case)["pad_token_id"]
    rng = np.random.default_rng(7)
    texts = [rng.integers(5, N_WORDS, length).tolist() for length in (31, 9, 12)]
    texts[2][4] = texts[2][5] = pad
    return texts


def write_checkpoint(folder: Path, case: str = "bert", dtype: Any = np.float32) -> Path:
    """Write config.json and model.safetensors of a case and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(make_config(case)))
    save_file(
        {name: value.astype(dtype) for name, value in make_tensors(case).items()},
        folder / "model.safetensors",
    )
    return folder


def _linear(name: str, out: int, into: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def _layer_names(model_type: str) -> tuple[list[str], str, str, list[str]]:
    """Return the names of the square layers, the two of the feed-forward block, and the norms."""
    if model_type == "distilbert":
        attention = [f"attention.{name}_lin" for name in ("q", "k", "v", "out")]
        return attention, "ffn.lin1", "ffn.lin2", ["sa_layer_norm", "output_layer_norm"]
    if model_type == "mpnet":
        attention = [f"attention.attn.{name}" for name in "qkvo"]
        return attention, "intermediate.dense", "output.dense", ["attention.LayerNorm", "output.LayerNorm"]
    attention = [*(f"attention.self.{name}" for name in ("query", "key", "value")), "attention.output.dense"]
    return attention, "intermediate.dense", "output.dense", ["attention.output.LayerNorm", "output.LayerNorm"]
