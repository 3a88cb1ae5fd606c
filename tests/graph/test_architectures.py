"""Built graphs against PyTorch's logits, and against themselves in other batches."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import GraphKind, attention, blocks, disentangled, load_graph
from nerve.graph.architectures import FAMILIES
from nerve.runtime.sessions import create_session

PARITY = Path(__file__).parents[1] / "parity"
tiny = SimpleNamespace(**runpy.run_path(str(PARITY / "tiny_checkpoints.py")))
EXPECTED = json.loads((PARITY / "architectures.json").read_text())["logits"]
TOLERANCE = 1e-4


def open_session(folder: Path, cache: Path, precision: Precision = Precision.AUTO) -> Any:
    """Return a session of the graph built from `folder`, on one thread."""
    graph = load_graph(folder, precision, cache)
    assert graph.kind is GraphKind.BUILT
    return create_session(graph.source, Device.CPU, 0, n_threads=1)


def run(
    session: Any, texts: list[list[int]], width: int | None = None, fill: int = 3
) -> list[list[np.ndarray]]:
    """Return label ids, scores and logits of each text, without its padding."""
    lengths = [len(text) for text in texts]
    width = width or max(lengths)
    ids = np.full((len(texts), width), fill, np.int32)  # (B, T)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
    outputs = session.run(
        ["label_ids", "scores", "logits"], {"input_ids": ids, "lengths": np.array(lengths, np.int32)}
    )
    return [[output[row, :length] for output in outputs] for row, length in enumerate(lengths)]


@pytest.mark.parametrize("case", tiny.CASES)
def test_logits_are_pytorchs(case: str, tmp_path: Path) -> None:
    """Alone, padded and in a batch, the logits are PyTorch's within 1e-4."""
    check_logits(case, tmp_path)


