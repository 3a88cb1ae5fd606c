"""Which of transformers' types have no graph that can be served: `nerve export` refuses them at once.

Each was tried with a small model (`tests/parity/try_types.py`); the reason holds for all sizes, and for a large one it
would be found after minutes. `tests/parity/types.json` has all types, and a test compares.
"""

from __future__ import annotations

_PLACES = "it wants the places of words on a page"
_IMAGES = "it wants images"
_PADDING = "its answers change with the padding beside a text"
_NO_FAST_TOKENIZER = "it has no fast tokenizer, which offsets come from"
_LENGTH = "the graph is right for the traced length only"
_TRIANGULAR = "its linear attention solves triangular systems, which ONNX has no operator for"

REFUSED = {
    **dict.fromkeys(("bros", "layoutlm", "layoutlmv2", "layoutlmv3", "lilt", "markuplm"), _PLACES),
    **dict.fromkeys(("modernvbert", "ultravbert"), _IMAGES),
    "qwen3_asr": "it wants sound",
    **dict.fromkeys(("flaubert", "xlm"), _NO_FAST_TOKENIZER),
    "canine": "it reads characters, not tokens",
    **dict.fromkeys(("convbert", "fnet", "nystromformer", "yoso"), _PADDING),
    **dict.fromkeys(("qwen3_5", "qwen3_next"), _TRIANGULAR),
    **dict.fromkeys(("funnel", "longformer", "minimax"), _LENGTH),
    "helium": "its graph gives no number for a padding token, so that no text has an answer beside one",
}
