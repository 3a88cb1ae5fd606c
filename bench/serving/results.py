"""Result sets: begun, continued, saved and read.

A result set is one JSON file of measurements of one commit on one machine, made by one run of run.py or by several:
a run that was cut off goes on where it ended, and a run of other scenarios adds to the file. It is saved
after every measurement.
"""

import json
import statistics
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

LARGER_IS_BETTER = {"rps"}
# Facts of the machine that change from minute to minute.
PASSING = {"load_before"}


class OtherConditions(Exception):
    """A file cannot be continued, because it was made under other conditions; the text says which."""


def find_differences(old: dict, new: dict) -> list[str]:
    """Name what differs between two descriptions by machine.describe()."""
    found = [] if old["commit"] == new["commit"] else [f"commit {old['commit']}, now {new['commit']}"]
    for part in ("machine", "versions"):
        for name in sorted({*old[part], *new[part]} - PASSING):
            before, now = old[part].get(name), new[part].get(name)
            if before != now:
                found.append(f"{name} {before}, now {now}")
    return found


def begin(file: Path, facts: dict, command: str, fresh: bool = False) -> dict:
    """Return the content of the file to add to, or a new one.

    facts: of machine.describe(). Raises `OtherConditions`.
    """
    content = None if fresh or not file.exists() else json.loads(file.read_text())
    run = {"started": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    if content is None:
        return {
            "started": run["started"],
            "runs": [run],
            **facts,
            "skipped": {},
            "configurations": {},
            "scenarios": {},
        }
    differences = find_differences(content, facts)
    if differences:
        raise OtherConditions(f"{file} is of {'; '.join(differences)}: begin anew with --fresh, or use --out")
    content["runs"].append(run)
    return content


def entry_of(content: dict, name: str, plain: dict) -> dict:
    """Return a scenario's entry to add measurements to. Raises `OtherConditions`."""
    plain = json.loads(json.dumps(plain))  # as it is read back
    entry = content["scenarios"].setdefault(
        name, {"scenario": plain, "left_out": {}, "qualification": {}, "summary": {}, "rounds": []}
    )
    before = entry["scenario"]
    differing = [key for key in plain if before.get(key) != plain[key]]
    if differing:
        what = ", ".join(f"{key} {before.get(key)}, now {plain[key]}" for key in differing)
        raise OtherConditions(
            f"{name} was measured with {what}: begin anew with --fresh, or use another --out"
        )
    return entry


def save(content: dict, file: Path) -> None:
    """Write the file; being cut off leaves the old one or the new one."""
    for entry in content["scenarios"].values():
        entry["summary"] = summarise(entry["rounds"])
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(file)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def summarise(rounds: list[dict[str, list[dict]]]) -> dict:
    """Median, least and greatest over the rounds of req/s and percentiles, by server and rate."""
    found: dict[str, list[dict]] = {}
    for label in list_labels(rounds):
        found[label] = [
            {
                "rounds": len(column),
                "rps": spread([one["rps"] for one in column]),
                "latency_ms": {
                    name: spread([one["latency_ms"][name] for one in column])
                    for name in column[0]["latency_ms"]
                    if all(name in one["latency_ms"] for one in column)
                },
            }
            for column in zip(*(seen[label] for seen in rounds if label in seen), strict=True)
        ]
    return found


def list_labels(rounds: list[dict[str, list[dict]]]) -> list[str]:
    """Return the servers that were measured in any round; a run that was cut off leaves a round unfinished."""
    return list(dict.fromkeys(label for seen in rounds for label in seen))


def is_one_of(label: str, names: list[str]) -> bool:
    """Whether a label `name/variant` is named, with or without its variant."""
    return label in names or label.split("/", maxsplit=1)[0] in names


def has_metric(seen: dict, metric: str) -> bool:
    return metric == "rps" or "p50" in seen["latency_ms"]


def read_metric(seen: dict, metric: str) -> float:
    if metric == "rps":
        return seen["rps"]
    if metric == "p99_over_p50":
        return seen["latency_ms"]["p99"] / seen["latency_ms"]["p50"]
    return seen["latency_ms"][metric]


def best_of(values: dict[str, float], metric: str) -> str | None:
    choose = max if metric in LARGER_IS_BETTER else min
    return choose(values, key=values.get) if values else None


@dataclass(frozen=True)
class Result:
    """One scenario of one result file."""

    name: str
    file: str
    scenario: dict
    rounds: list[dict[str, list[dict]]]

    def labels(self, names: list[str]) -> list[str]:
        """Return the variants measured of these servers, in the order of the names."""
        labels = list_labels(self.rounds)
        return list(dict.fromkeys(label for name in names for label in labels if is_one_of(label, [name])))

    def measurements(self, label: str, at: int = 0) -> list[dict]:
        """Return one server's measurements by round; `at` counts the rates of an open loop."""
        return [seen[label][at] for seen in self.rounds if label in seen]

    def n_rates(self, label: str) -> int:
        """Return how many measurements there are of a server in each round."""
        return min(len(seen[label]) for seen in self.rounds if label in seen)

    def column(self, label: str, metric: str, at: int = 0) -> list[float]:
        """Return a metric of one server by round."""
        return [read_metric(one, metric) for one in self.measurements(label, at) if has_metric(one, metric)]

    def ratios(self, label: str, other: str, metric: str) -> list[float]:
        """Return a metric of one server over that of another, by round."""
        pairs = [(seen[label][0], seen[other][0]) for seen in self.rounds if label in seen and other in seen]
        known = [(a, b) for a, b in pairs if a["requests"] and b["requests"]]
        return [read_metric(a, metric) / read_metric(b, metric) for a, b in known]

    def best(self, names: list[str], metric: str) -> str | None:
        """Return the best variant of the best of these servers, by the median over the rounds."""
        columns = {label: self.column(label, metric) for label in self.labels(names)}
        return best_of(
            {label: statistics.median(values) for label, values in columns.items() if values}, metric
        )


def read_results(files: list[Path]) -> tuple[dict[str, Result], list[dict]]:
    """Read files; a scenario that is in several is taken from the last."""
    results, contents = {}, []
    for file in files:
        content = json.loads(file.read_text())
        contents.append({**content, "file": file.name})
        for name, found in content["scenarios"].items():
            if found["rounds"]:
                results[name] = Result(name, file.name, found["scenario"], found["rounds"])
    return results, contents
