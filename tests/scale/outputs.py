"""What lies in the folder that a run over a corpus wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def tree(folder: Path) -> dict[str, bytes]:
    """Return all files of an output but its manifest."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "_manifest.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def n_entries(folder: Path) -> int:
    """Return how many parts the manifest has."""
    manifest = folder / "_manifest.jsonl"
    return manifest.read_bytes().count(b"\n") - 1 if manifest.exists() else 0
