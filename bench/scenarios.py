"""The scenarios of bench/scenarios/, as values."""

import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path

from servers import ServerSpec
from workload import Workload

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scenario:
    """One file of bench/scenarios/.

    loop: closed (each connection waits for its answer) or open (constant arrival rate).
    share: open loop only: arrival rates as shares of what the same server answered at saturation (closed
        loop, `connections` connections, same requests), measured just before.
    rates: open loop only: arrival rates in requests/s, the same for every server.
    variants: the variants of a server that are tried; empty for all.
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
    quick: bool = False
    workload: Workload = field(default_factory=Workload)

    def takes(self, spec: ServerSpec) -> bool:
        """Whether the scenario measures this server; one-variant servers are always taken."""
        return spec.name in self.servers and (
            not self.variants or spec.variant in {*self.variants, "auto", "1"} or spec.name == "floor"
        )


def read_scenarios(folder: Path = HERE / "scenarios") -> list[Scenario]:
    return [read_scenario(file) for file in sorted(folder.glob("*.toml"))]


def read_scenario(file: Path) -> Scenario:
    content = tomllib.loads(file.read_text())
    content["workload"] = Workload(**content.get("workload", {}))
    return Scenario(name=file.stem, **content)


def shorten(scenario: Scenario) -> Scenario:
    """Make the same scenario one for a quick look."""
    work = replace(scenario.workload, distinct=min(8, scenario.workload.distinct))
    return replace(scenario, seconds=2, warm_up_seconds=1, share=scenario.share[:1], workload=work)


def to_plain(scenario: Scenario) -> dict:
    return {**vars(scenario), "workload": vars(scenario.workload)}
