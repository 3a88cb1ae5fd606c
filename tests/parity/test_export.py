"""`nerve export` against PyTorch; skipped where PyTorch and transformers are not installed (`make parity`)."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nerve
from nerve.checkpoint.calibration import BIASES
from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.graph.exportable import REFUSED
from nerve.models.export import export_checkpoint
from nerve.runtime.padded import Session
from nerve.types import Window

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sentencepiece = pytest.importorskip("sentencepiece")

SIZES = {
    "vocab_size": 200,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
    "num_labels": 5,
}
DISENTANGLED = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
MODERN = {"global_attn_every_n_layers": 2, "local_attention": 16, "bos_token_id": 2, "eos_token_id": 3}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "deberta": DISENTANGLED,
    "deberta-v2": {
        **DISENTANGLED,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    # The padding id stands near the end of the vocabulary, as in answerdotai/ModernBERT-base.
    "modernbert": {**MODERN, "cls_token_id": 2, "sep_token_id": 3, "pad_token_id": 195},
    "albert": {"embedding_size": 16},
    # The tracer fails, torch.export does not.
    "glm": {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2},
}
# The exporters warn about their own deprecation, and PyTorch about traced control flow.
pytestmark = pytest.mark.filterwarnings("default")

CALIBRATION = json.dumps(
    {"operating_points": {"default": {"biases": {f"transition_bias_{name}": 0.5 for name in BIASES}}}}
)


def write_checkpoint(folder: Path, model_type: str, settings: dict[str, Any], lookup_model: Path) -> Path:
    """Write a tiny seeded checkpoint of one architecture, as its owner would have it on disk."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **settings})
    transformers.AutoModelForTokenClassification.from_config(config).eval().save_pretrained(folder)
    shutil.copy(lookup_model / "tokenizer.json", folder)
    specials = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**specials, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


@pytest.fixture(params=sorted(ARCHITECTURES))
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path, lookup_model: Path) -> Path:
    """A tiny checkpoint of each architecture."""
    return write_checkpoint(
        tmp_path / "checkpoint", request.param, ARCHITECTURES[request.param], lookup_model
    )


def test_exported_graph_gives_the_logits_of_pytorch(checkpoint: Path, tmp_path: Path) -> None:
    """The exported folder loads as any checkpoint does and gives PyTorch's logits, alone and padded."""
    (checkpoint / "viterbi_calibration.json").write_text(CALIBRATION)
    assert export_checkpoint(str(checkpoint), tmp_path / "exported") < 1e-4
    assert (tmp_path / "exported" / "viterbi_calibration.json").read_text() == CALIBRATION
    graph = load_graph(tmp_path / "exported", Precision.AUTO, tmp_path / "cache")
    session = Session(graph.source, Device.CPU, 0, pad_id=0, n_threads=1)
    model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    rows = [[2, 7, 9, 11, 3], list(range(4, 60)), [5]]
    for row, scores in zip(
        rows, session.run([Window(row, 0) for row in rows], needs_logits=True), strict=True
    ):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor([row])).logits[0].numpy()
        np.testing.assert_allclose(scores.logits, expected, atol=1e-4)
    with nerve.load(tmp_path / "exported", window_stride=8) as classifier:
        (tokens,) = classifier.predict("Anna lives in Paris.", "none")
        assert [token.token for token in tokens][1:-1] == ["Anna", "lives", "in", "Paris", "."]


@pytest.mark.parametrize("n_labels", [2, 5])
def test_labels_that_transformers_leaves_out(tmp_path: Path, lookup_model: Path, n_labels: int) -> None:
    """The names that transformers makes up, which it does not save for two labels, are those of the exported folder."""
    settings = {"embedding_size": 16, "num_labels": n_labels}
    folder = write_checkpoint(tmp_path / "checkpoint", "albert", settings, lookup_model)
    assert ("id2label" in json.loads((folder / "config.json").read_text())) == (n_labels != 2)
    export_checkpoint(str(folder), tmp_path / "exported")
    with nerve.load(tmp_path / "exported", window_stride=8) as classifier:
        (tokens,) = classifier.predict("Anna lives in Paris.", "none", raw_scores=True)
    assert list(tokens[1].results) == [f"LABEL_{index}" for index in range(n_labels)]


