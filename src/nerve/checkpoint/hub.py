"""Brings a checkpoint from a Hugging Face hub: source HF. The only user of huggingface_hub.

Three steps: resolve the revision to a commit and its list of files; choose the files that are needed;
download those. Weights whose tensors turn out to be none that a graph can be built from are followed by the
repository's ONNX graph, if it has one. The downloads, their resumption and their locks are the library's, and so is
the cache: the one that it finds by its own rules (HF_HUB_CACHE, HF_HOME), or hub/ in `model.cache_dir`. Our own
cache keeps what the first step found in hub-listings/, written last: with a commit as revision the next start makes
no network call, and without a network the last commit that was fetched whole is used again. Where a cache was filled
by others, or cannot be written, what it holds is used as it is.

Foreign exceptions stop here: `hub_errors` gives each its `CheckpointError`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from huggingface_hub import HfApi, constants, get_token, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from nerve.checkpoint.calibration import CALIBRATION
from nerve.checkpoint.choice import (
    BuildCheck,
    Unbuildable,
    choose_graph,
    choose_main_file,
    choose_tokenizer,
    choose_weights,
)
from nerve.checkpoint.folder import ModelFolder, check_names, companions, is_inside, list_files
from nerve.checkpoint.headers import read_shapes
from nerve.checkpoint.hub_errors import UNWRITABLE, explain, first_line
from nerve.checkpoint.hub_progress import reported
from nerve.checkpoint.preview import FitCheck, NotOpened, PickleReader, Preview, Shapes
from nerve.checkpoint.settings import (
    CONFIG,
    SPECIAL_TOKENS,
    TOKENIZER_CONFIG,
    check_config,
    read_config,
    read_shards,
)
from nerve.checkpoint.storage import write_json
from nerve.checkpoint.tokenizer import prove_tokenizer
from nerve.config import ModelConfig
from nerve.errors import CheckpointError

log = logging.getLogger(__name__)
# The library would write its lines twice: by a handler of its own, and by those of the process.
logging.getLogger("huggingface_hub").handlers.clear()

ALWAYS = (CONFIG, TOKENIZER_CONFIG, SPECIAL_TOKENS, CALIBRATION)
LIST_TIMEOUT_SECONDS = 15.0
_COMMIT = re.compile("[0-9a-f]{40}")
_WEIGHTS = re.compile(r"\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|onnx[._]data.*)$")


class Listing(msgspec.Struct, frozen=True):
    """The files of a repository at one commit.

    is_partial: those that are here, which may not be all. name: what the repository is called now; "" for what was
    asked for.
    """

    commit: str
    files: list[str]
    is_partial: bool = False
    name: str = ""


@dataclass(frozen=True, slots=True)
class _Repository:
    """One repository at the revision asked for, and where its files are kept.

    hub_cache: the library's cache. cache_dir: ours.
    endpoint: address of the hub; None means HF_ENDPOINT or the public one.
    token: False to send none; None leaves it to the library's own rules (HF_TOKEN, then the saved login).
    noted: names of the files that are needed, of which weights are not fetched; None to fetch them all.
    show_progress: draw bars on stderr.
    """

    name: str
    revision: str
    hub_cache: Path
    cache_dir: Path
    endpoint: str | None
    token: bool | None
    noted: list[str] | None = None
    show_progress: bool = False

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
    asked = replace(_ask(model, cache_dir, endpoint), show_progress=show_progress)
    with _hub_errors(asked):
        listing = _resolve(asked)
        repository = replace(asked, name=listing.name or asked.name)
        try:
            folder = _download_needed(repository, listing, model, is_buildable)
        except Exception as error:
            cached = _in_library_cache(repository) if _must_do_with_the_cache(error) else None
            if cached is None or cached.commit == listing.commit:
                raise
            log.warning(
                "%s at commit %s cannot be fetched (%s); using commit %s from the cache",
                *(repository.name, listing.commit, first_line(error), cached.commit),
            )
            listing = cached
            try:
                folder = _download_needed(repository, cached, model, is_buildable)
            except Exception:  # noqa: BLE001 - the first failure is the one to mend
                raise error from None
    if not listing.is_partial:
        try:
            write_json(asked.listing_file, msgspec.to_builtins(listing))
        except OSError as error:  # the files are here: that is what counts
            log.info("the list of files is not kept, so every start asks the hub: %s", error)
    return ModelFolder(folder, repository.name, listing.commit)


def preview(
    model: ModelConfig,
    cache_dir: Path,
    *,
    is_buildable: BuildCheck,
    fits: FitCheck,
    read_pickle: PickleReader,
    endpoint: str | None = None,
) -> Preview:
    """Find out what `fetch` would bring, without its weights. Raises `CheckpointError` if the hub does not help."""
    asked = _ask(model, cache_dir, endpoint)
    with _hub_errors(asked):
        listing = _resolve(asked)
        repository = replace(asked, name=listing.name or asked.name, noted=[])
        shapes: Shapes = {}
        is_read = False

        def check(config: Mapping[str, Any], folder: Path | None = None, /) -> bool | Unbuildable:
            nonlocal is_read
            if folder is None:
                return is_buildable(config)
            is_read = True
            try:
                shapes.update(_read_shapes(repository, listing, folder, read_pickle))
            except NotOpened:
                return False
            return fits(config, folder, shapes)

        refusal = None
        try:
            folder: Path | None = _download_needed(repository, listing, model, check)
            if folder is not None and not is_read:
                shapes.update(_read_shapes(repository, listing, folder, read_pickle))
        except CheckpointError as error:
            refusal = error
            folder = _download(repository, listing, CONFIG).parent if CONFIG in listing.files else None
        used = list(dict.fromkeys(repository.noted or ()))
        here = {name for name in used if folder is not None and (folder / name).is_file()}
        sizes = _read_sizes(repository, listing)
        sizes |= {name: (folder / name).stat().st_size for name in here if folder is not None}
    return Preview(repository.name, listing.commit, folder, listing.files, sizes, used, here, shapes, refusal)


def _read_shapes(
    repository: _Repository, listing: Listing, folder: Path, read_pickle: PickleReader
) -> Shapes:
    """Return the shapes of the tensors in weights that are not here, as `read_shapes`; {} where they are here."""
    main = choose_weights(listing.files)
    if main is None:
        return {}
    files = sorted(read_shards(folder / main)) if main.endswith(".json") else [main]
    if all((folder / name).is_file() for name in files):
        return {}
    return read_shapes(
        repository.name, files, listing.commit, repository.endpoint, repository.token, read_pickle
    )


def _read_sizes(repository: _Repository, listing: Listing) -> dict[str, int]:
    """Return the bytes of each file, where the hub tells."""
    api = HfApi(endpoint=repository.endpoint, token=repository.token)
    try:
        info = api.model_info(
            repository.name, revision=listing.commit, files_metadata=True, timeout=LIST_TIMEOUT_SECONDS
        )
    except Exception as error:  # noqa: BLE001 - a size is not worth a failure
        log.debug("sizes are not known: %s", error)
        return {}
    return {file.rfilename: file.size for file in info.siblings or () if file.size is not None}


def _ask(model: ModelConfig, cache_dir: Path, endpoint: str | None) -> _Repository:
    source = model.checkpoint_repository
    hub_cache = Path(constants.HF_HUB_CACHE) if model.cache_dir is None else cache_dir / "hub"
    return _Repository(
        source.repo or "", source.revision or "main", hub_cache, cache_dir, endpoint, _usable_token()
    )


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
    for name in (*ALWAYS, *choose_tokenizer(listing.files)):
        if name in listing.files:
            _download(repository, listing, name)
    if not (folder / main).exists():
        prove_tokenizer(folder, listing.files, origin)  # before the weights, which take longer
    _download(repository, listing, main)
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
            raise explain(error, repository) from error
        if not isinstance(error, OfflineModeIsEnabled):
            log.warning(
                "hub not reachable; using %s at commit %s from the cache", repository.name, cached.commit
            )
        return cached
    if info.id != repository.name:
        log.warning("the repository %s is called %s now; name it so", repository.name, info.id)
    names = [file.rfilename for file in info.siblings or ()]
    return Listing(info.sha or repository.revision, [name for name in names if is_inside(name)], name=info.id)


def _must_do_with_the_cache(error: Exception) -> bool:
    """Tell whether nothing can be fetched: the cache cannot be written, or the hub must not be asked."""
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return True
    return isinstance(error, OSError) and error.errno in UNWRITABLE


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
    if repository.noted is not None:
        repository.noted.append(name)
        if _WEIGHTS.search(name):
            return Path(name)
    with reported(f"{name} of {repository.name}", show=repository.show_progress) as reporter:
        return Path(
            hf_hub_download(
                repository.name,
                name,
                revision=listing.commit,
                cache_dir=repository.hub_cache,
                endpoint=repository.endpoint,
                token=repository.token,
                library_name="nerve",
                tqdm_class=reporter,
            )
        )


@contextmanager
def _hub_errors(repository: _Repository) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise explain(error, repository) from error


def _is_unreachable(error: Exception) -> bool:
    """Return whether the hub gave no answer, or none that says anything about the repository."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    # The library's HTTP client differs between its versions (httpx, httpx2), so its errors have no one base.
    return not isinstance(error, HFValidationError)
