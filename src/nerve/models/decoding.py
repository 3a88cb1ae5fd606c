"""How the scores of a model become entities: its labels under their new names, its decoder, its own strategy.

All that the configuration says of it is checked here against the labels of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.checkpoint.calibration import read_calibration
from nerve.config.operators import DEFAULT
from nerve.errors import ConfigError
from nerve.text.filters import names_in
from nerve.text.labels import LabelScheme, parse_labels
from nerve.text.viterbi import Biases, Decoder, has_decoder
from nerve.types import AggregationStrategy, EntityStrategy, PatternName

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from nerve.config import RuntimeConfig
    from nerve.text.labels import LabelSet

_ENDED_SCHEMES = (LabelScheme.BIOES, LabelScheme.BILOU)


@dataclass(frozen=True, slots=True)
class Decoding:
    """What turns scores into entities.

    decoder: for `viterbi`; None where the labels have no prefixes.
    entity_strategy: `runtime.entity_strategy`, resolved.
    """

    labels: LabelSet
    decoder: Decoder | None
    entity_strategy: AggregationStrategy


def read_decoding(
    names: Sequence[str], folder: Path, runtime: RuntimeConfig, operators: Iterable[str] = ()
) -> Decoding:
    """Return how the model of `folder`, whose labels have these names, is decoded.

    operators: the labels that `redaction.operators` names.
    Raises `ConfigError` for labels that there are not and for `viterbi` where it cannot be, `CheckpointError` for a
    calibration that cannot be used.
    """
    labels = parse_labels(names, runtime.rename_labels)
    _check_names(parse_labels(names), labels, runtime, operators)
    biases = read_calibration(folder, runtime.viterbi_operating_point)
    decoder = Decoder(labels, Biases(**(biases or {}))) if has_decoder(labels) else None
    for key in ("aggregation_strategy", "entity_strategy"):
        if decoder is None and getattr(runtime, key) == AggregationStrategy.VITERBI.value:
            raise ConfigError(f"runtime.{key}: {why_no_viterbi()}")
    strategy = AggregationStrategy.FIRST
    if runtime.entity_strategy is not EntityStrategy.AUTO:
        strategy = AggregationStrategy(runtime.entity_strategy.value)
    elif decoder is not None and (biases is not None or labels.scheme in _ENDED_SCHEMES):
        strategy = AggregationStrategy.VITERBI
    return Decoding(labels, decoder, strategy)


def why_no_viterbi() -> str:
    """Say why a model without a decoder cannot be asked for `viterbi`."""
    return (
        "viterbi needs labels with prefixes (B-, I- and the like), which this model does not have; choose simple, "
        "first, average or max"
    )


def _check_names(own: LabelSet, labels: LabelSet, runtime: RuntimeConfig, operators: Iterable[str]) -> None:
    patterns = [name.label for name in PatternName]
    known = dict.fromkeys((*own.entity_labels, *patterns))
    for name in runtime.rename_labels:
        if name not in known:
            raise ConfigError(f"runtime.rename_labels.{name}: unknown label; known: {', '.join(known)}")
    known = dict.fromkeys(
        (*labels.entity_labels, *(runtime.rename_labels.get(name, name) for name in patterns))
    )
    named = [(f"runtime.{field}", name) for field, name in names_in(runtime.labels, runtime.min_score)]
    named += [("redaction.operators", name) for name in operators if name != DEFAULT]
    for key, name in named:
        if name not in known:
            raise ConfigError(f"{key}: unknown label {name}; known: {', '.join(known)}")
