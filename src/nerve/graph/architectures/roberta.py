"""RoBERTa, and XLM-RoBERTa and CamemBERT, which differ from it in nothing but what they were trained on.

Positions count from the padding id + 1 (`nerve.checkpoint.settings`, `position_padding_id`).
"""

from nerve.graph.architectures.bert import BertForm

ROBERTA = BertForm(prefix="roberta.")
