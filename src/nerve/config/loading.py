"""Turns one YAML file, plus the environment, into one frozen and checked `Config`.

Besides `selection`, which says which file, the only module that reads the environment, or YAML (`cli.tune.config_edit`
changes a file in place). Later layers win: the defaults of `schema`, the file, variables of a platform, variables such
as `NERVE_SERVER__PORT=9000` (for `server.port`), flags of the command line. Secrets never stand in the file: the API
key comes from `NERVE_API_KEY` or the file named by `server.api_key_file`, the hub token from `HF_TOKEN` as
`huggingface_hub` defines it.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import yaml

from nerve.config import platforms
from nerve.config.explaining import explain, section_in, type_at
from nerve.config.schema import CheckpointSource, Config, ServerConfig
from nerve.config.truss import from_truss
from nerve.errors import ConfigError
from nerve.types import PatternName

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger(__name__)

ENV_PREFIX = "NERVE_"
ENV_API_KEY = "NERVE_API_KEY"
# Variables that hold keys.
SECRETS = (ENV_API_KEY, "NERVE_REDACTION_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_API_KEY_FILE = "server.api_key_file"
_OTLP_PROTOCOL = "http/protobuf"

SectionT = TypeVar("SectionT", bound=msgspec.Struct)


def _in_one_line(error: yaml.YAMLError) -> str:
    """Return what is wrong and where; PyYAML's own text quotes the place over several lines."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem}, in line {mark.line + 1}, column {mark.column + 1}"
    return " ".join(str(error).split())


def load_config(path: Path) -> Config:
    """Read, override from the environment, check and freeze the file at `path`.

    Paths inside the file are relative to its folder. Raises `ConfigError`, naming the key's path.
    """
    return parse_config(read_document(path), environment=dict(os.environ), folder=path.resolve().parent)


def read_document(path: Path) -> dict[str, Any]:
    """Return the decoded file at `path`, one of Truss translated. Raises `ConfigError`."""
    try:
        document: Any = _deep_copy(_parse_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check its name and permissions") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as that") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {_in_one_line(error)}; correct it there") from error
    except RecursionError as error:
        raise ConfigError(
            f"{path} refers to itself, or is nested too deeply; write it without anchors"
        ) from error
    if not isinstance(document, dict):
        raise ConfigError(
            f"{path} must hold a mapping with the sections of a nerve config, at least `model`; write one with "
            "`nerve init`"
        )
    if "trt_llm" in document:
        document, ignored = from_truss(document)
        if ignored:
            log.warning("Truss keys without a meaning here, ignored: %s", ", ".join(ignored))
    found: dict[str, Any] = document
    return found


