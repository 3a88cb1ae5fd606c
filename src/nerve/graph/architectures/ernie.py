"""ERNIE: BERT, with one more vector for the task; a token classifier's is task 0."""

from nerve.graph.architectures.bert import BertForm

ERNIE = BertForm(prefix="ernie.", task_key="use_task_id")
