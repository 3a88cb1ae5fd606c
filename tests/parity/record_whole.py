"""Record what transformers answers for a long text as a whole, of a model whose layers look to their neighbours only.

usage: python tests/parity/record_whole.py
Writes tests/parity/whole.json: token ids, and the logits of each token from one call over all of them. Needs torch and
transformers, not nerve.
"""

from __future__ import annotations

import json
import runpy
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).parent
tiny = runpy.run_path(str(HERE / "tiny_checkpoints.py"))
CASE, N_TOKENS, N_POSITIONS = "openai_privacy_filter", 700, 4096


def main() -> None:
    """Write the file."""
    tiny["tensor_shapes"].__globals__["N_POSITIONS"] = N_POSITIONS
    ids = np.random.default_rng(5).integers(0, tiny["N_WORDS"], N_TOKENS).tolist()
    with tempfile.TemporaryDirectory() as folder:
        tiny["write_checkpoint"](Path(folder), CASE)
        model = transformers.AutoModelForTokenClassification.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
    with torch.inference_mode():
        given = torch.tensor([ids])
        logits = model.eval()(input_ids=given, attention_mask=torch.ones_like(given)).logits[0].numpy()
    found = {
        "case": CASE,
        "n_positions": N_POSITIONS,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "ids": ids,
        "logits": np.round(logits.astype(np.float64), 5).tolist(),
    }
    (HERE / "whole.json").write_text(json.dumps(found, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
