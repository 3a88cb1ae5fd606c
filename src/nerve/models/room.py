"""How long a window may be by default: what config.json allows is bounded by memory and time.

Attention compares every token of a window with every other one, in each of its heads. On the CPU ONNX Runtime holds
the whole square, so the memory of a call grows with the square of its window, and several calls run at once. The
figures here are an estimate from config.json, made before anything is allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nerve.config import CpuMode
from nerve.graph import heads_at_once, local_windows, queries_at_once
from nerve.runtime.backend import GraphKind
from nerve.runtime.cores import usable_cores
from nerve.runtime.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from nerve.config import Config
    from nerve.runtime.backend import Provider

# Windows up to here are never shortened: what people serve has them.
ALWAYS_TOKENS = 512
# Share of the memory that is left beside the weights, for all calls that can run at once. ONNX Runtime's arenas grow by
# doubling, so that a call can hold twice of what it needs.
SHARE = 4
# What a session keeps after a long window, and the shorter ones before it, in units of that window's call.
_KEPT = 1.5
_FLOAT_BYTES = 4
# Keys of configs, by family; and what is taken where none of them is there, which is large for an encoder.
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads")
_HIDDEN = ("hidden_size", "dim", "d_model", "n_embd")
_INNER = ("intermediate_size", "hidden_dim", "n_inner", "d_ff", "encoder_ffn_dim")
_USUAL_HEADS, _USUAL_HIDDEN = 16, 1024
# Arrays of a float for each head and pair of tokens that exist at once; of long texts built graphs compute a block of
# queries after the other. Measured for built graphs; exporters write attention as many operators, and DeBERTa's with
# indexes of 8 bytes for each.
_SQUARES = {GraphKind.BUILT: 1, GraphKind.STANDARD: 8, GraphKind.PACKED: 0, GraphKind.READY: 8}
# Built graphs whose scores get a part by distance: MPNet adds a table, DeBERTa shifts two products, of a few heads at
# once.
_SQUARES_BY_DISTANCE = {"mpnet": 2, "deberta": 8, "deberta-v2": 8}
_BY_GROUPS_OF_HEADS = frozenset({"deberta", "deberta-v2"})
# Packed graphs keep no scores, but DeBERTa's parts by distance.
_SQUARES_PACKED = {"deberta": 7, "deberta-v2": 7}
# Chunks of local attention are so much longer than its window, at most.
_CHUNK_MORE = 15
# Experts that each token takes, and rows of a float of their inner width for each of them, in units of _INNER_ROWS.
_CHOSEN, _EXPERT_ROWS = ("num_experts_per_tok",), 5
# Longest window by default, in reaches (`reach_of`): neighbouring windows then share 2 of these 4 (`TextTokenizer`), so
# that half of what is computed is new.
_REACHES = 4
# Rows of a float for each token that exist at once, in units of the layers' width and of their inner width.
_HIDDEN_ROWS, _INNER_ROWS = 8, 2


@dataclass(frozen=True, slots=True)
class Room:
    """What windows may take.

    memory: of this process, or of its GPU; None where it is not known. weights: bytes that sessions will take of it.
    n_sessions: each keeps what its largest call has taken. n_calls: calls that can run at once. batch_tokens: tokens
    of a call, if that is more than a window. most_tokens: longest window by default, for the sake of time. windows: how
    far each layer of the model looks to each side, where none looks everywhere.
    """

    settings: Mapping[str, Any]
    kind: GraphKind
    memory: Memory | None
    weights: int
    n_sessions: int
    n_calls: int
    batch_tokens: int
    most_tokens: int
    windows: tuple[int, ...] | None = None

    def call_bytes(self, n_tokens: int) -> int:
        """Estimate what a call with windows of so many tokens takes."""
        squares, across = _SQUARES[self.kind], n_tokens
        heads = _read(self.settings, _HEADS, _USUAL_HEADS)
        model_type = str(self.settings.get("model_type"))
        by_distance = _SQUARES_BY_DISTANCE.get(model_type)
        if self.kind is GraphKind.PACKED:
            squares = _SQUARES_PACKED.get(model_type, 0)
        if self.kind is GraphKind.BUILT:
            squares = by_distance or squares
            if self.windows is not None:
                across = min(n_tokens, 3 * (max(self.windows, default=0) + _CHUNK_MORE))
            elif by_distance is None:
                across = queries_at_once(n_tokens)
            if model_type in _BY_GROUPS_OF_HEADS:
                heads = heads_at_once(heads)
        hidden = _read(self.settings, _HIDDEN, _USUAL_HIDDEN)
        inner = _read(self.settings, _INNER, 4 * hidden)
        inner *= _EXPERT_ROWS * _read(self.settings, _CHOSEN, 0) or 1
        rows = max(n_tokens, self.batch_tokens)
        shared = 1 if squares else 0  # masks and distances, which all heads share
        a_token = (squares * heads + shared) * across + _HIDDEN_ROWS * hidden + _INNER_ROWS * inner
        return rows * a_token * _FLOAT_BYTES

    def shorten(self, limit: int) -> tuple[int, str | None]:
        """Return the longest window up to `limit` that fits memory and time, and why it is shorter, if it is."""
        n_tokens = next(
            n for n in _lengths(limit) if n <= ALWAYS_TOKENS or (n <= self.most_tokens and self.fits(n))
        )
        if n_tokens == limit:
            return limit, None
        is_time = 2 * n_tokens > self.most_tokens
        reason = "the time that longer ones take" if is_time else f"memory: {self.describe()}"
        return n_tokens, f"{reason}; the model allows {limit}, and runtime.window_tokens sets another length"

    def why_too_long(self, n_tokens: int) -> str | None:
        """Say why a window that was asked for cannot be had; None when it can, one at a time."""
        if self.memory is None or n_tokens <= ALWAYS_TOKENS:
            return None
        needed = int(self.call_bytes(n_tokens) * self.n_sessions * _KEPT)
        free = self.memory.free - self.weights
        if needed <= free:
            return None
        return (
            f"windows of that length take about {_in_gb(needed)} of memory, and {_in_gb(max(free, 0))} are free beside "
            f"the weights; lower it, to {self.shorten(n_tokens)[0]} for example"
        )

    def fits(self, n_tokens: int) -> bool:
        """Tell whether windows of that length leave enough memory to everything else, whatever runs at once."""
        if self.memory is None:
            return True
        # What is free changes from start to start: it decides only where others have taken most of it.
        left = min(self.memory.total, 2 * self.memory.free) - self.weights
        return self.call_bytes(n_tokens) * self.n_calls * SHARE <= left

    def describe(self) -> str:
        """Say what calls may take."""
        calls = f"{self.n_calls} calls at once" if self.n_calls > 1 else "a call"
        total = _in_gb(self.memory.total) if self.memory is not None else "unknown"
        return f"{calls} may take 1/{SHARE} of what the weights leave of {total}"


def find_room(
    config: Config,
    provider: Provider,
    settings: Mapping[str, Any],
    kind: GraphKind,
    n_bytes: int,
    is_shared: bool = False,
) -> Room:
    """Tell what windows may take of the memory that a worker has for itself.

    settings: the decoded `config.json`. n_bytes: of the weights. is_shared: sessions have them in common.
    """
    mode, n_threads = config.cpu.mode, n_threads_of(config)
    n_calls = n_sessions = 1
    if provider.shares_cores:
        n_calls = 2 * (1 if mode is CpuMode.LATENCY else n_threads)  # on two lanes
        if mode is CpuMode.AUTO and n_threads > 1:  # a second session, for calls on all cores
            n_calls, n_sessions = n_calls + 1, 2
    memory = provider.memory(config.model.device_id)
    if memory is not None:
        share = 1 if provider.has_one_owner else config.server.workers
        memory = Memory(memory.total // share, memory.free // share)
    windows = local_windows(settings)
    most_tokens, reach = provider.most_window_tokens, reach_of(windows)
    if reach is not None and kind is not GraphKind.READY:  # time grows with the text only
        most_tokens = max(most_tokens, _REACHES * reach)
    return Room(
        settings=settings,
        kind=kind,
        memory=memory,
        weights=n_bytes if is_shared else n_sessions * n_bytes,
        n_sessions=n_sessions,
        n_calls=n_calls,
        batch_tokens=min(
            config.batching.max_batch_tokens or provider.least_batch_tokens, provider.enough_tokens
        ),
        most_tokens=most_tokens,
        windows=windows,
    )


def reach_of(windows: tuple[int, ...] | None) -> int | None:
    """Return how far to each side an answer can depend on another token; None for as far as the text goes."""
    return None if windows is None else sum(windows)


def n_threads_of(config: Config) -> int:
    """Return the threads that run the model, of each worker."""
    return config.cpu.threads or max(1, usable_cores() // config.server.workers)


def _lengths(limit: int) -> Iterator[int]:
    """Yield lengths to try, the longest first: the limit, then powers of two."""
    yield limit
    n_tokens = ALWAYS_TOKENS
    while 2 * n_tokens < limit:
        n_tokens *= 2
    while n_tokens >= ALWAYS_TOKENS:
        if n_tokens < limit:
            yield n_tokens
        n_tokens //= 2


def _read(settings: Mapping[str, Any], keys: tuple[str, ...], usual: int) -> int:
    found = (settings.get(key) for key in keys)
    return next((value for value in found if isinstance(value, int) and value > 0), usual)


def _in_gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
