"""The longest window by default: bounded by memory and time, whatever config.json allows."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders import open_engine, open_model, write_lookup_model
from nerve.engine.in_process import collect, submit
from nerve.errors import ModelError
from nerve.models.limits import find_lengths
from nerve.models.room import Room
from nerve.runtime.backend import GraphKind
from nerve.runtime.memory import Memory
from nerve.types import PredictOptions, TruncationDirection

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
GB = 10**9
BASE = {"num_attention_heads": 12, "hidden_size": 768, "intermediate_size": 3072}
DEBERTA = BASE | {"model_type": "deberta-v2"}
N_POSITIONS = 3000


def room(total: float, free: float | None = None, kind: GraphKind = GraphKind.BUILT, **changes: Any) -> Room:
    """Return the room of a worker with one core, for a model as wide as BERT-base."""
    memory = Memory(int(total * GB), int((total if free is None else free) * GB))
    values: dict[str, Any] = {
        "settings": BASE,
        "kind": kind,
        "memory": memory,
        "weights": GB // 2,
        "n_sessions": 1,
        "n_calls": 2,
        "batch_tokens": 0,
        "most_tokens": 2048,
    }
    return Room(**{**values, **changes})


@pytest.mark.parametrize(
    ("found", "limit", "expected", "why"),
    [
        (room(64), 512, 512, None),
        (room(64, windows=(128,) * 8, most_tokens=4096), 131072, 4096, "the time"),
        (room(2, windows=(128,) * 8, most_tokens=4096), 131072, 2048, "memory"),
        (room(1.5, settings=DEBERTA), 8192, 512, "memory"),
        (room(2.5, settings=DEBERTA), 8192, 1024, "memory"),  # a few heads at a time
        (room(64), 514, 514, None),
        (room(64), 2048, 2048, None),
        (room(64), 8192, 2048, "the time that longer ones take; the model allows 8192"),
        (room(64), 131072, 2048, "the time"),
        (room(64, most_tokens=8192), 131072, 8192, "the time"),
        (room(2), 8192, 2048, "the time"),  # a block of queries after the other
        (
            room(2, settings=BASE | {"model_type": "mpnet"}),
            8192,
            1024,
            "memory: 2 calls at once may take 1/4 of what the weights leave of 2.0 GB",
        ),
        (room(2, n_calls=5), 8192, 512, "memory: 5 calls at once"),
        (room(0.1), 8192, 512, "memory"),  # never shorter than what most models have
        (room(0.1), 300, 300, None),
        (room(0.1), 1000, 512, "memory"),
        (room(64, free=0.7), 8192, 1024, "memory"),  # others have taken nearly all
        (room(64, free=20), 8192, 2048, "the time"),
        (room(1.8, settings={}), 8192, 1024, "memory"),  # nothing known of the model: a large one
        (room(2, kind=GraphKind.READY), 8192, 512, "memory"),
        (room(16, kind=GraphKind.READY, n_calls=1), 8192, 2048, "the time"),
        (room(2, kind=GraphKind.PACKED, n_calls=1, most_tokens=8192), 8192, 4096, "memory"),
        (room(2, batch_tokens=16384), 8192, 512, "memory"),
        (room(2, memory=None), 8192, 2048, "the time"),
    ],
)
def test_longest_window_by_default(found: Room, limit: int, expected: int, why: str | None) -> None:
    """The limit itself, or the next power of two below that fits; up to 512 tokens always."""
    tokens, reason = found.shorten(limit)
    assert tokens == expected
    assert (reason is None) == (why is None)
    assert why is None or why in str(reason)


def test_a_length_that_was_asked_for_is_had_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    """In one line that names the key; where one call fits, but not all at once, with a warning."""
    settings = {"max_position_embeddings": 131072}

    def find(asked: int | None, found: Room) -> tuple[int, int]:
        lengths = find_lengths(settings, {}, None, asked, None, found)
        return lengths.window_tokens, lengths.max_length

    assert find(None, room(2)) == (2048, 131072)
    assert find(4096, room(64)) == (4096, 131072)
    assert caplog.text == ""
    assert find(3000, room(1.6)) == (3000, 131072)
    assert (
        "memory may run out: 2 calls at once may take 1/4 of what the weights leave of 1.6 GB" in caplog.text
    )
    with pytest.raises(ModelError) as caught:
        find(32768, room(2))
    assert str(caught.value) == (
        "runtime.window_tokens is 32768, but windows of that length take about 3.1 GB of memory, and 1.5 GB are free "
        "beside the weights; lower it, to 2048 for example"
    )
    with pytest.raises(ModelError, match=r"take about 3\.7 GB"):
        find(20000, room(2, n_sessions=2))  # each keeps what it has taken


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BERT with many positions, and the words of the lookup model."""
    monkeypatch.setitem(tiny.tensor_shapes.__globals__, "N_POSITIONS", N_POSITIONS)
    folder: Path = tiny.write_checkpoint(tmp_path / "long")
    lookup = write_lookup_model(tmp_path / "lookup")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup / name, folder / name)
    return folder


