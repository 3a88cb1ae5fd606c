"""The rule by which Kubernetes scales pods, as a pure function of what was seen: no clock, no cluster.

HorizontalPodAutoscaler as documented (kubernetes.io, "Horizontal Pod Autoscaling", and KEP-853 for `behavior`), with
the two kinds of external metrics that KEDA's triggers have: an AverageValue is shared by all pods, a Value is compared
with its limit as it is. The highest wish of all metrics counts; a missing metric wishes nothing.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

# A wish within a tenth of what is there changes nothing (kube-controller-manager's default).
TOLERANCE = 0.1


@dataclass(frozen=True)
class Metric:
    """One metric: its value, its limit, and whether pods share the value."""

    value: float
    limit: float
    is_shared: bool


def wish(metric: Metric, pods: int, ready: int) -> int:
    """Return how many pods a metric asks for. pods: that there are; ready: of those, that serve."""
    ratio = metric.value / (metric.limit * pods) if metric.is_shared else metric.value / metric.limit
    if abs(ratio - 1) <= TOLERANCE:
        return pods
    return math.ceil(metric.value / metric.limit) if metric.is_shared else math.ceil(ratio * ready)


@dataclass
class Autoscaler:
    """The state between two syncs. behavior: of the chart's autoscaling, scaleUp and scaleDown."""

    least: int
    most: int
    behavior: dict
    _wishes: list[tuple[float, int]] = field(default_factory=list)
    _changes: list[tuple[float, int]] = field(default_factory=list)

    def decide(self, now: float, pods: int, ready: int, metrics: Iterable[Metric]) -> int:
        """Return how many pods there shall be. now: seconds."""
        wished = max((wish(metric, pods, ready) for metric in metrics), default=pods)
        self._wishes = [each for each in self._wishes if now - each[0] <= 3600] + [(now, wished)]
        up, down = self.behavior["scaleUp"], self.behavior["scaleDown"]
        # The lowest wish of one window, then the highest of the other: between them nothing changes.
        floor = min(self._within(now, up["stabilizationWindowSeconds"]))
        ceiling = max(self._within(now, down["stabilizationWindowSeconds"]))
        target = pods
        if floor > pods:
            target = min(floor, self._limit(now, pods, up, +1))
        elif ceiling < pods:
            target = max(ceiling, self._limit(now, pods, down, -1))
        target = max(self.least, min(self.most, target))
        if target != pods:
            self._changes.append((now, target - pods))
        return target

    def _within(self, now: float, seconds: float) -> list[int]:
        return [pods for at, pods in self._wishes if now - at <= seconds]

    def _limit(self, now: float, pods: int, rule: dict, sign: int) -> int:
        """Return how far the policies let go in one direction; sign: +1 up, -1 down."""
        limits = []
        for policy in rule["policies"]:
            changed = sum(
                change
                for at, change in self._changes
                if now - at < policy["periodSeconds"] and change * sign > 0
            )
            before = pods - changed
            step = policy["value"] if policy["type"] == "Pods" else before * policy["value"] / 100
            limits.append(math.ceil(before + step) if sign > 0 else math.floor(before - step))
        chosen = max if (rule["selectPolicy"] == "Max") == (sign > 0) else min
        return pods if rule["selectPolicy"] == "Disabled" else chosen(limits)
