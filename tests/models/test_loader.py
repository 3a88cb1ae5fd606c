from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import save_file

from builders import LABELS, write_gather_graph, write_lookup_model
from nerve.checkpoint import ModelFolder
from nerve.config import parse_config
from nerve.errors import ModelError, StartupError
from nerve.models.loader import load_model
from nerve.models.model import Model

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
HAS_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Write a lookup model of one's own, to be broken."""
    return write_lookup_model(tmp_path / "model")


def load(folder: Path, **sections: dict[str, Any]) -> Model:
    """Load a model folder with windows that share 4 tokens."""
    document: dict[str, Any] = {
        "model": {"checkpoint_repository": {"source": "LOCAL", "path": "."}, "device": "cpu"},
        "runtime": {"window_stride": 4},
    }
    for name, values in sections.items():
        document.setdefault(name, {}).update(values)
    config = parse_config(document, {}, folder)
    return load_model(config, ModelFolder(folder, "test", "abc"), folder.parent / "cache")


def edit(**changes: object) -> Callable[[Path], None]:
    """Return a change of config.json; None removes a key."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        settings = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))

    return change


def replace_table(rows: int, value: float) -> Callable[[Path], None]:
    """Return a change of the graph: another table of logits."""
    return lambda folder: write_gather_graph(
        folder / "model.onnx", np.full((rows, len(LABELS)), value, np.float32)
    )


def write(name: str, text: str) -> Callable[[Path], None]:
    """Return a change of one file."""
    return lambda folder: (folder / name).write_text(text) and None


def remove(name: str) -> Callable[[Path], None]:
    """Return the removal of one file."""
    return lambda folder: (folder / name).unlink()


def test_model_that_proves_itself(folder: Path) -> None:
    """What /info prints of a loaded model is what was loaded."""
    model = load(folder)
    assert (model.name, model.model_id, model.revision, model.window_tokens) == ("model", "test", "abc", 16)
    assert model.labels.names == LABELS
    assert model.backend.provider == "CPUExecutionProvider"
    assert model.policy.token_budget == 16
    assert model.vocabulary.special_tokens == {2: "[CLS]", 3: "[SEP]"}
    assert model.vocabulary.unk_id == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            edit(id2label=None),
            "config.json has neither id2label nor num_labels, for which transformers takes 2 labels; the "
            "graph gives 5 labels: add id2label with a name for each",
        ),
        (edit(id2label=None, num_labels=4), "has num_labels, but no id2label; the graph gives 5 labels"),
        (edit(id2label={}), "has no id2label"),
        (edit(id2label=["O"]), "has no id2label"),
        (edit(id2label={"zero": "O"}), "must number its labels 0 to 0"),
        (edit(id2label={"0": "O", "1": "B-PER"}), "names 2 labels in id2label, but the graph gives 5"),
        (edit(max_position_embeddings=None), "set model.max_length"),
        (edit(max_position_embeddings=6), "set window_stride below"),
        (replace_table(40, np.nan), "not finite in float32; its weights are damaged"),
        (replace_table(40, np.inf), "not finite in float32"),
        (
            replace_table(1, 0.0),
            "the model has rows for 1 tokens, but its tokenizer has '[UNK]' (1), '[CLS]' (2)",
        ),
        (edit(pad_token_id=1000), "the model fails on a batch of 4 and 2 tokens"),
        (edit(pad_token_id="[PAD]"), "pad_token_id must be a whole number, not '[PAD]'"),
        (remove("config.json"), "has no config.json"),
        (write("config.json", "{"), "is not valid JSON"),
        (write("config.json", "[]"), "is not a JSON object"),
        (write("tokenizer_config.json", "[]"), "is not a JSON object"),
        (remove("tokenizer.json"), "tokenizer.json"),
        (write("tokenizer.json", "{}"), "tokenizer.json cannot be read by `tokenizers`"),
        (remove("model.onnx"), "nerve export"),
        (write("model.onnx", "no graph"), "model.onnx"),
    ],
)
def test_broken_model_is_refused_with_what_to_change(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    """Every proof that fails stops the start and names the file or key."""
    change(folder)
    with pytest.raises(StartupError) as caught:
        load(folder)
    assert message in str(caught.value)


def test_labels_without_names_are_served_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`num_labels` alone is what transformers needs, so it is what is needed here."""
    edit(id2label=None, num_labels=5)(folder)
    assert load(folder).labels.names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4")
    (said,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == (
        "config.json has num_labels, but no id2label: labels are called LABEL_0 to LABEL_4; add id2label for names"
    )


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"batching": {"max_batch_tokens": 15}},
            "batching.max_batch_tokens is 15, less than one window of 16",
        ),
        ({"runtime": {"window_stride": 14}}, "runtime.window_stride is 14, but a window holds 14 tokens"),
        (
            {"model": {"max_length": 17}},
            "model.max_length is 17, but max_position_embeddings of config.json allows 16",
        ),
        ({"model": {"precision": "float16"}}, "precision"),
        ({"model": {"graph": "other.onnx"}}, "other.onnx"),
    ],
)
def test_config_that_does_not_fit_the_model_is_refused(
    folder: Path, sections: dict[str, dict[str, Any]], message: str
) -> None:
    """What only the model can tell is checked before anything is served."""
    with pytest.raises(StartupError) as caught:
        load(folder, **sections)
    assert message in str(caught.value)