def parse_config(
    document: dict[str, Any],
    environment: dict[str, str],
    folder: Path,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Check a decoded document; `folder` anchors its relative paths. Raises `ConfigError`.

    flags: values by key, as "server.port", that win over the environment.
    """
    merged = _with_platform(_without_nulls(document, Config), environment)
    merged = _with_flags(_override(merged, environment), flags or {})
    merged = _with_standard_tracing(merged, environment)
    try:
        config = msgspec.convert(merged, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(explain(merged, str(error))) from error
    if config.tracing.endpoint is not None and not _has_opentelemetry():
        raise ConfigError("tracing.endpoint needs OpenTelemetry: install nerve[otel], or remove the key")
    if PatternName.PHONE_NUMBER in config.runtime.patterns and not has_phonenumbers():
        raise ConfigError(
            "runtime.patterns: phone_number needs phonenumbers: install nerve[phone], or leave it out"
        )
    return _anchor_paths(config, folder)


def has_phonenumbers() -> bool:
    """Tell whether the extra that the pattern `phone_number` needs is installed."""
    return importlib.util.find_spec("phonenumbers") is not None


def load_api_key(server: ServerConfig) -> str | None:
    """Return the API key that clients must send, or None when none is configured.

    White space around it is not part of it: a file, and a Kubernetes secret, mostly end with a newline. Raises
    `ConfigError` when the key file cannot be read, and for a key that no client could send.
    """
    key = os.environ.get(ENV_API_KEY)
    if key is not None:
        return _check_api_key(key.strip(), ENV_API_KEY)
    if server.api_key_file is not None:
        return _check_api_key(read_secret(Path(server.api_key_file), _API_KEY_FILE).strip(), _API_KEY_FILE)
    return None


def _check_api_key(key: str, origin: str) -> str:
    """Refuse a key that cannot stand in a header. It is quoted nowhere."""
    if not key:
        raise ConfigError(
            f"{origin}: the API key is empty; remove {ENV_API_KEY} and {_API_KEY_FILE}, or set one"
        )
    if not all(" " <= character <= "~" for character in key):
        raise ConfigError(
            f"{origin}: the API key holds a line break, a control character or a letter that is not ASCII, which no "
            "header can carry; choose one of ASCII letters, digits and signs in one line"
        )
    return key


def read_secret(path: Path, origin: str) -> str:
    """Return the secret in a file, without the line break at its end. Raises `ConfigError`, which names `origin`."""
    try:
        return path.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{origin}: {path} is not UTF-8 text; save it as that") from error
    except OSError as error:
        raise ConfigError(
            f"{origin}: cannot read {path}: {error.strerror}; check its name and permissions"
        ) from error


def environment_without_overrides() -> dict[str, str]:
    """Return the environment for a server that takes its settings from its file alone, and needs no API key."""
    own = ("NERVE_CONFIG", ENV_API_KEY, *platforms.KEYS)
    return {k: v for k, v in os.environ.items() if k not in own and not _is_override(k)}


def environment_without_secrets() -> dict[str, str]:
    """Return the environment for a process that needs no key of any kind, and is told its configuration."""
    own = ("NERVE_CONFIG", *SECRETS)
    return {k: v for k, v in os.environ.items() if k not in own and not _is_override(k)}


def overridden_keys() -> list[str]:
    """Return the keys, as `cpu.threads`, that the environment overrides."""
    names = sorted(name for name in os.environ if _is_override(name))
    return [name.removeprefix(ENV_PREFIX).lower().replace("__", ".") for name in names]


def _is_override(name: str) -> bool:
    return name.startswith(ENV_PREFIX) and "__" in name


def default_cache_dir() -> Path:
    """Return the folder for checkpoints and graphs when `model.cache_dir` is null; the hub's library has its own.

    Raises `ConfigError`.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else expand_home("~/.cache", "model.cache_dir")) / "nerve"


