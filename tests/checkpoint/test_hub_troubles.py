"""A hub as users have it: tokens, mirrors, other hosts, renamed repositories, bad names, slow and broken answers."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from hub_stand_in import COMMIT, HubStandIn, Repository, read_folder
from nerve.checkpoint import ModelFolder, fetch_checkpoint
from nerve.checkpoint import hub as hub_source
from nerve.checkpoint.folder import is_inside
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig
from nerve.errors import CheckpointError
from nerve.graph import is_buildable

REPO = "owner/tiny-ner"
CONFIG = {
    "architectures": ["BertForTokenClassification"],
    "model_type": "bert",
    "id2label": {"0": "O", "1": "B-X"},
}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"a": 1}',
    "model.safetensors": b"the weights of a model",
}
OTHER_COMMIT = "c" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """Return a running hub, and an environment without the tokens of this machine."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with HubStandIn({REPO: Repository(dict(FILES))}) as hub:
        yield hub


def fetch(hub: HubStandIn, cache: Path, repo: str = REPO, revision: str | None = None) -> ModelFolder:
    """Fetch in this process; the address is an argument because HF_ENDPOINT is read at import only."""
    source = CheckpointConfig(source=CheckpointSource.HF, repo=repo, revision=revision)
    model = ModelConfig(checkpoint_repository=source, cache_dir=str(cache))
    return hub_source.fetch(model, cache, is_buildable=is_buildable, endpoint=hub.url)


def one_line(error: pytest.ExceptionInfo[CheckpointError]) -> str:
    """Return a message, which must be a line."""
    message = str(error.value)
    assert "\n" not in message
    return message


def test_the_token_goes_to_the_hub_and_to_no_other_host(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every request to the hub carries it; the host that large files are on, which a redirect names, gets none."""
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    hub.token, hub.repositories[REPO].is_private = "hf_right", True
    found = fetch(hub, tmp_path)
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    assert set(hub.tokens["hub"]) == {"Bearer hf_right"}
    assert hub.tokens["cdn"]
    assert set(hub.tokens["cdn"]) == {None}


def test_a_private_repository_is_none_to_others(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub does not tell it from one that is not there; the message names both, and the token."""
    hub.token, hub.repositories[REPO].is_private = "hf_right", True
    with pytest.raises(CheckpointError, match="or it is private and no token is set") as caught:
        fetch(hub, tmp_path)
    assert "HF_TOKEN" in one_line(caught)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CheckpointError, match="or it is private and its token has no access"):
        fetch(hub, tmp_path)


