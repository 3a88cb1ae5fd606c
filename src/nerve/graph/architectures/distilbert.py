"""DistilBERT: names of its own, no token types, one epsilon for all."""

from nerve.graph.architectures.bert import BertForm

DISTILBERT = BertForm(
    prefix="distilbert.",
    layer="transformer.layer",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
    has_token_types=False,
    hidden_key="dim",
    layers_key="n_layers",
    heads_key="n_heads",
    activation_key="activation",
    epsilon_key=None,
    other_names=(
        ("hidden_size", "dim"),
        ("num_attention_heads", "n_heads"),
        ("num_hidden_layers", "n_layers"),
    ),
    default_layers=6,
)
