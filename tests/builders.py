"""Builds small real models and real server processes for tests."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from nerve.checkpoint import ModelFolder
from nerve.config import Config, default_cache_dir, parse_config
from nerve.engine.engine import Engine
from nerve.engine.in_process import collect, submit
from nerve.models.loader import load_model
from nerve.models.model import Model
from nerve.runtime.backend import Backend
from nerve.types import Prediction, PredictOptions, TokenScores, Window

LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
# Word -> label id; every other token is "O". Expected entities can be worked out by hand.
LOOKUP = {"anna": 1, "maria": 2, "bob": 1, "paris": 3, "new": 3, "york": 4, "##ville": 2}

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("lives", "in", "and", "the", "sees", "a", ".", ",", "x", "y", "##s", "##ing", "é", "canary", "😀")
SURE = 6.0  # logit of the label a token has; the others have 0
PATIENCE = 60.0  # seconds after which a held call gives up
SLOW_SIZE, SLOW_TURNS = 256, 300  # matrix products for each slow word: about 0.1 s


def write_lookup_model(folder: Path, max_length: int = 16, labels: tuple[str, ...] = LABELS) -> Path:
    """Write a model folder whose graph is one `Gather` from token id to logits: a real, tiny model.

    Its score for the label of a token is always e^SURE / (e^SURE + L - 1).
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *LOOKUP, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.zeros((len(vocabulary), len(labels)), np.float32)  # (V,L)
    table[:, 0] = SURE
    for word, label in LOOKUP.items():
        if label < len(labels):
            table[vocabulary[word]] = 0
            table[vocabulary[word], label] = SURE
    write_gather_graph(folder / "model.onnx", table)
    config = {
        "architectures": ["BertForTokenClassification"],
        "model_type": "bert",
        "max_position_embeddings": max_length,
        "pad_token_id": 0,
        "id2label": {str(index): label for index, label in enumerate(labels)},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps({"unk_token": "[UNK]"}))
    return folder


def write_troubled_model(
    folder: Path, slow_word: str = "x", slow_turns: int = SLOW_TURNS, bad_word: str = "y"
) -> Path:
    """Write a lookup model that takes a while for each `slow_word` and fails on each `bad_word`.

    Both are real: the graph multiplies matrices for the one, and looks up outside its table for the other.
    """
    write_lookup_model(folder)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    gather = onnx.load(str(folder / "model.onnx")).graph
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["old", "square"], ["new"]),
            helper.make_node("Identity", ["go_on"], ["still_on"]),
        ],
        "work",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("old", TensorProto.FLOAT, [SLOW_SIZE, SLOW_SIZE]),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("new", TensorProto.FLOAT, [SLOW_SIZE, SLOW_SIZE]),
        ],
    )
    nodes = [
        helper.make_node("Equal", ["input_ids", "bad_id"], ["is_bad"]),
        helper.make_node("Cast", ["is_bad"], ["bad"], to=TensorProto.INT64),
        helper.make_node("Mul", ["bad", "outside"], ["shift"]),
        helper.make_node("Add", ["input_ids", "shift"], ["ids"]),
        helper.make_node("Gather", ["table", "ids"], ["found"], axis=0),
        helper.make_node("Equal", ["input_ids", "slow_id"], ["is_slow"]),
        helper.make_node("Cast", ["is_slow"], ["slow"], to=TensorProto.INT64),
        helper.make_node("ReduceSum", ["slow"], ["n_slow"], keepdims=0),
        helper.make_node("Mul", ["n_slow", "turns_each"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "square"], ["product"], body=body),
        helper.make_node("ReduceSum", ["product"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["found", "nothing"], ["logits"]),
    ]
    constants = {
        "bad_id": np.array(vocabulary[bad_word]),
        "slow_id": np.array(vocabulary[slow_word]),
        "outside": np.array(10_000),
        "turns_each": np.array(slow_turns),
        "square": np.zeros((SLOW_SIZE, SLOW_SIZE), np.float32),
    }
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(
        nodes, "troubled", list(gather.input), list(gather.output), [*gather.initializer, *initializers]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "model.onnx"))
    return folder


