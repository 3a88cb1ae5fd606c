"""What a repository is that has no model as transformers writes it, told by the names of its files."""

from __future__ import annotations

import re

import pytest

from nerve.checkpoint.choice import WEIGHTS
from nerve.checkpoint.strangers import what_it_is


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"],
            "adapter .*merge_and_unload",
        ),
        (["adapter_config.json", "checkpoint-9/config.json"], "is an adapter"),
        (["gliner_config.json", "pytorch_model.bin"], r"model of GLiNER \(gliner_config.json\).*choose"),
        (["config.cfg", "meta.json", "ner/model", "transformer/model/config.json"], "pipeline of spaCy"),
        (["ner.nemo"], "NeMo"),
        (["README.md", "x.Q4_K_M.gguf"], r"llama.cpp only \(x.Q4_K_M.gguf\); choose the repository"),
        (["config.json", "x.gguf"], "llama.cpp only"),
        (["config.json", "tf_model.h5"], "TensorFlow, Flax or Rust only .*from_tf"),
        (["config.json", "openvino_model.bin", "openvino_model.xml"], "another runtime only"),
        (["config.json", "coreml/x.mlpackage/Manifest.json"], "another runtime only"),
        (
            ["checkpoint-10/config.json", "checkpoint-10/model.safetensors", "README.md"],
            r"no config.json at its top, but in checkpoint-10/; serve that",
        ),
        (
            [
                "b/config.json",
                "b/pytorch_model.bin",
                "a/c/config.json",
                "a/c/onnx/model.onnx",
                "a/config.json",
            ],
            r"but in b/ and in 1 more folders",
        ),
        (["model-best/config.cfg", "model-best/meta.json"], r"pipeline of spaCy \(model-best/config.cfg\)"),
        (["config.json", "gguf/x.gguf"], r"llama.cpp only \(gguf/x.gguf\)"),
        (["model.safetensors", "gliner_config.json"], "is a model of GLiNER"),
        (["config.json", "openvino/openvino_model_qint8.xml"], "another runtime only"),
    ],
)
def test_what_is_known_is_named_with_the_remedy(files: list[str], expected: str) -> None:
    """The kind, the file that tells it, and what to do."""
    said = what_it_is(files, "here", WEIGHTS)
    assert said is not None
    assert said.startswith("here ")
    assert re.search(expected, said), said


@pytest.mark.parametrize(
    "files",
    [
        [],
        ["README.md", "model.pt"],
        ["config.json", "a/config.json"],
        ["a/config.json"],  # of a tokenizer, or of what stands before a model's head
        # Weights that can be served, where config.json alone is missing.
        ["model.safetensors", "tokenizer.json", "x.gguf"],
        ["pytorch_model.bin", "tf_model.h5"],
        ["onnx/model.onnx", "openvino/openvino_model.xml"],
        ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"],
        ["model.safetensors", "a/config.json", "a/model.safetensors"],
        # Names that only end like those of others.
        ["config.json", "runs/events.h5"],
        ["config.json", "my_config.cfg"],
        ["config.json", "old/config.cfg", "lora/adapter_config.json"],
        ["my_gliner_config.json"],
    ],
)
def test_nothing_is_guessed(files: list[str]) -> None:
    """Of other files nothing is said; a model with config.json is where it should be."""
    assert what_it_is(files, "here", WEIGHTS) is None
