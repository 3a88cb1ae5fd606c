"""Rebuild a Hugging Face checkpoint (config, tokenizer, safetensors) from the Rampart ONNX file.

Rampart ships as a 4-bit ONNX graph only, but the reference, transformers' pipeline, needs a PyTorch
checkpoint: this unpacks the 4-bit weights to float32 and loads them into BertForTokenClassification.
Needs onnx, torch and transformers; nothing that nerve itself uses.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from transformers import BertConfig, BertForTokenClassification

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def unpack_nbits(node: Any, tensors: dict[str, np.ndarray]) -> np.ndarray:
    """Give the weight of a 4-bit `MatMulNBits` node as float32 (out, in)."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    k, n = attributes["K"], attributes["N"]
    assert attributes["bits"] == 4
    packed, scales = tensors[node.input[1]], tensors[node.input[2]].reshape(n, -1)
    blocks = packed.shape[1]
    whole = np.stack([packed & 0xF, packed >> 4], -1).reshape(n, blocks, -1).astype(np.float32)
    zero: Any = 8.0
    if len(node.input) > 3 and node.input[3]:
        pairs = tensors[node.input[3]]
        pairs = np.stack([pairs & 0xF, pairs >> 4], -1).reshape(n, -1)[:, :blocks]
        zero = pairs[:, :, None].astype(np.float32)
    return ((whole - zero) * scales[:, :, None]).reshape(n, -1)[:, :k]


def rebuild(model_folder: Path, out: Path) -> None:
    """Write the checkpoint of `model_folder` (config, tokenizer, onnx/model_q4.onnx) to `out`."""
    graph = onnx.load(model_folder / "onnx" / "model_q4.onnx").graph
    tensors = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    dense = {}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            path = re.sub(r"/MatMul_Q4$|/MatMul.*$", "", node.name.strip("/"))
            dense[path.replace("/", ".") + ".weight"] = unpack_nbits(node, tensors)
    config = BertConfig(**json.loads((model_folder / "config.json").read_text()))
    model = BertForTokenClassification(config).eval()
    state = {}
    for key in model.state_dict():
        if key in dense:
            value = dense[key]
        elif key in tensors and tensors[key].dtype == np.float32:
            value = tensors[key]
        else:
            zero = tensors[key + "_zero_point"].astype(np.float32)
            value = (tensors[key + "_quantized"].astype(np.float32) - zero) * tensors[key + "_scale"]
        state[key] = torch.tensor(np.ascontiguousarray(value))
    model.load_state_dict(state)
    model.save_pretrained(out)
    for name in TOKENIZER_FILES:
        shutil.copy(model_folder / name, out / name)