def write_gather_graph(path: Path, table: np.ndarray) -> None:
    """Write an ONNX graph that looks logits (B,T,L) up in `table` (V,L) by token id."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", table.shape[1]])
    node = helper.make_node("Gather", ["table", "input_ids"], ["logits"], axis=0)
    graph = helper.make_graph([node], "lookup", [ids], [logits], [numpy_helper.from_array(table, "table")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def free_port() -> int:
    """Return a TCP port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ServerProcess:
    """A running `nerve serve`."""

    process: subprocess.Popen[bytes]
    url: str
    log_path: Path
    client: httpx.Client
    uds: str | None = None
    connections: list[socket.socket] = field(default_factory=list)  # those of `raw_http.connect`

    def predict(self, inputs: object, **options: object) -> httpx.Response:
        """POST one prediction."""
        return self.client.post("/predict_tokens", json={"inputs": inputs, **options})

    def log(self) -> str:
        """Return everything the server has logged."""
        return self.log_path.read_text()

    def close_connections(self) -> None:
        """Close what a test that failed has left open, so that the server need not wait for it."""
        self.client.close()
        for connection in self.connections:
            connection.close()

    def stop(self, timeout: float = 60) -> int:
        """Send SIGTERM and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def write_config(path: Path, model_folder: Path, **sections: dict[str, Any]) -> Path:
    """Write a config file that serves a local model folder; `sections` are merged in."""
    document: dict[str, Any] = {
        "model": {"checkpoint_repository": {"source": "LOCAL", "path": str(model_folder)}, "device": "cpu"},
        "runtime": {"window_stride": 4},
        "server": {
            **{"host": "127.0.0.1", "port": free_port(), "log_format": "json"},
            "canary_interval_ms": None,  # tests count model calls; those of the canary turn it on
        },
    }
    for name, values in sections.items():
        document.setdefault(name, {}).update(values)
    path.write_text(yaml.safe_dump(document))
    return path


def start_server(
    config_path: Path,
    environment: dict[str, str] | None = None,
    wait: bool = True,
    program: Sequence[str] = ("-m", "nerve"),
) -> ServerProcess:
    """Start `nerve serve` as a process of its own; waits until it is ready, unless told not to."""
    server = yaml.safe_load(config_path.read_text())["server"]
    log_path = config_path.with_suffix(".log")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *program, "serve", "--config", str(config_path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=config_path.parent,
        )
    url = f"http://127.0.0.1:{server['port']}"
    transport = httpx.HTTPTransport(uds=server["uds"]) if server.get("uds") else None
    client = httpx.Client(base_url=url, timeout=30, transport=transport)
    running = ServerProcess(process, url, log_path, client, server.get("uds"))
    if wait:
        wait_until_ready(running)
    return running


def wait_until_ready(server: ServerProcess, timeout: float = 60) -> None:
    """Poll readiness until a deadline; fails with the log when the process ends first."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended with {server.process.returncode}:\n{server.log()}")
        try:
            if server.uds is not None:
                with socket.socket(socket.AF_UNIX) as probe:  # httpx leaks its socket when this fails
                    probe.connect(server.uds)
            if server.client.get("/health/ready").status_code == 200:
                return
        except (httpx.TransportError, OSError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"the server is not ready after {timeout} s:\n{server.log()}")


def workers_of(server: ServerProcess) -> list[int]:
    """Return the ids of the processes that serve."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    workers = []
    for child in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended since the list was made
            if "resource_tracker" not in Path(f"/proc/{child}/cmdline").read_text():
                workers.append(int(child))
    return workers


class Gate(Backend):
    """The backend of a real model, behind a gate. `entered` counts the calls that have come to it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.provider = backend.provider
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)
        self.n_windows = 0

    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Wait for the gate, then compute."""
        self.entered.release()
        assert self.opened.wait(PATIENCE)
        self.n_windows += len(windows)
        return self._backend.run(windows, needs_logits)


def hold(model: Model) -> tuple[Model, Gate]:
    """Put a gate before the backend of a model, for one engine thread."""
    gate = Gate(model.backend)
    return dataclasses.replace(model, backend=gate, n_threads=1), gate


def open_engine(model_folder: Path, **sections: dict[str, Any]) -> Engine:
    """Load a model folder and return an engine over it; `sections` are merged into the configuration."""
    model, config = open_model(model_folder, **sections)
    return Engine(model, config.batching.max_queue_tokens)


def predict_blocking(engine: Engine, texts: Sequence[str], options: PredictOptions) -> Prediction:
    """Answer one request on the calling thread."""
    return collect(engine, submit(engine, texts, options))


def open_model(model_folder: Path, **sections: dict[str, Any]) -> tuple[Model, Config]:
    """Load a model folder; `sections` are merged into the configuration, which is returned, too."""
    document: dict[str, Any] = {
        "model": {"checkpoint_repository": {"source": "LOCAL", "path": str(model_folder)}, "device": "cpu"},
        **sections,
    }
    config = parse_config(document, {}, model_folder)
    model = load_model(config, ModelFolder(model_folder, model_folder.name, ""), default_cache_dir())
    return model, config