@pytest.mark.parametrize("case", [case for case, (family, _) in tiny.CASES.items() if "deberta" in family])
@pytest.mark.parametrize("group", [1, 4])
def test_logits_of_a_few_heads_at_a_time_are_pytorchs(
    case: str, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As DeBERTa's long texts are computed: some heads after the others, tokens in blocks."""
    monkeypatch.setattr(disentangled, "_WHOLE_TOKENS", 3)
    monkeypatch.setattr(disentangled, "_GROUP", group)
    check_logits(case, tmp_path)


def check_logits(case: str, tmp_path: Path) -> None:
    """Check a built graph's logits against PyTorch's."""
    session = open_session(tiny.write_checkpoint(tmp_path / "model", case), tmp_path)
    texts = tiny.make_texts(case)
    alone = [run(session, [text])[0] for text in texts]
    padded = [run(session, [text], width=40)[0] for text in texts]
    batched = run(session, texts)
    for expected, *answers in zip(EXPECTED[case], alone, padded, batched, strict=True):
        for _, _, logits in answers:
            np.testing.assert_allclose(logits, np.array(expected), rtol=0, atol=TOLERANCE)


def test_every_buildable_type_has_a_case() -> None:
    """No model type is offered without expected logits."""
    assert {model_type for model_type, _ in tiny.CASES.values()} == set(FAMILIES)
    assert set(EXPECTED) == set(tiny.CASES)


@pytest.mark.parametrize("case", tiny.CASES)
def test_batch_mates_change_no_bit(case: str, tmp_path: Path) -> None:
    """A text alone and the same text among others, whatever the padding, give the same bits."""
    session = open_session(tiny.write_checkpoint(tmp_path / "model", case), tmp_path)
    rng = np.random.default_rng(1)
    longest = 40
    for length in range(1, longest + 1):
        text = rng.integers(5, 100, length).tolist()
        alone = run(session, [text])[0]
        mates = [rng.integers(5, 100, rng.integers(1, longest + 1)).tolist() for _ in range(3)]
        batches = (
            run(session, [text], width=longest, fill=1)[0],
            run(session, [*mates, text])[-1],
            run(session, [text, *mates], width=longest, fill=0)[0],
        )
        for batched in batches:
            for one, other in zip(alone, batched, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "case",
    ["bert", "mpnet", "deberta", "deberta-v2", "eurobert", "gte", "modernbert", "openai_privacy_filter"],
)
@pytest.mark.parametrize("precision", [Precision.FLOAT32, Precision.INT8])
def test_blocks_of_queries_change_no_bit(
    case: str, precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention of long texts is computed in blocks: alone, in a batch and beside a short text, with the same bits."""
    folder = tiny.write_checkpoint(tmp_path / "model", case)
    whole = open_session(folder, tmp_path / "whole", precision)
    monkeypatch.setattr(attention, "WHOLE_TOKENS", 9)
    monkeypatch.setattr(blocks, "WHOLE_TOKENS", 9)
    monkeypatch.setattr(blocks, "BLOCK_TOKENS", 8)
    monkeypatch.setattr(disentangled, "_WHOLE_TOKENS", 9)
    monkeypatch.setattr(disentangled, "_GROUP", 2)
    cut = open_session(folder, tmp_path / "cut", precision)
    rng = np.random.default_rng(3)
    texts = [rng.integers(5, 100, length).tolist() for length in (1, 9, 10, 16, 17, 31, 40)]
    expected = [run(whole, [text])[0] for text in texts]
    alone = [run(cut, [text])[0] for text in texts]
    for one, *others in zip(expected, alone, run(cut, texts), strict=True):
        for other in others:
            for ours, theirs in zip(one, other, strict=True):
                np.testing.assert_array_equal(ours, theirs)


def test_scores_are_the_softmax_of_the_best_label(tmp_path: Path) -> None:
    """`label_ids` and `scores` say the same as the logits."""
    session = open_session(tiny.write_checkpoint(tmp_path / "model"), tmp_path)
    labels, scores, logits = run(session, tiny.make_texts("bert"))[0]
    wide = logits.astype(np.float64)
    probabilities = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    np.testing.assert_array_equal(labels, probabilities.argmax(-1))
    np.testing.assert_allclose(scores, probabilities.max(-1), rtol=1e-6)


def test_the_smallest_label_id_wins_a_tie(tmp_path: Path) -> None:
    """Labels with the same row in the classifier tie on every token; the first of them is answered."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    tensors = tiny.make_tensors("bert")
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    weight[:], bias[:] = weight[0], bias[0]
    bias[[1, 3, 4]] += 2
    save_file(tensors, folder / "model.safetensors")
    session = open_session(folder, tmp_path)
    for labels, scores, logits in run(session, tiny.make_texts("bert")):
        assert (logits[:, 1] == logits[:, 3]).all()
        assert (labels == 1).all()
        assert (scores < 0.34).all()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_half_precision_weights_are_widened(dtype: Any, tmp_path: Path) -> None:
    """A float16 or bfloat16 checkpoint answers like the float32 checkpoint with the same rounded numbers."""
    half = open_session(tiny.write_checkpoint(tmp_path / "half", dtype=dtype), tmp_path)
    folder = tiny.write_checkpoint(tmp_path / "wide")
    rounded = {
        name: value.astype(dtype).astype(np.float32) for name, value in tiny.make_tensors("bert").items()
    }
    save_file(rounded, folder / "model.safetensors")
    wide = open_session(folder, tmp_path)
    texts = tiny.make_texts("bert")
    for ours, theirs in zip(run(half, texts), run(wide, texts), strict=True):
        np.testing.assert_array_equal(ours[2], theirs[2])


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    """A checkpoint in several files with an index answers like the single file."""
    whole = open_session(tiny.write_checkpoint(tmp_path / "whole"), tmp_path)
    folder = tiny.write_checkpoint(tmp_path / "shards")
    (folder / "model.safetensors").unlink()
    tensors = tiny.make_tensors("bert")
    weight_map = {}
    for number in range(3):
        names = sorted(tensors)[number::3]
        file = f"model-0000{number + 1}-of-00003.safetensors"
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )
    shards = open_session(folder, tmp_path)
    texts = tiny.make_texts("bert")
    for ours, theirs in zip(run(shards, texts), run(whole, texts), strict=True):
        np.testing.assert_array_equal(ours[2], theirs[2])


def test_old_names_of_layer_norms_are_known(tmp_path: Path) -> None:
    """`gamma` and `beta`, as TensorFlow named them, are read as transformers reads them."""
    folder = tiny.write_checkpoint(tmp_path / "model")
    old = {}
    for name, value in tiny.make_tensors("bert").items():
        renamed = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )
        old[renamed] = value
    save_file(old, folder / "model.safetensors")
    logits = run(open_session(folder, tmp_path), tiny.make_texts("bert"))[0][2]
    np.testing.assert_allclose(logits, np.array(EXPECTED["bert"][0]), rtol=0, atol=TOLERANCE)


def test_keys_may_have_their_other_names(tmp_path: Path) -> None:
    """Some classes know a key under two names, and the number of heads is nowhere else in a checkpoint."""
    folder = tiny.write_checkpoint(tmp_path / "model", "distilbert")
    config = json.loads((folder / "config.json").read_text())
    for own, other in (
        ("dim", "hidden_size"),
        ("n_heads", "num_attention_heads"),
        ("n_layers", "num_hidden_layers"),
    ):
        config[other] = config.pop(own)
    (folder / "config.json").write_text(json.dumps(config))
    logits = run(open_session(folder, tmp_path), tiny.make_texts("distilbert"))[0][2]
    np.testing.assert_allclose(logits, np.array(EXPECTED["distilbert"][0]), rtol=0, atol=TOLERANCE)
    (folder / "config.json").write_text(json.dumps(config | {"n_heads": 2}))
    with pytest.raises(ModelError, match="num_attention_heads and n_heads contradict each other"):
        load_graph(folder, Precision.FLOAT32, tmp_path)
