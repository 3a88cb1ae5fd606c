"""Weights as people store them against transformers; skipped where PyTorch and transformers are not installed.

Each case is one way to store a checkpoint. transformers loads it from the folder and computes logits; the graph that is
built from the same folder must give them.
"""

from __future__ import annotations

import io
import json
import runpy
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.graph.weights import find_weights, open_weights
from nerve.runtime.sessions import create_session

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "tiny_checkpoints.py")))
TOLERANCE = 1e-4
State = dict[str, Any]


def state_of(case: str) -> State:
    """Return the tensors of a tiny checkpoint, as PyTorch has them."""
    return {name: torch.from_numpy(value.copy()) for name, value in tiny.make_tensors(case).items()}


def write_config(folder: Path, case: str, **changes: Any) -> None:
    """Write config.json alone."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(tiny.make_config(case) | changes))


def zipped(state: State, folder: Path) -> None:
    """Write what torch.save has written since PyTorch 1.6."""
    torch.save(OrderedDict(state), folder / "pytorch_model.bin")


def stream(state: State, folder: Path) -> None:
    """Write what torch.save wrote before."""
    torch.save(OrderedDict(state), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def shards(state: State, folder: Path) -> None:
    """Write three archives and their index."""
    weight_map = {}
    for number in range(3):
        names = sorted(state)[number::3]
        file = f"pytorch_model-0000{number + 1}-of-00003.bin"
        torch.save({name: state[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "pytorch_model.bin.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def safetensors(state: State, folder: Path) -> None:
    """Write model.safetensors."""
    safetensors_torch.save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")


def module(state: State, folder: Path) -> None:
    """Write parameters instead of tensors, with the attributes of a state dict and numbers of training beside."""
    found = OrderedDict((name, torch.nn.Parameter(value)) for name, value in state.items())
    found._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]  # as torch does
    found["epoch"] = 3
    found["device"] = torch.device("cpu")
    found["sizes"] = {"shape": torch.Size([2, 3]), "values": [1.5, None, True, (2**70, b"x")]}
    torch.save(found, folder / "pytorch_model.bin")


FORMS = {form.__name__: form for form in (zipped, stream, shards, safetensors)}


def as_type(dtype: Any) -> Callable[[State], State]:
    """Return a change to another type."""
    return lambda state: {name: value.to(dtype) for name, value in state.items()}


def renamed(*pairs: tuple[str, str]) -> Callable[[State], State]:
    """Return a change of names, part for part."""

    def change(state: State) -> State:
        found = {}
        for name, value in state.items():
            new_name = name
            for old, new in pairs:
                new_name = new_name.replace(old, new)
            found[new_name] = value
        return found

    return change


def with_more(**tensors: Any) -> Callable[[State], State]:
    """Return a change that adds tensors; `__` in a name stands for a dot."""
    return lambda state: {**state, **{name.replace("__", "."): value for name, value in tensors.items()}}


def prefixed(start: str) -> Callable[[State], State]:
    """Return a change that puts `start` before every name."""
    return lambda state: {start + name: value for name, value in state.items()}


def one_storage(state: State) -> State:
    """Make every tensor a part of one storage."""
    flat = torch.cat([value.reshape(-1) for value in state.values()])
    found, at = {}, 0
    for name, value in state.items():
        found[name] = flat[at : at + value.numel()].view(value.shape)
        at += value.numel()
    return found


def transposed(state: State) -> State:
    """Store every matrix column by column."""
    return {n: v.t().contiguous().t() if v.dim() == 2 else v for n, v in state.items()}


def strided(state: State) -> State:
    """Make every tensor each second element of a longer one, from the third on."""
    found = {}
    for name, value in state.items():
        room = torch.full((2 * value.numel() + 3,), float("nan"))
        room[3::2] = value.reshape(-1)
        found[name] = torch.as_strided(
            room, value.shape, [2 * step for step in value.contiguous().stride()], 3
        )
    return found


def repeated(state: State) -> State:
    """Store one number for a whole bias."""
    return {n: v[:1].expand(v.shape) if n.endswith("dense.bias") else v for n, v in state.items()}


def both_names(state: State) -> State:
    """Have old and new names of layer norms, with other numbers under the new ones."""
    old = renamed(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))(state)
    return {**old, **{name: value + 1 for name, value in state.items() if "LayerNorm" in name}}


CHANGES: dict[str, Callable[[State], State]] = {
    "as they are": dict,
    "float16": as_type(torch.float16),
    "bfloat16": as_type(torch.bfloat16),
    "float64": as_type(torch.float64),
    "gamma and beta": renamed(("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")),
    "both names": both_names,
    "no base": renamed(("bert.", "")),
    "base twice": prefixed("bert."),
    "one storage": one_storage,
    "transposed": transposed,
    "strided": strided,
    "repeated": repeated,
    "crf": with_more(crf__transitions=torch.zeros(5, 5), classifier2__weight=torch.ones(3)),
    "pre-training": with_more(
        cls__predictions__bias=torch.ones(100),
        bert__pooler__dense__weight=torch.ones(32, 32),
        bert__embeddings__position_ids=torch.arange(48).expand(1, -1),
        bert__embeddings__token_type_ids=torch.zeros(1, 48, dtype=torch.int64),
    ),
    "counters": with_more(steps=torch.tensor(3), flags=torch.tensor([True, False]), empty=torch.zeros(0, 4)),
}


def theirs(folder: Path, case: str) -> list[Any]:
    """Return the logits of transformers for the texts of a case."""
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids])).logits[0].numpy() for ids in tiny.make_texts(case)]


def check(folder: Path, case: str) -> None:
    """Compare the graph of a folder with transformers."""
    graph = load_graph(folder, Precision.AUTO, folder.parent)
    session = create_session(graph.source, Device.CPU, 0, n_threads=1)
    for ids, expected in zip(tiny.make_texts(case), theirs(folder, case), strict=True):
        inputs = {"input_ids": np.array([ids], np.int32), "lengths": np.array([len(ids)], np.int32)}
        (logits,) = session.run(["logits"], inputs)
        np.testing.assert_allclose(logits[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", CHANGES)
def test_logits_are_those_of_transformers(change: str, form: str, tmp_path: Path) -> None:
    """However weights are stored, the logits are transformers' within 1e-4."""
    folder = tmp_path / "model"
    write_config(folder, "bert")
    FORMS[form](CHANGES[change](state_of("bert")), folder)
    check(folder, "bert")


