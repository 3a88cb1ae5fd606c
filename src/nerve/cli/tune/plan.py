"""Decides what `nerve tune` tries next and which setting wins (pure functions and small state, no I/O).

A setting is judged by its capacity: the highest rate of requests at which the p99 of their latency is within
the target. Three decisions are taken here: which settings are worth trying (`coordinates`), which rate
to try next for one of them (`RateSearch`), and which of the finalists is really better (`choose`).

The search goes along one key at a time and keeps what is better; a full grid would take hours. Every
capacity has noise, so a step is taken only for a gain above `STEP_MARGIN`, the finalists are measured again in
interleaved rounds, and the setting the search started from stays unless it is beaten beyond its own spread.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.cli.tune.neighbours import is_disturbed
from nerve.config import CpuMode, Precision

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from nerve.config import Config

# Least gain for which the search goes on from another setting; one measurement is no better than that.
STEP_MARGIN = 0.04
# A rate is known well enough when the next failing one is this close.
RESOLUTION = 1.04
_FIRST_GUESS = 0.85  # of the rate that a closed loop reaches
# Steps down and up while nothing has passed, or nothing has failed: without and with a hint.
_WIDE = (0.6, 1.15)
_NARROW = (0.9, 1.08)
# Values that are tried beside the configured one.
_BATCH_SIZES = (1, 8, 32)
_BATCH_SIZES_OF_A_GPU = (32, 64, 128, 256)
_PADDINGS = (0.0, 0.05, 0.2)
_WINDOWS_PER_CALL = 4
# Rounds of the finalists, and requests at one rate, with fewer of which a result is not to be relied on.
ROUNDS = 3
LEAST_REQUESTS = 100


@dataclass(frozen=True, slots=True)
class Setting:
    """The keys that are tuned; None is the default of a key, as in the configuration."""

    precision: Precision
    workers: int
    threads: int | None
    mode: CpuMode
    max_batch_size: int | None
    max_batch_tokens: int | None
    max_padding: float | None

    def values_by_key(self) -> dict[tuple[str, ...], Any]:
        """Return the values by section and key of the configuration."""
        return {
            ("model", "precision"): self.precision.value,
            ("server", "workers"): self.workers,
            ("cpu", "threads"): self.threads,
            ("cpu", "mode"): self.mode.value,
            ("batching", "max_batch_size"): self.max_batch_size,
            ("batching", "max_batch_tokens"): self.max_batch_tokens,
            ("batching", "max_padding"): self.max_padding,
        }


def setting_of(config: Config) -> Setting:
    """Return the setting that a configuration holds."""
    return Setting(
        precision=config.model.precision,
        workers=config.server.workers,
        threads=config.cpu.threads,
        mode=config.cpu.mode,
        max_batch_size=config.batching.max_batch_size,
        max_batch_tokens=config.batching.max_batch_tokens,
        max_padding=config.batching.max_padding,
    )


def apply(config: Config, setting: Setting) -> Config:
    """Return `config` with the keys of `setting`."""
    document = msgspec.to_builtins(config)
    for (section, key), value in setting.values_by_key().items():
        document[section][key] = value
    return msgspec.convert(document, type(config))


def coordinates(
    precisions: Sequence[Precision], cores: int, window_tokens: int, *, is_cpu: bool
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the keys to go along, those with the largest effect first, each with the changes to try.

    cores: those the server may use. window_tokens: most tokens of one window.
    """
    found: list[tuple[str, list[dict[str, Any]]]] = [
        ("precision", [{"precision": precision} for precision in precisions])
    ]
    if is_cpu:
        found.append(("workers, threads", [{"workers": w, "threads": t} for w, t in _divisions(cores)]))
        found.append(("cpu.mode", [{"mode": mode} for mode in CpuMode]))
    sizes = _BATCH_SIZES if is_cpu else _BATCH_SIZES_OF_A_GPU
    found.append(("max_batch_size", [{"max_batch_size": size} for size in sizes]))
    if is_cpu:
        found.append(("max_padding", [{"max_padding": share} for share in _PADDINGS]))
    found.append(("max_batch_tokens", [{"max_batch_tokens": _WINDOWS_PER_CALL * window_tokens}]))
    return found


def _divisions(cores: int) -> Iterator[tuple[int, int]]:
    """Yield (workers, threads of each): one worker on all cores and on one less, then cores halved again and again."""
    yield 1, cores
    if cores > 1:
        yield 1, cores - 1
    workers = 2
    while workers <= cores:
        yield workers, cores // workers
        workers *= 2