def test_checkpoint_with_pickled_weights_alone(tmp_path: Path, lookup_model: Path) -> None:
    """An architecture that is not built is exported from pytorch_model.bin, too."""
    folder = write_checkpoint(tmp_path / "checkpoint", "albert", ARCHITECTURES["albert"], lookup_model)
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert export_checkpoint(str(folder), tmp_path / "exported") < 1e-4
    with nerve.load(tmp_path / "exported", window_stride=8) as classifier:
        assert classifier.predict("Anna lives in Paris.", "none")


def test_checkpoint_with_a_sentencepiece_model_alone(tmp_path: Path, lookup_model: Path) -> None:
    """DeBERTa-v3 comes with spm.model and no tokenizer.json; the exported folder has one."""
    folder = write_checkpoint(
        tmp_path / "checkpoint", "deberta-v2", ARCHITECTURES["deberta-v2"], lookup_model
    )
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"vocab_type": "spm"}))
    (tmp_path / "texts").write_text("Anna lives in Paris and Bob in New York\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"),
        model_prefix=str(folder / "spm"),
        vocab_size=40,
        hard_vocab_limit=False,
        **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
        **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
        minloglevel=2,
    )
    export_checkpoint(str(folder), tmp_path / "exported")
    with nerve.load(tmp_path / "exported", window_stride=8) as classifier:
        (tokens,) = classifier.predict("Anna lives in Paris", "none")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    assert [token.token_id for token in tokens] == reference("Anna lives in Paris").input_ids


@pytest.mark.parametrize(
    ("model_type", "settings", "reason"),
    [
        ("convbert", {"embedding_size": 16}, "with the padding beside a text"),
        (
            "longformer",
            {"attention_window": 16, "max_position_embeddings": 600},
            "fails on a batch of 3 tokens",
        ),
        (
            "helium",
            {"num_key_value_heads": 2, "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2},
            "differs from PyTorch by nan",
        ),
    ],
)
def test_graph_that_is_not_faithful_is_refused(
    tmp_path: Path,
    lookup_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    settings: dict[str, Any],
    reason: str,
) -> None:
    """A graph that answers otherwise than PyTorch, or not at every length, is not written."""
    monkeypatch.delitem(REFUSED, model_type)  # as a type that nobody has tried
    folder = write_checkpoint(tmp_path / "checkpoint", model_type, settings, lookup_model)
    with pytest.raises(ModelError, match=reason):
        export_checkpoint(str(folder), tmp_path / "exported")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("model_type", sorted(REFUSED))
def test_what_is_known_not_to_work_is_refused_at_once(tmp_path: Path, model_type: str) -> None:
    """There are no weights yet, and none are looked for."""
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(
        ModelError, match=f"cannot be exported: a model of the type {model_type} cannot be served"
    ):
        export_checkpoint(str(tmp_path / "checkpoint"), tmp_path / "exported")


def test_what_transformers_has_no_token_classifier_of_is_refused_at_once(tmp_path: Path) -> None:
    """Likewise, in one line."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="no token classifier of the type vit"):
        export_checkpoint(str(tmp_path), tmp_path / "exported")


def test_existing_target_is_refused(tmp_path: Path) -> None:
    """An export never overwrites a folder."""
    with pytest.raises(ModelError, match="exists already"):
        export_checkpoint("anything", tmp_path)


def test_unknown_source_is_refused(tmp_path: Path) -> None:
    """A source that transformers cannot load gives one clear error and leaves nothing behind."""
    with pytest.raises(ModelError, match="cannot load"):
        export_checkpoint(str(tmp_path / "missing"), tmp_path / "exported")
    assert not list(tmp_path.iterdir())
