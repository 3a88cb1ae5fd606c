"""`nerve export` against PyTorch; skipped where PyTorch and transformers are not installed (`make parity`)."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.export import export_checkpoint
from nerve.graph import load_graph
from nerve.session import Session
from nerve.types import Window

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

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
ARCHITECTURES = {
    "deberta": DISENTANGLED,
    "deberta-v2": {
        **DISENTANGLED,
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
    },
    "modernbert": {**MODERN, "cls_token_id": 2, "sep_token_id": 3},
    "albert": {"embedding_size": 16},
}
# The exporters warn about their own deprecation, and PyTorch about traced control flow.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(params=sorted(ARCHITECTURES))
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path, lookup_model: Path) -> Path:
    """A tiny seeded checkpoint of one architecture, as its owner would have it on disk."""
    folder = tmp_path / "checkpoint"
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(request.param, **SIZES, **ARCHITECTURES[request.param])
    transformers.AutoModelForTokenClassification.from_config(config).eval().save_pretrained(folder)
    shutil.copy(lookup_model / "tokenizer.json", folder)
    specials = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**specials, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


def test_exported_graph_gives_the_logits_of_pytorch(checkpoint: Path, tmp_path: Path) -> None:
    """The exported folder loads as any checkpoint does and gives PyTorch's logits, alone and padded."""
    assert export_checkpoint(str(checkpoint), tmp_path / "exported") < 1e-4
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


def test_existing_target_is_refused(tmp_path: Path) -> None:
    """An export never overwrites a folder."""
    with pytest.raises(ModelError, match="exists already"):
        export_checkpoint("anything", tmp_path)


def test_unknown_source_is_refused(tmp_path: Path) -> None:
    """A source that transformers cannot load gives one clear error and leaves nothing behind."""
    with pytest.raises(ModelError, match="cannot load"):
        export_checkpoint(str(tmp_path / "missing"), tmp_path / "exported")
    assert not list(tmp_path.iterdir())
