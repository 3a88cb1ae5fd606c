"""Brings a checkpoint from a Hugging Face hub: source HF. The only user of huggingface_hub.

Three steps: resolve the revision to a commit and its list of files; choose the files that are needed;
download those. Weights whose tensors turn out to be none that a graph can be built from are followed by the
repository's ONNX graph, if it has one. The downloads, their resumption and their locks are the library's, and so is
the cache: the one that it finds by its own rules (HF_HUB_CACHE, HF_HOME), or hub/ in `model.cache_dir`. Our own
cache keeps what the first step found in hub-listings/, written last: with a commit as revision the next start makes
no network call, and without a network the last commit that was fetched whole is used again. Where a cache was filled
by others, or cannot be written, what it holds is used as it is.

Foreign exceptions stop here: `_explain` gives each its `CheckpointError`.
"""

from __future__ import annotations

import errno
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import msgspec
from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from nerve.checkpoint.calibration import CALIBRATION
from nerve.checkpoint.choice import BuildCheck, choose_graph, choose_main_file
from nerve.checkpoint.folder import ModelFolder, check_names, companions, list_files
from nerve.checkpoint.settings import (
    CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
    check_config,
    read_config,
)
from nerve.checkpoint.storage import explain_os_error, write_json
from nerve.config import ModelConfig
from nerve.errors import CheckpointError

log = logging.getLogger(__name__)

ALWAYS = (CONFIG, TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, CALIBRATION)
LIST_TIMEOUT_SECONDS = 15.0
_COMMIT = re.compile("[0-9a-f]{40}")
_UNWRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_DISK = {errno.ENOSPC, errno.EDQUOT} | _UNWRITABLE


class Listing(msgspec.Struct, frozen=True):
    """The files of a repository at one commit; `is_partial`: those that are here, which may not be all."""

    commit: str
    files: list[str]
    is_partial: bool = False


@dataclass(frozen=True, slots=True)
class _Repository:
    """One repository at the revision asked for, and where its files are kept.

    hub_cache: the library's cache. cache_dir: ours.
    endpoint: address of the hub; None means HF_ENDPOINT or the public one.
    token: False to send none; None leaves it to the library's own rules (HF_TOKEN, then the saved login).
    """

    name: str
    revision: str
    hub_cache: Path
    cache_dir: Path
    endpoint: str | None
    token: bool | None

    @property
    def listing_file(self) -> Path:
        # No name of the hub has a "--".
        folder = self.cache_dir / "hub-listings" / self.name.replace("/", "--")
        return folder / f"{quote(self.revision, safe='')}.json"


def fetch(
    model: ModelConfig,
    cache_dir: Path,
    *,
    is_buildable: BuildCheck,
    show_progress: bool = False,
    endpoint: str | None = None,
) -> ModelFolder:
    """Download what `model` needs of its repository and return the folder. Raises `CheckpointError`.

    is_buildable: as for every `Source`.
    endpoint: address of the hub; None means HF_ENDPOINT or the public one.
    """
    source = model.checkpoint_repository
    hub_cache = Path(constants.HF_HUB_CACHE) if model.cache_dir is None else cache_dir / "hub"
    repository = _Repository(
        source.repo or "", source.revision or "main", hub_cache, cache_dir, endpoint, _usable_token()
    )
    with _progress_bars(show_progress), _hub_errors(repository):
        listing = _resolve(repository)
        try:
            folder = _download_needed(repository, listing, model, is_buildable)
        except Exception as error:
            cached = _in_library_cache(repository) if _must_do_with_the_cache(error) else None
            if cached is None or cached.commit == listing.commit:
                raise
            log.warning(
                "%s at commit %s cannot be fetched (%s); using commit %s from the cache",
                *(repository.name, listing.commit, _first_line(error), cached.commit),
            )
            listing = cached
            try:
                folder = _download_needed(repository, cached, model, is_buildable)
            except Exception:  # noqa: BLE001 - the first failure is the one to mend
                raise error from None
    if not listing.is_partial:
        try:
            write_json(repository.listing_file, msgspec.to_builtins(listing))
        except OSError as error:  # the files are here: that is what counts
            log.info("the list of files is not kept, so every start asks the hub: %s", error)
    return ModelFolder(folder, repository.name, listing.commit)


def _download_needed(
    repository: _Repository, listing: Listing, model: ModelConfig, is_buildable: BuildCheck
) -> Path:
    """Choose the files that are needed, download them, and return their folder."""
    origin = f"{repository.name} at {listing.commit[:12]}"
    if listing.is_partial:
        origin += f" in the cache {repository.hub_cache}"
    check_names(listing.files, origin)
    folder = _download(repository, listing, CONFIG).parent
    config = read_config(folder, origin)
    check_config(config, origin)
    main = choose_main_file(listing.files, config, model, is_buildable, origin)
    log.info("checkpoint %s: using %s", origin, main)
    for name in (*ALWAYS, main):
        if name in listing.files:
            _download(repository, listing, name)
    for name in companions(folder, main, listing.files, origin):
        _download(repository, listing, name)
    graph = choose_graph(listing.files, model.precision, None)
    if not main.endswith(".onnx") and graph is not None and not is_buildable(config, folder):
        log.info("checkpoint %s: using %s after all", origin, graph)
        _download(repository, listing, graph)
        for name in companions(folder, graph, listing.files, origin):
            _download(repository, listing, name)
    return folder


