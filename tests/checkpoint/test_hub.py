"""Source HF with the real huggingface_hub, against a hub on loopback that speaks its HTTP interface."""

import json
import logging
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from safetensors.numpy import save

from hub_stand_in import HubStandIn, Repository
from nerve.checkpoint import ModelFolder
from nerve.checkpoint import hub as hub_source
from nerve.checkpoint.choice import BuildCheck
from nerve.checkpoint.hub_errors import explain
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig, Precision
from nerve.errors import CheckpointError
from nerve.graph import GraphKind, is_buildable, load_graph
from nerve.observability import PROGRESS_LOGGER, progress

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
pickles = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "graph" / "torch_pickles.py")))

REPO = "owner/tiny-ner"
COMMIT = "a" * 40
NEXT_COMMIT = "b" * 40
CONFIG = {
    "architectures": ["BertForTokenClassification"],
    "model_type": "bert",
    "id2label": {"0": "O", "1": "B-X"},
}
FILES = {
    "config.json": json.dumps(CONFIG).encode(),
    "tokenizer.json": b"{}",
    "tokenizer_config.json": b'{"a": 1}',
    "special_tokens_map.json": b'{"b": 1}',
    "vocab.txt": b"a b c",
    "README.md": b"read me",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"pickle",
    "onnx/model.onnx": b"graph",
    "onnx/model_fp16.onnx": b"half graph",
}
FETCH = """
import json, sys
from pathlib import Path
import msgspec
from nerve.checkpoint import fetch_checkpoint
from nerve.config import ModelConfig
from nerve.errors import CheckpointError
from nerve.graph import is_buildable
model = msgspec.convert(json.loads(sys.argv[1]), ModelConfig)
try:
    print(fetch_checkpoint(model, Path(sys.argv[2]), is_buildable=is_buildable, show_progress=True).path)
except CheckpointError as error:
    sys.exit(f"refused: {error}")
"""


class Hub(HubStandIn):
    """A hub with one repository; what it holds and how it answers can be changed between requests."""

    def __init__(self) -> None:
        super().__init__({REPO: Repository(dict(FILES))})

    @property
    def repository(self) -> Repository:
        """The one that it has."""
        return self.repositories[REPO]

    @property
    def files(self) -> dict[str, bytes]:
        """Its files, which can be changed."""
        return self.repository.files  # type: ignore[return-value]

    @files.setter
    def files(self, files: dict[str, bytes]) -> None:
        self.repository.files = dict(files)

    @property
    def refs(self) -> dict[str, str]:
        """Commit of each revision."""
        return self.repository.refs

    @refs.setter
    def refs(self, refs: dict[str, str]) -> None:
        self.repository.refs = refs


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a running hub, and an environment without the tokens of this machine."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    hub = Hub()
    yield hub
    hub.close()


def model_of(
    revision: str | None = None, graph: str | None = None, repo: str = REPO, **changes: Any
) -> ModelConfig:
    """Return a config for the hub's repository."""
    source = CheckpointConfig(source=CheckpointSource.HF, repo=repo, revision=revision)
    return ModelConfig(checkpoint_repository=source, graph=graph, **changes)


def fetch(
    hub: Hub,
    cache: Path,
    model: ModelConfig | None = None,
    is_buildable: BuildCheck = is_buildable,
) -> ModelFolder:
    """Fetch in this process; the address is an argument because HF_ENDPOINT is read at import only."""
    model = msgspec.structs.replace(model or model_of(), cache_dir=str(cache))
    return hub_source.fetch(model, cache, is_buildable=is_buildable, endpoint=hub.url)


def never(config: Mapping[str, Any], folder: Path | None = None, /) -> bool:
    """Stand in for a builder that knows no architecture."""
    return False


