"""huggingface_hub's InferenceClient, and huggingface.js under Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

TEXT = "Anna Maria lives in Paris."
NODE_MODULES = Path(os.environ.get("NERVE_NODE_MODULES", "node_modules"))
KEY = "s3cret-key"


def test_token_classification(url: str) -> None:
    """Typed rows, with each of its parameters."""
    client = InferenceClient(model=f"{url}/pipeline/token-classification")
    rows = client.token_classification(TEXT)
    assert [(row.entity_group, row.word, row.start, row.end) for row in rows] == [
        ("PERSON", "Anna Maria", 0, 10),
        ("LOCATION", "Paris", 20, 25),
    ]
    assert all(0.98 < row.score < 1 for row in rows)
    rows = client.token_classification(TEXT, aggregation_strategy="none")
    assert [(row["entity"], row["index"]) for row in rows] == [("B-PER", 1), ("I-PER", 2), ("B-LOC", 5)]
    rows = client.token_classification(
        TEXT, aggregation_strategy="max", ignore_labels=["O", "PERSON"], stride=2
    )
    assert [row.word for row in rows] == ["Paris"]
    assert client.token_classification("the") == []


def test_default_route(start) -> None:  # noqa: ANN001
    """The server's own address is enough where its default route says so."""
    server = start(NERVE_RUNTIME__WEBSERVER_DEFAULT_ROUTE="/pipeline/token-classification")
    assert InferenceClient(model=server).token_classification(TEXT)[0].word == "Anna Maria"


def test_errors_and_keys(guarded: str) -> None:
    """The client shows the server's message, and sends a token as a key."""
    route = f"{guarded}/pipeline/token-classification"
    with pytest.raises(HfHubHTTPError, match="the API key is missing"):
        InferenceClient(model=route).token_classification(TEXT)
    client = InferenceClient(model=route, token=KEY)
    assert len(client.token_classification(TEXT)) == 2
    with pytest.raises(HfHubHTTPError, match="unknown value; known values"):
        client.token_classification(TEXT, aggregation_strategy="median")


SCRIPT = """
import { InferenceClient } from "@huggingface/inference";
const client = new InferenceClient(process.argv[3]);
const rows = await client.tokenClassification({ endpointUrl: process.argv[2], inputs: process.argv[4] });
console.log(JSON.stringify(rows));
"""


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE_MODULES / "@huggingface/inference").is_dir(),
    reason="node and @huggingface/inference are not installed",
)
def test_javascript(guarded: str, tmp_path: Path) -> None:
    """It checks that each row has what it needs."""
    (tmp_path / "ask.mjs").write_text(SCRIPT)
    (tmp_path / "node_modules").symlink_to(NODE_MODULES)
    command = ["node", "ask.mjs", f"{guarded}/pipeline/token-classification", KEY, TEXT]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [(row["entity_group"], row["word"]) for row in json.loads(done.stdout)] == [
        ("PERSON", "Anna Maria"),
        ("LOCATION", "Paris"),
    ]
