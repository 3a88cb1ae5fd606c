"""The programs of docs/guide/corpora-at-scale.md, as they stand there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
from ray import serve

from doc_blocks import REPOSITORY, blocks_of
from nerve import load

PAGE = REPOSITORY / "docs/guide/corpora-at-scale.md"
TEXTS = ["Anna Maria lives in New York", None, "Bob sees bob@example.org", "", "x"]


def program(word: str) -> str:
    """Return the program of the page in which a word stands."""
    (block,) = (block for block in blocks_of(PAGE) if block.language == "python" and word in block.text)
    return block.text


@pytest.fixture
def here(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with a config file and letters."""
    (tmp_path / "config.yaml").write_text(model.read_text())
    rows = [{"id": index, "body": TEXTS[index % len(TEXTS)]} for index in range(300)]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def local_ray(here: Path) -> Any:
    """Start Ray on this machine, for the program to find."""
    del here
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 << 20,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


def check(folder: Path, model: Path) -> None:
    """Compare an output with what the engine gives in this process."""
    with load(model) as classifier:
        clean = {text: classifier.redact(text)[0].text for text in TEXTS if text is not None}
    rows = sorted(pq.read_table(folder).to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(300))
    assert [row["body"] for row in rows] == [clean.get(TEXTS[index % len(TEXTS)]) for index in range(300)]


@pytest.mark.usefixtures("local_ray")
def test_ray_data(model: Path, here: Path) -> None:
    """`Redact` in a program that reads and writes with Ray Data."""
    exec(program("map_batches"), {"__name__": "__main__"})  # noqa: S102 - ours
    check(here / "clean-by-ray", model)


@pytest.mark.usefixtures("local_ray")
def test_ray_serve(model: Path) -> None:
    """The deployment answers over HTTP what the engine answers."""
    exec(program("serve.deployment"), {"__name__": "__main__"})  # noqa: S102 - ours
    texts = [text for text in TEXTS if text]
    request = urllib.request.Request("http://127.0.0.1:8000/", json.dumps({"inputs": texts}).encode())
    try:
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310 - ours
            answers = json.load(response)
    finally:
        serve.shutdown()
    with load(model) as classifier:
        expected = classifier.predict(texts, "first")
    assert [[(row["token"], row["start"]) for row in rows] for rows in answers] == [
        [(row.token, row.start) for row in rows] for rows in expected
    ]


@pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs a Java runtime; there is none")
def test_spark(model: Path, here: Path) -> None:
    """The pandas UDF in Spark's local mode."""
    (here / "program.py").write_text(program("pandas_udf"))
    settings = {
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "localhost",
    }
    submit = ["--master", "local[2]", "--conf", "spark.ui.enabled=false", "pyspark-shell"]
    environment = {**os.environ, **settings, "PYSPARK_SUBMIT_ARGS": " ".join(submit)}
    done = subprocess.run([sys.executable, "program.py"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3_000:]
    check(here / "clean-by-spark", model)
