"""The folders that the bench reads and writes."""

from pathlib import Path

BENCH = Path(__file__).parent
REPOSITORY = BENCH.parent
RESULTS = BENCH / "results"
# Models, logs and whatever else can be made again.
WORK = BENCH / ".work"
