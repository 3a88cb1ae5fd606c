"""MPNet: positions as RoBERTa's, and a learned bias by distance in every layer's attention.

The padding id that positions count from is fixed (`nerve.checkpoint.settings`, `position_padding_id`).
transformers computes with 32 buckets whatever relative_attention_num_buckets says.
"""

from nerve.graph.architectures.bert import BertForm

MPNET = BertForm(
    prefix="mpnet.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    has_token_types=False,
    relative_bias="encoder.relative_attention_bias.weight",
    relative_buckets=32,
)
