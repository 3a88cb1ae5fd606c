"""What a repository is that has no model as transformers writes it, told by the names of its files."""

from __future__ import annotations

import re

import pytest

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
            ["checkpoint-10/config.json", "README.md"],
            r"no config.json at its top, but in checkpoint-10/; serve that",
        ),
        (["b/config.json", "a/c/config.json"], r"but in b/ and in 1 more folders"),
    ],
)
def test_what_is_known_is_named_with_the_remedy(files: list[str], expected: str) -> None:
    """The kind, the file that tells it, and what to do."""
    said = what_it_is(files, "here")
    assert said is not None
    assert said.startswith("here ")
    assert re.search(expected, said), said


@pytest.mark.parametrize("files", [[], ["README.md", "model.pt"], ["config.json", "a/config.json"]])
def test_nothing_is_guessed(files: list[str]) -> None:
    """Of other files nothing is said; a model with config.json is where it should be."""
    assert what_it_is(files, "here") is None
