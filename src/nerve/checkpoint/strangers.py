"""Tells what a repository is that has no model as transformers writes it: pure, by the names of its files.

For the refusal of a checkpoint without config.json, or without weights and graph.
"""

from __future__ import annotations

import posixpath
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

_CONFIG = "config.json"
_OTHER = "choose a checkpoint whose architecture ends with ForTokenClassification"
_MERGE = (
    "merge it into its model (`PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(FOLDER)`) and serve "
    "that folder"
)
_CONVERT = (
    "write model.safetensors with transformers 4 (`from_pretrained(..., from_tf=True)` or `from_flax=True`, then "
    "`save_pretrained(FOLDER)`)"
)
# Patterns of names, what the whole is then, and what to do; {} is the name that fits. The first row that fits counts.
_WHOLES = (
    (("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
     "is an adapter (PEFT, LoRA), not a whole model", _MERGE),
    (("gliner_config.json",), "is a model of GLiNER ({}), which is asked for labels with every text",
     f"its own library runs it; for nerve {_OTHER}"),
    (("config.cfg",), "is a pipeline of spaCy ({})", f"spaCy runs it; for nerve {_OTHER}"),
    (("*.nemo",), "is a model of NeMo ({})", f"NeMo runs it; for nerve {_OTHER}"),
)  # fmt: skip
# Of others, which may lie beside those that nerve takes.
_WEIGHTS = (
    (("*.gguf",), "has weights for llama.cpp only ({})", "choose the repository that they were made from"),
    (("tf_model*.h5", "flax_model*.msgpack", "rust_model*.ot", "*.ckpt.index"),
     "has weights of TensorFlow, Flax or Rust only ({})", _CONVERT),
    (("openvino_model*.xml", "*.mlpackage/Manifest.json", "*.mlmodel", "*.tflite"),
     "has a model for another runtime only ({})", "choose the repository that it was made from"),
)  # fmt: skip


def what_it_is(files: Collection[str], origin: str, weights: Collection[str]) -> str | None:
    """Say what `files` are in place of a model, and what to do; None where nothing is known of them.

    origin: whose files they are, as messages name it. weights: the names that weights have which can be served.
    """
    names = sorted(files)
    at_top = [name for name in names if "/" not in name]
    said = _fitting(at_top, _WHOLES)
    if said is None and not any(_is_usable(name, weights) for name in (*at_top, *_below(names, "onnx"))):
        said = _further_down(names, at_top, weights)
    return f"{origin} {said}" if said else None


def _further_down(names: Collection[str], at_top: Collection[str], weights: Collection[str]) -> str | None:
    """Say what files are that have no weights at the top, as `what_it_is`."""
    has_config = _CONFIG in at_top
    if not has_config and (folders := _folders_of_models(names, weights)):
        more = f" and in {len(folders) - 1} more folders" if len(folders) > 1 else ""
        return (
            f"has no {_CONFIG} at its top, but in {folders[0]}/{more}; serve that folder (of a hub repository: "
            "download it first)"
        )
    said = None if has_config else _fitting(names, _WHOLES)
    if said is None and not any(_is_usable(name, weights) for name in names):
        said = _fitting(at_top, _WEIGHTS) or _fitting(names, _WEIGHTS)
    return said


def _fitting(names: Collection[str], kinds: Iterable[tuple[tuple[str, ...], str, str]]) -> str | None:
    for patterns, what, remedy in kinds:
        if found := next((name for name in names if any(_fits(name, each) for each in patterns)), None):
            return f"{what.format(found)}; {remedy}"
    return None


def _fits(name: str, pattern: str) -> bool:
    return fnmatchcase(f"/{name}", f"*/{pattern}")


def _is_usable(name: str, weights: Collection[str]) -> bool:
    return posixpath.basename(name) in weights or name.endswith(".onnx")


def _below(names: Collection[str], folder: str) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def _folders_of_models(names: Collection[str], weights: Collection[str]) -> list[str]:
    """Return the folders that hold a config.json and weights, those nearest to the top first."""
    found = {posixpath.dirname(name) for name in names if posixpath.basename(name) == _CONFIG} - {""}
    with_weights = [
        folder
        for folder in found
        if any(
            _is_usable(name, weights) and posixpath.dirname(name) in (folder, f"{folder}/onnx")
            for name in _below(names, folder)
        )
    ]
    return sorted(with_weights, key=lambda name: (name.count("/"), name))
