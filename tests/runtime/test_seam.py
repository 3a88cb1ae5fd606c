"""A backend from outside the package: one module, one entry point, and the server answers through it."""

from __future__ import annotations

import os
from pathlib import Path

from builders import start_server, write_config, write_lookup_model

# All of a backend. It calls every token whose id is odd an I-PER, and computes nothing.
TOY = '''
import numpy as np

from nerve.runtime.backend import Backend, Provider
from nerve.types import TokenScores


class Toy(Backend):
    """Gives label 2 to odd token ids and label 0 to even ones."""

    provider = "Toy"
    n_labels = 5

    def __init__(self, options):
        self.policy = options.policy

    def run(self, windows, needs_logits, spread=False):
        found = []
        for window in windows:
            labels = 2 * (np.asarray(window.ids) % 2)
            logits = 9 * np.eye(5, dtype=np.float32)[labels] if needs_logits else None
            found.append(TokenScores(labels, np.ones(len(labels), np.float32), logits))
        return found


PROVIDER = Provider(device="toy", open=Toy)
'''


def test_a_backend_from_outside_answers(tmp_path: Path) -> None:
    """No file of the package names it: its entry point is its row in the table."""
    assert TOY.count("\n") < 40
    (tmp_path / "toy.py").write_text(TOY)
    facts = tmp_path / "toy-1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (facts / "entry_points.txt").write_text("[nerve.backends]\ntoy = toy:PROVIDER\n")
    config = write_config(
        tmp_path / "config.yaml", write_lookup_model(tmp_path / "model"), model={"device": "toy"}
    )
    server = start_server(
        config, {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    )
    try:
        assert server.client.get("/info").json()["provider"] == "Toy"
        (rows,) = server.predict("anna lives in paris").json()
        ids = [row["token_id"] for row in rows]
        assert [next(iter(row["results"])) for row in rows] == ["I-PER" if i % 2 else "O" for i in ids]
    finally:
        server.client.close()
        assert server.stop() == 0
