import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

from nerve.checkpoint import ModelFolder, fetch_checkpoint
from nerve.config import CheckpointConfig, CheckpointSource, ModelConfig
from nerve.errors import CheckpointError
from nerve.graph import is_buildable

CONFIG: dict[str, Any] = {
    "architectures": ["BertForTokenClassification"],
    "model_type": "bert",
    "id2label": {"0": "O", "1": "B-PER", "2": "I-PER"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a model folder that passes every check, its weights apart."""
    folder = tmp_path / "my-ner"
    folder.mkdir()
    write_config(folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def write_config(folder: Path, **changes: object) -> None:
    """Write config.json with some keys changed; None leaves a key out."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def fetch(folder: Path, graph: str | None = None) -> ModelFolder:
    """Fetch the folder as source LOCAL."""
    source = CheckpointConfig(source=CheckpointSource.LOCAL, path=str(folder))
    model = ModelConfig(checkpoint_repository=source, graph=graph)
    return fetch_checkpoint(model, folder.parent / "cache", is_buildable=is_buildable)


def test_local_folder_is_used_where_it_is(folder: Path) -> None:
    """LOCAL copies nothing and is named after its folder."""
    assert fetch(folder) == ModelFolder(folder, "my-ner", "")
    assert not (folder.parent / "cache").exists()


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A path that is not there, or is a file, is named."""
    with pytest.raises(CheckpointError, match="nowhere does not exist; name a model folder"):
        fetch(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is not a folder"):
        fetch(tmp_path / "file")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["BertForSequenceClassification"]},
            "not a token classifier.*SequenceClassification",
        ),
        ({"id2label": None, "num_labels": 0}, "has no id2label, and its num_labels is not .*add id2label"),
        ({"id2label": {}}, "has no id2label"),
        ({"id2label": {"0": "O", "2": "B-PER"}}, "must number its labels 0 to 1"),
        ({"id2label": {"0": "O", "1": None}}, "a label that is not a name"),
    ],
)
def test_config_that_is_no_token_classifier_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    """Task and labels are proven from config.json before anything is loaded."""
    write_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        fetch(folder)


def test_config_without_architectures_is_accepted(folder: Path) -> None:
    """Hand-made folders often lack `architectures`; id2label alone says enough."""
    write_config(folder, architectures=None)
    assert fetch(folder).path == folder


def test_config_without_names_of_labels_is_accepted(folder: Path) -> None:
    """The library that writes configs leaves `id2label` out where nobody has set it."""
    write_config(folder, id2label=None)
    assert fetch(folder).path == folder


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[1]", b""], ids=["cut", "not-utf8", "list", "empty"]
)
def test_config_that_is_not_a_json_object_is_refused(folder: Path, content: bytes) -> None:
    """Whatever config.json holds, the refusal names it."""
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json of .* is not"):
        fetch(folder)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vocab.txt", {}, None),
        ("vocab.json", {}, "there is no vocab.txt; add what is missing"),
        ("vocab.txt", {"tokenizer_class": "BertJapaneseTokenizer"}, "Python only"),
    ],
)
def test_tokenizer_that_cannot_be_made_is_refused(
    folder: Path, name: str, settings: dict[str, str], message: str | None
) -> None:
    """A vocabulary in the place of tokenizer.json must be one that the tokenizer class has."""
    (folder / "tokenizer.json").unlink()
    (folder / name).write_text("[UNK]\n[CLS]\n[SEP]\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if message is None:
        assert fetch(folder).path == folder
        return
    with pytest.raises(CheckpointError, match=message):
        fetch(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", r"has no config\.json"), ("tokenizer.json", "no tokenizer.*AutoTokenizer")],
)
def test_missing_file_is_refused(folder: Path, name: str, message: str) -> None:
    """Each required file has its own refusal and remedy."""
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=message):
        fetch(folder)


def test_pickled_weights_are_weights(folder: Path) -> None:
    """A folder with pytorch_model.bin alone can be served; an adapter alone cannot."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert fetch(folder).path == folder
    (folder / "pytorch_model.bin").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="is an adapter"):
        fetch(folder)


def test_an_adapter_has_no_config(folder: Path) -> None:
    """As PEFT writes it; and a folder whose model lies one deeper."""
    (folder / "last").mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).rename(folder / "last" / name)
    with pytest.raises(CheckpointError, match="but in last/; serve that folder"):
        fetch(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="is an adapter"):
        fetch(folder)


def test_git_lfs_pointer_is_refused(folder: Path) -> None:
    """A clone without LFS holds pointers; the refusal says how to get the files."""
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        fetch(folder)


def test_sharded_weights_need_every_shard(folder: Path) -> None:
    """The index says which shards there are; a missing one is named."""
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"index\.json .* needs b\.safetensors, which is not there"):
        fetch(folder)
    (folder / "b.safetensors").touch()
    assert fetch(folder).path == folder
    for content in ('{"weights": 1}', '{"weight_map": {"x": 1}}'):
        (folder / "model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match="is not an index of weights"):
            fetch(folder)


@pytest.mark.parametrize("location", ["weights.bin", "w" * 200], ids=["short", "two-byte-length"])
def test_graph_needs_its_external_data(folder: Path, location: str) -> None:
    """External data that a graph names itself must be there, whatever its name."""
    tensor = onnx.numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [tensor])
    (folder / "onnx").mkdir()
    target = folder / "onnx" / "model.onnx"
    onnx.save(
        onnx.helper.make_model(graph), target, save_as_external_data=True, location=location, size_threshold=0
    )
    assert fetch(folder, "onnx/model.onnx").path == folder
    (folder / "onnx" / location).unlink()
    with pytest.raises(CheckpointError, match=f"model.onnx of .* needs onnx/{location}"):
        fetch(folder, "onnx/model.onnx")
