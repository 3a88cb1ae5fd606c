"""Reads viterbi_calibration.json: the biases with which the makers of a checkpoint decode its labels.

The file is that of openai/privacy-filter and what is fine-tuned from it: {"operating_points": {NAME: {"biases":
{"transition_bias_background_stay": 0.0, ...}}}}, six numbers for each point.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from nerve.checkpoint.settings import read_object
from nerve.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

CALIBRATION = "viterbi_calibration.json"
_PREFIX = "transition_bias_"
BIASES = (
    "background_stay",
    "background_to_start",
    "inside_to_continue",
    "inside_to_end",
    "end_to_background",
    "end_to_start",
)
# Nats. Beside a bias of some 1e15 the scores of tokens vanish in rounding, and everything would be `O`.
_MOST = 1_000_000
_KEY = "runtime.viterbi_operating_point"
_DEFAULT = "default"


def read_calibration(folder: Path, point: str) -> dict[str, float] | None:
    """Return the six biases of an operating point, by the names of `BIASES`; None where the checkpoint has no file.

    Raises `CheckpointError` for a file that is not as above, and for a point that there is not.
    """
    file = folder / CALIBRATION
    if not file.exists():
        if point != _DEFAULT:
            raise CheckpointError(f"{_KEY} is {point}, but {folder} has no {CALIBRATION}; remove the key")
        return None
    points = read_object(file, str(folder)).get("operating_points")
    if not isinstance(points, dict) or not points:
        raise CheckpointError(
            f"{CALIBRATION} of {folder} has no operating_points; fetch it again, or remove it"
        )
    if point not in points:
        raise CheckpointError(
            f"{_KEY}: {CALIBRATION} of {folder} has no operating point {point}; known: {', '.join(points)}"
        )
    chosen = points[point]
    biases = chosen.get("biases") if isinstance(chosen, dict) else None
    where = f"operating_points.{point}.biases in {CALIBRATION} of {folder}"
    if not isinstance(biases, dict):
        raise CheckpointError(f"{where} is missing or no object; fetch the file again, or remove it")
    wanted = {_PREFIX + name for name in BIASES}
    if set(biases) != wanted:
        wrong = sorted(set(biases) ^ wanted)
        raise CheckpointError(
            f"{where} must hold exactly {', '.join(sorted(wanted))}; missing or unknown: {', '.join(wrong)}; mend it"
        )
    for name, value in biases.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not _is_finite(value):
            raise CheckpointError(f"{where}: {name} must be a finite number; mend it")
        if abs(value) > _MOST:
            raise CheckpointError(
                f"{where}: {name} must be a number from -{_MOST} to {_MOST}: beyond that nothing else counts; mend it"
            )
    return {name: float(biases[_PREFIX + name]) for name in BIASES}


def _is_finite(value: float) -> bool:
    """Tell whether a number is finite; a whole number of any length is."""
    return isinstance(value, int) or math.isfinite(value)
