"""viterbi_calibration.json: what is read of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nerve.checkpoint.calibration import BIASES, CALIBRATION, read_calibration
from nerve.checkpoint.hub import ALWAYS
from nerve.errors import CheckpointError
from nerve.text.viterbi import Biases

GOOD = {f"transition_bias_{name}": index / 2 for index, name in enumerate(BIASES)}


def write(folder: Path, content: object) -> Path:
    """Write the file of a checkpoint, whose default point is content."""
    (folder / CALIBRATION).write_text(json.dumps(content))
    return folder


def points(**biases: Any) -> dict[str, Any]:
    """Return a whole file."""
    return {"operating_points": {name: {"biases": value} for name, value in biases.items()}}


def test_the_point_that_is_asked_for(tmp_path: Path) -> None:
    """Six numbers by the names of `Biases`; a checkpoint without the file has none."""
    assert read_calibration(tmp_path, "default") is None
    recall = dict.fromkeys(GOOD, -1)
    write(tmp_path, {**points(default=GOOD, high_recall=recall), "version": 1})
    found = read_calibration(tmp_path, "default")
    assert found is not None
    assert Biases(**found) == Biases(0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
    assert read_calibration(tmp_path, "high_recall") == dict.fromkeys(BIASES, -1.0)
    assert Biases.__struct_fields__ == BIASES
    assert CALIBRATION in ALWAYS  # fetched from a hub


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is not a JSON object"),
        ({}, "has no operating_points"),
        ({"operating_points": []}, "has no operating_points"),
        (points(other=GOOD), "has no operating point default; known: other"),
        ({"operating_points": {"default": GOOD}}, "operating_points.default.biases .* is missing"),
        (points(default=[1]), "is missing or no object"),
        (points(default={**GOOD, "transition_bias_x": 1}), "missing or unknown: transition_bias_x"),
        (points(default=dict(list(GOOD.items())[1:])), "missing or unknown: transition_bias_background_stay"),
        (
            points(default={**GOOD, "transition_bias_end_to_start": "1"}),
            "end_to_start must be a finite number",
        ),
        (points(default={**GOOD, "transition_bias_end_to_start": 1e15}), "from -1000000 to 1000000"),
        (points(default={**GOOD, "transition_bias_end_to_start": -(10**400)}), "from -1000000 to 1000000"),
        (points(default={**GOOD, "transition_bias_end_to_start": True}), "must be a finite number"),
        (points(default={**GOOD, "transition_bias_end_to_start": float("nan")}), "must be a finite number"),
        (points(default={**GOOD, "transition_bias_end_to_start": float("inf")}), "must be a finite number"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, content: object, message: str) -> None:
    """A calibration that cannot be used ends the start: entities would silently be others."""
    with pytest.raises(CheckpointError, match=message):
        read_calibration(write(tmp_path, content), "default")


def test_a_file_without_an_end(tmp_path: Path) -> None:
    """Lists in lists, deeper than the library reads, are no traceback."""
    (tmp_path / CALIBRATION).write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_calibration(tmp_path, "default")


def test_a_point_of_a_checkpoint_without_the_file(tmp_path: Path) -> None:
    """A point that was asked for and is not there is an error, never silently another one."""
    with pytest.raises(
        CheckpointError, match=r"viterbi_operating_point is high_recall, but .* has no viterbi_cal"
    ):
        read_calibration(tmp_path, "high_recall")
