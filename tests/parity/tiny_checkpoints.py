"""Tiny checkpoints of every architecture that can be built, made of numbers from a seed.

Used by the component tests, without PyTorch, and by record_architectures.py, with it: both get the same
tensors for the same case, so the file of expected logits needs no checkpoint beside it. Names and shapes of the tensors
are those that transformers writes for the case's config; record_architectures.py keeps them in shapes.json.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

if TYPE_CHECKING:
    from collections.abc import Mapping

SHAPES = Path(__file__).parent / "shapes.json"

N_LABELS = 5
N_WORDS = 100
N_POSITIONS = 48
N_HIDDEN = 32
N_INNER = 64
N_HEADS = 4
N_LAYERS = 3
N_EMBEDDING = 16  # ELECTRA's embeddings are smaller than its layers
# The sizes that shapes.json was recorded with.
_RECORDED = {
    name: globals()[name]
    for name in ("N_LABELS", "N_WORDS", "N_POSITIONS", "N_HIDDEN", "N_INNER", "N_LAYERS", "N_EMBEDDING")
}
_LAYER = re.compile(r"layer\.(\d+)\.")

_CLASSES = {
    "bert": "Bert",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
    "camembert": "Camembert",
    "electra": "Electra",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
    "albert": "Albert",
    "ernie": "Ernie",
    "data2vec-text": "Data2VecText",
    "roberta-prelayernorm": "RobertaPreLayerNorm",
    "megatron-bert": "MegatronBert",
    "rembert": "RemBert",
    "deberta": "Deberta",
    "deberta-v2": "DebertaV2",
    "modernbert": "ModernBert",
    "eurobert": "EuroBert",
    "nomic_bert": "NomicBert",
    "gte": "Gte",
    "jina_embeddings_v3": "JinaEmbeddingsV3",
    "openai_privacy_filter": "OpenAIPrivacyFilter",
}
_PADDING_FIRST = frozenset(
    {"roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text", "roberta-prelayernorm"}
)
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}
_THIRD = {**_RELATIVE, "position_buckets": 8, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
# What the config of a model type says beyond what all say; where a key is left out, its default is tested.
_OWN: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": N_EMBEDDING, "hidden_act": "gelu_new"},
    "ernie": {"use_task_id": True},
    "rembert": {"input_embedding_size": N_EMBEDDING},
    "deberta": {**_RELATIVE, "type_vocab_size": 0},
    "deberta-v2": {**_THIRD, "type_vocab_size": 0},
    "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2, "hidden_activation": "gelu"},
    "eurobert": {"num_key_value_heads": 2, "hidden_act": "silu"},
    "nomic_bert": {"hidden_act": "silu"},
    "openai_privacy_filter": {
        "head_dim": 6,
        "num_key_value_heads": 2,
        "num_local_experts": 6,
        "num_experts_per_tok": 3,
        "sliding_window": 7,
    },
}
# Their configs have no such key, or tests want its default.
_WITHOUT: dict[str, tuple[str, ...]] = {
    "modernbert": ("hidden_act", "layer_norm_eps", "type_vocab_size"),
    "eurobert": ("layer_norm_eps", "type_vocab_size"),
    "gte": ("type_vocab_size", "layer_norm_eps"),
    "jina_embeddings_v3": ("type_vocab_size", "layer_norm_eps"),
    "openai_privacy_filter": ("hidden_act", "layer_norm_eps", "type_vocab_size"),
    "deberta": ("layer_norm_eps",),
    "deberta-v2": ("layer_norm_eps",),
}

# name of the case -> (model type, what its config says differently)
CASES: dict[str, tuple[str, dict[str, Any]]] = {model_type: (model_type, {}) for model_type in _CLASSES}
CASES |= {
    "bert gelu_new": ("bert", {"hidden_act": "gelu_new"}),
    "bert gelu_fast": ("bert", {"hidden_act": "gelu_fast"}),
    "bert gelu_pytorch_tanh": ("bert", {"hidden_act": "gelu_pytorch_tanh"}),
    "bert relu": ("bert", {"hidden_act": "relu"}),
    **{
        f"bert {name}": ("bert", {"hidden_act": name})
        for name in (
            *(
                "gelu_10",
                "quick_gelu",
                "mish",
                "hardswish",
                "laplace",
                "leaky_relu",
                "linear",
                "relu2",
                "relu6",
            ),
            *("sigmoid", "sqrtsoftplus", "tanh", "swish"),
        )
    },
    "distilbert relu": ("distilbert", {"activation": "relu"}),
    "roberta padding id 3": ("roberta", {"pad_token_id": 3}),
    "electra one size": ("electra", {"embedding_size": N_HIDDEN}),
    "bert epsilon 1e-5": ("bert", {"layer_norm_eps": 1e-5}),
    "albert groups": ("albert", {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}),
    "ernie without a task": ("ernie", {"use_task_id": False}),
    "deberta one way": (
        "deberta",
        {
            "pos_att_type": "c2p",
            "position_biased_input": True,
            "max_relative_positions": 9,
            "type_vocab_size": 2,
        },
    ),
    "deberta embeddings": ("deberta", {"embedding_size": N_EMBEDDING, "type_vocab_size": 2}),
    "deberta-v2 own projections": ("deberta-v2", {"share_att_key": False, "norm_rel_ebd": "none"}),
    "deberta-v2 convolution": ("deberta-v2", {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "deberta-v2 odd buckets": ("deberta-v2", {"position_buckets": 7, "pos_att_type": ["p2c"]}),
    "deberta-v2 no buckets": ("deberta-v2", {"position_buckets": -1, "max_relative_positions": 12}),
    "deberta-v2 absolute": ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
    "modernbert biases": (
        "modernbert",
        {
            **dict.fromkeys(["norm_bias", "attention_bias", "mlp_bias", "classifier_bias"], True),
            "local_attention": 6,
            "global_attn_every_n_layers": 3,
            "classifier_activation": "relu",
            "local_rope_theta": 500.0,
        },
    ),
    "modernbert wide window": (
        "modernbert",
        {"local_attention": 40, "layer_types": ["sliding_attention"] * 3},
    ),
    "eurobert biases": (
        "eurobert",
        {
            "attention_bias": True,
            "mlp_bias": True,
            "head_dim": 6,
            "num_key_value_heads": 1,
            "rope_theta": 2e5,
        },
    ),
    "gte without types": ("gte", {"type_vocab_size": 0}),
    "openai_privacy_filter other angles": (
        "openai_privacy_filter",
        {
            "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 16, "rope_theta": 500.0},
            "attention_bias": False,
            "num_key_value_heads": 4,
            "num_experts_per_tok": 1,
            "swiglu_limit": 0.5,
            "swiglu_alpha": 1.1,
        },
    ),
    "openai_privacy_filter wide window": (
        "openai_privacy_filter",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 2.0,
                "attention_factor": 1.5,
                "original_max_position_embeddings": 20,
                "truncate": True,
            },
            "sliding_window": 64,
        },
    ),
}
# Layers, heads and widths that come in nobody's model.
_UNUSUAL = {"hidden_size": 30, "num_attention_heads": 5, "intermediate_size": 37}
CASES |= {
    f"{model_type} unusual": (model_type, _UNUSUAL)
    for model_type in ("albert", "deberta", "deberta-v2", "modernbert", "gte", "nomic_bert", "megatron-bert")
}
# What a token gets depends on what stands beside it where these are computed in the obvious way (fuzz_configs.py).
CASES |= {
    f"bert unusual {name}": ("bert", {**_UNUSUAL, "hidden_act": name}) for name in ("mish", "sqrtsoftplus")
}
CASES["openai_privacy_filter many experts"] = (
    "openai_privacy_filter",
    {"num_local_experts": 8, "num_experts_per_tok": 7},
)


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
    config |= _OWN.get(model_type, {})
    return {key: config[key] for key in config if key not in _WITHOUT.get(model_type, ())} | changes


def tensor_shapes(case: str) -> Mapping[str, tuple[int, ...]]:
    """Return name and shape of every tensor of a case, as transformers saves it.

    Scripts that want another size set it in this module (`N_HIDDEN = 48`); sizes that a case states stay.
    """
    shapes: dict[str, list[int]] = json.loads(SHAPES.read_text())[case]
    sizes = {recorded: globals()[name] for name, recorded in _RECORDED.items() if name != "N_LAYERS"}
    found = {}
    for name, shape in shapes.items():
        is_changed = "relative_attention_bias" not in name  # the buckets are as many as features
        changed = tuple(sizes.get(extent, extent) if is_changed else extent for extent in shape)
        layer = _LAYER.search(name)
        if layer is None or _RECORDED["N_LAYERS"] == N_LAYERS:
            found[name] = changed
        elif layer[1] == "0":
            found |= {_LAYER.sub(f"layer.{index}.", name): changed for index in range(N_LAYERS)}
    return found


def make_tensors(case: str) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the float32 tensors of a case; each depends on its name only."""
    tensors = {}
    for name, shape in tensor_shapes(case).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        scale = 0.3 if len(shape) == 2 or "experts" in name else 0.1
        values = rng.standard_normal(shape) * scale
        if name.endswith(".weight") and len(shape) == 1:
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
