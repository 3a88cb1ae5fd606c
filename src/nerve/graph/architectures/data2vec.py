"""data2vec's text encoder: RoBERTa under another name."""

from nerve.graph.architectures.bert import BertForm

DATA2VEC_TEXT = BertForm(prefix="data2vec_text.")
