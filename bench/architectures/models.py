"""Base-size models of seeded random weights, made with transformers, and their graphs: built, int8 and exported."""

from pathlib import Path

from bench.paths import WORK

FOLDER = WORK / "architectures"
TOKENS = 2000
# 12 layers of 768 (ModernBERT-base: 22 of 768), as the checkpoints that people fine-tune; a small vocabulary, since a
# lookup takes no time.
SIZES = {
    "vocab_size": TOKENS,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "num_labels": 9,
}
RELATIVE = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
IDS = {"bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "bert": {},
    "albert": {"embedding_size": 128},
    "deberta": {**RELATIVE, "type_vocab_size": 0},
    "deberta-v2": {
        **RELATIVE,
        "type_vocab_size": 0,
        "position_buckets": 256,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "modernbert": {
        **IDS,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "num_hidden_layers": 22,
        "intermediate_size": 1152,
        "max_position_embeddings": 8192,
    },
    "eurobert": {**IDS, "max_position_embeddings": 8192},
    "nomic_bert": {"max_position_embeddings": 2048},
    "gte": {"max_position_embeddings": 8192},
    "jina_embeddings_v3": {"max_position_embeddings": 8194, **IDS},
    "rembert": {"input_embedding_size": 256, **IDS},
    # As published: 1.4 billion parameters without the vocabulary, 50 million for each token.
    "openai_privacy_filter": {
        "hidden_size": 640,
        "num_hidden_layers": 8,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 640,
        "max_position_embeddings": 131_072,
    },
}
# Stored in half precision, as published; too large for an exported graph beside it.
LARGE = frozenset({"openai_privacy_filter"})


def make(model_type: str, **changes) -> Path:
    """Return the folder of a model; made once."""
    import torch  # noqa: PLC0415 - for this alone
    import transformers  # noqa: PLC0415

    name = "-".join([model_type, *(f"{key}={value}" for key, value in changes.items())])
    folder = FOLDER / name
    if not (folder / "model.safetensors").exists():
        torch.manual_seed(0)
        config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **MODELS[model_type], **changes})
        dtype = torch.bfloat16 if model_type in LARGE else torch.float32
        model = transformers.AutoModelForTokenClassification.from_config(config, dtype=dtype)
        model.save_pretrained(folder)
    return folder


def export(folder: Path) -> Path | None:
    """Return the graph that `nerve export` writes for a model; made once. None for large ones."""
    if folder.name.split("-")[0] in LARGE:
        return None
    import torch  # noqa: PLC0415 - for this alone
    import transformers  # noqa: PLC0415

    from nerve.models import export as exporting  # noqa: PLC0415

    file = folder / "exported.onnx"
    if not file.exists():
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        exporting._trace(model, file, torch)
    return file