def start(
    hub: Hub, cache: Path, model: ModelConfig | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Begin to fetch in a process of its own, with the address from HF_ENDPOINT."""
    model = model or model_of(cache_dir=str(cache))
    command = [sys.executable, "-c", FETCH, msgspec.json.encode(model).decode(), str(cache)]
    return subprocess.Popen(
        command,
        env={**os.environ, "HF_ENDPOINT": hub.url, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def graph_with_data(location: str) -> bytes:
    """Return an ONNX graph whose one tensor lies in the file `location`."""
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    return bytes(
        onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor])).SerializeToString()
    )


def test_weights_of_a_buildable_type_are_fetched_and_no_graph(hub: Hub, tmp_path: Path) -> None:
    """Only config, tokenizer and safetensors are downloaded; the revision is resolved to its commit."""
    found = fetch(hub, tmp_path)
    assert (found.model_id, found.revision) == (REPO, COMMIT)
    assert hub.downloaded == {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "model.safetensors",
    }
    assert (found.path / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    ("model", "is_buildable", "expected"),
    [
        (model_of(), never, "onnx/model.onnx"),
        (model_of(precision="float16"), never, "onnx/model_fp16.onnx"),
        (model_of(graph="onnx/model_fp16.onnx"), is_buildable, "onnx/model_fp16.onnx"),
    ],
    ids=["not buildable", "float16", "explicit"],
)
def test_one_graph_is_fetched_where_none_is_built(
    hub: Hub,
    tmp_path: Path,
    model: ModelConfig,
    is_buildable: BuildCheck,
    expected: str,
) -> None:
    """The chosen graph comes alone: no weights, no other graph."""
    model = msgspec.convert(msgspec.to_builtins(model), ModelConfig)
    fetch(hub, tmp_path, model, is_buildable)
    assert {name for name in hub.downloaded if "model" in name} == {expected}


def test_graph_is_fetched_where_the_config_cannot_be_built(hub: Hub, tmp_path: Path) -> None:
    """A known model type with an option that the builder refuses is served from the repository's graph."""
    hub.files["config.json"] = json.dumps({**CONFIG, "position_embedding_type": "relative_key"}).encode()
    found = fetch(hub, tmp_path)
    assert {name for name in hub.downloaded if "model" in name} == {"onnx/model.onnx"}
    assert (found.path / "onnx" / "model.onnx").read_bytes() == b"graph"


def tiny_weights(**more: tuple[int, ...]) -> bytes:
    """Return the safetensors file of a tiny BERT, with more tensors of the given shapes."""
    tensors = {name: np.zeros(shape, np.float32) for name, shape in tiny.tensor_shapes("bert").items()}
    return bytes(save({**tensors, **{name: np.zeros(shape, np.float32) for name, shape in more.items()}}))


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_graph_is_fetched_where_the_tensors_cannot_be_built(
    hub: Hub, tmp_path: Path, revision: str | None
) -> None:
    """Weights with a tensor that changes others are followed by the graph, which then runs; also when offline."""
    hub.files["config.json"] = json.dumps(tiny.make_config("bert")).encode()
    hub.files["model.safetensors"] = tiny_weights(**{"classifier.lora_A.weight": (5, 5)})
    hub.files["onnx/model.onnx"] = ready_graph("model.onnx_data")
    hub.files["onnx/model.onnx_data"] = np.zeros((100, tiny.N_LABELS), np.float32).tobytes()
    found = fetch(hub, tmp_path, model_of(revision))
    assert {name for name in hub.downloaded if "model" in name} == {
        "model.safetensors",
        "onnx/model.onnx",
        "onnx/model.onnx_data",
    }
    graph = load_graph(found.path, Precision.AUTO, tmp_path / "graphs")
    assert (graph.kind, graph.source) == (GraphKind.READY, found.path / "onnx" / "model.onnx")
    hub.close()
    assert fetch(hub, tmp_path, model_of(revision)) == found


def test_no_graph_is_fetched_where_the_tensors_fit(hub: Hub, tmp_path: Path) -> None:
    """Weights that a graph can be built from come alone."""
    hub.files["config.json"] = json.dumps(tiny.make_config("bert")).encode()
    hub.files["model.safetensors"] = tiny_weights()
    found = fetch(hub, tmp_path)
    assert {name for name in hub.downloaded if "model" in name} == {"model.safetensors"}
    graph = load_graph(found.path, Precision.AUTO, tmp_path / "graphs")
    assert (graph.kind, graph.n_positions) == (GraphKind.BUILT, tiny.N_POSITIONS)


@pytest.mark.parametrize(
    "files",
    [
        {"pytorch_model.bin": ["bert"]},
        {"pytorch_model.bin.index.json": None, "one.bin": ["bert"], "two.bin": ["classifier"]},
    ],
    ids=["whole", "shards"],
)
def test_pickled_weights_are_fetched_where_there_are_no_others(
    hub: Hub, tmp_path: Path, files: dict[str, list[str] | None]
) -> None:
    """`pytorch_model.bin`, or its shards, come alone and a graph is built from them."""
    del hub.files["model.safetensors"]
    hub.files["config.json"] = json.dumps(tiny.make_config("bert")).encode()
    tensors = tiny.make_tensors("bert")
    shards = {name: starts for name, starts in files.items() if starts is not None}
    for name, starts in shards.items():
        part = {n: v for n, v in tensors.items() if len(shards) == 1 or n.startswith(tuple(starts))}
        hub.files[name] = pickles.checkpoint(part)
    if len(shards) > 1:
        del hub.files["pytorch_model.bin"]
        index = {"weight_map": {"a": "one.bin", "b": "two.bin"}}
        hub.files["pytorch_model.bin.index.json"] = json.dumps(index).encode()
    found = fetch(hub, tmp_path)
    others = {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert hub.downloaded - others == set(files)
    graph = load_graph(found.path, Precision.AUTO, tmp_path / "graphs")
    assert (graph.kind, graph.n_positions) == (GraphKind.BUILT, tiny.N_POSITIONS)


def test_graph_is_fetched_where_a_pickle_is_none_of_weights(hub: Hub, tmp_path: Path) -> None:
    """A pickle that asks for a name that no state dict needs is not opened; the repository's graph is used."""
    del hub.files["model.safetensors"]
    hub.files["config.json"] = json.dumps(tiny.make_config("bert")).encode()
    hub.files["pytorch_model.bin"] = pickles.archive(b"\x80\x02cos\nsystem\n.", {})
    hub.files["onnx/model.onnx"] = ready_graph("model.onnx_data")
    hub.files["onnx/model.onnx_data"] = np.zeros((100, tiny.N_LABELS), np.float32).tobytes()
    found = fetch(hub, tmp_path)
    graph = load_graph(found.path, Precision.AUTO, tmp_path / "graphs")
    assert (graph.kind, graph.source) == (GraphKind.READY, found.path / "onnx" / "model.onnx")


def ready_graph(location: str) -> bytes:
    """Return a token classifier whose table of logits lies in the file `location`."""
    table = onnx.numpy_helper.from_array(np.zeros((100, tiny.N_LABELS), np.float32), "table")
    onnx.external_data_helper.set_external_data(table, location)
    table.ClearField("raw_data")
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "input_ids"], ["logits"])],
        "lookup",
        [info("input_ids", onnx.TensorProto.INT64, ["batch", "token"])],
        [info("logits", onnx.TensorProto.FLOAT, ["batch", "token", tiny.N_LABELS])],
        [table],
    )
    return bytes(onnx.helper.make_model(graph).SerializeToString())


