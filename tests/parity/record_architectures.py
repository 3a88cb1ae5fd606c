"""Record the logits that PyTorch computes for the tiny checkpoints, and the shapes of their tensors.

usage: python tests/parity/record_architectures.py
Writes tests/parity/architectures.json and shapes.json. Needs torch and transformers, not nerve.
"""

from __future__ import annotations

import json
import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open

HERE = Path(__file__).parent
tiny = runpy.run_path(str(HERE / "tiny_checkpoints.py"))


def record_shapes(case: str) -> dict[str, list[int]]:
    """Return name and shape of every tensor that transformers writes for the config of a case."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(tiny["make_config"](case)))
        config = transformers.AutoConfig.from_pretrained(folder)
        transformers.AutoModelForTokenClassification.from_config(config).save_pretrained(folder)
        with safe_open(Path(folder) / "model.safetensors", "np") as tensors:
            return {name: list(tensors.get_slice(name).get_shape()) for name in sorted(tensors.keys())}


def record(case: str) -> list[list[list[float]]]:
    """Return the logits of each text of a case, computed alone and in float32."""
    with tempfile.TemporaryDirectory() as folder:
        tiny["write_checkpoint"](Path(folder), case)
        model, info = transformers.AutoModelForTokenClassification.from_pretrained(
            folder, dtype=torch.float32, output_loading_info=True, attn_implementation="eager"
        )
    if any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{case}: transformers does not agree with the names or shapes: {info}")
    logits = []
    with torch.inference_mode():
        for ids in tiny["make_texts"](case):
            input_ids = torch.tensor([ids])
            answer = model.eval()(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits[0]
            logits.append(np.round(answer.numpy().astype(np.float64), 6).tolist())
    return logits


def main() -> None:
    """Write the files of shapes and of expected logits."""
    shapes = {case: record_shapes(case) for case in tiny["CASES"]}
    tiny["SHAPES"].write_text(json.dumps(shapes, separators=(",", ":")) + "\n")
    document = {
        "made_by": "tests/parity/record_architectures.py",
        "versions": {
            "python": sys.version.split()[0],
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "logits": {case: record(case) for case in tiny["CASES"]},
    }
    (HERE / "architectures.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
