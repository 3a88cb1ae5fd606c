from __future__ import annotations

import itertools
import json
import math
import os
import platform
import queue
import random
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from corpus import texts as corpus_texts

from builders import open_engine
from nerve.config import LimitsConfig, RuntimeConfig
from nerve.endpoints import predict_tokens as wire
from nerve.engine.engine import Engine
from nerve.engine.large_process import CHANNELS, Annex, AnnexFailed
from nerve.engine.large_requests import LargeSetup
from nerve.errors import InvalidRequest, MalformedRequest
from nerve.scheduling.jobs import Job
from raw_http import wait_until

LIMITS = LimitsConfig(max_inputs=3000, max_input_tokens=50_000)
RUNTIME = RuntimeConfig(window_stride=4)


@pytest.fixture(scope="module")
def engine(lookup_model: Path) -> Iterator[Engine]:
    """Run the lookup model, windows of 16 tokens."""
    opened = open_engine(lookup_model, runtime={"window_stride": 4}, batching={"max_queue_tokens": 10**7})
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def annex_of() -> Iterator[Callable[[Engine], Annex]]:
    """Open annexes beside engines; they are closed at the end."""
    annexes: list[Annex] = []

    def create(engine: Engine) -> Annex:
        model = engine.model
        setup = LargeSetup(model.folder, model.max_length, model.labels, model.vocabulary, RUNTIME, LIMITS)
        annexes.append(Annex(setup))
        return annexes[-1]

    yield create
    for annex in annexes:
        annex.close()


@pytest.fixture(scope="module")
def annex(engine: Engine, annex_of: Callable[[Engine], Annex]) -> Annex:
    """Run one annex for most tests."""
    return annex_of(engine)


def answer(annex: Annex, engine: Engine, body: bytes, *, msgpack: bool = False) -> bytes:
    """Answer a body by way of the annex."""
    outline, context, windows = annex.begin(body, msgpack=msgpack)
    done: queue.SimpleQueue[Job] = queue.SimpleQueue()
    engine.compute(windows, outline.needs_logits, math.inf, done.put)
    return annex.finish(context, done.get(timeout=20).scores(), msgpack=msgpack)


def expected(engine: Engine, body: bytes) -> bytes:
    """Answer it in this process."""
    texts, options = wire.resolve_request(wire.decode_request(body, msgpack=False), RUNTIME, LIMITS)
    return wire.encode_rows(engine.predict_blocking(texts, options).rows, msgpack=False)


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("raw_scores", [False, True])
def test_the_annex_gives_the_same_bytes(
    annex: Annex, engine: Engine, strategy: str, raw_scores: bool
) -> None:
    """Every option, many texts and one long text: what the annex answers is what the worker would."""
    rng = random.Random(5)
    words = ["anna", "lives", "in", "paris", "naïve", "你好", "😀", "parisville", ".", "new", "york"]
    long = " ".join(rng.choice(words) for _ in range(3000))
    for inputs, unit, truncate in itertools.product(
        (long, ["anna", "", long[:300], " "]), ("code_point", "utf16", "byte"), (False, True)
    ):
        fields = {"inputs": inputs, "offset_unit": unit, "truncate": truncate, "raw_scores": raw_scores}
        body = json.dumps({**fields, "aggregation_strategy": strategy}).encode()
        assert answer(annex, engine, body) == expected(engine, body)


def test_the_annex_gives_the_same_bytes_on_the_default_model(
    rampart: Path, annex_of: Callable[[Engine], Annex]
) -> None:
    """All odd texts of the parity corpus as one text, and as many."""
    engine = open_engine(rampart, runtime={"window_stride": 4})
    try:
        annex = annex_of(engine)
        texts = corpus_texts()[::20]
        for inputs in ("\n".join(texts), texts):
            body = json.dumps({"inputs": inputs, "aggregation_strategy": "first"}).encode()
            assert answer(annex, engine, body) == expected(engine, body)
    finally:
        engine.close()


def test_msgpack(annex: Annex, engine: Engine) -> None:
    """MessagePack in, MessagePack out."""
    fields = {"inputs": ["anna lives in paris " * 50], "aggregation_strategy": "simple"}
    encoded = answer(annex, engine, msgspec.msgpack.encode(fields), msgpack=True)
    assert msgspec.msgpack.decode(encoded) == json.loads(expected(engine, json.dumps(fields).encode()))


@pytest.mark.parametrize(
    ("body", "error", "words"),
    [
        (b'{"inputs": "anna', MalformedRequest, "not valid JSON"),
        (b'{"inputs": "\xff"}', MalformedRequest, "not valid JSON"),
        (b'{"inputs": []}', InvalidRequest, "no text"),
        (b'{"inputs": "a", "offset_unit": "inch"}', InvalidRequest, "offset_unit"),
        (json.dumps({"inputs": "a " * 50_001}).encode(), InvalidRequest, "max_input_tokens"),
    ],
)
def test_errors_of_the_client_come_back(
    annex: Annex, body: bytes, error: type[Exception], words: str
) -> None:
    """A refusal in the annex is the same error as in the worker."""
    with pytest.raises(error, match=words):
        annex.begin(body, msgpack=False)


