"""Models of thousands of positions as running servers in 2 GB: ready in seconds, short texts answered at once."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from builders import (
    ServerProcess,
    start_server,
    wait_until_ready,
    workers_of,
    write_config,
    write_lookup_model,
)

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory")
LIMIT = 2 * 2**30
N_HEADS, N_HIDDEN = 12, 48
# The limit holds for everything that a process allocates, in each process of the server.
LIMITED = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT}))
os.execv(sys.executable, [sys.executable, "-m", "nerve", *sys.argv[1:]])
"""


@contextmanager
def serving(folder: Path) -> Iterator[ServerProcess]:
    """Serve a model folder within the limit."""
    config = write_config(folder.parent / f"{folder.name}.yaml", folder, runtime={"window_stride": None})
    server = start_server(config, wait=False, program=("-c", LIMITED))
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.close_connections()
        assert server.stop() == 0, server.log()


def peak_bytes(server: ServerProcess) -> int:
    """Return the most memory that a worker has held."""
    (worker,) = workers_of(server)
    line = next(
        line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def write_long(folder: Path, n_positions: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a BERT with so many positions, and the words of the lookup model."""
    for name, value in {"N_POSITIONS": n_positions, "N_HEADS": N_HEADS, "N_HIDDEN": N_HIDDEN}.items():
        monkeypatch.setitem(tiny.tensor_shapes.__globals__, name, value)
    tiny.write_checkpoint(folder)
    lookup = write_lookup_model(folder.parent / "lookup")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup / name, folder / name)
    return folder


def write_dense(folder: Path, n_positions: int) -> Path:
    """Write a ready graph whose attention holds a score for each head and pair of tokens; the lookup decides labels."""
    write_lookup_model(folder, n_positions)
    model = onnx.load(folder / "model.onnx")
    (table,) = model.graph.initializer
    shapes = {
        "heads": np.array([0, 0, N_HEADS, -1]),
        "joined": np.array([0, 0, N_HEADS]),
        "spread": np.full((5, N_HEADS), 0.1, np.float32),
        "nothing": np.zeros((N_HEADS, 5), np.float32),
    }
    model.graph.initializer.extend([numpy_helper.from_array(value, name) for name, value in shapes.items()])
    del model.graph.node[:]
    model.graph.node.extend(
        [
            helper.make_node("Gather", [table.name, "input_ids"], ["known"], axis=0),
            helper.make_node("MatMul", ["known", "spread"], ["wide"]),
            helper.make_node("Reshape", ["wide", "heads"], ["apart"]),
            helper.make_node("Transpose", ["apart"], ["queries"], perm=[0, 2, 1, 3]),
            helper.make_node("Transpose", ["apart"], ["keys"], perm=[0, 2, 3, 1]),
            helper.make_node("MatMul", ["queries", "keys"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["shares"], axis=-1),
            helper.make_node("MatMul", ["shares", "queries"], ["mixed"]),
            helper.make_node("Transpose", ["mixed"], ["back"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", ["back", "joined"], ["context"]),
            helper.make_node("MatMul", ["context", "nothing"], ["none"]),
            helper.make_node("Add", ["known", "none"], ["logits"]),
        ]
    )
    onnx.save(model, folder / "model.onnx")
    config = json.loads((folder / "config.json").read_text())
    sizes = {"num_attention_heads": N_HEADS, "hidden_size": N_HIDDEN, "intermediate_size": 4 * N_HIDDEN}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    return folder


@pytest.mark.parametrize(("kind", "n_positions"), [("built", 8192), ("built", 131072), ("ready", 8192)])
def test_long_contexts_in_two_gigabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, n_positions: int
) -> None:
    """Whatever a text is long, no call takes a square of it: the window and its reason are told, and memory suffices.

    A window of 8,192 tokens of the ready graph would take 3.2 GB for the scores of one call.
    """
    folder = tmp_path / "model"
    started = time.monotonic()
    if kind == "built":
        write_long(folder, n_positions, monkeypatch)
    else:
        write_dense(folder, n_positions)
    with serving(folder) as server:
        assert server.predict("anna lives in paris").status_code == 200
        assert time.monotonic() - started < 60
        info = server.client.get("/info").json()
        assert info["max_length"] == n_positions
        assert 512 <= info["window_tokens"] < n_positions
        assert info["window_tokens_from"].startswith(("memory:", "the time that longer ones take"))
        assert f"windows of {info['window_tokens']} tokens, from {info['window_tokens_from']}" in server.log()
        text = "anna lives in paris . " * 700
        answer = server.predict(text, aggregation_strategy="simple")
        assert answer.status_code == 200, answer.text[:300]
        if kind == "ready":
            (found,) = answer.json()
            assert len(found) == 1400
        assert peak_bytes(server) < LIMIT