def normalize(setting: Setting, cores: int, *, is_cpu: bool) -> Setting:
    """Return a setting that means the same for every setting that behaves the same, to try each once."""
    from nerve.runtime.devices import CPU, CUDA  # numpy comes with it, which `nerve --help` does without

    provider = CPU if is_cpu else CUDA
    threads = setting.threads or max(1, cores // setting.workers)
    return replace(
        setting,
        threads=threads,
        mode=CpuMode.THROUGHPUT if threads == 1 else setting.mode,
        precision=provider.precisions[0] if setting.precision is Precision.AUTO else setting.precision,
        max_batch_size=setting.max_batch_size or provider.max_batch_size,
        max_padding=provider.max_padding if setting.max_padding is None else setting.max_padding,
    )


class RateSearch:
    """Looks for the highest rate (requests/s) that passes, in few probes.

    ceiling: the rate that a closed loop reached; an open loop passes at most about as much.
    hint: the capacity of an earlier measurement of the same setting, if there is one.
    """

    def __init__(self, ceiling: float, max_probes: int, hint: float = 0.0) -> None:
        self._first = hint or _FIRST_GUESS * ceiling
        self._lower, self._higher = _NARROW if hint else _WIDE
        self._left = max_probes
        self.passed = 0.0
        self.failed = math.inf

    def next(self) -> float | None:
        """Return the rate to try, or None when the answer is known well enough."""
        if self._left == 0 or self.failed <= RESOLUTION * self.passed:
            return None
        if self.failed == math.inf:
            return self.passed * self._higher or self._first
        return (self.passed + self.failed) / 2 if self.passed else self.failed * self._lower

    def record(self, rate: float, passed: bool) -> None:
        """Take note of how the rate that `next` gave went."""
        self._left -= 1
        if passed:
            self.passed = rate
        else:
            self.failed = rate


@dataclass(frozen=True, slots=True)
class Measured:
    """What one measurement of one setting gave.

    capacity: requests/s with p99 within the target; 0 when no rate was.
    p50_ms, p99_ms: latency at the capacity; of a lone client where the capacity is 0.
    saturated: requests/s of a closed loop. client_cores: CPU seconds per second that the load cost itself.
    n_requests: at the capacity. others: cores that other programs used meanwhile.
    """

    setting: Setting
    capacity: float
    p50_ms: float
    p99_ms: float
    saturated: float
    client_cores: float
    n_requests: int = 0
    others: float = 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A finalist over all its rounds: requests/s, and latencies in milliseconds as medians.

    n_requests: in the shortest of the rounds. others: cores that other programs used, in the worst of them.
    """

    setting: Setting
    capacities: tuple[float, ...]
    p50_ms: float
    p99_ms: float
    n_requests: int = 0
    others: float = 0.0

    @property
    def capacity(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.capacities)


def is_step(best: Measured, other: Measured) -> bool:
    """Tell whether the search should go on from `other`: it carries more, or comes nearer to the target."""
    if best.capacity == other.capacity == 0:
        return other.p99_ms < best.p99_ms * (1 - STEP_MARGIN)
    return other.capacity > best.capacity * (1 + STEP_MARGIN)


def finalists(measured: Sequence[Measured], best: Setting, start: Setting, count: int = 3) -> list[Setting]:
    """Return the settings to measure again: where the search ended, where it began, and the best others."""
    ranked = sorted(measured, key=lambda one: (-one.capacity, one.p99_ms))
    chosen = dict.fromkeys([best, start, *(one.setting for one in ranked)])
    return list(chosen)[: max(count, 1)]


def summarize_rounds(rounds: Iterable[Measured]) -> list[Standing]:
    """Add the rounds of each finalist up."""
    by_setting: dict[Setting, list[Measured]] = {}
    for one in rounds:
        by_setting.setdefault(one.setting, []).append(one)
    return [
        Standing(
            setting,
            tuple(one.capacity for one in many),
            statistics.median(one.p50_ms for one in many),
            statistics.median(one.p99_ms for one in many),
            min(one.n_requests for one in many),
            max(one.others for one in many),
        )
        for setting, many in by_setting.items()
    ]


def choose(standings: Sequence[Standing], start: Setting) -> Standing:
    """Return the best finalist that was better than `start` in every round, and whose median is above its best round.

    `start` itself where none was.
    """
    begun = next(one for one in standings if one.setting == start)
    better = [
        one
        for one in standings
        if one.capacity > max(begun.capacities)
        and all(mine > its for mine, its in zip(one.capacities, begun.capacities, strict=True))
    ]
    return max(better, key=lambda one: (one.capacity, -one.p99_ms), default=begun)


def nearest(standings: Sequence[Standing]) -> Standing:
    """Return the finalist that comes nearest to the target, where none is better than the start and that misses it."""
    return max(standings, key=lambda one: (one.capacity, -one.p99_ms))


def doubts(standings: Sequence[Standing], winner: Standing, cores: int, of_machine: int) -> list[str]:
    """Return why the figures cannot be relied on, each in a few words; an empty list where nothing speaks against them.

    cores, of_machine: as `is_disturbed` takes them.
    """
    found = []
    others = max(one.others for one in standings)
    if is_disturbed(others, cores, of_machine):
        found.append(f"other programs used up to {others:.1f} of the machine's {of_machine} cores")
    rounds = len(winner.capacities)
    if rounds < ROUNDS:
        found.append(f"only {rounds} of {ROUNDS} rounds fitted into the time")
    if 0 < winner.n_requests < LEAST_REQUESTS:
        found.append(f"a rate was held for {winner.n_requests} requests only, too few for a p99")
    return found