@pytest.mark.parametrize("prefix", ["", "/hf/mirror"])
def test_a_renamed_repository_is_served_under_its_new_name(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, and the cache is that of the new name; the old one still works without a network."""
    with HubStandIn({REPO: Repository(dict(FILES))}, prefix=prefix) as hub:
        hub.renamed["old/name"] = REPO
        found = fetch(hub, tmp_path, "old/name")
        assert (found.model_id, found.path.parts[-3]) == (REPO, "models--owner--tiny-ner")
        assert caplog.text.count("the repository old/name is called owner/tiny-ner now; name it so") == 1
        assert fetch(hub, tmp_path) == found
        assert caplog.text.count("is called") == 1
    assert fetch(hub, tmp_path, "old/name") == found  # the hub is gone
    assert "hub not reachable" in caplog.text


def test_a_mirror_below_a_path(tmp_path: Path) -> None:
    """HF_ENDPOINT may have a path: all requests go below it."""
    with HubStandIn({REPO: Repository(dict(FILES))}, prefix="/hf/mirror") as hub:
        assert fetch(hub, tmp_path).revision == COMMIT
        assert hub.downloaded == set(FILES)


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/3", OTHER_COMMIT])
def test_every_kind_of_revision(hub: HubStandIn, tmp_path: Path, revision: str) -> None:
    """A tag, a pull request and a commit name the files of their commit, not those of main."""
    repository = hub.repositories[REPO]
    repository.refs |= {revision: OTHER_COMMIT, OTHER_COMMIT: OTHER_COMMIT}
    repository.others[OTHER_COMMIT] = {**FILES, "model.safetensors": b"other weights"}
    found = fetch(hub, tmp_path, revision=revision)
    assert found.revision == OTHER_COMMIT
    assert (found.path / "model.safetensors").read_bytes() == b"other weights"


def test_a_short_commit_is_refused_with_what_to_write(hub: HubStandIn, tmp_path: Path) -> None:
    """The hub knows whole commits only; so says the message."""
    with pytest.raises(
        CheckpointError, match=r"no revision aaaaaaa; .* a commit with all its 40 digits"
    ) as caught:
        fetch(hub, tmp_path, revision=COMMIT[:7])
    assert "OWNER/NAME@REVISION" in one_line(caught)


OUTSIDE = [
    "../x.onnx",
    "/etc/x.onnx",
    "a/../../b.onnx",
    "a//b.onnx",
    "./c.onnx",
    "..\\d.onnx",
    "e\n.onnx",
    "f\ud800.onnx",
    f"{'g' * 256}.onnx",
    "",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder_are_none_of_its_files(name: str) -> None:
    """Nor are those that no file can have, or that would draw on a terminal."""
    assert not is_inside(name)
    assert is_inside("onnx/model_fp16.onnx")


def test_a_listing_of_odd_names_does_no_harm(hub: HubStandIn, tmp_path: Path) -> None:
    """Thousands of files, and such as lie elsewhere: what is needed comes, nothing else is touched or named."""
    files = hub.repositories[REPO].files
    files |= dict.fromkeys([*OUTSIDE, *(f"many/{number}.onnx" for number in range(5000))], b"bad")
    cache = tmp_path / "a" / "b" / "cache"
    found = fetch(hub, cache)
    assert hub.downloaded == set(FILES)
    assert {file.name for file in found.path.rglob("*")} == set(FILES)
    source = CheckpointConfig(source=CheckpointSource.HF, repo=REPO)
    model = ModelConfig(checkpoint_repository=source, cache_dir=str(cache), graph="nope.onnx")
    with pytest.raises(CheckpointError, match=r"many/0\.onnx.* and 4980 more") as caught:
        hub_source.fetch(model, cache, is_buildable=is_buildable, endpoint=hub.url)
    assert ".." not in one_line(caught)
    del files["model.safetensors"]
    for name in list(files):
        if name.startswith("many/"):
            del files[name]
    with pytest.raises(CheckpointError, match="has neither"):  # the graphs elsewhere are none
        fetch(hub, tmp_path / "other")


def graph_with_data(location: str) -> bytes:
    """Return an ONNX graph whose one tensor lies in the file `location`."""
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    return bytes(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "a/../../b", "..\\b"])
@pytest.mark.parametrize("main", ["model.safetensors.index.json", "onnx/model.onnx"])
def test_a_file_that_names_another_place_is_refused_by_name(
    hub: HubStandIn, tmp_path: Path, main: str, location: str
) -> None:
    """An index or a graph that names what is not in its folder: from a hub, and in a folder."""
    named = f"../{location}" if main.startswith("onnx/") and location.startswith("a/") else location
    content = (
        graph_with_data(named)
        if main.endswith(".onnx")
        else json.dumps({"weight_map": {"x": named}}).encode()
    )
    files: dict[str, Any] = {**FILES, main: content}
    del files["model.safetensors"]
    hub.repositories[REPO].files = files
    with pytest.raises(
        CheckpointError, match=r"names '.*', which is not in its folder; do not use"
    ) as caught:
        fetch(hub, tmp_path / "cache")
    assert main in one_line(caught)
    folder = tmp_path / "folder"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    local = CheckpointConfig(source=CheckpointSource.LOCAL, path=str(folder))
    with pytest.raises(CheckpointError, match="which is not in its folder"):
        fetch_checkpoint(ModelConfig(checkpoint_repository=local), tmp_path, is_buildable=is_buildable)


def test_a_folder_may_have_links(tmp_path: Path) -> None:
    """Who made a folder on this machine may link its files to another place, as the hub's own cache does."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "model").mkdir()
    for name, data in FILES.items():
        (tmp_path / "blobs" / name).write_bytes(data)
        (tmp_path / "model" / name).symlink_to(f"../blobs/{name}")
    local = CheckpointConfig(source=CheckpointSource.LOCAL, path=str(tmp_path / "model"))
    found = fetch_checkpoint(ModelConfig(checkpoint_repository=local), tmp_path, is_buildable=is_buildable)
    assert found.model_id == "model"


def test_a_slow_hub_is_not_waited_for(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that does not answer in time is as one that cannot be reached: the cache, or a line with remedies."""
    first = fetch(hub, tmp_path)
    monkeypatch.setattr(hub_source, "LIST_TIMEOUT_SECONDS", 0.2)
    hub.troubles.delay_seconds = 1.0
    assert fetch(hub, tmp_path) == first
    assert "hub not reachable" in caplog.text
    with pytest.raises(CheckpointError, match="start again, with a longer HF_HUB_DOWNLOAD_TIMEOUT") as caught:
        fetch(hub, tmp_path / "other")
    assert REPO in one_line(caught)


def test_a_download_that_is_cut_is_taken_up_again(
    hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the library, some times; then it is one line, and the next start goes on."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    hub.troubles.n_cuts = 2
    found = fetch(hub, tmp_path)
    assert (found.path / "model.safetensors").read_bytes() == FILES["model.safetensors"]
    hub.troubles.n_cuts = 1000
    with pytest.raises(CheckpointError, match=r"was cut or came too slowly .* start again") as caught:
        fetch(hub, tmp_path / "other")
    assert REPO in one_line(caught)
    assert list((tmp_path / "other").rglob("model.safetensors")) == []
    hub.troubles.n_cuts = 0
    assert (fetch(hub, tmp_path / "other").path / "model.safetensors").is_file()


def test_what_is_no_hub_is_said(tmp_path: Path) -> None:
    """A login page of a network, or a wrong HF_ENDPOINT, answers 200 with something else."""
    with HubStandIn({}) as hub:
        hub.troubles.refusal = (200, "")
        with pytest.raises(CheckpointError, match=r"cannot be reached .* proxy and HF_ENDPOINT") as caught:
            fetch(hub, tmp_path)
        one_line(caught)


def test_the_stand_in_reads_a_folder(tmp_path: Path) -> None:
    """Both forms of names, and other revisions of a repository; the command line serves them."""
    for name in ("owner--one", "owner/two", "owner--one@refs%2Fpr%2F1"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    found = read_folder(tmp_path)
    assert set(found) == {"owner/one", "owner/two"}
    commit = found["owner/one"].refs["refs/pr/1"]
    (config,) = found["owner/one"].files_at(commit).values()
    assert Path(os.fsdecode(config)).read_text() == "owner--one@refs%2Fpr%2F1"


def test_many_fetch_one_repository_at_once(hub: HubStandIn, tmp_path: Path) -> None:
    """Threads of one process, of a renamed repository too, get the same folder."""
    hub.renamed["old/name"] = REPO
    found: list[ModelFolder] = []
    names = [REPO, "old/name"] * 3
    threads = [
        threading.Thread(target=lambda name=name: found.append(fetch(hub, tmp_path, name))) for name in names
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(msgspec.json.encode([str(one.path), one.model_id]) for one in found)) == 1
    assert len(found) == len(names)
