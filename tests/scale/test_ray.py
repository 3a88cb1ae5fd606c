"""`--ray` and `nerve.integrations.ray` on a real cluster of two nodes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from outputs import n_entries, tree
from ray.cluster_utils import Cluster

WORDS = ("Anna Maria lives in New York", "Bob sees Paris", "a . x and y", "bob@example.org in Newville")
PARTS = ["--part-bytes", "20000"]


def nerve(
    command: str, model: Path, folder: Path, *arguments: str, **environment: str
) -> subprocess.Popen[bytes]:
    """Start a command in a folder."""
    line = [sys.executable, "-m", "nerve", command, "--config", str(model), *arguments]
    return subprocess.Popen(
        line, cwd=folder, env={**os.environ, **environment}, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> str:
    """Wait for a command that must succeed; returns its stderr."""
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said.decode()
    return said.decode()


def write_rows(folder: Path, n_rows: int) -> None:
    """Write a corpus of JSON lines, bad ones among them, with texts of many lengths."""
    (folder / "in").mkdir()
    lines = [
        json.dumps({"id": index, "text": f"{WORDS[index % 4]} {index} " + "Anna . " * (index % 23)})
        for index in range(n_rows)
    ]
    lines[5] = "{"
    lines[50] = json.dumps({"id": 50, "text": "Anna " * 3_000})
    (folder / "in/a.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "in/b.txt").write_text("Anna\nBob\nAnna\n" * 300)


def wait_for(folder: Path, n_parts: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until an output has so many parts."""
    end = time.monotonic() + 150
    while n_entries(folder) < n_parts:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_killed_node_loses_nothing(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    """Nor does a killed command: what comes is byte for byte what one process writes."""
    write_rows(tmp_path, 10_000)
    common = ["--file", "in", "--skip-bad", *PARTS]
    finish(nerve("predict", model, tmp_path, *common, "--output", "here"))
    node = cluster.add_node(num_cpus=1, object_store_memory=200 << 20)
    cluster.wait_for_nodes()
    there = [*common, "--ray", cluster.address, "--output", "there", "--resume"]
    process = nerve("predict", model, tmp_path, *there)
    wait_for(tmp_path / "there", 3, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    n_before = n_entries(tmp_path / "there")
    process = nerve("predict", model, tmp_path, *there)
    wait_for(tmp_path / "there", n_before + 3, process)
    cluster.remove_node(node, allow_graceful=False)
    n_at_the_kill = n_entries(tmp_path / "there")
    said = finish(process)
    assert n_at_the_kill < n_entries(tmp_path / "there"), "the run ended before the node was killed"
    assert "a worker was lost" in said
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
    assert tree(tmp_path / "there")["_errors/a-00000.jsonl.jsonl"].count(b"\n") == 2


def test_numbers_and_pseudonyms_are_those_of_one_process(
    cluster: Cluster, model: Path, tmp_path: Path
) -> None:
    """They are made by the process that writes; the key is on no node."""
    write_rows(tmp_path, 3_000)
    for name, operators in (("numbers", "number"), ("hashes", "PER=hash,LOC=mask")):
        common = ["--file", "in", "--skip-bad", "--operators", operators]
        key = {"NERVE_REDACTION_KEY": "k" * 32}
        finish(nerve("redact", model, tmp_path, *common, "--output", f"{name}-here", **key))
        there = ["--ray", cluster.address, "--output", f"{name}-there"]
        finish(nerve("redact", model, tmp_path, *common, *there, **key))
        assert tree(tmp_path / f"{name}-there") == tree(tmp_path / f"{name}-here")


def test_what_keeps_a_node_from_answering_is_said(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    """One line each: no cluster there, and options that the model does not know."""
    for arguments, reason in (
        (["--ray", "127.0.0.1:1", "Anna"], b"cannot reach the Ray cluster"),
        (["--ray", cluster.address, "--labels", "NOPE", "Anna"], b"unknown label"),
    ):
        process = nerve("predict", model, tmp_path, *arguments)
        _, said = process.communicate(timeout=200)
        assert (process.returncode, reason in said) == (1, True), said


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[None]:
    """Connect this process to a cluster of two nodes."""
    cluster.add_node(num_cpus=3, object_store_memory=200 << 20)
    cluster.wait_for_nodes()
    ray.init(cluster.address, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("driver")
def test_map_batches(model: Path) -> None:
    """Columns stay, nulls stay null, and answers are those of the engine in this process."""
    from nerve import load  # noqa: PLC0415
    from nerve.integrations.ray import Predict, Redact  # noqa: PLC0415

    texts = [f"{WORDS[index % 4]} {index}" if index % 7 else None for index in range(400)]
    dataset = ray.data.from_arrow(pa.table({"id": range(400), "body": texts})).repartition(4)
    choices: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": 50, "concurrency": 2, "num_cpus": 1}
    arguments = {"model": str(model), "column": "body"}
    clean = dataset.map_batches(Redact, fn_constructor_kwargs=arguments, **choices).take_all()
    found = dataset.map_batches(
        Predict, fn_constructor_kwargs={**arguments, "labels": ["PER"]}, **choices
    ).take_all()
    with load(model) as classifier:
        given = [text for text in texts if text is not None]
        redacted = iter(classifier.redact(given))
        rows = iter(classifier.predict(given, "first", labels=["PER"]))
    clean.sort(key=lambda row: row["id"])
    found.sort(key=lambda row: row["id"])
    assert [row["body"] for row in clean] == [None if text is None else next(redacted).text for text in texts]
    assert [row["body"] for row in found] == texts
    for row in found:
        expected = None if row["body"] is None else next(rows)
        assert (row["entities"] is None) == (expected is None)
        for entity, one in zip(row["entities"] or [], expected or [], strict=True):
            assert (entity["start"], entity["end"], entity["label"]) == (one.start, one.end, "PER")
            assert entity["score"] == pytest.approx(one.results["PER"])


def pids_of_workers() -> list[int]:
    """Return the processes that hold a model of the command, by the name that Ray gives them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes().startswith(b"ray::Worker"):
                found.append(int(path.parent.name))
    return found


def test_workers_that_die_and_a_cluster_that_is_gone(cluster: Cluster, model: Path, tmp_path: Path) -> None:
    """Killed workers lose nothing. Without its head Ray ends the command, and --resume goes on, here without Ray."""
    write_rows(tmp_path, 10_000)
    common = ["--file", "in", "--skip-bad", *PARTS]
    finish(nerve("redact", model, tmp_path, *common, "--output", "here"))
    there = [*common, "--output", "there", "--resume"]
    process = nerve("redact", model, tmp_path, *there, "--ray", cluster.address)
    for number in range(2):
        wait_for(tmp_path / "there", 2 + 2 * number, process)
        for pid in pids_of_workers():
            os.kill(pid, signal.SIGKILL)
    wait_for(tmp_path / "there", n_entries(tmp_path / "there") + 1, process)
    cluster.shutdown()
    _, said = process.communicate(timeout=200)
    assert process.returncode not in {0, None}
    assert b"Traceback" not in said, said.decode()
    assert b"a worker was lost" in said, said.decode()
    assert n_entries(tmp_path / "there") < n_entries(tmp_path / "here"), (
        "the run ended before its cluster did"
    )
    finish(nerve("redact", model, tmp_path, *there))
    assert tree(tmp_path / "there") == tree(tmp_path / "here")
