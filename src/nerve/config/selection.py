"""Which configuration a command runs with: MODEL, `--config`, or what lies at the usual places.

MODEL is a config file, else a model folder, else a name on the hub. Without MODEL a config file says what to serve, or
the folder into which a platform (SageMaker, KServe) puts its model. User's view: docs/guide/configuration.md.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nerve.config.loading import expand_home, parse_config, read_document
from nerve.config.schema import CheckpointSource
from nerve.config.strays import ENV_CONFIG, warn_of_strays
from nerve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nerve.config.schema import Config

log = logging.getLogger(__name__)

DEFAULT_LOCATIONS = (Path("config.yaml"), Path("/etc/nerve/config.yaml"))
# The image's own, for the default model; what a platform mounts goes before it.
SHIPPED_CONFIG = Path("/usr/share/nerve/config.yaml")
# Where SageMaker and KServe put the model. Both send requests to this port.
PLATFORM_FOLDERS = (Path("/opt/ml/model"), Path("/mnt/models"))
_PLATFORM_PORT = 8080

# A link to the one at the top of the repository.
_DEFAULT_CONFIG = Path(__file__).with_name("default.yaml")

_MODEL_CONFIG = "config.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_LOOKS_LIKE_A_PATH = re.compile(r"[/.~\\]|.*(//|/$|\\)|[^@/]*/[^@/]*/|.*\.(ya?ml|json|onnx|safetensors|bin)$")
_PARTS_OF_A_MODEL = (".safetensors", ".onnx", ".onnx_data", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
# How the name of a file may end in a folder of a model that nerve does not serve, too; `checkpoint` says what it is.
_PARTS_OF_OTHERS = (
    *_PARTS_OF_A_MODEL,
    ".gguf",
    ".nemo",
    ".ot",
    ".tflite",
    ".cfg",
    ".index",
    ".xml",
    "_config.json",
)
# Every fresh volume of ext4 has it; only root may look into it.
_LOST_AND_FOUND = "lost+found"
_WHAT_TO_NAME = (
    f"a model (a folder, or OWNER/NAME on the hub), or a config file with --config FILE or {ENV_CONFIG}"
)
# Keys of the section `model` that belong to the checkpoint, not to the machine that runs it.
_OF_THE_CHECKPOINT = ("checkpoint_repository", "graph", "name", "max_length")


class NoModelNamed(ConfigError):
    """Nothing says which model: no MODEL, no config file, no folder of a platform."""


def choose_config(
    model: str | Path | None = None,
    file: str | None = None,
    *,
    revision: str | None = None,
    flags: Mapping[str, Any] | None = None,
    alone: bool = False,
) -> Config:
    """Return the configuration for `model` (MODEL of a command), and for `file` (its --config).

    revision: of a name on the hub. flags: values by key ("server.port") that win over everything.
    alone: a folder or a name is taken with nothing but defaults, whatever the environment says.
    Raises `ConfigError`.
    """
    located = None if model is None else locate(str(model), revision)
    if revision is not None and (located is None or isinstance(located, Path)):
        raise ConfigError("a revision is for a hub repository, and a config file names its own; leave it out")
    if isinstance(located, Path):
        if file is not None:
            raise ConfigError(f"{model} is a config file, and so is --config {file}; give one of them")
        return _read(located, flags)
    if located is None:
        return _without_model(file, flags)
    environment = {} if alone else _environment()
    chosen = None if alone else file or os.environ.get(ENV_CONFIG)
    document: dict[str, Any] = {}
    folder = Path.cwd()
    if chosen:
        path = find_config(chosen)
        document, folder = read_document(path), path.resolve().parent
        if isinstance(section := document.get("model"), dict):
            document["model"] = {key: section[key] for key in section if key not in _OF_THE_CHECKPOINT}
    return parse_config(
        document, environment, folder, {"model.checkpoint_repository": located, **(flags or {})}
    )


def config_file(model: str | None = None, file: str | None = None) -> Path | None:
    """Return the config file that says it all, as `choose_config` would take it; None where no one file does.

    Raises `ConfigError`.
    """
    if model is not None:
        located = locate(model)
        return located if isinstance(located, Path) else None
    return None if _platform_folder(file) is not None else find_config(file)


def locate(model: str, revision: str | None = None) -> Path | dict[str, Any]:
    """Return the config file that MODEL names, or the `checkpoint_repository` for a folder or a name on the hub.

    What looks like a path and is not there is never looked up on the hub. Raises `ConfigError`.
    """
    if not model:  # as of a variable of the shell that is not set; it is no word for this folder
        raise ConfigError(
            "the model is empty; name a config file, a folder, or a hub repository as OWNER/NAME"
        )
    path = expand_home(model, "the model")
    with _reading(model):
        is_file, is_folder = path.is_file(), path.is_dir()
        is_model = is_folder and ((path / _MODEL_CONFIG).is_file() or _is_of_another_kind(path, model))
    if is_file:
        if path.suffix in _PARTS_OF_A_MODEL or path.name == _MODEL_CONFIG:
            raise ConfigError(f"{model} is a file of a model; name its folder")
        return path
    if is_model:
        if revision is not None:
            raise ConfigError(f"a revision is for a hub repository, but {model} is a folder; leave it out")
        return {"source": CheckpointSource.LOCAL.value, "path": str(Path.cwd() / path)}
    if is_folder and not _is_name(model):
        said, has_one = _no_model(path, model)
        raise ConfigError(f"{said}; name {'that' if has_one else 'a model'} folder")
    if is_folder:
        log.warning(
            "%s is taken as a name on the hub: the folder of that name here has no %s", model, _MODEL_CONFIG
        )
    return _on_the_hub(model, revision)


def _on_the_hub(model: str, revision: str | None) -> dict[str, Any]:
    """Return the `checkpoint_repository` for NAME or NAME@REVISION. Raises `ConfigError` for what is neither."""
    name, at, named_revision = model.partition("@")
    if "://" in model:
        raise ConfigError(f"{model} is an address; write OWNER/NAME (HF_ENDPOINT names another hub)")
    if not _is_name(name) or (at and not named_revision):
        what = "does not exist" if _LOOKS_LIKE_A_PATH.match(name) else "is no name on a hub"
        raise ConfigError(
            f"{model} {what}; name a config file, a folder with a {_MODEL_CONFIG}, or a hub repository as OWNER/NAME "
            "or OWNER/NAME@REVISION"
        )
    if revision is not None and named_revision not in ("", revision):
        raise ConfigError(f"{model} names another revision than {revision}; give one of them")
    return {"source": CheckpointSource.HF.value, "repo": name, "revision": named_revision or revision}


def _is_of_another_kind(folder: Path, model: str) -> bool:
    """Tell whether a folder that is named by its path holds something of a model, though no config.json."""
    return not _is_name(model) and any(name.endswith(_PARTS_OF_OTHERS) for name in _names_in(folder))


def _no_model(folder: Path, model: str) -> tuple[str, bool]:
    """Return what to say of a folder that is no model's, and whether one in it is. Raises `ConfigError`."""
    found, closed = [], []
    with _reading(model):
        for name in _names_in(folder):
            try:
                if (folder / name / _MODEL_CONFIG).is_file():
                    found.append(name)
            except OSError:
                closed.append(name)
    more = ""
    if found:
        more = f", but {found[0]} in it has one"
    elif closed:
        more = f", and {closed[0]} in it may not be read"
    return f"the folder {model} has no {_MODEL_CONFIG}{more}", bool(found)


