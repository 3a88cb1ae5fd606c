"""Maps the checkpoints of known architectures to one neutral description of an encoder.

`FAMILIES` has a row for each `model_type`: a new architecture is a new file here, which has a `Family`, and a row. A
package of somebody else's adds one by an entry point of the group `nerve.architectures`, whose name is the model type
and whose object is a `Family` (docs/explanation/architectures.md). The defaults of a family are those of its
configuration class in transformers 5.23. What is not known is refused (`NotBuildable`) and never guessed; `load_graph`
then looks for a ready graph.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from nerve.checkpoint.settings import other_heads
from nerve.errors import ModelError
from nerve.graph.architectures.albert import ALBERT
from nerve.graph.architectures.bert import BERT
from nerve.graph.architectures.data2vec import DATA2VEC_TEXT
from nerve.graph.architectures.deberta import DEBERTA, DEBERTA_V2
from nerve.graph.architectures.distilbert import DISTILBERT
from nerve.graph.architectures.electra import ELECTRA
from nerve.graph.architectures.ernie import ERNIE
from nerve.graph.architectures.eurobert import EUROBERT
from nerve.graph.architectures.modernbert import MODERNBERT
from nerve.graph.architectures.mpnet import MPNET
from nerve.graph.architectures.prelayernorm import MEGATRON_BERT, ROBERTA_PRELAYERNORM
from nerve.graph.architectures.reading import NotBuildable, Tensors
from nerve.graph.architectures.rembert import REMBERT
from nerve.graph.architectures.roberta import ROBERTA
from nerve.graph.architectures.ropebert import GTE, JINA_EMBEDDINGS_V3, NOMIC_BERT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Encoder, Linear
    from nerve.types import FloatArray

__all__ = ["FAMILIES", "Family", "NotBuildable", "describe", "find_family"]


GROUP = "nerve.architectures"


class Family(Protocol):
    """How the checkpoints of one kind of model are read; its methods raise `NotBuildable` with the reason."""

    @property
    def word_table(self) -> str:
        """Name of the tensor that holds a row for each token of the vocabulary."""

    @property
    def position_table(self) -> str | None:
        """Name of the tensor that holds a row for each position; None where there is none."""

    def is_needed(self, name: str) -> bool:
        """Return False for tensors that a token classifier does not use."""

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return how many positions the family computes where no table tells; None for no bound."""

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for nothing but what the family computes."""

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Name every weight of the checkpoint; a tensor that is not taken is refused afterwards."""


FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "electra": ELECTRA,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "albert": ALBERT,
    "ernie": ERNIE,
    "data2vec-text": DATA2VEC_TEXT,
    "roberta-prelayernorm": ROBERTA_PRELAYERNORM,
    "megatron-bert": MEGATRON_BERT,
    "rembert": REMBERT,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA_V2,
    "modernbert": MODERNBERT,
    "eurobert": EUROBERT,
    "nomic_bert": NOMIC_BERT,
    "gte": GTE,
    "jina_embeddings_v3": JINA_EMBEDDINGS_V3,
}


def find_family(config: Mapping[str, Any]) -> Family:
    """Return the family of a `config.json` that can be built from. Raises `NotBuildable` with the reason."""
    family = _look_up(config.get("model_type"))
    if heads := other_heads(config):
        raise NotBuildable(f"config.json names {', '.join(heads)}, not a ...ForTokenClassification")
    for key in ("is_decoder", "add_cross_attention", "quantization_config", "pruned_heads"):
        if config.get(key):
            raise NotBuildable(f"config.json sets {key}")
    family.check(config)
    return family


def _look_up(model_type: object) -> Family:
    """Return the family of the table, or of another package; one of another package may fail in any way."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    found = {point.name: point for point in entry_points(group=GROUP)}
    if not isinstance(model_type, str) or model_type not in found:
        known = ", ".join(sorted({*FAMILIES, *found}))
        raise NotBuildable(f"model type {model_type} is not one that can be built: {known}")
    try:
        family: Family = found[model_type].load()
    except Exception as error:
        raise ModelError(
            f"model type {model_type} is read by another package ({found[model_type].value}), which cannot be loaded: "
            f"{type(error).__name__}: {error}"
        ) from error
    return family


def describe(config: Mapping[str, Any], weights: Mapping[str, FloatArray]) -> Encoder:
    """Return the encoder of a checkpoint: its `config.json`, and its tensors by name.

    Raises `NotBuildable` when a tensor is missing, left over or of the wrong shape, and `ModelError` when
    the classifier and `id2label` disagree, which no other graph of this checkpoint would repair.
    """
    family = find_family(config)
    tensors = Tensors(weights, family.is_needed)
    encoder = family.describe(config, tensors)
    tensors.check_surplus()
    _check_labels(config, encoder.classifier)
    return encoder


def _check_labels(config: Mapping[str, Any], classifier: Linear) -> None:
    labels = config.get("id2label")
    if labels and len(labels) != classifier.weight.shape[0]:
        raise ModelError(
            f"config.json has {len(labels)} labels in id2label, the classifier {classifier.weight.shape[0]}; "
            "correct id2label"
        )
