"""Lays the windows of one step side by side in one row of tokens, and takes the results apart again.

Pure functions and plain numpy: nothing here knows of a device. A step has one of few shapes (`Bucket`),
since a CUDA graph replays exactly the shapes it was captured with. What a step's windows leave free of its
T tokens is given to dummy sequences after them: every one of the B sequences has at least one token and
at most S, so no kernel ever meets an empty sequence or a token that belongs to none.

T = tokens of a step, B = its sequences, S = room for the longest of them.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from nerve.types import TokenScores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from nerve.types import FloatArray, IntArray, Window

    Int32Array = npt.NDArray[np.int32]

# Tokens of the steps that are worth a captured graph; beyond, launching is a small part of the time.
_TOKENS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
# Room for the longest sequence: multiples of 8, as attention with a bias demands of its kernels.
_LONGEST = (32, 64, 128, 256, 512)
# A token id that every model has; the results of dummies are not looked at.
_DUMMY_ID = 0
# A step of T tokens has T / 8 sequences, since hardly a request is shorter than 8 tokens.
_TOKENS_PER_SEQUENCE = 8
# Parts of the upload start at multiples of this many int32 values, 256 bytes: what cudaMalloc aligns to.
_ALIGNMENT = 64
# Shapes that are not captured are rounded up to few sizes, so that the device's allocator sees few.
_UNCAPTURED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class StepLimits:
    """What any step must hold: sequences of `max_length` tokens, `max_sequences` of them, `max_tokens` in all.

    max_cells: most scores of one head, B x S x S, of a step that is captured; None where attention keeps none.
    """

    max_length: int
    max_sequences: int
    max_tokens: int
    max_cells: int | None = None


@dataclass(frozen=True, slots=True)
class Bucket:
    """The shape of a step: T tokens in B sequences of at most S."""

    tokens: int
    sequences: int
    longest: int

    def fits(self, n_windows: int, n_tokens: int, longest: int) -> bool:
        """Tell whether windows fit, with dummies of 1 to S tokens filling what they leave."""
        n_dummies = self.sequences - n_windows
        rest = self.tokens - n_tokens
        return longest <= self.longest and 0 <= n_dummies <= rest <= n_dummies * self.longest

    @property
    def cells(self) -> int:
        """Scores of one head, of each place for each place of the same sequence."""
        return self.sequences * self.longest**2

    def room(self, max_length: int) -> int:
        """Return the tokens of the longest window, of at most `max_length`, that leaves one to each dummy."""
        return min(max_length, self.longest, self.tokens - self.sequences + 1)


@dataclass(frozen=True, slots=True)
class PackingRules:
    """What the graph says of its inputs.

    n_words: rows of the table of words.
    padding_id: as in `graph.architectures.encoder.Encoder`: None when token t has position t.
    n_positions: rows of the position table.
    has_distances: the graph takes `distances` (MPNet).
    """

    n_words: int
    padding_id: int | None
    n_positions: int
    has_distances: bool


def list_buckets(limits: StepLimits) -> list[Bucket]:
    """Return the shapes worth capturing, small to large: those that can hold a window."""
    # A full step leaves a token to every sequence that no window uses.
    largest = round_up(min(limits.max_tokens, _TOKENS[-1]) + limits.max_sequences, 16)
    tokens = [*(t for t in _TOKENS if t < largest), largest]
    buckets = [
        Bucket(t, min(limits.max_sequences + 1, max(2, t // _TOKENS_PER_SEQUENCE)), s)
        for t in tokens
        for s in _rooms(min(limits.max_length, t))
    ]
    if limits.max_cells is not None:
        buckets = [_narrowed(bucket, limits.max_cells) for bucket in buckets]
        buckets = [bucket for bucket in buckets if bucket.cells <= limits.max_cells]
    return [bucket for bucket in buckets if bucket.fits(1, n := bucket.room(limits.max_length), n)]


def _narrowed(bucket: Bucket, max_cells: int) -> Bucket:
    """Leave room for fewer sequences, two at least: a window, and a dummy for the tokens that it leaves."""
    return replace(bucket, sequences=max(2, min(bucket.sequences, max_cells // bucket.longest**2)))


def longest_windows(bucket: Bucket, max_length: int) -> list[int]:
    """Return the lengths of the longest windows that fill a step; none where dummies cannot take what is left."""
    length = bucket.room(max_length)
    n_windows = min(bucket.sequences - 1, (bucket.tokens - bucket.sequences) // max(1, length - 1))
    fits = bucket.fits(n_windows, n_windows * length, length)
    return [length] * n_windows if fits else []


def _rooms(longest: int) -> list[int]:
    """Return the values of S that sequences of up to `longest` tokens need."""
    smaller = [s for s in _LONGEST if s < longest]
    return [*smaller, next((s for s in _LONGEST if s >= longest), round_up(longest, 64))]


def choose_bucket(buckets: Sequence[Bucket], lengths: Sequence[int]) -> Bucket | None:
    """Return the first bucket that holds windows of these lengths; `buckets` go from small to large."""
    n_windows, n_tokens, longest = len(lengths), sum(lengths), max(lengths)
    first = bisect_left(buckets, n_tokens, key=lambda bucket: bucket.tokens)
    for bucket in islice(buckets, first, None):
        if bucket.fits(n_windows, n_tokens, longest):
            return bucket
    return None


def make_bucket(lengths: Sequence[int]) -> Bucket:
    """Return a shape for windows that no captured bucket holds, out of few possible ones."""
    room = _rooms(max(lengths))[-1]
    tokens = round_up(sum(lengths) + 1, _UNCAPTURED_TOKENS)
    n_windows = len(lengths)
    # Up to 512 spare tokens need dummies to hold them, and as many tokens as there are dummies.
    n_dummies = -(-(tokens - sum(lengths)) // room)
    return Bucket(tokens, n_windows + n_dummies, room)


def round_up(value: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-value // step) * step


class StepInputs:
    """The inputs of one step on the host: views into one block, so that one copy uploads them all.

    block: int32 (n,). ids, positions: (1, T); starts: (B + 1,), `cu_seqlens`; offsets: (B, S).
    distances: (S, S), or None. Not safe for several threads.
    """

    def __init__(self, bucket: Bucket, rules: PackingRules) -> None:
        self.bucket = bucket
        self._rules = rules
        t, b, s = bucket.tokens, bucket.sequences, bucket.longest
        shapes: dict[str, tuple[int, ...]] = {
            "input_ids": (1, t),
            "position_ids": (1, t),
            "cu_seqlens": (b + 1,),
            "token_offset": (b, s),
        }
        if rules.has_distances:
            shapes["distances"] = (s, s)
        self.places, size = lay_out(shapes)
        self.block = np.zeros(size, np.int32)  # (n,)
        views = {
            name: self.block[start : start + int(np.prod(shape))].reshape(shape)
            for name, (start, shape) in self.places.items()
        }
        self.ids: Int32Array = views["input_ids"][0]  # (T,)
        self.positions: Int32Array = views["position_ids"][0]  # (T,)
        self.starts: Int32Array = views["cu_seqlens"]  # (B + 1,)
        self.offsets: Int32Array = views["token_offset"]  # (B, S)
        self.views: Mapping[str, Int32Array] = views
        if rules.has_distances:
            views["distances"][:] = make_distances(s, rules.n_positions)
        first = 0 if rules.padding_id is None else rules.padding_id + 1
        self._count = np.arange(first, first + s, dtype=np.int32)  # positions of a text without padding ids
        self._dummy_position = first
        self._slots = np.arange(b * s, dtype=np.int32).reshape(b, s)  # (B, S)
        self._columns = np.arange(s, dtype=np.int32)  # (S,)

    def fill(self, windows: Sequence[Window]) -> None:
        """Write windows into the block; they must fit the bucket. Without any, all sequences are dummies.

        Raises `ValueError` for a token id that the model does not have.
        """
        start = 0
        padding_id = self._rules.padding_id
        for index, window in enumerate(windows):
            end = start + len(window.ids)
            self.ids[start:end] = window.ids
            self.positions[start:end] = self._count[: end - start]
            if padding_id is not None and padding_id in window.ids:
                self.positions[start:end] = count_positions(self.ids[start:end], padding_id)
            self.starts[index] = start
            start = end
        self.ids[start:] = _DUMMY_ID
        self.positions[start:] = self._dummy_position
        if self.ids.max() >= self._rules.n_words:
            # Kernels on the GPU do not check: they would read outside the table, and may lose the device.
            raise ValueError("a token id is beyond the model's table of words; tokenizer.json is not its own")
        # Spread what is left evenly: dummies of 1 to S tokens.
        n_dummies = self.bucket.sequences - len(windows)
        rest = self.bucket.tokens - start
        self.starts[len(windows) :] = start + np.arange(n_dummies + 1) * rest // max(1, n_dummies)
        self._fill_offsets()

    def _fill_offsets(self) -> None:
        """Write the padded place of every token, then, for all that is left, the places of padding."""
        is_token = self._columns < np.diff(self.starts)[:, None]  # (B, S)
        flat = self.offsets.reshape(-1)
        flat[: self.bucket.tokens] = self._slots[is_token]
        flat[self.bucket.tokens :] = self._slots[~is_token]


def lay_out(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, tuple[int, tuple[int, ...]]], int]:
    """Place arrays of int32 one after another; returns (start, shape) of each, and the size of all."""
    places: dict[str, tuple[int, tuple[int, ...]]] = {}
    size = 0
    for name, shape in shapes.items():
        places[name] = (size, shape)
        size += round_up(int(np.prod(shape)), _ALIGNMENT)
    return places, size


def count_positions(ids: Int32Array, padding_id: int) -> Int32Array:
    """Positions (T,) of a text in the RoBERTa family: real tokens are counted, padding ids stand still.

    cumsum(id != pad) * (id != pad) + pad: modeling_roberta.py, create_position_ids_from_input_ids.
    """
    is_real = (ids != padding_id).astype(np.int32)
    positions: Int32Array = np.cumsum(is_real, dtype=np.int32) * is_real + np.int32(padding_id)
    return positions


def make_distances(longest: int, n_positions: int) -> Int32Array:
    """Query minus key plus P - 1, within the 2P - 1 columns of the graph's table: int32 (S, S)."""
    at = np.arange(longest, dtype=np.int32)
    farthest = n_positions - 1
    distances: Int32Array = np.clip(at[:, None] - at[None, :], -farthest, farthest) + np.int32(farthest)
    return distances


