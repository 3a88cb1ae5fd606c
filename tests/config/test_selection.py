"""Which configuration a command runs with: MODEL, --config, the usual places, a platform's folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from nerve.config import Config, choose_config, config_file
from nerve.config import selection as selection_module
from nerve.errors import ConfigError

OTHER = {
    "model": {
        "checkpoint_repository": {"source": "HF", "repo": "other/model", "revision": "v1"},
        **{
            "graph": "onnx/other.onnx",
            "name": "other",
            "max_length": 128,
            "precision": "int8",
            "cache_dir": "mine",
        },
    },
    "server": {"port": 9100},
    "runtime": {"window_stride": 7},
}


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, without config files or platforms of this machine."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("NERVE_CONFIG", "AIP_HTTP_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(selection_module, "DEFAULT_LOCATIONS", (Path("config.yaml"), tmp_path / "etc.yaml"))
    monkeypatch.setattr(selection_module, "PLATFORM_FOLDERS", (tmp_path / "opt", tmp_path / "mnt"))
    monkeypatch.setattr(selection_module, "SHIPPED_CONFIG", tmp_path / "shipped.yaml")
    return work


def write(path: Path, document: object = OTHER) -> Path:
    """Write a config file, which serves another model."""
    path.write_text(yaml.safe_dump(document))
    return path


def write_model(folder: Path) -> Path:
    """Write a folder that is one of a model at first sight."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return folder


STRANGER = 54321


@contextmanager
def closed_to_us(*folders: Path) -> Iterator[None]:
    """Let nobody into folders, and be nobody: root reads everything."""
    is_root = os.geteuid() == 0
    for folder in folders:
        folder.chmod(0)
    if is_root:
        os.seteuid(STRANGER)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)
        for folder in folders:
            folder.chmod(0o755)


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """Make a folder that every user may read; those of pytest are its user's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def source_of(config: Config) -> tuple[str, str | None, str | None]:
    """Return what would be served: source, repository or folder, revision."""
    found = config.model.checkpoint_repository
    return found.source.value, found.repo or found.path, found.revision


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("dslim/bert-base-NER", ("HF", "dslim/bert-base-NER", None)),
        ("gpt2", ("HF", "gpt2", None)),
        ("dslim/bert-base-NER@v1.0", ("HF", "dslim/bert-base-NER", "v1.0")),
        ("dslim/bert-base-NER@refs/pr/3", ("HF", "dslim/bert-base-NER", "refs/pr/3")),
        ("a/b.c-d_e", ("HF", "a/b.c-d_e", None)),
    ],
)
def test_a_name_on_the_hub(model: str, expected: tuple[str, str | None, str | None]) -> None:
    """OWNER/NAME or NAME, with or without a revision; no config file need be in reach."""
    assert source_of(choose_config(model)) == expected


def test_a_folder_and_a_file(nowhere: Path) -> None:
    """A folder that has a config.json is a model, whatever it is called; a file is a config file."""
    for name in ("owner/model", "model", "deep/er/model", "odd name@1"):
        folder = write_model(nowhere / name)
        assert source_of(choose_config(name)) == ("LOCAL", str(folder), None)
        assert source_of(choose_config(str(folder))) == ("LOCAL", str(folder), None)
    config = write(nowhere / "prod.conf")
    assert source_of(choose_config("prod.conf")) == ("HF", "other/model", "v1")
    assert config_file("prod.conf") == Path(config.name)
    assert config_file("owner/model") is None


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "./nope",
            r"^\./nope does not exist; name a config file, a folder with a config\.json, or a hub repository",
        ),
        ("/no/where", "does not exist"),
        ("~/nope", "does not exist"),
        ("a/b/c", "does not exist"),
        ("models/", "does not exist"),
        ("nope.yaml", "does not exist"),
        ("a\\b", "does not exist"),
        ("", "^the model is empty; name a"),
        ("owner/na me", "is no name on a hub"),
        ("owner/name@", "OWNER/NAME@REVISION"),
        ("@main", "is no name on a hub"),
        ("https://huggingface.co/owner/name", "is an address; write OWNER/NAME"),
        ("./empty", r"^the folder \./empty has no config\.json; name a model folder"),
        ("./outer", r"^the folder \./outer has no config\.json, but model in it has one; name that folder"),
        ("model/config.json", "is a file of a model; name its folder"),
        ("model/model.safetensors", "is a file of a model; name its folder"),
        ("x" * 5000, "cannot read .*: File name too long"),
    ],
)
def test_what_looks_like_a_path_is_never_looked_up_on_a_hub(nowhere: Path, model: str, message: str) -> None:
    """What is not there is said so, in a line that says what to write."""
    (nowhere / "empty").mkdir()
    write_model(nowhere / "outer" / "model")
    write_model(nowhere / "model")
    (nowhere / "model" / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=message):
        choose_config(model)


def test_a_folder_without_a_config_may_be_a_name(nowhere: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of results is called as its model, often; that is said."""
    (nowhere / "dslim" / "bert-base-NER").mkdir(parents=True)
    assert source_of(choose_config("dslim/bert-base-NER"))[0] == "HF"
    assert "the folder of that name here has no config.json" in caplog.text