def check_hub_cache() -> None:
    """Raise `ConfigError` where the hub's library would find no folder to keep files in.

    It would make one that is called `~`.
    """
    if not any(os.environ.get(name) for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME")):
        expand_home("~/.cache", "HF_HOME")


def expand_home(path: str, origin: str) -> Path:
    """Return a path with `~` resolved. Raises `ConfigError`, which names `origin`, for a user without a home."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{origin}: there is no home folder for {Path(path).parts[0]}; name a folder with its whole path "
            f"(model.cache_dir or NERVE_MODEL__CACHE_DIR for the cache), or set HOME"
        ) from error


def cache_dir_of(config: Config) -> Path:
    """Return the folder for checkpoints and graphs."""
    return Path(config.model.cache_dir) if config.model.cache_dir else default_cache_dir()


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key twice in one mapping; PyYAML would let the last one win in silence."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:  # noqa: ANN401 - the stub's type is wrong
        """Compose one mapping and check its keys."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"{key.value}: the key stands there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def _parse_yaml(text: str) -> Any:  # noqa: ANN401 - a decoded YAML value can be anything
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _without_nulls(document: dict[str, Any], section: type[msgspec.Struct]) -> dict[str, Any]:
    """Leave out the keys of a section that are null where null is no value of theirs: they count as absent."""
    declared = {field.name: field.type for field in msgspec.structs.fields(section)}
    kept = {}
    for key, value in document.items():
        below = section_in(declared.get(key))
        if isinstance(value, dict) and below is not None:
            kept[key] = _without_nulls(value, below)
        elif value is not None or key not in declared or _takes_null(declared[key]):
            kept[key] = value
    return kept


def _takes_null(declared: Any) -> bool:  # noqa: ANN401 - see `type_at`
    return type(None) in getattr(declared, "__args__", ())


def _override(document: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Return a copy of `document` with `NERVE_A__B=value` written at `a.b`; values are YAML."""
    merged: dict[str, Any] = _deep_copy(document)
    for name, text in sorted(environment.items()):
        if not _is_override(name):
            continue
        *sections, key = name.removeprefix(ENV_PREFIX).lower().split("__")
        target = merged
        for section in sections:
            if target.get(section) is None:
                target[section] = {}
            target = target[section]
            if not isinstance(target, dict):
                raise ConfigError(
                    f"environment variable {name}: {'.'.join(sections)} is not a section; name one of "
                    f"{', '.join(Config.__struct_fields__)}, and a key in it"
                )
        target[key] = _parse_variable(name, text, type_at([*sections, key]))
    return {key: value for key, value in merged.items() if value is not None}


def _with_platform(document: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Return a copy of `document` with what a platform's variables say; it goes before the file, after `NERVE_*`."""
    said = {
        key: _parse_variable(name, text, type_at(key.split(".")))
        for key, (name, text) in platforms.said_by_platform(environment).items()
    }
    return _with_flags(document, said)


def _with_flags(document: dict[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `document` with values at keys such as "server.port"; a section that is none stays one."""
    merged: dict[str, Any] = _deep_copy(document)
    for path, value in flags.items():
        section, _, key = path.partition(".")
        if isinstance(target := merged.setdefault(section, {}), dict):
            target[key] = value
    return merged


def _with_standard_tracing(document: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Take `tracing.endpoint` from OpenTelemetry's standard variables where it is not set.

    Whole clusters set them for every process, so what cannot be done with them is a warning.
    """
    endpoint = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not endpoint and (base := environment.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        endpoint = f"{base.rstrip('/')}/v1/traces"
    tracing = document.get("tracing") or {}
    is_off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp"
    )
    if not endpoint or is_off or not isinstance(tracing, dict) or tracing.get("endpoint"):
        return document
    protocol = environment.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environment.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", _OTLP_PROTOCOL
    )
    if protocol != _OTLP_PROTOCOL:
        log.warning("no traces: OTLP is spoken as %s only, not as the environment asks", _OTLP_PROTOCOL)
    elif not _has_opentelemetry():
        log.warning(
            "no traces, although the environment names an OTLP endpoint: nerve[otel] is not installed"
        )
    else:
        return {**document, "tracing": {**tracing, "endpoint": endpoint}}
    return document


def _has_opentelemetry() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:
        return False


def _parse_variable(name: str, text: str, declared: Any) -> Any:  # noqa: ANN401 - a YAML value, a type
    """Read a variable as YAML; a key that holds text takes it as it stands, be it `::`, `660` or `no`."""
    try:
        value = _parse_yaml(text)
    except yaml.YAMLError as error:
        value = error
    if value is None or isinstance(value, str):
        return value
    try:
        if type(msgspec.convert(text, declared)) is str:
            return text
    except msgspec.ValidationError:
        pass  # not text that the key takes: the value is checked with all others
    if isinstance(value, yaml.YAMLError):
        raise ConfigError(
            f"environment variable {name} does not hold a valid value; write it as YAML, and text in quotes"
        ) from value
    return value


def _deep_copy(value: Any) -> Any:  # noqa: ANN401 - a decoded YAML value can be anything
    if isinstance(value, dict):
        return {key: _deep_copy(item) for key, item in value.items()}
    return value


def _anchor_paths(config: Config, folder: Path) -> Config:
    """Make the paths of the file absolute, so that nothing depends on the working directory."""

    def anchor(section: SectionT, origin: str, *names: str) -> SectionT:
        changed = {
            name: str(folder / expand_home(value, f"{origin}.{name}"))
            for name in names
            if (value := getattr(section, name))
        }
        return msgspec.structs.replace(section, **changed)

    checkpoint = config.model.checkpoint_repository
    if checkpoint.source is CheckpointSource.LOCAL:
        checkpoint = anchor(checkpoint, "model.checkpoint_repository", "path")
    server = anchor(config.server, "server", "uds", "api_key_file")
    if server.tls is not None:
        tls = anchor(server.tls, "server.tls", "certificate", "key", "client_ca", "key_password_file")
        server = msgspec.structs.replace(server, tls=tls)
    redaction = anchor(config.redaction, "redaction", "key_file")
    model = anchor(config.model, "model", "cache_dir")
    model = msgspec.structs.replace(model, checkpoint_repository=checkpoint)
    return msgspec.structs.replace(config, model=model, server=server, redaction=redaction)
