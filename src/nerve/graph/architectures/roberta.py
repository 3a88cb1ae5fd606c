"""RoBERTa, and XLM-RoBERTa and CamemBERT, which differ from it in nothing but what they were trained on."""

from nerve.graph.architectures.bert import BertForm

ROBERTA = BertForm(prefix="roberta.", padding_key="pad_token_id")