def test_calls_run_beside_each_other(annex: Annex, engine: Engine) -> None:
    """More callers than channels: each gets its own answer."""
    bodies = [json.dumps({"inputs": f"anna {'x ' * k} paris"}).encode() for k in range(40)]
    with ThreadPoolExecutor(4 * CHANNELS) as pool:
        got = list(pool.map(lambda body: answer(annex, engine, body), bodies))
    assert got == [expected(engine, body) for body in bodies]


def process_of(annex: Annex) -> int:
    """Return the id of the process."""
    (child,) = [
        int(pid)
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
        if b"nerve.engine.large_process" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and is_of(annex, int(pid))
    ]
    return child


def is_of(annex: Annex, pid: int) -> bool:
    """Tell whether a process is this annex's; other tests have theirs."""
    process: Any = annex._process
    return process is not None and process._child.pid == pid


def test_death_fails_what_runs_and_nothing_after_it(
    engine: Engine, annex_of: Callable[[Engine], Annex]
) -> None:
    """An annex that dies fails the calls it had, at once; the next one starts another."""
    annex = annex_of(engine)
    body = json.dumps({"inputs": "anna paris"}).encode()
    assert answer(annex, engine, body) == expected(engine, body)
    pid = process_of(annex)
    os.kill(pid, signal.SIGSTOP)  # so that the calls below are sure to wait
    with ThreadPoolExecutor(2 * CHANNELS) as pool:
        calls = [pool.submit(annex.begin, body, msgpack=False) for _ in range(2 * CHANNELS)]
        while annex._process is None or not annex._process.channels.empty():  # type: ignore[union-attr]
            threading.Event().wait(0.01)
        os.kill(pid, signal.SIGKILL)
        results = [call.exception(timeout=20) for call in calls]
    assert {type(error) for error in results} <= {AnnexFailed, type(None)}
    assert AnnexFailed in {type(error) for error in results}
    assert answer(annex, engine, body) == expected(engine, body)
    assert process_of(annex) != pid


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory, and can be told not to"
)
def test_memory_of_a_large_text_is_given_back(engine: Engine, annex_of: Callable[[Engine], Annex]) -> None:
    """A text of 3 MB takes a hundred times as much while it is tokenized, and leaves a few MB behind."""
    annex = annex_of(engine)
    annex.begin(b'{"inputs": "anna"}', msgpack=False)
    before = resident_mb(process_of(annex))
    body = json.dumps({"inputs": "anna lives in paris " * 150_000, "truncate": True}).encode()
    annex.begin(body, msgpack=False)
    wait_until(lambda: resident_mb(process_of(annex)) < before + 20, "the memory is given back")


def resident_mb(pid: int) -> float:
    """Return the physical memory of a process, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_a_channel_that_breaks_is_not_used_again(
    engine: Engine, annex_of: Callable[[Engine], Annex], capfd: pytest.CaptureFixture[str]
) -> None:
    """What one end cannot send or read, for lack of memory say, leaves no call waiting, and no answer to another's."""
    annex = annex_of(engine)
    body = json.dumps({"inputs": "anna paris"}).encode()
    assert answer(annex, engine, body) == expected(engine, body)
    process: Any = annex._process
    with pytest.raises(TypeError):
        annex._call(("begin", False), [object()])  # type: ignore[list-item]
    assert process._child.wait(20) != 0
    assert answer(annex, engine, body) == expected(engine, body)
    process = annex._process
    channel = process.channels.get()
    channel.send_bytes(b"no pickle")
    process.channels.put(channel)
    assert process._child.wait(20) == 0
    with pytest.raises(AnnexFailed):
        annex.begin(body, msgpack=False)
    assert answer(annex, engine, body) == expected(engine, body)
    assert "UnpicklingError" in capfd.readouterr().err


def test_a_defect_is_not_quoted(
    engine: Engine, annex_of: Callable[[Engine], Annex], caplog: pytest.LogCaptureFixture
) -> None:
    """A defect fails its own call, and its log shows no text."""
    annex = annex_of(engine)
    _, context, _ = annex.begin(b'{"inputs": "secret words"}', msgpack=False)
    with pytest.raises(AnnexFailed):
        annex.finish(context, [], msgpack=False)
    assert "a defect in the process for large requests" in caplog.text
    assert "secret" not in caplog.text
    assert annex.begin(b'{"inputs": "anna"}', msgpack=False)[0].n_texts == 1


def test_close(engine: Engine, annex_of: Callable[[Engine], Annex]) -> None:
    """Closing ends the process, and nothing starts another."""
    annex = annex_of(engine)
    annex.begin(b'{"inputs": "anna"}', msgpack=False)
    pid = process_of(annex)
    annex.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(AnnexFailed):
        annex.begin(b'{"inputs": "anna"}', msgpack=False)