def split_results(
    windows: Sequence[Window],
    label_ids: IntArray,
    scores: FloatArray,
    logits: FloatArray | None,
) -> list[TokenScores]:
    """Give each window its part of label_ids (T,), scores (T,) and logits (T, L); dummies are dropped."""
    results = []
    start = 0
    for window in windows:
        end = start + len(window.ids)
        part = logits[start:end] if logits is not None else None
        results.append(TokenScores(label_ids[start:end], scores[start:end], part))
        start = end
    return results


def choose_budget(buckets: Sequence[Bucket], step_seconds: Mapping[int, float]) -> int:
    """Return how many tokens a step should hold at most, from the measured time of steps by their T.

    Where a step costs a + b T, waiting for the device falls and throughput rises with T until the part that
    grows has reached the part that does not, T = a / b: that is where throughput over step time is largest
    (Kleinrock's "power"). Up to there a step costs less than twice the smallest one.
    """
    best = max(step_seconds, key=lambda tokens: tokens / step_seconds[tokens] ** 2)
    # One window leaves a token to each of the other sequences.
    return best + 1 - max(bucket.sequences for bucket in buckets if bucket.tokens == best)


def halve(windows: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Split a step that did not fit the device's memory."""
    middle = len(windows) // 2
    return windows[:middle], windows[middle:]
