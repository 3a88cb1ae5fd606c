"""Carries out the search of `nerve tune` within its time; `nerve.cli.tune.plan` has the decisions."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nerve.cli.tune.plan import (
    ROUNDS,
    Measured,
    Setting,
    Standing,
    coordinates,
    finalists,
    is_step,
    normalize,
    setting_of,
    summarize_rounds,
)
from nerve.cli.tune.trial import Plan, TrialError, measure
from nerve.runtime.cores import usable_cores
from nerve.runtime.devices import choose_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.config import Config, Precision

# Share of the time for the search; the finalists get the rest.
_SEARCH_SHARE = 0.6
# What a measurement takes about: a start, and so many probes.
_START_SECONDS = 2.0
_PROBES = 5
_SHORTEST, _LONGEST = 0.3, 5.0  # seconds of a probe


@dataclass(frozen=True, slots=True)
class Refused:
    """A setting that no server starts with, and why."""

    setting: Setting
    reason: str


class Search:
    """One search.

    window_tokens: most tokens of one window. target: p99 latency in seconds. seconds: after which nothing new is begun.
    report: gets the name of what is measured next.
    measured, refused: what the search tried, in order. rounds: measurements of the finalists.
    """

    def __init__(
        self,
        config: Config,
        requests: Sequence[bytes],
        window_tokens: int,
        target: float,
        seconds: float,
        report: Callable[[str], None],
    ) -> None:
        self.target = target
        self.cores = usable_cores()
        self.of_machine = os.cpu_count() or self.cores
        self.is_cpu = choose_provider(config.model.device, config.model.device_id).shares_cores
        self.start = setting_of(config)
        self.best = self.start
        self.measured: list[Measured] = []
        self.refused: list[Refused] = []
        self.rounds: list[Measured] = []
        self._config = config
        self._window_tokens = window_tokens
        self._requests = requests
        self._report = report
        self._begun = time.monotonic()
        self._seconds = seconds
        self._probe = _SHORTEST

    @property
    def client_cores(self) -> float:
        """CPU seconds a second that the load itself cost, on average."""
        every = [*self.measured, *self.rounds]
        return sum(one.client_cores for one in every) / max(1, len(every))

    def explore(self, precisions: Sequence[Precision]) -> None:
        """Go along one key after the other, keeping what is better. Raises `TrialError`."""
        ends = self._ends(_SEARCH_SHARE)
        lines = coordinates(precisions, self.cores, self._window_tokens, is_cpu=self.is_cpu)
        candidates = 1 + sum(len(changes) for _, changes in lines)
        self._probe = _probe_seconds(ends - time.monotonic(), candidates)
        self._report("as configured")
        best = self._measure(self.start, ends)
        self.measured.append(best)
        tried = {self._normal(self.start)}
        for name, changes in lines:
            for change in changes:
                candidate = replace(best.setting, **change)
                is_late = time.monotonic() > ends and name != "precision"  # which its user has named
                if is_late or self._normal(candidate) in tried:
                    continue
                tried.add(self._normal(candidate))
                self._report(f"{name}: {', '.join(str(value) for value in change.values())}")
                try:
                    found = self._measure(candidate, ends)
                except TrialError as error:
                    self.refused.append(Refused(candidate, str(error)))
                    continue
                self.measured.append(found)
                if is_step(best, found):
                    best = found
        self.best = best.setting

    def compare_finalists(self) -> list[Standing]:
        """Measure the best settings again in interleaved rounds. Raises `TrialError`."""
        chosen = finalists(self.measured, self.best, self.start)
        hints = {one.setting: one.capacity for one in self.measured}
        ends = self._ends(1.0)
        self._probe = _probe_seconds(ends - time.monotonic(), ROUNDS * len(chosen))
        for number in range(1, ROUNDS + 1):
            if number > 1 and time.monotonic() > ends:
                break
            for place, setting in enumerate(chosen, 1):
                self._report(f"finalist {place} of {len(chosen)}, round {number} of {ROUNDS}")
                self.rounds.append(self._measure(setting, ends, hints[setting]))
        return summarize_rounds(self.rounds)

    def _measure(self, setting: Setting, ends: float, hint: float = 0.0) -> Measured:
        plan = Plan(self.target, self._probe, ends)
        return measure(self._config, setting, self._requests, plan, hint)

    def _ends(self, share: float) -> float:
        return self._begun + share * self._seconds

    def _normal(self, setting: Setting) -> Setting:
        return normalize(setting, self.cores, is_cpu=self.is_cpu)


def _probe_seconds(seconds: float, measurements: int) -> float:
    """Return how long a probe may take so that all measurements fit."""
    each = seconds / max(1, measurements) - _START_SECONDS
    return min(_LONGEST, max(_SHORTEST, each / _PROBES))
