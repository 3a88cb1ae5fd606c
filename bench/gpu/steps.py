"""One run on a card: its steps, the time that is left, and the result that each step adds to."""

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.gpu.report import answer_points, judge

# Seconds that a step must still have, else it is not begun.
LEAST_SECONDS = 15.0
# Longest time of one subprocess, so that one that hangs does not take all the others' time.
SUBPROCESS_SECONDS = 150.0


@dataclass
class Run:
    """What the steps of one run share; `result` is what is written."""

    options: argparse.Namespace
    path: Path
    result: dict
    deadline: float
    seconds: dict[str, float] = field(default_factory=dict)

    def left(self) -> float:
        """Seconds until the run must end."""
        return self.deadline - time.monotonic()

    def step(self, part: str, keys: tuple[str, ...], work: Callable[[], object]) -> None:
        """Run one step, keep what it gives or why it failed at `keys` of the result, and write it all down."""
        if part not in self.options.parts.split(","):
            return
        title = " ".join(keys)
        if self.left() < LEAST_SECONDS:
            self.result["skipped"].append(f"{title}: out of time")
            self.write()
            return
        started = time.monotonic()
        print(f"[{self.options.limit - self.left():5.0f} s] {title}", flush=True)
        into = self.result
        for key in keys[:-1]:
            into = into.setdefault(key, {})
        try:
            into[keys[-1]] = work()
        except Exception as error:  # noqa: BLE001 - one step that fails must not cost the others
            into[keys[-1]] = {"error": f"{type(error).__name__}: {error}"[-3000:]}
            print(f"          failed: {str(error)[-600:]}", flush=True)
        self.seconds[title] = time.monotonic() - started
        self.write()

    def write(self) -> None:
        """Write what there is, beside the goals and the open points as far as they are known."""
        self.result["seconds"] = self.seconds
        self.result["goals"] = attempt(judge, self.result)
        self.result["open_points"] = attempt(answer_points, self.result)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(self.result, indent=1, default=str) + "\n")
        new.replace(self.path)


def attempt(work: Callable[[dict], dict], result: dict) -> dict:
    """Return a summary, or why there is none: a step that failed leaves holes."""
    try:
        return work(result)
    except Exception:  # noqa: BLE001 - see above
        return {"error": traceback.format_exc(limit=-2)}
