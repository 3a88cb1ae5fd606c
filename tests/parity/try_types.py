"""Try `nerve export` with a tiny model of each of transformers' token-classification types, and serve what it writes.

usage: python tests/parity/try_types.py [--anew] [TYPE ...]
Without types: all that types.json calls exported or untried. --anew: those that nerve refuses at once, too. Prints a
line for each: OK with the seconds and the largest difference of a logit, or the reason. Needs nerve[export].
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

import nerve
from nerve.errors import ModelError
from nerve.graph.exportable import REFUSED
from nerve.models.export import export_checkpoint

TYPES = Path(__file__).parent / "types.json"
# Seconds for one type; a few of them take a minute.
PATIENCE = 600
SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 600,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 5,
}
_HEADS = {"num_key_value_heads": 2, "head_dim": 8}
_EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {
    **{"q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "num_key_value_heads": 4},
}
_LINEAR = {
    **{"linear_num_value_heads": 2, "linear_num_key_heads": 2},
    **{"linear_key_head_dim": 8, "linear_value_head_dim": 8},
    "layer_types": ["linear_attention", "full_attention"],
}
_GEMMA = {
    **{"vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, **_HEADS, "sliding_window": 16, "max_position_embeddings": 600},
    "layer_types": ["sliding_attention", "full_attention"],
}
_VISION = {
    **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"image_size": 28, "patch_size": 14},
}
# What a type's config wants beyond that, or instead; None: it has no such key.
OWN: dict[str, dict[str, Any]] = {
    **{name: _HEADS for name in ("apertus", "diffllama", "exaone4", "gemma", "gemma2", "glm", "glm4")},
    **{name: _HEADS for name in ("helium", "llama", "ministral", "ministral3", "mistral", "nemotron")},
    **{name: _HEADS for name in ("phi", "phi3", "qwen2", "qwen3", "seed_oss", "stablelm", "ultrabert")},
    **{name: {**_HEADS, **_EXPERTS} for name in ("mixtral", "minimax", "qwen3_moe")},
    **{name: _LATENT for name in ("axk1", "axk2", "deepseek_v3", "mistral4")},
    "qwen2_moe": {**_HEADS, **_EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_next": {**_HEADS, **_EXPERTS, **_LINEAR, "shared_expert_intermediate_size": 16},
    "qwen3_5": {
        "text_config": {
            **{"vocab_size": 200, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "max_position_embeddings": 600, **_HEADS, **_LINEAR},
        },
        "vision_config": {
            **{"hidden_size": 32, "intermediate_size": 32, "depth": 1, "num_heads": 2, "out_hidden_size": 32},
            **{"patch_size": 8, "num_position_embeddings": 16},
        },
    },
    "gpt_oss": {**_HEADS, **_EXPERTS, "sliding_window": 16},
    "openai_privacy_filter": {**_HEADS, **_EXPERTS, "num_local_experts": 6, "sliding_window": 16},
    "beam": {
        **_HEADS,
        **_EXPERTS,
        **{"n_group": 1, "topk_group": 1, "sliding_window": 16, "num_experts": 4},
        "layer_types": ["sliding_attention", "full_attention"],
        "mlp_layer_types": ["dense", "sparse"],
    },
    "esm": {"token_dropout": False, "mask_token_id": 3},
    "funnel": {
        **{"num_hidden_layers": None, "block_sizes": [1, 1, 1], "num_decoder_layers": 1},
        **{"d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 64},
    },
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 600},
    "gpt_neo": {
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 16,
    },
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 32},
    "squeezebert": {"embedding_size": 32},
    # Without these it is a model of ten gigabytes.
    "t5gemma": {"encoder": _GEMMA, "decoder": {**_GEMMA, "cross_attention_hidden_size": 32}},
    "t5gemma2": {
        "encoder": {
            "text_config": _GEMMA,
            "vision_config": _VISION,
            "boi_token_index": 7,
            "eoi_token_index": 8,
        },
        "decoder": _GEMMA,
        **{"image_token_index": 9, "eoi_token_index": 8},
    },
    "xlnet": {"max_position_embeddings": None, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}


def write_checkpoint(folder: Path, model_type: str) -> None:
    """Write a tiny model of seeded weights, and a tokenizer of words."""
    torch.manual_seed(0)
    settings = {**SIZES, **OWN.get(model_type, {})}
    known = {key: value for key, value in settings.items() if value is not None}
    config = transformers.AutoConfig.for_model(model_type, **known)
    transformers.AutoModelForTokenClassification.from_config(config).eval().save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "Anna", "lives", "in", "Paris", "."]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]  # as the library wants it
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {"unk_token": "[UNK]", "pad_token": "[PAD]", "model_max_length": 512}
    facts["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def try_type(model_type: str) -> str:
    """Export, load and ask; return what to print."""
    with tempfile.TemporaryDirectory() as name:
        checkpoint, exported = Path(name) / "checkpoint", Path(name) / "exported"
        write_checkpoint(checkpoint, model_type)
        started = time.perf_counter()
        try:
            difference = export_checkpoint(str(checkpoint), exported)
        except ModelError as error:
            return " ".join(str(error).split())[:400]
        seconds = time.perf_counter() - started
        with nerve.load(exported, window_stride=8) as classifier:
            classifier.predict("Anna lives in Paris.", "none")
        return f"OK {seconds:.1f} s, {difference:.2g}"


def main() -> None:
    """Try each in a process of its own, since PyTorch keeps what it has traced."""
    rows = json.loads(TYPES.read_text())["types"]
    given = [name for name in sys.argv[1:] if name != "--anew"]
    is_anew = len(given) < len(sys.argv[1:])
    if is_anew:
        REFUSED.clear()
    names = given or [name for name, row in rows.items() if row["state"] in ("exported", "untried")]
    if names[0] == "--one":
        sys.stdout.write(try_type(names[1]) + "\n")
        return
    for name in names:
        try:
            done = subprocess.run(
                [sys.executable, __file__, *(["--anew"] if is_anew else []), "--one", name],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=False,
            )
            lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        except subprocess.TimeoutExpired:
            lines = [f"not done after {PATIENCE} seconds"]
        sys.stdout.write(f"{name}: {lines[-1] if lines else 'nothing'}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