def have(monkeypatch: pytest.MonkeyPatch, total: float) -> None:
    """Give the process so many GB."""
    memory = Memory(int(total * GB), int(total * GB))
    monkeypatch.setattr("nerve.runtime.devices.usable_memory", lambda: memory)


def test_long_context_in_little_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log and the model say what is served and why; a text is cut where the model ends, not where a window does."""
    have(monkeypatch, 0.1)
    caplog.set_level("INFO")
    engine = open_engine(folder, cpu={"threads": 1})
    try:
        lengths = engine.model.lengths
        assert (lengths.window_tokens, lengths.max_length) == (512, N_POSITIONS)
        assert lengths.window_tokens_from.startswith("memory: 2 calls at once may take 1/4 of")
        assert f"windows of 512 tokens, from {lengths.window_tokens_from}" in caplog.text
        text = "anna " * 2 * N_POSITIONS
        for direction in TruncationDirection:
            options = PredictOptions(truncate=True, truncation_direction=direction)
            found = collect(engine, submit(engine, [text], options))
            assert found.truncated == [0]
            assert len(found.rows[0]) == N_POSITIONS
        whole = collect(engine, submit(engine, [text], PredictOptions()))
        assert (whole.truncated, len(whole.rows[0])) == ([], 2 * N_POSITIONS + 2)
    finally:
        engine.close()


def test_memory_is_divided_among_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them plans with its share."""
    have(monkeypatch, 0.8)
    lengths = [
        open_model(folder, cpu={"threads": 1}, server={"workers": workers})[0].window_tokens
        for workers in (1, 2, 8)
    ]
    assert lengths == [2048, 2048, 512]


def test_asked_length_is_not_shortened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is configured is had, or the start is refused with the key."""
    have(monkeypatch, 0.5)
    model, _ = open_model(folder, cpu={"threads": 1}, runtime={"window_tokens": 2500})
    assert model.lengths.window_tokens == 2500
    assert model.lengths.window_tokens_from == "runtime.window_tokens of the configuration"
    assert model.lengths.max_length == N_POSITIONS
    have(monkeypatch, 0.02)
    with pytest.raises(
        ModelError, match=r"^runtime\.window_tokens is 2500, but windows of that length take about"
    ):
        open_model(folder, cpu={"threads": 1}, runtime={"window_tokens": 2500})


def test_relative_positions_cost_no_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph with a bias by distance holds it for each distance, not for each pair of positions."""
    monkeypatch.setitem(tiny.tensor_shapes.__globals__, "N_POSITIONS", 100_000)
    folder: Path = tiny.write_checkpoint(tmp_path / "mpnet", "mpnet")
    lookup = write_lookup_model(tmp_path / "lookup")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(lookup / name, folder / name)
    model, _ = open_model(folder, cpu={"threads": 1})
    assert model.window_tokens == 2048


def test_long_windows_are_tried_as_far_as_time_allows(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A start takes seconds: once the next length would take long, it is said and left."""
    caplog.set_level("INFO")
    tried: list[int] = []
    monkeypatch.setattr("nerve.models.warm_up._MOST_SECONDS", 0.0)
    real = open_model
    from nerve.models import warm_up  # noqa: PLC0415 - patched here

    run = warm_up._try
    monkeypatch.setattr(warm_up, "_try", lambda model, rows: tried.append(len(rows[0])) or run(model, rows))
    real(folder, cpu={"threads": 1})
    assert max(tried) == 512
    assert "windows of more than 512 tokens are not tried at start" in caplog.text
    monkeypatch.setattr(warm_up, "_MOST_SECONDS", 1e9)
    tried.clear()
    real(folder, cpu={"threads": 1})
    assert [n for n in tried if n >= 512] == [512, 1024, 2048]
