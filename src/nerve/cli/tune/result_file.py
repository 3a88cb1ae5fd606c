"""Writes the config file that `nerve tune` found: the user's own file with the tuned keys changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import yaml

from nerve.api import override
from nerve.checkpoint.storage import write_whole
from nerve.cli.tune.config_edit import edit
from nerve.cli.tune.plan import apply
from nerve.config import CheckpointSource, parse_config
from nerve.corpus.records import InputError
from nerve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nerve.cli.tune.plan import Setting
    from nerve.config import Config

_NOTE = "nerve tune"


def write_tuned(
    out: Path,
    file: Path | None,
    config: Config,
    setting: Setting,
    head: Sequence[str],
    min_agreement: float | None = None,
) -> None:
    """Write `file` with the keys of `setting` to `out`, its comments kept and `head` as comment above them.

    config: what `file` says, or where it is None the command line, with what the environment overrides.
    min_agreement: written, too, unless None.
    A file that cannot be edited in place (another format, aliases) is written afresh, with all keys.
    Raises `InputError`.
    """
    tuned = apply(config, setting)
    content = None if file is None else _edited(file, out, setting, min_agreement)
    if content is None:
        content = yaml.safe_dump(msgspec.to_builtins(tuned), sort_keys=False, allow_unicode=True)
    comment = "".join(f"# {line}\n" for line in head)
    try:
        write_whole(out, f"{comment}\n{content}")
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}; name another file with --out") from error


def _edited(file: Path, out: Path, setting: Setting, min_agreement: float | None) -> str | None:
    """Return the edited text, or None when it would not mean what it should."""
    text = file.read_text(encoding="utf-8")
    folder = file.resolve().parent
    try:
        own = parse_config(yaml.safe_load(text), {}, folder)
        values = setting.values_by_key()
        if min_agreement is not None:
            values["model", "min_agreement"] = min_agreement
            own = override(own, {"model": {"min_agreement": min_agreement}})
        if out.resolve().parent != folder:
            values |= _anchored(own)
        edited = edit(text, values, _NOTE)
        found = parse_config(yaml.safe_load(edited), {}, out.resolve().parent)
    except (ValueError, ConfigError, yaml.YAMLError):
        return None
    return edited if found == apply(own, setting) else None


def _anchored(config: Config) -> dict[tuple[str, ...], Any]:
    """Return the paths of a configuration, which are absolute here, for a file in another folder."""
    checkpoint = config.model.checkpoint_repository
    paths: dict[tuple[str, ...], Any] = {
        ("model", "cache_dir"): config.model.cache_dir,
        ("server", "uds"): config.server.uds,
        ("server", "api_key_file"): config.server.api_key_file,
    }
    if checkpoint.source is CheckpointSource.LOCAL:
        paths[("model", "checkpoint_repository", "path")] = checkpoint.path
    if config.server.tls is not None:
        tls = msgspec.to_builtins(config.server.tls)
        paths |= {("server", "tls", name): value for name, value in tls.items()}
    return {path: value for path, value in paths.items() if value is not None}
