"""BERT and RoBERTa with their norms before attention and before the feed-forward block, and one after the last layer.

MegatronBERT does not normalise its embeddings.
"""

from nerve.graph.architectures.bert import BertForm

ROBERTA_PRELAYERNORM = BertForm(
    prefix="roberta_prelayernorm.",
    attention_norm="attention.LayerNorm",
    output_norm="intermediate.LayerNorm",
    final_norm="LayerNorm",
)
MEGATRON_BERT = BertForm(
    prefix="bert.",
    embedding_norm=None,
    attention_norm="attention.ln",
    output_norm="ln",
    final_norm="encoder.ln",
    default_hidden=1024,
    default_layers=24,
    default_heads=16,
)
