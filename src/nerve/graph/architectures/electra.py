"""ELECTRA: embeddings may be narrower than the layers, with a projection between."""

from nerve.graph.architectures.bert import BertForm

ELECTRA = BertForm(prefix="electra.", default_hidden=256, default_heads=4)
