"""The goals of goals.toml: the ratio that each is about, whether it is reached, and who contends for it."""

import statistics
import tomllib
from dataclasses import dataclass
from pathlib import Path

from bench.serving.results import LARGER_IS_BETTER, Result, best_of, has_metric, is_one_of, read_metric

HERE = Path(__file__).parent
# Qualification: who reaches less than this share of the best in one short measurement cannot be best in the
# median of several. It is far wider than the spread between rounds.
NEAR = 0.75


@dataclass(frozen=True)
class Goal:
    """One entry of goals.toml.

    of, over: servers, each as `name` or `name/variant`; the best of them is compared. over: empty when `metric` is
        made of one server alone.
    best_by: the metric that decides which is best.
    not_above: a metric in which the best of `of` must not be above the other, by the median of the ratios; those
        that are above count only where all are.
    """

    measure: str
    scenario: str
    metric: str
    of: list[str]
    over: list[str]
    best_by: str
    not_above: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def wanted(self) -> str:
        """Return what is to be reached, in signs."""
        return f"<= {self.at_most}" if self.at_most is not None else f">= {self.at_least}"

    def is_reached(self, value: float) -> bool:
        """Whether a ratio is as wanted."""
        return value <= self.at_most if self.at_most is not None else value >= self.at_least

    def ratios(self, results: dict[str, Result]) -> tuple[list[float], str] | None:
        """Return the ratio by round, and what was compared; None when something was not measured."""
        result = results.get(self.scenario)
        ours = result.best(self.of, self.best_by) if result else None
        if ours is None:
            return None
        if not self.over:
            return result.column(ours, self.metric), ours
        other = result.best(self.over, self.best_by)
        if other is None:
            return None
        if self.not_above:
            ratios = {x: result.ratios(x, other, self.not_above) for x in result.labels(self.of)}
            held = [x for x, values in ratios.items() if values and statistics.median(values) <= 1]
            ours = result.best(held or self.of, self.best_by)
        return result.ratios(ours, other, self.metric), f"{ours} / {other}"


def read_goals(file: Path = HERE / "goals.toml") -> list[Goal]:
    goals = []
    for entry in tomllib.loads(file.read_text())["goal"]:
        usual = "p99" if entry["metric"] == "p99_over_p50" else entry["metric"]
        goals.append(Goal(**{"over": [], "best_by": usual, **entry}))
    return goals


def servers_of(goals: list[Goal], scenario: str) -> list[str]:
    """Return the servers that the goals of a scenario compare."""
    names = [name for goal in goals if goal.scenario == scenario for name in (*goal.of, *goal.over)]
    return list(dict.fromkeys(names))


def eliminate(goals: list[Goal], measured: dict[str, dict]) -> dict[str, str]:
    """Say of the servers of one scenario which cannot be the best for any goal, and why.

    measured: one measurement for each label. A server that no goal compares is kept.
    """
    groups = [(names, goal.best_by) for goal in goals for names in (goal.of, goal.over) if names]
    reasons: dict[str, list[str]] = {}
    kept: set[str] = set()
    for names, metric in dict.fromkeys((tuple(names), metric) for names, metric in groups):
        values = {
            label: read_metric(one, metric)
            for label, one in measured.items()
            if is_one_of(label, list(names)) and has_metric(one, metric)
        }
        best = best_of(values, metric)
        for label, value in values.items():
            if is_near(value, values[best], metric):
                kept.add(label)
            else:
                reasons.setdefault(label, []).append(
                    f"{metric} {value:.4g}, {best} has {values[best]:.4g} in the qualification"
                )
    return {label: "; ".join(reasons[label]) for label in reasons if label not in kept}


def is_near(value: float, best: float, metric: str) -> bool:
    return value >= NEAR * best if metric in LARGER_IS_BETTER else value * NEAR <= best
