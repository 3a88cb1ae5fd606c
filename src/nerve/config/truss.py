"""Reads a `config.yaml` of Truss, Baseten's packaging format."""

from __future__ import annotations

from typing import Any

from nerve.config.schema import CheckpointSource

# The keys that mean the same here, as (Truss path, our path).
_TRUSS_KEYS = {
    ("trt_llm", "build", "base_model"): ("model", "base_model"),
    ("trt_llm", "build", "checkpoint_repository", "source"): ("model", "checkpoint_repository", "source"),
    ("trt_llm", "build", "checkpoint_repository", "repo"): ("model", "checkpoint_repository", "repo"),
    ("trt_llm", "build", "checkpoint_repository", "revision"): ("model", "checkpoint_repository", "revision"),
    ("trt_llm", "build", "max_num_tokens"): ("batching", "max_batch_tokens"),
    ("trt_llm", "build", "max_batch_size"): ("batching", "max_batch_size"),
    ("trt_llm", "runtime", "webserver_default_route"): ("runtime", "webserver_default_route"),
}


def from_truss(document: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Translate a Truss `config.yaml`; return our document and the dotted keys that mean nothing here."""
    translated: dict[str, Any] = {}
    ignored: list[str] = []

    def walk(value: object, path: tuple[str, ...]) -> None:
        if value is None:  # as absent
            return
        if path in _TRUSS_KEYS:
            if value is None:  # as if it were not there
                return
            *sections, key = _TRUSS_KEYS[path]
            target = translated
            for section in sections:
                target = target.setdefault(section, {})
            target[key] = value
        elif isinstance(value, dict) and any(known[: len(path)] == path for known in _TRUSS_KEYS):
            for key, item in value.items():
                walk(item, (*path, str(key)))
        else:
            ignored.append(".".join(path))

    for key, item in document.items():
        walk(item, (str(key),))
    checkpoint = translated.get("model", {}).get("checkpoint_repository")
    if checkpoint is not None:
        checkpoint.setdefault("source", CheckpointSource.HF.value)  # Baseten's default
    return translated, ignored
