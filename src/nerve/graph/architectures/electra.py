"""ELECTRA: embeddings may be narrower than the layers, with a projection between."""

from nerve.graph.architectures.bert import BertForm

ELECTRA = BertForm(prefix="electra.", default_heads=4)
