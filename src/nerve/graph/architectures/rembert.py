"""RemBERT: BERT whose embeddings are narrower than its layers."""

from nerve.graph.architectures.bert import BertForm

REMBERT = BertForm(
    prefix="rembert.",
    projection="encoder.embedding_hidden_mapping_in",
    always_projects=True,
    default_hidden=1152,
    default_layers=32,
    default_heads=18,
)