@pytest.mark.parametrize("case", tiny.CASES)
def test_every_architecture_is_built_from_a_pickle(case: str, tmp_path: Path) -> None:
    """Names and shapes of every family are found in a pickle as in safetensors."""
    write_config(tmp_path / "model", case)
    module(state_of(case), tmp_path / "model")
    check(tmp_path / "model", case)


def test_layers_beyond_those_of_the_config_are_not_used(tmp_path: Path) -> None:
    """The config's number holds, as in transformers."""
    write_config(tmp_path / "model", "bert", num_hidden_layers=2)
    zipped(state_of("bert"), tmp_path / "model")
    check(tmp_path / "model", "bert")


@pytest.mark.parametrize("form", ["zipped", "stream", "deflated"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(form: str, protocol: int, tmp_path: Path) -> None:
    """PyTorch writes protocol 2; who asks for another one gets its opcodes.

    An archive that somebody packed again, compressed, is read as well; PyTorch maps it and takes the compressed bytes
    for numbers.
    """
    state = state_of("bert")
    file = tmp_path / "pytorch_model.bin"
    is_zip = form != "stream"
    torch.save(OrderedDict(state), file, pickle_protocol=protocol, _use_new_zipfile_serialization=is_zip)
    if form == "deflated":
        copy = io.BytesIO(file.read_bytes())
        with zipfile.ZipFile(copy) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name in old.namelist():
                new.writestr(name, old.read(name))
    found = open_weights(find_weights(tmp_path))
    assert set(found) == set(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value.numpy())


@pytest.mark.parametrize("start", ["module.", "model.", "bert.bert."])
def test_what_transformers_would_make_up_is_refused(start: str, tmp_path: Path) -> None:
    """Weights that transformers does not find it fills with random numbers; here that is an error with the name."""
    write_config(tmp_path / "model", "bert")
    zipped(prefixed(start)(state_of("bert")), tmp_path / "model")
    _, info = transformers.AutoModelForTokenClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert "bert.embeddings.word_embeddings.weight" in info["missing_keys"]
    with pytest.raises(ModelError, match=r"bert\.embeddings\.word_embeddings\.weight is missing"):
        load_graph(tmp_path / "model", Precision.AUTO, tmp_path)
