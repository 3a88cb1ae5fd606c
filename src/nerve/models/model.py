"""A loaded, proven and warm model: what `loader` makes and an engine runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nerve.config import Precision
    from nerve.runtime.packed import PackedSession
    from nerve.runtime.padded import Session
    from nerve.scheduling.batching import BatchPolicy
    from nerve.scheduling.threads import EngineThread
    from nerve.text.aggregation import Vocabulary
    from nerve.text.labels import LabelSet
    from nerve.text.tokenizer import TextTokenizer


@dataclass(frozen=True, slots=True)
class Model:
    """A loaded, proven and warm model.

    folder: the model folder. max_length: most tokens of a window, special tokens included.
    n_threads: engine threads that should call `session.run`.
    runs_anywhere: `session.run` may be called from any thread, and shares its cores with the callers (CPU).
    can_spread: a call can use the cores of all engine threads.
    thread: the one thread that `session.run` must be called on (packed graphs), or None for any.
    """

    model_id: str
    revision: str
    folder: Path
    labels: LabelSet
    vocabulary: Vocabulary
    tokenizer: TextTokenizer
    session: Session | PackedSession
    precision: Precision
    policy: BatchPolicy
    max_length: int
    n_threads: int
    runs_anywhere: bool
    can_spread: bool
    thread: EngineThread | None = None
