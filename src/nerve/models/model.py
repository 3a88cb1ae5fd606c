"""A loaded, proven and warm model: what `loader` makes and an engine runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nerve.channel.front import Remote
    from nerve.config import Precision
    from nerve.models.limits import Lengths
    from nerve.runtime.backend import Backend
    from nerve.scheduling.batching import BatchPolicy
    from nerve.scheduling.threads import EngineThread
    from nerve.text.labels import LabelSet
    from nerve.text.tokenizer import TextTokenizer
    from nerve.text.viterbi import Decoder
    from nerve.text.words import Vocabulary
    from nerve.types import AggregationStrategy


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded, proven and warm model.

    name: what clients call it. revision: commit, version of the package, or hash of the files of a folder.
    folder: the model folder. lengths: of a window, and where `truncate` cuts.
    labels, decoder, entity_strategy: see `models.decoding.Decoding`.
    n_words: rows of the table of tokens; ids from there on must not reach the backend. None where it is not known.
    policy, n_threads, can_spread: as the backend has them.
    shares_cores: calls compute on the cores that the callers run on (CPU).
    thread: the one thread that `backend.run` must be called on, or None for any.
    remote: the process that runs it; None for this one.
    """

    name: str
    model_id: str
    revision: str
    folder: Path
    labels: LabelSet
    decoder: Decoder | None
    entity_strategy: AggregationStrategy
    vocabulary: Vocabulary
    tokenizer: TextTokenizer
    backend: Backend
    precision: Precision
    policy: BatchPolicy
    lengths: Lengths
    n_words: int | None
    n_threads: int
    shares_cores: bool
    can_spread: bool
    thread: EngineThread | None = None
    remote: Remote | None = None

    @property
    def window_tokens(self) -> int:
        """Most tokens of a window, special tokens included."""
        return self.lengths.window_tokens