@pytest.mark.skipif(HAS_CUDA, reason="this onnxruntime has the CUDA provider")
def test_missing_device_is_refused(folder: Path) -> None:
    """No provider is silently replaced by another."""
    with pytest.raises(ModelError, match=r"model\.device is cuda"):
        load(folder, model={"device": "cuda"})


def test_optional_tokenizer_settings_may_be_missing(folder: Path) -> None:
    """Without tokenizer_config.json the unknown token is the one of the tokenizer's model."""
    (folder / "tokenizer_config.json").unlink()
    assert load(folder).vocabulary.unk_id == 1


def test_unknown_token_of_the_special_tokens_map(folder: Path) -> None:
    """Older checkpoints name special tokens in a file of their own; tokenizer_config.json comes first."""
    (folder / "special_tokens_map.json").write_text('{"unk_token": "[PAD]"}')
    assert load(folder).vocabulary.unk_id == 1
    (folder / "tokenizer_config.json").unlink()
    assert load(folder).vocabulary.unk_id == 0


@pytest.mark.parametrize(
    ("case", "rows", "expected"), [("bert", 20, 20), ("roberta", 20, 18), ("bert", 64, 48)]
)
def test_the_position_table_limits_the_window(
    tmp_path: Path, case: str, rows: int, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A table shorter than config.json says decides; the log names it, and more cannot be asked for."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    tokenizer = write_lookup_model(tmp_path / "lookup") / "tokenizer.json"
    (folder / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    tensors = tiny.make_tensors(case)
    name = f"{case}.embeddings.position_embeddings.weight"
    tensors[name] = np.resize(tensors[name], (rows, tensors[name].shape[1]))
    save_file(tensors, folder / "model.safetensors")
    caplog.set_level("INFO")
    for _ in range(2):  # the second time the graph comes from the cache
        assert load(folder).window_tokens == expected
    is_shorter = rows < tiny.N_POSITIONS
    named = "the position table in the weights" if is_shorter else "max_position_embeddings of config.json"
    assert f"max length {expected} tokens, from {named}" in caplog.text
    with pytest.raises(ModelError, match=f"model.max_length is 47, but {named}" if is_shorter else "is 49"):
        load(folder, model={"max_length": 47 if is_shorter else 49})


def test_smallest_window_serves(folder: Path) -> None:
    """A window of one real token is warmed up with no more than it holds."""
    edit(max_position_embeddings=3)(folder)
    assert load(folder, runtime={"window_stride": 0}).window_tokens == 3
