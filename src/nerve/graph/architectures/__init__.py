"""Maps the checkpoints of known architectures to one neutral description of an encoder.

`FAMILIES` has a row for each `model_type`: a new architecture is a new file here, which has a `Family`, and a row. A
package of somebody else's adds one by an entry point of the group `nerve.architectures`, whose name is the model type
and whose object is a `Family` (docs/explanation/architectures.md). The defaults of a family are those of its
configuration class in transformers 5.23. What is not known is refused (`NotBuildable`) and never guessed; `load_graph`
then looks for a ready graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Protocol

from nerve.checkpoint.settings import label_names, other_heads, why_made_up
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
from nerve.graph.architectures.privacy_filter import OPENAI_PRIVACY_FILTER
from nerve.graph.architectures.reading import NotBuildable, Tensors
from nerve.graph.architectures.rembert import REMBERT
from nerve.graph.architectures.roberta import ROBERTA
from nerve.graph.architectures.ropebert import GTE, JINA_EMBEDDINGS_V3, NOMIC_BERT
from nerve.graph.stored import UnknownType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nerve.graph.architectures.encoder import Encoder, Linear
    from nerve.graph.stored import StoredWeights
    from nerve.types import FloatArray

__all__ = [
    "FAMILIES",
    "Family",
    "NotBuildable",
    "Survey",
    "describe",
    "find_family",
    "local_windows",
    "survey",
    "why_not_packed",
]


GROUP = "nerve.architectures"


class Family(Protocol):
    """How the checkpoints of one kind of model are read; its methods raise `NotBuildable` with the reason.

    Two further methods may be there, too: `why_not_packed(config)` says why there is no graph for a GPU, or None;
    `local_windows(config)` returns the window of each layer where no layer attends to all tokens, else None.
    """

    @property
    def word_table(self) -> str:
        """Name of the tensor that holds a row for each token; it begins with `base_model_prefix` of transformers."""

    @property
    def position_table(self) -> str | None:
        """Name of the tensor that holds a row for each position; None where there is none."""

    def is_needed(self, name: str) -> bool:
        """Return False for tensors of pre-training and for buffers, which nobody need hear of."""

    def most_positions(self, config: Mapping[str, Any]) -> int | None:
        """Return how many positions the family computes where no table tells; None for no bound."""

    def check(self, config: Mapping[str, Any]) -> None:
        """Prove that the config asks for nothing but what the family computes."""

    def describe(self, config: Mapping[str, Any], tensors: Tensors) -> Encoder:
        """Take every weight that the class of transformers has; the log names those that nobody takes."""


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
    "openai_privacy_filter": OPENAI_PRIVACY_FILTER,
    "jina_embeddings_v3": JINA_EMBEDDINGS_V3,
}


def find_family(config: Mapping[str, Any]) -> Family:
    """Return the family of a `config.json` that can be built from. Raises `NotBuildable` with the reason."""
    if config.get("model_type") is None:
        raise NotBuildable('config.json has no model_type; add it, such as "model_type": "bert"')
    family = _look_up(config.get("model_type"))
    if heads := other_heads(config):
        raise NotBuildable(f"config.json names {', '.join(heads)}, not a ...ForTokenClassification")
    for key in ("is_decoder", "add_cross_attention", "quantization_config", "pruned_heads"):
        if config.get(key):
            raise NotBuildable(f"config.json sets {key}")
    family.check(config)
    return family


def why_not_packed(config: Mapping[str, Any]) -> str | None:
    """Say why a config that can be built from has no packed form for a GPU; None where it has one."""
    method = getattr(find_family(config), "why_not_packed", None)
    reason: str | None = None if method is None else method(config)
    return reason


def local_windows(config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Return how many tokens to each side each layer attends to; None where one attends to all, or for an unknown type.

    The sum is how far an answer can depend on another token.
    """
    try:
        method = getattr(find_family(config), "local_windows", None)
        windows: tuple[int, ...] | None = None if method is None else method(config)
    except (NotBuildable, ModelError):
        return None
    return windows


@dataclass(frozen=True, slots=True)
class Survey:
    """What is known of weights before their numbers are read.

    n_words, n_positions: rows of the tables of tokens and of positions; None where there is no such table.
    unused: tensors that transformers' class has no place for, either. leftovers: those among them of pre-training.
    """

    n_words: int | None
    n_positions: int | None
    unused: list[str]
    leftovers: list[str]


def _look_up(model_type: object) -> Family:
    """Return the family of the table, or of another package; one of another package may fail in any way."""
    if isinstance(model_type, str) and model_type in FAMILIES:
        return FAMILIES[model_type]
    found = {point.name: point for point in entry_points(group=GROUP)}
    if not isinstance(model_type, str) or model_type not in found:
        known = ", ".join(sorted({*FAMILIES, *found}))
        raise UnknownType(f"model type {model_type} is not one that can be built: {known}")
    try:
        family: Family = found[model_type].load()
    except Exception as error:
        raise ModelError(
            f"model type {model_type} is read by another package ({found[model_type].value}), which cannot be loaded: "
            f"{type(error).__name__}: {error}; mend or remove that package"
        ) from error
    return family


def describe(
    config: Mapping[str, Any], weights: Mapping[str, FloatArray], *, takes_all: bool = False
) -> Encoder:
    """Return the encoder of a checkpoint: its `config.json`, and its tensors by name.

    takes_all: refuse tensors that have no place, too; those of a graph are there because it computes with them.
    Raises `NotBuildable` when a tensor is missing or of the wrong shape, and `ModelError` when the classifier and
    `id2label` disagree, which no other graph of this checkpoint would repair.
    """
    family = find_family(config)
    encoder, tensors = _describe(config, family, weights)
    if takes_all:
        tensors.check_surplus()
    _check_labels(config, encoder.classifier)
    return encoder


def survey(config: Mapping[str, Any], weights: StoredWeights) -> Survey:
    """Prove that `describe` will do, but for the numbers, none of which is read. Raises as it does."""
    family = find_family(config)
    encoder, tensors = _describe(config, family, weights.outline())
    _check_labels(config, encoder.classifier)

    def rows(table: str | None) -> int | None:
        stored = tensors.find(table) if table is not None else None
        shape = weights.shape_of(stored) if stored is not None else None
        return shape[0] if shape else None

    return Survey(rows(family.word_table), rows(family.position_table), tensors.unused(), tensors.leftovers())


def _describe(
    config: Mapping[str, Any], family: Family, weights: Mapping[str, FloatArray]
) -> tuple[Encoder, Tensors]:
    tensors = Tensors(weights, family.is_needed, family.word_table.partition(".")[0])
    try:
        encoder = family.describe(config, tensors)
    except NotBuildable:
        tensors.check_quantised()  # a better reason, if it is one
        raise
    tensors.check_quantised()
    return encoder, tensors


def _check_labels(config: Mapping[str, Any], classifier: Linear) -> None:
    n_named, n_rows = len(label_names(config, "the checkpoint")), classifier.weight.shape[0]
    if n_named == n_rows:
        return
    if reason := why_made_up(config):
        raise ModelError(f"{reason}; the classifier has {n_rows} labels: add id2label with a name for each")
    raise ModelError(
        f"config.json has {n_named} labels in id2label, the classifier {n_rows}; correct id2label"
    )
