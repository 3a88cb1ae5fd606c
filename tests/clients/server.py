"""Writes the lookup model and a configuration into a folder, and becomes `nerve serve`; run by nerve's own Python.

python tests/clients/server.py FOLDER PORT [ARGUMENT ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import write_config, write_lookup_model

RENAMED = {"PER": "PERSON", "LOC": "LOCATION"}

if __name__ == "__main__":
    folder, port, *arguments = sys.argv[1:]
    model = write_lookup_model(Path(folder) / "model")
    write_config(
        Path(folder) / "config.yaml",
        model,
        model={"name": "ner"},
        runtime={"rename_labels": RENAMED, "patterns": ["email", "credit_card"]},
        server={"port": int(port)},
    )
    command = [sys.executable, "-m", "nerve", "serve", "--config", f"{folder}/config.yaml", *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - it takes the place of this process
