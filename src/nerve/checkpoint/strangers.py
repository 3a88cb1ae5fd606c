"""Tells what a repository is that has no model as transformers writes it: pure, by the names of its files.

For the refusal of a checkpoint without config.json, or without weights and graph.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

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
# How a name ends, what the whole is then, and what to do; {} is that name. The first row that fits counts.
_KINDS = (
    (("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"),
     "is an adapter (PEFT, LoRA), not a whole model", _MERGE),
    (("gliner_config.json",), "is a model of GLiNER ({}), which is asked for labels with every text",
     f"its own library runs it; for nerve {_OTHER}"),
    (("config.cfg",), "is a pipeline of spaCy ({})", f"spaCy runs it; for nerve {_OTHER}"),
    ((".nemo",), "is a model of NeMo ({})", f"NeMo runs it; for nerve {_OTHER}"),
    ((".gguf",), "has weights for llama.cpp only ({})", "choose the repository that they were made from"),
    ((".h5", ".msgpack", ".ot", ".ckpt.index"), "has weights of TensorFlow, Flax or Rust only ({})", _CONVERT),
    (("openvino_model.xml", ".mlpackage/Manifest.json", ".mlmodel", ".tflite"),
     "has a model for another runtime only ({})", "choose the repository that it was made from"),
)  # fmt: skip


def what_it_is(files: Collection[str], origin: str) -> str | None:
    """Say what `files` are in place of a model, and what to do; None where nothing is known of them.

    origin: whose files they are, as messages name it.
    """
    names = sorted(files)
    said = _kind([name for name in names if "/" not in name])
    if said is None and _CONFIG not in files and (folders := _folders_of_models(names)):
        more = f" and in {len(folders) - 1} more folders" if len(folders) > 1 else ""
        said = (
            f"has no {_CONFIG} at its top, but in {folders[0]}/{more}; serve that folder (of a hub repository: "
            "download it first)"
        )
    said = said or _kind(names)
    return f"{origin} {said}" if said else None


def _kind(names: Collection[str]) -> str | None:
    for endings, what, remedy in _KINDS:
        if found := next((name for name in names if name.endswith(endings)), None):
            return f"{what.format(found)}; {remedy}"
    return None


def _folders_of_models(names: Collection[str]) -> list[str]:
    """Return the folders that hold a config.json, those nearest to the top first."""
    found = [posixpath.dirname(name) for name in names if posixpath.basename(name) == _CONFIG]
    return sorted((name for name in found if name), key=lambda name: (name.count("/"), name))
