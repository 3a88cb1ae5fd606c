"""Says what a failure of the hub, of its library or of the disk means, in one line with the remedy.

Users name a repository by an argument or in a config file, so messages name both.
"""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Protocol

from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from nerve.checkpoint.storage import explain_os_error
from nerve.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_DISK = {errno.ENOSPC, errno.EDQUOT} | UNWRITABLE
# Errors of the library's HTTP client, which is httpx or httpx2, while an answer is on its way.
_CUT = ("RemoteProtocolError", "ReadError", "ReadTimeout", "IncompleteRead")
_SHORT_COMMIT = re.compile("[0-9a-f]{6,39}")


class Asked(Protocol):
    """What was asked of the hub; `hub.py` has the meaning of each."""

    @property
    def name(self) -> str:
        """The repository."""

    @property
    def revision(self) -> str:
        """Branch, tag or commit."""

    @property
    def hub_cache(self) -> Path:
        """The library's cache."""

    @property
    def token(self) -> bool | None:
        """False where none is sent."""


def explain(error: Exception, asked: Asked) -> CheckpointError:
    """Return what to raise for an exception of the library or of the disk."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the library fell back to its cache says more
    if isinstance(error, HFValidationError):
        return CheckpointError(
            f"{asked.name!r} is not a repository name; write OWNER/NAME (checkpoint_repository.repo of a config file)"
        )
    if isinstance(error, HfHubHTTPError):
        return CheckpointError(_explain_status(error, asked))
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return CheckpointError(
            f"{asked.name} at {asked.revision} is not whole in {asked.hub_cache}, and "
            "HF_HUB_OFFLINE is set; unset it, or run `nerve pull` where there is a network and bring the cache here; "
            "HF_HUB_CACHE, HF_HOME or model.cache_dir (NERVE_MODEL__CACHE_DIR) say where it is"
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        return explain_os_error(error, asked.hub_cache)
    if type(error).__name__ in _CUT or "onsistency check failed" in str(error):
        return CheckpointError(
            f"an answer of the hub for {asked.name} was cut or came too slowly ({first_line(error)}); what has arrived "
            "is kept: start again, with a longer HF_HUB_DOWNLOAD_TIMEOUT (seconds) where the network is slow"
        )
    # A name without OWNER was perhaps typed for a folder.
    meant = "" if "/" in asked.name else f"there is no folder {asked.name} here, and "
    return CheckpointError(
        f"{meant}the hub cannot be reached for {asked.name} ({type(error).__name__}: {first_line(error)}); "
        "check network, "
        "proxy and HF_ENDPOINT, or run `nerve pull` where there is a network and bring the cache here"
    )


def _explain_status(error: HfHubHTTPError, asked: Asked) -> str:
    """Say what an answer of the hub that is an error means; gated before not found, which is its base."""
    name = asked.name
    has_token = asked.token is None and get_token()
    token = "its token has no access" if has_token else "no token is set"
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated and {token}; accept its terms on its hub page, then set HF_TOKEN to a token of "
            "that account that may read gated repositories"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {name}, or it is private and {token}; check the name (OWNER/NAME, or "
            "checkpoint_repository.repo of a config file), and set HF_TOKEN if it is private"
        )
    if isinstance(error, RevisionNotFoundError):
        whole = ", a commit with all its 40 digits" if _SHORT_COMMIT.fullmatch(asked.revision) else ""
        return (
            f"{name} has no revision {asked.revision}; name a branch, tag or commit{whole} (OWNER/NAME@REVISION, or "
            "checkpoint_repository.revision of a config file)"
        )
    status = error.response.status_code
    if status in (401, 403):
        return (
            f"the hub refuses access to {name} ({status}); check that HF_TOKEN is valid and may read this "
            "repository"
        )
    if status == 429:
        return f"the hub limits the rate of requests ({status}); wait, or set HF_TOKEN for a higher limit"
    return f"the hub answers {status} for {name}; try again later, or check HF_ENDPOINT"


def first_line(error: Exception) -> str:
    """Return what an exception says, in one line."""
    return (str(error).strip().splitlines() or ["no detail"])[0]
