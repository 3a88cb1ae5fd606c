"""Record what the reference pipeline gives for long documents with its own `stride`.

    python tests/parity/record_long.py RAMPART_FOLDER

RAMPART_FOLDER is the model folder of the default checkpoint (`nerve pull` prints it). Needs
`pip install torch transformers onnx`; a minute or two.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoTokenizer, pipeline

sys.path.insert(0, str(Path(__file__).parent))
import golden
from documents import STRIDE, documents
from rampart_to_hf import rebuild
from record import facts


def main() -> None:
    """Write `golden/long.json.gz`."""
    torch.set_grad_enabled(False)
    made = documents()
    with tempfile.TemporaryDirectory() as out:
        rebuild(Path(sys.argv[1]), Path(out))
        tokenizer = AutoTokenizer.from_pretrained(out, model_max_length=512)
        pipe = pipeline(
            "token-classification", model=out, tokenizer=tokenizer, dtype=torch.float32, device="cpu", stride=STRIDE,
            aggregation_strategy="simple",
        )  # fmt: skip
        answers = [
            [(e["entity_group"], e["start"], e["end"], float(str(e["score"]))) for e in pipe(document.text)]
            for document in made
        ]
    texts = [document.text for document in made]
    golden.write(golden.LONG, {**facts(texts), **golden.pack({"simple": answers})})


if __name__ == "__main__":
    main()