def _resolve(repository: _Repository) -> Listing:
    """Return commit and files of the revision: from the hub, or from the cache where that will do."""
    recorded = _recorded(repository)
    if recorded is not None and _COMMIT.fullmatch(repository.revision):
        return recorded  # a commit never changes
    api = HfApi(endpoint=repository.endpoint, token=repository.token)
    try:
        info = api.model_info(repository.name, revision=repository.revision, timeout=LIST_TIMEOUT_SECONDS)
    except Exception as error:
        cached = (recorded or _in_library_cache(repository)) if _is_unreachable(error) else None
        if cached is None:
            raise _explain(error, repository) from error
        if not isinstance(error, OfflineModeIsEnabled):
            log.warning(
                "hub not reachable; using %s at commit %s from the cache", repository.name, cached.commit
            )
        return cached
    return Listing(info.sha or repository.revision, [file.rfilename for file in info.siblings or ()])


def _must_do_with_the_cache(error: Exception) -> bool:
    """Tell whether nothing can be fetched: the cache cannot be written, or the hub must not be asked."""
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return True
    return isinstance(error, OSError) and error.errno in _UNWRITABLE


def _usable_token() -> bool | None:
    """Return False where the saved login cannot be read: public repositories need none."""
    try:
        get_token()
    except (OSError, ValueError) as error:
        log.warning(
            "the saved login of the hub is not used: %s; HF_TOKEN or HF_TOKEN_PATH name another", error
        )
        return False
    return None


def _recorded(repository: _Repository) -> Listing | None:
    """Return the listing of the last whole fetch of this revision; a damaged one counts as none."""
    try:
        return msgspec.json.decode(repository.listing_file.read_bytes(), type=Listing)
    except (OSError, msgspec.DecodeError):
        return None


def _in_library_cache(repository: _Repository) -> Listing | None:
    """Return what other tools of the hub have put into the cache at this revision."""
    try:
        config = hf_hub_download(
            repository.name,
            CONFIG,
            revision=repository.revision,
            cache_dir=repository.hub_cache,
            local_files_only=True,
        )
    except EntryNotFoundError:
        return None
    folder = Path(config).parent
    return Listing(folder.name, sorted(list_files(folder)), is_partial=True)


def _download(repository: _Repository, listing: Listing, name: str) -> Path:
    return Path(
        hf_hub_download(
            repository.name,
            name,
            revision=listing.commit,
            cache_dir=repository.hub_cache,
            endpoint=repository.endpoint,
            token=repository.token,
            library_name="nerve",
        )
    )


@contextmanager
def _progress_bars(show: bool) -> Iterator[None]:
    """Keep the library's own bars silent for the block, unless they are wanted."""
    if show:
        yield
        return
    _silence.begin()
    try:
        yield
    finally:
        _silence.end()


class _Silence:
    """Turns the library's progress bars off while there are fetches without; its switch is one for all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_fetches = 0
        self._was_silent = False

    def begin(self) -> None:
        """Begin a fetch."""
        with self._lock:
            if not self._n_fetches:
                self._was_silent = are_progress_bars_disabled()
                disable_progress_bars()
            self._n_fetches += 1

    def end(self) -> None:
        """End a fetch; the last one leaves the switch as the first one found it."""
        with self._lock:
            self._n_fetches -= 1
            if not self._n_fetches and not self._was_silent:
                enable_progress_bars()


_silence = _Silence()


@contextmanager
def _hub_errors(repository: _Repository) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise _explain(error, repository) from error


def _is_unreachable(error: Exception) -> bool:
    """Return whether the hub gave no answer, or none that says anything about the repository."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    # The library's HTTP client differs between its versions (httpx, httpx2), so its errors have no one base.
    return not isinstance(error, HFValidationError)


def _explain(error: Exception, repository: _Repository) -> CheckpointError:
    """Return what to raise for an exception of the library or of the disk."""
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the library fell back to its cache says more
    if isinstance(error, HFValidationError):
        return CheckpointError(
            f"checkpoint_repository.repo: {repository.name!r} is not a repository name; write OWNER/NAME"
        )
    if isinstance(error, HfHubHTTPError):
        return CheckpointError(_explain_status(error, repository))
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return CheckpointError(
            f"{repository.name} at {repository.revision} is not whole in {repository.hub_cache}, and "
            "HF_HUB_OFFLINE is set; unset it, or run `nerve pull` where there is a network and bring the cache here; "
            "HF_HUB_CACHE, HF_HOME or model.cache_dir say where it is"
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        return explain_os_error(error, repository.hub_cache)
    if "onsistency check failed" in str(error):
        return CheckpointError(
            f"a download from {repository.name} was cut; what has arrived is kept, start again"
        )
    return CheckpointError(
        f"the hub cannot be reached for {repository.name} ({type(error).__name__}: {_first_line(error)}); "
        "check network, "
        "proxy and HF_ENDPOINT, or run `nerve pull` where there is a network and bring the cache here"
    )


def _explain_status(error: HfHubHTTPError, repository: _Repository) -> str:
    """Say what an answer of the hub that is an error means; gated before not found, which is its base."""
    name = repository.name
    has_token = repository.token is None and get_token()
    token = "its token has no access" if has_token else "no token is set"
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated and {token}; accept its terms on its hub page, then set HF_TOKEN to a token of "
            "that account that may read gated repositories"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no repository {name}, or it is private and {token}; check "
            "checkpoint_repository.repo, "
            "and set HF_TOKEN if it is private"
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            f"{name} has no revision {repository.revision}; set checkpoint_repository.revision to a "
            "branch, tag or commit"
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


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no detail"])[0]