def _names_in(folder: Path) -> list[str]:
    """Return what somebody has put into a folder: no hidden names, and not what a file system makes."""
    return sorted(name for name in os.listdir(folder) if name[0] != "." and name != _LOST_AND_FOUND)


@contextmanager
def _reading(model: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a folder on the way that may not be read, or no name for a file
        raise ConfigError(f"cannot read {model}: {error.strerror}; check its name and permissions") from error


def _is_name(name: str) -> bool:
    return _HUB_NAME.fullmatch(name) is not None and not _LOOKS_LIKE_A_PATH.match(name)


def find_config(path: str | None) -> Path:
    """Return the config file to use: the given one, `$NERVE_CONFIG`, or one at a default place.

    Raises `ConfigError` when there is none.
    """
    chosen = path or os.environ.get(ENV_CONFIG)
    candidates = (Path(chosen),) if chosen else (*DEFAULT_LOCATIONS, SHIPPED_CONFIG)
    for candidate in candidates:
        if _is_file(candidate):
            return candidate
    if chosen:
        raise ConfigError(f"no config file at {chosen}; name one with --config FILE or {ENV_CONFIG}")
    tried = " or ".join(str(candidate) for candidate in DEFAULT_LOCATIONS)
    raise NoModelNamed(f"no model is named, and there is no config file at {tried}; name {_WHAT_TO_NAME}")


def config_of_machine() -> Config:
    """Return what holds here without any model: the defaults, and what the environment says. Raises `ConfigError`."""
    document = {"model": {"checkpoint_repository": {"source": CheckpointSource.LOCAL.value, "path": "."}}}
    return parse_config(document, dict(os.environ), Path.cwd())


def has_config_file() -> bool:
    """Tell whether a command without MODEL has something to go by."""
    try:
        return _platform_folder(None) is not None or find_config(None).is_file()
    except ConfigError:
        return False


def default_config_text() -> str:
    """Return the config file to begin with, which the package brings: the default model, every key explained."""
    return _DEFAULT_CONFIG.read_text(encoding="utf-8")


def _without_model(file: str | None, flags: Mapping[str, Any] | None) -> Config:
    """Return what a config file says, or the configuration for the folder of a platform."""
    folder = _platform_folder(file)
    if folder is None:
        return _read(find_config(file), flags)
    with _reading(str(folder)):
        is_model = (folder / _MODEL_CONFIG).is_file() or _is_of_another_kind(folder, str(folder))
    if not is_model:
        raise ConfigError(f"no model is named, and {_no_model(folder, str(folder))[0]}; name {_WHAT_TO_NAME}")
    log.info("no config file: the model is that of the platform, %s", folder)
    source = {"source": CheckpointSource.LOCAL.value, "path": str(folder)}
    document = {"model": {"checkpoint_repository": source}, "server": {"port": _PLATFORM_PORT}}
    return parse_config(document, _environment(), folder, flags)


def _platform_folder(file: str | None) -> Path | None:
    """Return the model folder of a platform, where there is one and no config file.

    One that holds something else is meant, too, or may not be read: the image's own model in its place would answer,
    and wrongly.
    """
    if file or os.environ.get(ENV_CONFIG) or any(map(_is_file, DEFAULT_LOCATIONS)):
        return None
    there = [folder for folder in PLATFORM_FOLDERS if os.path.isdir(folder) and _is_used(folder)]
    with_model = (folder for folder in there if os.path.isfile(folder / _MODEL_CONFIG))
    return next(with_model, next(iter(there), None))


def _is_file(path: Path) -> bool:
    """Tell whether a config file is there. Raises `ConfigError` where that cannot be told."""
    with _reading(str(path)):
        return path.is_file()


def _is_used(folder: Path) -> bool:
    try:
        return bool(_names_in(folder))
    except OSError:
        return True


def _read(path: Path, flags: Mapping[str, Any] | None) -> Config:
    return parse_config(read_document(path), _environment(), path.resolve().parent, flags)


def _environment() -> dict[str, str]:
    """Return the environment; what looks like a setting in it and is none is a warning."""
    environment = dict(os.environ)
    warn_of_strays(environment)
    return environment