def test_shards_are_fetched_with_their_index(hub: Hub, tmp_path: Path) -> None:
    """Every shard that the index names comes, and nothing else that looks like one."""
    del hub.files["model.safetensors"]
    index = {"weight_map": {"x": "model-1.safetensors", "y": "model-2.safetensors"}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    hub.files |= {f"model-{number}.safetensors": b"shard %d" % number for number in (1, 2, 3)}
    found = fetch(hub, tmp_path)
    assert {file.name for file in found.path.glob("*.safetensors")} == {
        "model-1.safetensors",
        "model-2.safetensors",
    }


@pytest.mark.parametrize("location", ["model.onnx_data", "weights.bin"])
def test_external_data_is_fetched_with_its_graph(hub: Hub, tmp_path: Path, location: str) -> None:
    """Data files come by what the graph says, whatever they are called."""
    hub.files |= {
        "onnx/model.onnx": graph_with_data(location),
        f"onnx/{location}": b"data",
        "onnx/other.bin": b"",
    }
    found = fetch(hub, tmp_path, is_buildable=never)
    assert (found.path / "onnx" / location).read_bytes() == b"data"
    assert "onnx/other.bin" not in hub.downloaded


def test_how_far_a_download_is(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A bar where one is wanted; else a line for what takes long; the library draws nothing of its own."""
    caplog.set_level(logging.INFO, PROGRESS_LOGGER)
    monkeypatch.setenv("TQDM_POSITION", "-1")  # the library would draw even where there is no terminal
    monkeypatch.setattr(progress, "_BAR_AFTER_SECONDS", 0.0)
    hub.files["model.safetensors"] = os.urandom(24_000_000)  # the library reads 10 MiB at a time

    def fetch_slowly(folder: str, *, show: bool) -> None:
        hub.troubles.gate = threading.Event()
        hub.troubles.half_sent.clear()
        model, cache = model_of(cache_dir=str(tmp_path / folder)), tmp_path / folder
        fetch_it = partial(hub_source.fetch, model, cache, is_buildable=is_buildable, endpoint=hub.url)
        slow = threading.Thread(target=fetch_it, kwargs={"show_progress": show})
        slow.start()
        assert hub.troubles.half_sent.wait(20)
        time.sleep(0.3)  # some drawings
        hub.troubles.gate.set()
        slow.join(20)
        assert not slow.is_alive()

    fetch_slowly("quick", show=False)
    assert (capfd.readouterr().err, caplog.messages) == ("", [])
    monkeypatch.setattr(progress, "_LINES_AFTER_SECONDS", (0.0, 0.0))
    fetch_slowly("lines", show=False)
    wanted = rf"model\.safetensors of {REPO}: 10\.5 MB of 24\.0 MB, 44%, \d:\d\d:\d\d left"
    assert any(re.fullmatch(wanted, line) for line in caplog.messages), caplog.messages
    assert capfd.readouterr().err == ""
    fetch_slowly("bar", show=True)
    assert "model.safetensors" in capfd.readouterr().err
    monkeypatch.setattr("nerve.checkpoint.hub_progress.are_progress_bars_disabled", lambda: True)
    fetch_slowly("forbidden", show=True)
    assert capfd.readouterr().err == ""


def test_pinned_commit_makes_no_second_network_call(hub: Hub, tmp_path: Path) -> None:
    """With a commit as revision a second fetch asks nobody."""
    model = model_of(COMMIT)
    first = fetch(hub, tmp_path, model)
    hub.requests.clear()
    assert fetch(hub, tmp_path, model) == first
    assert hub.requests == []


def test_branch_follows_the_hub(hub: Hub, tmp_path: Path) -> None:
    """A branch is resolved at every start, and the new commit's files are fetched."""
    fetch(hub, tmp_path)
    hub.refs |= {"main": NEXT_COMMIT, NEXT_COMMIT: NEXT_COMMIT}
    hub.files["model.safetensors"] = b"better weights"
    found = fetch(hub, tmp_path)
    assert found.revision == NEXT_COMMIT
    assert (found.path / "model.safetensors").read_bytes() == b"better weights"


def test_unreachable_hub_falls_back_to_the_last_whole_fetch(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server restarts while the hub is down, says so, and ignores what was fetched in part."""
    first = fetch(hub, tmp_path)
    hub.close()
    assert fetch(hub, tmp_path) == first
    assert f"hub not reachable; using {REPO} at commit {COMMIT}" in caplog.text


def test_failing_hub_falls_back_too(hub: Hub, tmp_path: Path) -> None:
    """A 503 says nothing of the repository, so the cache is used; a 404 does, so it is not."""
    first = fetch(hub, tmp_path)
    hub.troubles.refusal = (503, "")
    assert fetch(hub, tmp_path) == first
    hub.troubles.refusal = (404, "RepoNotFound")
    with pytest.raises(CheckpointError, match="has no repository"):
        fetch(hub, tmp_path)


def test_cache_filled_by_another_tool_is_used(hub: Hub, tmp_path: Path) -> None:
    """model.cache_dir may be an existing ~/.cache/huggingface: no listing of ours is needed."""
    first = fetch(hub, tmp_path)
    for listing in (tmp_path / "hub-listings").rglob("*.json"):
        listing.unlink()
    (tmp_path / "hub" / "models--owner--tiny-ner" / "refs").mkdir(exist_ok=True)
    (tmp_path / "hub" / "models--owner--tiny-ner" / "refs" / "main").write_text(COMMIT)
    hub.close()
    assert fetch(hub, tmp_path) == first


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HOME": "home"}, "home/hub"),
        ({"HF_HUB_CACHE": "mine"}, "mine"),
        ({"HUGGINGFACE_HUB_CACHE": "old"}, "old"),
        ({"HF_HOME": "home", "HF_HUB_CACHE": "mine"}, "mine"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/huggingface/hub"),
    ],
)
def test_the_cache_is_the_one_of_the_library(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    """It is filled and read where every tool of the hub would; ours keeps the list of files."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    environment = {name: str(tmp_path / folder) for name, folder in variables.items()}
    ours = tmp_path / "ours"
    path, errors = start(hub, ours, model_of(), **environment).communicate(timeout=60)
    assert Path(path.strip()) == tmp_path / expected / "models--owner--tiny-ner" / "snapshots" / COMMIT, (
        errors
    )
    assert [file.name for file in ours.iterdir()] == ["hub-listings"]
    hub.requests.clear()
    again, errors = start(hub, ours, model_of(), HF_HUB_OFFLINE="1", **environment).communicate(timeout=60)
    assert (again, hub.requests) == (path, []), errors


def test_cache_that_others_filled_and_nobody_can_write_is_served(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Read-only, without blobs, locks or a listing; offline or not; where the hub has gone on, with a warning."""
    commit_folder = fetch(hub, tmp_path / "whole").path
    cache = tmp_path / "cache"
    repository = cache / "hub" / "models--owner--tiny-ner"
    shutil.copytree(commit_folder, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for name in (repository / "blobs", cache / "hub" / ".locks", cache / "hub-listings"):
        name.touch()  # a file in its place stops even root
    assert fetch(hub, cache, model_of(COMMIT)).revision == COMMIT
    assert fetch(hub, cache).revision == COMMIT
    assert caplog.text == ""
    hub.refs |= {"main": NEXT_COMMIT, NEXT_COMMIT: NEXT_COMMIT}
    found = fetch(hub, cache)
    assert (found.path, found.revision) == (repository / "snapshots" / COMMIT, COMMIT)
    assert f"{REPO} at commit {NEXT_COMMIT} cannot be fetched" in caplog.text
    hub.close()
    assert fetch(hub, cache) == found
    (repository / "snapshots" / COMMIT / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"in the cache .*cache/hub has no tokenizer"):
        fetch(hub, cache)


def test_listing_of_another_cache_is_no_proof(hub: Hub, tmp_path: Path) -> None:
    """What was fetched whole into one cache of the library need not be in another one."""
    ours, one, other = tmp_path / "ours", tmp_path / "one", tmp_path / "other"
    start(hub, ours, model_of(), HF_HUB_CACHE=str(one)).communicate(timeout=60)
    hub.refs |= {"main": NEXT_COMMIT, NEXT_COMMIT: NEXT_COMMIT}
    start(hub, tmp_path / "elsewhere", model_of(), HF_HUB_CACHE=str(other)).communicate(timeout=60)
    refs = other / "models--owner--tiny-ner" / "refs"
    refs.mkdir(exist_ok=True)
    (refs / "main").write_text(NEXT_COMMIT)
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(other)}
    path, errors = start(hub, ours, model_of(), **offline).communicate(timeout=60)
    assert Path(path.strip()).name == NEXT_COMMIT, errors


def test_saved_login_that_cannot_be_read_is_not_needed(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A cache of others may hold their token; a public repository is fetched without, with a warning."""
    token = tmp_path / "token"
    token.mkdir()  # it cannot be read as a file, by root neither
    monkeypatch.setattr(hub_source.constants, "HF_TOKEN_PATH", str(token))
    assert fetch(hub, tmp_path / "cache").revision == COMMIT
    assert "HF_TOKEN_PATH" in caplog.text
    hub.token, hub.repository.is_gated = "hf_right", True
    with pytest.raises(CheckpointError, match="is gated and no token is set"):
        fetch(hub, tmp_path / "other")


def test_torn_listing_is_not_trusted(hub: Hub, tmp_path: Path) -> None:
    """A damaged listing counts as none: the hub is asked again and the file mended."""
    first = fetch(hub, tmp_path, model_of(COMMIT))
    (listing,) = (tmp_path / "hub-listings").rglob("*.json")
    whole = listing.read_bytes()
    listing.write_bytes(whole[:20])
    assert fetch(hub, tmp_path, model_of(COMMIT)) == first
    assert listing.read_bytes() == whole


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            model_of(repo="owner/none"),
            "no repository owner/none, or it is private and no token is set.*HF_TOKEN",
        ),
        (model_of("v9"), "no revision v9; name a branch, tag or commit .*checkpoint_repository.revision"),
        (model_of(repo="not a name"), "'not a name' is not a repository name; write OWNER/NAME"),
        (
            model_of(graph="x.onnx"),
            r"no file x\.onnx; its ONNX files are onnx/model\.onnx, onnx/model_fp16\.onnx",
        ),
    ],
)
def test_wrong_address_is_refused(hub: Hub, tmp_path: Path, model: ModelConfig, message: str) -> None:
    """Repository, revision, name and graph each have their own refusal."""
    with pytest.raises(CheckpointError, match=message):
        fetch(hub, tmp_path, model)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "GatedRepo", "is gated and no token is set; accept its terms .* set HF_TOKEN"),
        (403, "GatedRepo", "is gated"),
        (401, "RepoNotFound", "or it is private and no token"),
        (403, "Forbidden", r"refuses access .*\(403\); check that HF_TOKEN"),
        (429, "", "limits the rate"),
        (500, "", "answers 500"),
    ],
)
def test_refusal_of_the_hub_is_named(hub: Hub, tmp_path: Path, status: int, code: str, message: str) -> None:
    """Every kind of refusal says what to change."""
    hub.troubles.refusal = (status, code)
    with pytest.raises(CheckpointError, match=message):
        fetch(hub, tmp_path)


