"""The breakdown of a request's time by stage."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

from bench.serving import stacks, stages, zero_model
from bench.serving.stacks import DECODE, ENCODE, HAND_OVER, HTTP, MODEL, REST, ROWS, TOKENIZE

SOURCES = {"runtime/padded": ["outputs = self._session.run(names, feed)", "feed = np.zeros(shape)"]}
GRANIAN = "future_watcher (granian/_futures.py:12)"


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        ([GRANIAN], HTTP),
        ([GRANIAN, "Application.__call__ (nerve/http/rsgi.py:160)"], HTTP),
        (["App.handle (nerve/http/app.py:188)"], REST),
        (
            ["App._predict (nerve/http/app.py:205)", "decode_request (nerve/endpoints/predict_tokens.py:99)"],
            DECODE,
        ),
        (
            ["App._predict (nerve/http/app.py:233)", "encode_rows (nerve/endpoints/predict_tokens.py:137)"],
            ENCODE,
        ),
        (["call (nerve/server/rsgi_worker.py:98)", "Exchange._on_body (nerve/http/exchange.py:240)"], REST),
        (["call (nerve/server/rsgi_worker.py:98)", "RsgiRequest.read (nerve/http/rsgi.py:90)"], HTTP),
        (
            ["Call.begin (nerve/engine/engine.py:1)", "TextTokenizer.tokenize (nerve/text/tokenizer.py:70)"],
            TOKENIZE,
        ),
        (
            ["TextTokenizer.tokenize (nerve/text/tokenizer.py:70)", "encode (nerve/text/word_cache.py:60)"],
            TOKENIZE,
        ),
        (["Call._queue (nerve/engine/engine.py:242)", "submit (nerve/scheduling/lane.py:2)"], HAND_OVER),
        (
            ["Call._queue (nerve/engine/engine.py:242)", "Job.__init__ (nerve/scheduling/batching.py:9)"],
            HAND_OVER,
        ),
        (["Call._finish (nerve/engine/engine.py:149)"], REST),
        (["Engine.make_rows (nerve/engine/engine.py:220)", "merge_scores (nerve/text/windows.py:30)"], ROWS),
        (["decode (nerve/text/aggregation.py:80)", "__init__ (<string>:3)"], ROWS),
        (["Session.run (nerve/runtime/padded.py:1)", "run (onnxruntime/capi/inference.py:406)"], MODEL),
        (["Session.run (nerve/runtime/padded.py:1)"], MODEL),
        (["Session.run (nerve/runtime/padded.py:2)"], HAND_OVER),
        (["/home/nerve/other.py"], HTTP),
    ],
)
def test_sample_belongs_to_the_innermost_function_of_our_own(frames: list[str], stage: str) -> None:
    """What a library does counts for the stage that called it; the graph's call is told from its arrays."""
    assert stacks.stage_of(frames, SOURCES) == stage


def test_stages_are_those_of_modules_and_functions_that_there_are() -> None:
    """What was renamed or moved would count for another stage, unseen."""
    sources = {name: "\n".join(lines) for name, lines in stacks.read_sources().items()}
    assert {*stacks.MODULES, *stacks.FUNCTIONS} <= sources.keys()
    for module, functions in stacks.FUNCTIONS.items():
        for part, _ in functions:
            assert re.search(rf"def \w*{part}", sources[module]), (module, part)


def test_samples_are_counted_by_thread() -> None:
    """py-spy's raw format names the thread first and the count last."""
    raw = (
        f"thread (12): MainThread;{GRANIAN} 3\n"
        f"thread (12): MainThread;{GRANIAN};encode_rows (nerve/endpoints/predict_tokens.py:137) 5\n"
        "thread (13): nerve-engine-0;Scheduler._work (nerve/scheduling/lane.py:9) 1\n"
    )
    assert stacks.count_samples(raw, SOURCES) == {
        12: Counter({HTTP: 3, ENCODE: 5}),
        13: Counter({HAND_OVER: 1}),
    }


def test_cpu_time_is_divided_and_none_is_lost() -> None:
    """The model's calls are what was counted; the rest of a thread goes to its stages by its other samples."""
    used = {1: 2.0, 2: 0.5, 3: 4.0, 4: 3.0, 5: 1.0, 9: 0.25}
    split = stages.split_cpu(
        used,
        in_model={4: 2.9, 5: 0.75},
        samples={1: Counter({TOKENIZE: 3, ENCODE: 1}), 4: Counter({MODEL: 50, HAND_OVER: 40})},
        python_threads={1, 2, 4, 5, 9},
        idle={9},
    )
    wanted = {TOKENIZE: 1.5, ENCODE: 0.5, HTTP: 0.5, MODEL: 4.0 + 2.9 + 0.75, HAND_OVER: 0.35, REST: 0.25}
    assert {stage: value for stage, value in split.items() if value} == pytest.approx(wanted)
    assert sum(split.values()) == pytest.approx(sum(used.values()))


def test_calls_of_the_model_are_counted(tmp_path: Path) -> None:
    """What onnxruntime computes for a thread is counted for it, whichever of its functions is called."""
    onnx.save(zero_model.make_graph(np.zeros((50, 3), np.float32)), tmp_path / "zero.onnx")
    calls = tmp_path / "calls"
    calls.mkdir()
    code = (
        "import sys, time, threading, numpy as np, onnxruntime as ort\n"
        "session = ort.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])\n"
        "ids = np.zeros((64, 512), np.int64)\n"
        "start = time.thread_time()\n"
        "for _ in range(50): session.run(['logits'], {'input_ids': ids})\n"
        "print(threading.get_native_id(), time.thread_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "zero.onnx")],
        env={**os.environ, "BENCH_MODEL_CPU": str(calls), "PYTHONPATH": str(stages.PROFILING)},
        capture_output=True,
        text=True,
        check=True,
    )
    thread, seconds = done.stdout.split()
    counted = stages.model_cpu_by_thread(calls)
    assert list(counted) == [int(thread)]
    assert 0.5 * float(seconds) < counted[int(thread)] <= float(seconds)


def test_wall_time_adds_up_to_what_the_client_saw() -> None:
    """Nothing of the client's time is without a stage."""
    metrics = {"nerve_request_duration_seconds_count": 10, "nerve_request_duration_seconds_sum": 0.05}
    for stage, seconds in {"tokenize": 0.01, "queue": 0.002, "inference": 0.03, "aggregate": 0.004}.items():
        metrics[f'nerve_stage_duration_seconds_sum{{stage="{stage}"}}'] = seconds
    wall = stages.split_wall(metrics, 5.5, dict.fromkeys(stacks.STAGES, 0.1))
    assert wall[HTTP] == pytest.approx(0.5)
    assert wall[MODEL] == pytest.approx(3)
    assert wall[REST] == pytest.approx(0.2)
    assert sum(wall.values()) == pytest.approx(5.5)


def test_one_entry_for_each_commit_and_cpu() -> None:
    """The file shows what each change did; measuring a commit again replaces its entry."""
    content: dict = {"runs": []}
    for commit, value in (("a", 1), ("b", 2), ("a", 3)):
        facts = {"commit": commit, "machine": {"cpu": "X"}, "versions": {}}
        content = stages.add_run(content, facts, {"s": {"value": value}})
    assert [(run["commit"], run["servers"]["s"]["value"]) for run in content["runs"]] == [("b", 2), ("a", 3)]
