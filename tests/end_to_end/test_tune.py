"""`nerve tune` and its load generator, against real servers."""

from __future__ import annotations

import asyncio
import json
import math
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import ServerProcess, write_config, write_lookup_model
from nerve.cli.tune.load import Load, Sample, make_requests
from nerve.cli.tune.plan import apply, setting_of
from nerve.cli.tune.result_file import write_tuned
from nerve.config import CpuMode, load_config
from raw_http import wait_until

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))

BODY = b'{"inputs":"Anna lives in Paris."}'
STALL_SECONDS = 0.2


def tune(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end with pipes for all streams."""
    return subprocess.run(
        [sys.executable, "-m", "nerve", "tune", *map(str, arguments)], capture_output=True, check=False
    )


@contextmanager
def small_server(answer: bytes, stall_at: int = -1) -> Iterator[int]:
    """Run an HTTP server in a thread that answers all requests alike; it stands still once, at one of them."""
    ready, port, n_answered = threading.Event(), 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal n_answered
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
                n_answered += 1
                if n_answered == stall_at:
                    threading.Event().wait(STALL_SECONDS)  # the whole loop, as a stall of a server is
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def main() -> None:
        nonlocal port
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        ready.set()
        async with server:
            await finished.wait()
        await asyncio.sleep(0.05)

    finished = asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    ready.wait()
    yield port
    loop.call_soon_threadsafe(finished.set)
    thread.join()
    loop.close()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"


def test_latency_counts_from_the_intended_moment() -> None:
    """A server that stands still for 0.2 s makes all requests of that time late, not only the one it held."""
    with small_server(OK, stall_at=50) as port:
        sample = Load(port, make_requests([BODY], "/")).open_loop(200, seconds=1, target=10)
    assert sample.planned == len(sample.latencies) > 150
    late = [latency for latency in sample.latencies if latency > STALL_SECONDS / 4]
    assert len(late) > 200 * STALL_SECONDS / 3
    assert max(sample.latencies) >= STALL_SECONDS * 0.9


def test_refused_requests_are_infinitely_late() -> None:
    """429 is no answer in time, whatever it took; the probe ends when the target cannot be met any more."""
    refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"
    with small_server(refusal) as port:
        sample = Load(port, make_requests([BODY], "/")).open_loop(300, seconds=5, target=10)
    assert sample.percentile(0.99) == math.inf
    assert 0 < sample.refused < sample.planned / 10
    assert sample.seconds < 2


def test_percentiles_count_what_was_not_answered() -> None:
    """The rank is among the planned requests."""
    sample = Sample(planned=100, latencies=[0.001 * n for n in range(99, 0, -1)])
    assert sample.percentile(0.99) == pytest.approx(0.099)
    assert sample.percentile(0.5) == pytest.approx(0.050)
    assert sample.percentile(0.995) == math.inf


def test_real_answers_are_read(server: ServerProcess) -> None:
    """The client understands what nerve sends, over many requests on one connection."""
    port = int(server.url.rpartition(":")[2])
    load = Load(port, make_requests([BODY, b'{"inputs":"x"}'], "/predict_tokens"))
    closed = load.closed_loop(4, 0.3)
    assert closed.planned == len(closed.latencies) > 20
    opened = load.open_loop(50, 0.4, target=5)
    assert opened.planned == len(opened.latencies)
    assert (opened.failed, opened.refused) == (0, 0)
    assert 0 < opened.cpu_seconds < opened.seconds
    wrong = Load(port, make_requests([b"{}"], "/predict_tokens")).closed_loop(1, 0.1)
    assert wrong.failed == wrong.planned > 0


def test_best_configuration_is_written(lookup_model: Path, tmp_path: Path) -> None:
    """The report says what was tried; a file is written for what was better in every round, and for nothing else."""
    config = write_config(tmp_path / "c.yaml", lookup_model, limits={"max_inputs": 7})
    config.write_text(f"# mine\n{config.read_text()}")
    (tmp_path / "texts").write_text("Anna lives in Paris.\nx\n\n")
    done = tune(
        *(
            "--config",
            config,
            "--target-p99-ms",
            "500",
            "--texts",
            tmp_path / "texts",
            "--seconds",
            "4",
            "--json",
        )
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["met"]
    assert (report["texts"], report["own_texts"]) == (2, True)
    assert report["tried"][0]["capacity"] > 0
    assert any(one["is_start"] for one in report["finalists"])
    assert report["agreements"] == {}
    assert {one["model.precision"] for one in report["tried"]} == {"auto"}  # none other was named
    best = report["best"]
    assert best["capacity"] > 0
    assert best["p99_ms"] <= 500
    written = tmp_path / "c.tuned.yaml"
    assert report["written"] == (None if best["is_start"] else str(written))
    assert written.exists() is not best["is_start"]
    begun = next(one for one in report["finalists"] if one["is_start"])
    if not best["is_start"]:
        assert all(mine > its for mine, its in zip(best["rounds"], begun["rounds"], strict=True))
        text = written.read_text()
        assert ("NOT RELIABLE: " in text) is bool(report["doubts"])
        tuned = load_config(written)
        assert tuned.server.workers == best["server.workers"]
        assert tuned.cpu.threads == best["cpu.threads"]
    assert ("rounds fitted" in str(report["doubts"])) is (len(best["rounds"]) < 3)
    written.touch()
    done = tune("--config", config, "--target-p99-ms", "500")
    assert done.returncode == 1
    assert b"exists; remove it, or name another file with --out" in done.stderr


def test_target_out_of_reach_names_the_nearest(lookup_model: Path, tmp_path: Path) -> None:
    """No file is written, the nearest setting is named, and the exit status is 1."""
    config = write_config(tmp_path / "c.yaml", lookup_model)
    done = tune("--config", config, "--target-p99-ms", "0.001", "--seconds", "2")
    assert done.returncode == 1
    assert b"NO setting meets p99 <= 0.001 ms. The nearest: " in done.stdout
    assert not (tmp_path / "c.tuned.yaml").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_no_server_is_left_behind(number: signal.Signals, lookup_model: Path, tmp_path: Path) -> None:
    """A `nerve tune` that is told to stop in the middle of a measurement stops the server it measures."""
    config = write_config(tmp_path / "c.yaml", lookup_model)
    command = [sys.executable, "-m", "nerve", "tune", "--config", config, "--target-p99-ms", "500"]
    inherited = signal.signal(
        number, signal.SIG_DFL
    )  # under nohup a child inherits that it is ignored, and heeds it
    try:
        tuning = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    finally:
        signal.signal(number, inherited)
    with tuning:
        wait_until(lambda: any(is_loaded(pid) for pid in children_of(tuning.pid)), "a server runs", 30)
        servers = children_of(tuning.pid)
        workers = [worker for server in servers for worker in children_of(server)]
        tuning.send_signal(number)
        assert tuning.wait(60) == 128 + number
    left = [*servers, *workers]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), "they are gone", 5)
    assert not list(tmp_path.glob("*.tuned.yaml"))


def is_loaded(server: int) -> bool:
    """Tell whether a server has a worker that has loaded onnxruntime."""
    return any("onnxruntime" in Path(f"/proc/{pid}/maps").read_text() for pid in children_of(server))


def children_of(pid: int) -> list[int]:
    """Return the ids of the processes that a process started."""
    lists = [task / "children" for task in Path(f"/proc/{pid}/task").iterdir()]
    return [int(child) for children in lists for child in children.read_text().split()]


@pytest.fixture
def tiny_bert(tmp_path: Path) -> Path:
    """Write a transformer with random weights that reads what the lookup model reads."""
    folder = write_lookup_model(tmp_path / "tiny")
    (folder / "model.onnx").unlink()
    tiny.write_checkpoint(folder)
    return folder


def test_precision_is_never_chosen_silently(tiny_bert: Path, tmp_path: Path) -> None:
    """int8 is tried only when named, with its agreement shown, and not at all below --min-agreement."""
    config = write_config(tmp_path / "c.yaml", tiny_bert, model={"min_agreement": 0.0})
    common = ("--config", config, "--target-p99-ms", "500", "--seconds", "1", "--json")
    named = ("--precision", "float32,int8", "--min-agreement")
    report = json.loads(tune(*common, "--out", tmp_path / "1.yaml", *named, "0.2").stdout)
    assert 0.2 <= report["agreements"]["int8"] <= 1
    assert "int8" in {one["model.precision"] for one in report["tried"]}
    report = json.loads(tune(*common, "--out", tmp_path / "2.yaml", *named, "1").stdout)
    assert "int8" not in {one["model.precision"] for one in [*report["tried"], *report["finalists"]]}


def test_written_file_keeps_what_is_its_users(lookup_model: Path, tmp_path: Path) -> None:
    """Keys that are not tuned, comments, the port; the head says what was measured."""
    config = write_config(tmp_path / "c.yaml", lookup_model, limits={"max_inputs": 7})
    config.write_text(f"# mine\n{config.read_text()}")
    own, out = load_config(config), tmp_path / "c.tuned.yaml"
    write_tuned(
        out, config, own, replace(setting_of(own), workers=3, threads=1), ["Written by `nerve tune`", "x"]
    )
    text, tuned = out.read_text(), load_config(out)
    assert text.startswith("# Written by `nerve tune`\n# x\n")
    assert "# mine\n" in text
    assert (tuned.limits, tuned.server.port) == (own.limits, own.server.port)
    assert (tuned.server.workers, tuned.cpu.threads) == (3, 1)


@pytest.mark.parametrize("content", ["model: {m}\ncpu: {{threads: 1}}\n", "{{model: {m}}}\n"])
def test_written_file_may_lie_elsewhere(content: str, tmp_path: Path) -> None:
    """Relative paths mean the same from another folder, in a file that is edited and in one written afresh."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    file, out = tmp_path / "a/c.yaml", tmp_path / "b/c.yaml"
    file.write_text(content.format(m="{checkpoint_repository: {source: LOCAL, path: m}, cache_dir: cache}"))
    config = load_config(file)
    setting = replace(setting_of(config), workers=3, mode=CpuMode.LATENCY)
    write_tuned(out, file, config, setting, ["measured"])
    assert out.read_text().startswith("# measured\n\n")
    assert load_config(out) == apply(config, setting)
    assert load_config(out).model.cache_dir == str(tmp_path / "a/cache")