def test_gated_files_need_the_token(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub lists a gated repository for all, but gives its files only to a token that may read them."""
    hub.token, hub.repository.is_gated = "hf_right", True
    with pytest.raises(CheckpointError, match="is gated and no token is set"):
        fetch(hub, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(CheckpointError, match="is gated and its token has no access"):
        fetch(hub, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert fetch(hub, tmp_path).revision == COMMIT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config.json": None}, r"has no config\.json"),
        ({"tokenizer.json": None, "vocab.txt": None}, "has no tokenizer"),
        ({"config.json": b"<html>"}, "is not valid JSON"),
        ({"config.json": b'{"architectures": ["BertForMaskedLM"]}'}, "not a token classifier"),
        (
            {
                "model.safetensors": None,
                "onnx/model.onnx": None,
                "onnx/model_fp16.onnx": None,
                "pytorch_model.bin": None,
                "tf_model.h5": b"",
            },
            "TensorFlow",
        ),
    ],
)
def test_unfit_repository_is_refused_before_its_weights_are_fetched(
    hub: Hub, tmp_path: Path, changes: dict[str, bytes | None], message: str
) -> None:
    """What config.json and the list of files can tell costs no large download."""
    files = {**hub.files, **changes}
    hub.files = {name: data for name, data in files.items() if data is not None}
    with pytest.raises(CheckpointError, match=message):
        fetch(hub, tmp_path)
    assert hub.downloaded <= {"config.json"}


def test_tokenizer_is_made_before_the_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    """A vocabulary that makes no tokenizer costs no large download; one that does is fetched whole."""
    del hub.files["tokenizer.json"]
    with pytest.raises(CheckpointError, match=rf"from vocab.txt of {REPO} at a+ .*no \[UNK\]"):
        fetch(hub, tmp_path)
    small = {"config.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"}
    assert hub.downloaded == small
    hub.files |= {"vocab.txt": b"[UNK]\n[CLS]\n[SEP]\n", "added_tokens.json": b"{}", "spm.model": b"not used"}
    hub.downloaded.clear()
    found = fetch(hub, tmp_path / "another")
    assert hub.downloaded == small | {"added_tokens.json", "spm.model", "model.safetensors"}
    assert (found.path / "vocab.txt").read_bytes() == hub.files["vocab.txt"]


def test_tokenizer_of_the_onnx_folder_is_enough(hub: Hub, tmp_path: Path) -> None:
    """Where the top has none, that of onnx/ is fetched, and no vocabulary."""
    hub.files["onnx/tokenizer.json"] = hub.files.pop("tokenizer.json")
    fetch(hub, tmp_path)
    assert "onnx/tokenizer.json" in hub.downloaded
    assert "vocab.txt" not in hub.downloaded


def test_unreachable_hub_without_a_cache_is_named(hub: Hub, tmp_path: Path) -> None:
    """No network and nothing in the cache: the refusal names both ways out."""
    hub.close()
    with pytest.raises(CheckpointError, match=r"cannot be reached .*HF_ENDPOINT.*nerve pull"):
        fetch(hub, tmp_path)
    asked = SimpleNamespace(name="my-ner", revision="main", hub_cache=tmp_path, token=None)
    assert str(explain(ConnectionError("x"), asked)).startswith(
        "there is no folder my-ner here, and the hub "
    )
    asked.name = "OWNER/my-ner"
    assert str(explain(ConnectionError("x"), asked)).startswith("the hub cannot be reached for OWNER/my-ner")


def test_unwritable_cache_is_named(hub: Hub, tmp_path: Path) -> None:
    """A cache folder that cannot be made is an error with a remedy; a file in its place stops even root."""
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write to .*file.*model\.cache_dir"):
        fetch(hub, tmp_path / "file")


@pytest.mark.filterwarnings("ignore:Not enough free disk space")  # the library warns before it fails
def test_full_disk_is_named(hub: Hub, small_disk: Path) -> None:
    """Weights too large for the disk of the cache say so."""
    hub.files["model.safetensors"] = os.urandom(2_000_000)
    with pytest.raises(CheckpointError, match=r"the disk of .* is full; free space"):
        fetch(hub, small_disk)


def test_environment_rules_apply(hub: Hub, tmp_path: Path) -> None:
    """HF_ENDPOINT and HF_HUB_OFFLINE work as in every tool of the hub; offline works from the cache alone."""
    refused = start(hub, tmp_path, HF_HUB_OFFLINE="1")
    _, errors = refused.communicate(timeout=60)
    assert re.search("refused: .* HF_HUB_OFFLINE is set; unset it, or run `nerve pull`", errors), errors
    assert hub.requests == []
    online, _ = start(hub, tmp_path).communicate(timeout=60)
    hub.requests.clear()
    offline, errors = start(hub, tmp_path, HF_HUB_OFFLINE="1").communicate(timeout=60)
    assert (offline, hub.requests) == (online, []), errors


def test_two_processes_fetch_at_once(hub: Hub, tmp_path: Path) -> None:
    """Both get the same whole folder."""
    hub.files["model.safetensors"] = os.urandom(3_000_000)
    processes = [start(hub, tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert Path(answers[0][0].strip(), "model.safetensors").read_bytes() == hub.files["model.safetensors"]


def test_killed_download_is_taken_up_again(hub: Hub, tmp_path: Path) -> None:
    """SIGKILL half-way through the weights leaves no folder that looks whole, and the next fetch succeeds."""
    hub.files["model.safetensors"] = os.urandom(3_000_000)
    hub.troubles.gate = threading.Event()
    process = start(hub, tmp_path)
    assert hub.troubles.half_sent.wait(30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert list(tmp_path.rglob("model.safetensors")) == []
    assert not (tmp_path / "hub-listings").exists()
    hub.troubles.gate.set()
    found = fetch(hub, tmp_path)
    assert (found.path / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
