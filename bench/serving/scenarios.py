"""The scenarios of bench/serving/scenarios/ and the sets of sets.toml, as values."""

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.serving.servers import ServerSpec
from bench.serving.workload import Workload

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scenario:
    """One file of bench/serving/scenarios/.

    loop: closed (each connection waits for its answer) or open (constant arrival rate).
    share: open loop only: arrival rates as shares of what the same server answered at saturation (closed
        loop, `connections` connections, same requests), measured just before.
    rates: open loop only: arrival rates in requests/s, the same for every server.
    variants: the variants of the servers that are tried; empty for all.
    """

    name: str
    description: str
    model: str
    servers: list[str]
    loop: str = "closed"
    connections: int = 1
    reuse: bool = True
    seconds: float = 8
    warm_up_seconds: float = 2
    share: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    variants: list[str] = field(default_factory=list)
    workload: Workload = field(default_factory=Workload)

    def takes(self, spec: ServerSpec) -> bool:
        """Whether the scenario measures this server."""
        return spec.name in self.servers and (not self.variants or spec.variant in self.variants)


@dataclass(frozen=True)
class ScenarioSet:
    """One entry of sets.toml, which says what the fields mean."""

    name: str
    rounds: int
    scenarios: list[str] = field(default_factory=list)
    seconds: float | None = None
    open_seconds: float | None = None
    warm_up_seconds: float | None = None
    distinct: int | None = None
    for_goals: bool = False
    also: list[str] = field(default_factory=list)

    def adjust(self, scenario: Scenario) -> Scenario:
        """Return the scenario with the set's times."""
        seconds = self.open_seconds if scenario.loop == "open" else self.seconds
        work = scenario.workload
        return replace(
            scenario,
            seconds=seconds or scenario.seconds,
            warm_up_seconds=self.warm_up_seconds or scenario.warm_up_seconds,
            workload=replace(work, distinct=min(self.distinct or work.distinct, work.distinct)),
        )


def read_scenarios(folder: Path = HERE / "scenarios") -> list[Scenario]:
    return [read_scenario(file) for file in sorted(folder.glob("*.toml"))]


def read_scenario(file: Path) -> Scenario:
    content = tomllib.loads(file.read_text())
    content["workload"] = Workload(**content.get("workload", {}))
    return Scenario(name=file.stem, **content)


def read_sets(file: Path = HERE / "sets.toml") -> dict[str, ScenarioSet]:
    return {name: ScenarioSet(name, **entry) for name, entry in tomllib.loads(file.read_text()).items()}


def to_plain(scenario: Scenario) -> dict:
    return {**vars(scenario), "workload": vars(scenario.workload)}