@pytest.mark.parametrize("name", ["adapter_config.json", "x.gguf", "model.safetensors", "config.cfg"])
def test_a_folder_with_something_of_a_model_is_looked_at(nowhere: Path, name: str) -> None:
    """It is refused where what it is can be told: an adapter, another library's model."""
    (nowhere / "folder").mkdir()
    (nowhere / "folder" / name).touch()
    assert source_of(choose_config("./folder"))[0] == "LOCAL"


def test_a_config_file_of_another_model_does_not_leak(nowhere: Path, tmp_path: Path) -> None:
    """With a model named, a config file that only lies there says nothing at all."""
    write(nowhere / "config.yaml")
    write(tmp_path / "etc.yaml")
    assert choose_config("owner/name") == choose_config("owner/name", alone=True)
    assert choose_config("owner/name").server.port == 8000


@pytest.mark.parametrize("how", ["--config", "NERVE_CONFIG"])
def test_a_config_file_that_is_named_says_the_rest(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Of its model what belongs to the machine holds, and what belongs to the checkpoint does not."""
    file = write(nowhere / "base.yaml")
    if how == "NERVE_CONFIG":
        monkeypatch.setenv("NERVE_CONFIG", str(file))
    config = choose_config("owner/name@v2", str(file) if how == "--config" else None)
    assert source_of(config) == ("HF", "owner/name", "v2")
    model = config.model
    assert (model.graph, model.name, model.max_length) == (None, None, None)
    assert (model.precision.value, model.cache_dir) == ("int8", str(nowhere / "mine"))
    assert (config.server.port, config.runtime.window_stride) == (9100, 7)
    folder = write_model(nowhere / "model")
    assert source_of(choose_config("model", str(file))) == ("LOCAL", str(folder), None)
    with pytest.raises(ConfigError, match="is a config file, and so is --config"):
        choose_config(str(file), str(file))


def test_flag_over_variable_over_platform_over_file(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The port, said four times; each is heard where nothing stronger speaks."""
    file = str(write(nowhere / "base.yaml"))

    def port(**flags: Any) -> int:
        return choose_config(
            "owner/name", file, flags={f"server.{k}": v for k, v in flags.items()}
        ).server.port

    assert choose_config("owner/name").server.port == 8000
    assert port() == 9100
    monkeypatch.setenv("AIP_HTTP_PORT", "9200")
    assert port() == 9200
    assert choose_config(file).server.port == 9200
    monkeypatch.setenv("NERVE_SERVER__PORT", "9300")
    assert port() == 9300
    assert port(port=9400) == 9400
    monkeypatch.setenv("NERVE_MODEL__CHECKPOINT_REPOSITORY__REPO", "of/a-variable")
    assert source_of(choose_config("owner/name")) == ("HF", "owner/name", None)
    assert source_of(choose_config(file))[1] == "of/a-variable"
    monkeypatch.delenv("NERVE_SERVER__PORT")
    monkeypatch.setenv("AIP_HTTP_PORT", "many")
    with pytest.raises(ConfigError, match=r"server\.port"):
        choose_config("owner/name")


def test_nothing_named(nowhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A config file, else the folder of a platform with the port that platforms use, else the shipped file."""
    with pytest.raises(ConfigError, match=r"no model is named, and there is no config file at .* OWNER/NAME"):
        choose_config()
    write(
        tmp_path / "shipped.yaml", {"model": {"checkpoint_repository": {"source": "HF", "repo": "a/shipped"}}}
    )
    assert source_of(choose_config())[1] == "a/shipped"
    (tmp_path / "opt").mkdir()  # a platform without a model
    folder = write_model(tmp_path / "mnt")
    found = choose_config()
    assert (source_of(found), found.server.port) == (("LOCAL", str(folder), None), 8080)
    assert config_file() is None
    monkeypatch.setenv("AIP_HTTP_PORT", "9200")
    assert choose_config().server.port == 9200
    file = write(tmp_path / "etc.yaml")
    assert source_of(choose_config())[1] == "other/model"
    assert config_file() == file
    with pytest.raises(ConfigError, match="no config file at"):
        choose_config(file=str(tmp_path / "no.yaml"))


@pytest.mark.parametrize("name", ["a/b", "a b", "", "-a", "a?", "x" * 201])
def test_names_that_no_route_can_hold(name: str) -> None:
    """The name of a model stands in paths."""
    with pytest.raises(ConfigError, match=r"model\.name"):
        choose_config("owner/name", flags={"model.name": name})


def test_an_address_of_tcp_wins_over_a_socket(nowhere: Path) -> None:
    """A flag with null takes the file's value away."""
    file = str(write(nowhere / "base.yaml", {**OTHER, "server": {"uds": "here.sock"}}))
    assert choose_config(file).server.uds == str(nowhere / "here.sock")
    assert choose_config(file, flags={"server.port": 1, "server.uds": None}).server.uds is None


def test_a_platforms_folder_without_a_model_is_no_reason_to_serve_another(
    nowhere: Path, tmp_path: Path
) -> None:
    """An archive that was packed one folder too deep is refused, and named; the image's own model would answer."""
    write(tmp_path / "shipped.yaml")
    (tmp_path / "opt").mkdir()
    assert source_of(choose_config())[1] == "other/model"  # empty, as where there is no archive
    write_model(tmp_path / "opt" / "my-model")
    with pytest.raises(
        ConfigError, match=r"opt has no config\.json, but my-model in it has one; .*NERVE_CONFIG"
    ):
        choose_config()
    write_model(tmp_path / "mnt")
    assert source_of(choose_config()) == ("LOCAL", str(tmp_path / "mnt"), None)


def test_what_a_file_system_makes_is_nothing_of_a_platform(nowhere: Path, tmp_path: Path) -> None:
    """A fresh volume of ext4 has `lost+found`; hidden names are nobody's model."""
    write(tmp_path / "shipped.yaml")
    for name in ("opt/lost+found", "mnt/.cache"):
        write_model(tmp_path / name)
    assert source_of(choose_config())[1] == "other/model"
    (tmp_path / "mnt" / "README.md").touch()
    with pytest.raises(ConfigError) as caught:
        choose_config()
    # As on a workstation with such a folder: how a model is named.
    assert str(caught.value) == (
        f"no model is named, and the folder {tmp_path / 'mnt'} has no config.json; name a model (a folder, or "
        "OWNER/NAME on the hub), or a config file with --config FILE or NERVE_CONFIG"
    )


def test_what_may_not_be_read_is_an_error_of_the_configuration(
    nowhere: Path, shared_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders of other users, wherever they lie."""
    models, etc = shared_folder / "models", shared_folder / "etc"
    for folder in (models / "lost+found", models / "theirs", etc):
        folder.mkdir(parents=True)
    monkeypatch.setattr(selection_module, "PLATFORM_FOLDERS", (models,))
    monkeypatch.setattr(selection_module, "DEFAULT_LOCATIONS", (shared_folder / "config.yaml",))
    has_no_model = rf"the folder {models} has no config\.json"
    with (
        closed_to_us(models / "lost+found"),
        pytest.raises(ConfigError, match=f"{has_no_model}; name a model folder"),
    ):
        choose_config(str(models))
    with closed_to_us(models / "lost+found", models / "theirs"):
        for model in (str(models), None):
            with pytest.raises(
                ConfigError, match=f"{has_no_model}, and theirs in it may not be read; name a model"
            ):
                choose_config(model)
    with closed_to_us(models):
        for model in (str(models), None):
            with pytest.raises(ConfigError, match=f"cannot read {models}: Permission denied"):
                choose_config(model)
    monkeypatch.setattr(selection_module, "DEFAULT_LOCATIONS", (etc / "config.yaml",))
    with (
        closed_to_us(etc),
        pytest.raises(ConfigError, match=f"cannot read {etc}/config.yaml: Permission denied"),
    ):
        choose_config()
