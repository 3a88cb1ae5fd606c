"""Make the zero-cost model folder: a graph of one `Gather` from token id to a row of logits.

Serving it leaves only the server's own time. The tokenizer is the real model's, so that tokenising
costs what it costs; the logits come from a seed.

usage: python -m bench.serving.zero_model TOKENIZER_JSON OUT_FOLDER
"""

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer

KINDS = ["GIVEN_NAME", "SURNAME", "EMAIL", "PHONE", "CITY", "STREET_NAME", "ZIP_CODE", "TAX_ID"]


def make_labels() -> list[str]:
    return ["O", *(f"{prefix}-{kind}" for kind in KINDS for prefix in "BI")]


def make_graph(table: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["logits"])],
        "zero",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", table.shape[1]])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def make_folder(tokenizer: Path, out: Path, seed: int = 0) -> Path:
    """Write config.json, tokenizer.json, model.onnx and its table (V, L) into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer, out / "tokenizer.json")
    labels = make_labels()
    vocabulary = Tokenizer.from_file(str(tokenizer)).get_vocab_size()
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "vocab_size": vocabulary,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    table = np.random.default_rng(seed).normal(0, 3, (vocabulary, len(labels))).astype(np.float32)  # (V, L)
    np.save(out / "table.npy", table)
    onnx.save(make_graph(table), out / "model.onnx")
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(make_folder(arguments.tokenizer, arguments.out))
