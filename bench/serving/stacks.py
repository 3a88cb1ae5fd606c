"""Which stage of a request a sampled stack belongs to: that of the innermost function of our own."""

import importlib.util
import re
from collections import Counter
from pathlib import Path

HTTP, DECODE, TOKENIZE, HAND_OVER, MODEL, ROWS, ENCODE, REST = STAGES = (
    "HTTP, event loop",
    "decode",
    "tokenize",
    "batching, hand-over",
    "model",
    "rows",
    "encode",
    "rest of the handler",
)

FRAME = re.compile(r"^(?P<function>.*) \((?P<file>[^()]*?)(?::(?P<line>\d+))?\)$")
OURS = re.compile(r"(?:^|/)nerve/(?P<module>\w+/\w+)\.py$")
MODULES = {
    "server/rsgi_worker": HTTP,
    "http/rsgi": HTTP,
    "http/asgi": HTTP,
    "text/tokenizer": TOKENIZE,
    "text/word_cache": TOKENIZE,
    "scheduling/batching": HAND_OVER,
    "scheduling/measured": HAND_OVER,
    "scheduling/lane": HAND_OVER,
    "scheduling/queue": HAND_OVER,
    "scheduling/threads": HAND_OVER,
    "runtime/padded": HAND_OVER,  # the arrays of a batch; the call of the graph itself is told apart
    "text/aggregation": ROWS,
    "text/labels": ROWS,
    "http/app": REST,
    "http/exchange": REST,
    "http/request": REST,
    "http/responses": REST,
    "observability/metrics": REST,
    "observability/logs": REST,
}
# Modules that several stages live in: a part of the function's name -> stage, the last one for all others.
FUNCTIONS = {
    "endpoints/predict_tokens": (("encode", ENCODE), ("", DECODE)),
    "text/windows": (("merge", ROWS), ("", TOKENIZE)),
    "engine/engine": (
        ("_deliver", HAND_OVER),
        ("_call_each", HAND_OVER),
        ("_queue", HAND_OVER),
        ("tokenize", TOKENIZE),
        ("_rows", ROWS),
        ("", REST),
    ),
}


def stage_of(frames: list[str], source_lines: dict[str, list[str]]) -> str:
    """Return the stage that a stack belongs to.

    frames: `function (file:line)`, innermost last. source_lines: of our own modules, by package and name.
    """
    for frame in reversed(frames):
        found = FRAME.match(frame)
        if found is None:
            continue
        if "onnxruntime/" in found["file"]:
            return MODEL
        ours = OURS.search(found["file"])
        if ours is None:
            continue
        module = ours["module"]
        if module == "runtime/padded" and calls_graph(source_lines.get(module, []), found["line"]):
            return MODEL
        if module in MODULES:
            return MODULES[module]
        for part, stage in FUNCTIONS.get(module, ()):
            if part in found["function"]:
                return stage
    return HTTP


def calls_graph(lines: list[str], line: str | None) -> bool:
    """Whether a line of padded.py calls onnxruntime, whose own functions may be built in and show no frame."""
    number = int(line or 0)
    return 0 < number <= len(lines) and re.search(r"\.run\w*\(", lines[number - 1]) is not None


def read_sources() -> dict[str, list[str]]:
    folder = Path(importlib.util.find_spec("nerve").origin).parent
    return {
        f"{file.parent.name}/{file.stem}": file.read_text().splitlines() for file in folder.glob("*/*.py")
    }


def count_samples(raw: str, source_lines: dict[str, list[str]]) -> dict[int, Counter]:
    """Return {thread id: samples by stage} of py-spy's raw format: frames joined by `;`, then a count."""
    by_thread: dict[int, Counter] = {}
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        first, *frames = stack.split(";")
        found = re.match(r"thread \((\d+)\)", first)
        if found:
            samples = by_thread.setdefault(int(found[1]), Counter())
            samples[stage_of(frames, source_lines)] += int(count)
    return by_thread
