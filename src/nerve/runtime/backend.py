"""What runs a model: the class that every backend extends, and the row that describes one in the table (`devices`).

A new execution provider is a new module with a `Backend`, and one row in the table of `devices`. A package of
somebody else's adds a row by an entry point of the group `nerve.backends`.
"""

from __future__ import annotations

import abc
import enum
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nerve.config import CpuMode, Precision
from nerve.scheduling.batching import BatchPolicy
from nerve.types import TokenScores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from nerve.runtime.memory import Memory
    from nerve.types import Window


class GraphKind(enum.Enum):
    """What a graph takes and gives."""

    BUILT = "built"  # input_ids int32 (B, T), lengths int32 (B,) -> label_ids, scores, logits
    STANDARD = "standard"  # the same in operators of ONNX alone -> logits
    PACKED = "packed"  # the tokens of all sequences in one row: see `graph.packed`
    READY = (
        "ready"  # input_ids, attention_mask[, token_type_ids] (B, T) -> one output, float logits (B, T, L)
    )


class Backend(abc.ABC):
    """A loaded model on one device.

    provider: its name, for `/info`.
    n_labels: labels that it gives, or None where it does not say.
    policy: limits of a batch; those of the options that it was opened with, unless it knows better.
    n_threads: calls of `run` that should go on side by side.
    can_spread: a call can use the cores of all these threads.
    """

    provider: str
    n_labels: int | None = None
    policy: BatchPolicy
    n_threads: int = 1
    can_spread: bool = False

    @abc.abstractmethod
    def run(self, windows: Sequence[Window], needs_logits: bool, spread: bool = False) -> list[TokenScores]:
        """Compute one batch; returns the scores of each window, in order.

        A window may be empty: a text without tokens, of a model without special tokens (`run_those_with_tokens`).
        spread: nothing else wants the cores now, so this call may use them all.
        Raises `DeviceFailed` when nothing will run any more; whatever else it raises fails this batch only.
        """

    def give_back_memory(self) -> None:  # noqa: B027 - most have nothing to do
        """Give back what only the largest calls so far have needed; the next one takes it again."""

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Give the device back; nothing is run any more."""


def run_those_with_tokens(
    windows: Sequence[Window], n_labels: int, run: Callable[[Sequence[Window]], list[TokenScores]]
) -> list[TokenScores]:
    """Run the windows that hold a token; of one that holds none there are no scores, and no graph need know it."""
    held = [window for window in windows if len(window.ids)]
    scores = iter(run(held) if held else ())
    return [next(scores) if len(window.ids) else _no_scores(n_labels) for window in windows]


def _no_scores(n_labels: int) -> TokenScores:
    return TokenScores(np.empty(0, np.int64), np.empty(0, np.float32), np.empty((0, n_labels), np.float32))


@dataclass(frozen=True, slots=True)
class OpenOptions:
    """What a backend is opened with.

    source: the graph itself, or the file that holds it. pad_id: id that fills rows up to the longest; some graphs
    derive positions from it. max_length: most tokens of a window. policy: limits of a batch, defaults filled in.
    max_batch_tokens: as configured; None leaves it to the backend. n_threads: cores that it may use.
    """

    source: bytes | Path
    kind: GraphKind
    device_id: int
    pad_id: int
    max_length: int
    policy: BatchPolicy
    max_batch_tokens: int | None
    n_threads: int
    mode: CpuMode


@dataclass(frozen=True, slots=True)
class Preparation:
    """What a provider makes of a built graph once, so that all its sessions on this machine share it.

    hardware: names what the result fits; None where that is not known, and nothing is prepared.
    write: writes a graph, given as a file, into a folder as `model.onnx` and `model.data`; False where the result does
        not compute the same.
    """

    hardware: Callable[[], str | None]
    write: Callable[[Path, Path], bool]


@dataclass(frozen=True, slots=True)
class Provider:
    """One way to run models: a row of the table.

    device: as in `model.device`.
    open: opens a backend. Raises `ModelError`.
    precisions: what graphs can be built in for it; the first is what `auto` means.
    graph_kind: what is built for it; a ready graph may come instead.
    owned: kinds of graph whose backend belongs to one thread, which opens and runs it.
    shares_cores: calls compute on the cores that the callers run on, and may be made from any thread.
    why_not: says why it cannot be used here, and what to do; None when it can.
    least_batch_tokens, max_batch_size, max_padding, enough_tokens: defaults of `BatchPolicy`.
    memory: tells of a device what its calls may use; None where it is not known.
    most_window_tokens: longest window by default, whatever the model and the memory allow.
    preparation: None where sessions share nothing.
    has_one_owner: one process computes on the device for all workers (`server.workers`); else each does for itself.
    """

    device: str
    open: Callable[[OpenOptions], Backend]
    precisions: tuple[Precision, ...] = (Precision.FLOAT32,)
    graph_kind: GraphKind = GraphKind.BUILT
    owned: frozenset[GraphKind] = frozenset()
    shares_cores: bool = False
    why_not: Callable[[], str | None] = lambda: None
    least_batch_tokens: int = 0
    max_batch_size: int = 32
    max_padding: float = 1.0
    enough_tokens: int = sys.maxsize
    memory: Callable[[int], Memory | None] = lambda device_id: None
    most_window_tokens: int = 8192
    preparation: Preparation | None = None
    has_one_owner: bool = False
