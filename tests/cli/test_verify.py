"""`nerve verify` as a real process: models that agree, models that do not, in process and over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from builders import LABELS, ServerProcess, free_port, write_config, write_gather_graph, write_lookup_model


def nerve(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end with pipes for all streams."""
    return subprocess.run(
        [sys.executable, "-m", "nerve", *map(str, arguments)], capture_output=True, check=False
    )


# Under the graph of `worse`, "york" is O and all else as it was: 3 of 4 tokens, 1 of 2 spans.
TEXTS = "Anna sees New York\nx\n\n"


@pytest.fixture
def worse(lookup_model: Path, tmp_path: Path) -> Path:
    """Write a lookup model with a second, worse graph beside the good one: worse.onnx."""
    folder = tmp_path / "worse"
    shutil.copytree(lookup_model, folder)
    graph = onnx.load(folder / "model.onnx").graph
    table = np.copy(numpy_helper.to_array(graph.initializer[0]))  # (V,L)
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    table[vocabulary["york"]] = table[vocabulary["x"]]
    write_gather_graph(folder / "worse.onnx", table)
    return folder


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Write the texts to compare on."""
    path = tmp_path / "texts.txt"
    path.write_text(TEXTS)
    return path


def verify(*arguments: str | Path, status: int) -> dict[str, Any]:
    """Run `nerve verify --json` and return its report."""
    done = nerve("verify", "--json", *arguments)
    assert done.returncode == status, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_model_agrees_with_itself(lookup_model: Path, tmp_path: Path) -> None:
    """float32 served against float32, on the built-in texts: full agreement, no drift beyond rounding."""
    report = verify("--config", write_config(tmp_path / "c.yaml", lookup_model), status=0)
    assert report["served"] == report["reference"] == "float32, CPUExecutionProvider"
    assert report["texts"] > 100
    assert (report["token_agreement"], report["span_f1"], report["passed"]) == (1.0, 1.0, True)
    assert report["max_drift"] < 1e-6


def test_worse_graph_fails_with_numbers_worked_out_by_hand(worse: Path, texts: Path, tmp_path: Path) -> None:
    """The named graph is judged against the folder's float32 graph; below --min-agreement the status is 1."""
    config = write_config(tmp_path / "c.yaml", worse, model={"graph": "worse.onnx"})
    report = verify("--config", config, "--texts", texts, status=1)
    assert (report["texts"], report["tokens"], report["spans"]) == (3, 5, 3)
    assert report["token_agreement"] == pytest.approx(4 / 5)
    assert report["span_f1"] == pytest.approx(2 * 1 / (2 + 2))
    sure, other = np.exp([6.0, 0.0]) / (np.exp(6.0) + len(LABELS) - 1)
    assert report["max_drift"] == pytest.approx(sure - other, abs=1e-6)
    assert report["mean_drift"] == pytest.approx((sure - other) / 5, abs=1e-6)
    (text,) = report["worst"]
    assert (text["text_index"], text["tokens_that_differ"]) == (0, 1)
    assert text["spans_lost"] == [{"start": 10, "end": 18, "label": "LOC"}]
    assert text["spans_added"] == [{"start": 10, "end": 13, "label": "LOC"}]
    assert verify("--config", config, "--texts", texts, "--min-agreement", "0.8", status=0)["passed"]


def test_texts_are_shown_only_when_asked(worse: Path, texts: Path, tmp_path: Path) -> None:
    """Input text is personal data: neither table nor JSON has it without --show-text."""
    config = write_config(tmp_path / "c.yaml", worse, model={"graph": "worse.onnx"})
    arguments = ("verify", "--config", config, "--texts", texts)
    for form in ((), ("--json",)):
        assert b"York" not in nerve(*arguments, *form).stdout
        assert b"Anna sees New York" in nerve(*arguments, *form, "--show-text").stdout


def test_table_names_the_verdict(worse: Path, texts: Path, tmp_path: Path) -> None:
    """The table has every number, the verdict and the worst texts."""
    config = write_config(tmp_path / "c.yaml", worse, model={"graph": "worse.onnx"})
    shown = nerve("verify", "--config", config, "--texts", texts).stdout.decode()
    assert "token agreement    0.800000 < 0.995 FAILED" in shown
    assert "span F1            0.500000" in shown
    assert "3 texts, 5 tokens, 3 spans" in shown
    assert "LOC 10-18" in shown


def test_running_server_is_judged_by_its_answers(
    serve: Callable[..., ServerProcess], worse: Path, texts: Path, tmp_path: Path
) -> None:
    """--url compares a server with float32 in process, whatever the server's own defaults."""
    defaults = {
        "raw_scores": True,
        "raw_scores_as": "logits",
        "offset_unit": "byte",
        "aggregation_strategy": "simple",
    }
    server = serve(
        folder=worse,
        model={"graph": "worse.onnx"},
        runtime=defaults,
        limits={"max_inputs": 2},
        environment={"NERVE_API_KEY": "key"},
    )
    key = tmp_path / "key"
    key.write_text("key\n")
    config = write_config(tmp_path / "c.yaml", worse, server={"api_key_file": str(key)})
    report = verify("--config", config, "--url", server.url, "--texts", texts, status=1)
    assert report["served"] == f"float32, CPUExecutionProvider, {server.url}"
    assert report["token_agreement"] == pytest.approx(4 / 5)
    assert report["span_f1"] == pytest.approx(0.5)
    done = nerve("verify", "--config", write_config(tmp_path / "d.yaml", worse), "--url", server.url)
    assert done.returncode == 1
    assert b"answered 401: the API key is missing or wrong" in done.stderr


def test_other_model_is_refused(
    serve: Callable[..., ServerProcess], lookup_model: Path, tmp_path: Path
) -> None:
    """A server with other labels is not this model, and no numbers are made up."""
    other = write_lookup_model(tmp_path / "other", labels=("O", "B-PER", "I-PER", "B-ORG", "I-ORG"))
    server = serve(folder=other)
    done = nerve("verify", "--config", write_config(tmp_path / "c.yaml", lookup_model), "--url", server.url)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"the server's labels are not those of model" in done.stderr


def test_failures_are_one_line(lookup_model: Path, tmp_path: Path) -> None:
    """No server, a wrong address, and no texts each say what to do."""
    config = write_config(tmp_path / "c.yaml", lookup_model)
    empty = tmp_path / "empty"
    empty.write_text("")
    cases = (
        (
            ("--url", f"http://127.0.0.1:{free_port()}"),
            b"check the address, and that `nerve serve` runs there",
        ),
        (("--url", "localhost:8000"), b"--url is localhost:8000; write it with http:// or https://"),
        (("--texts", str(empty)), b"holds no text"),
    )
    for arguments, reason in cases:
        done = nerve("verify", "--config", config, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (1, b"", 1)
        assert reason in done.stderr
