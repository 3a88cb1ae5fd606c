"""How sessions of onnxruntime are made: what one of them needs must not reach another, nor stay behind."""

from __future__ import annotations

import ctypes
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nerve.config import Device, Precision
from nerve.errors import ModelError
from nerve.graph import load_graph
from nerve.runtime import sessions
from nerve.runtime.padded import Session
from nerve.types import Window

tiny = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "parity" / "tiny_checkpoints.py")))
VARIABLE = "ORT_DISABLE_FLASH_ATTENTION"
LENGTHS = (200, 350)  # long enough for the other kind of attention to split them, and of unequal length


def in_c() -> bytes | None:
    """Return what C code of this process sees of the variable."""
    get = ctypes.CDLL(None).getenv
    get.restype = ctypes.c_char_p
    found: bytes | None = get(VARIABLE.encode())
    return found


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The built graph of a tiny BERT with as many positions as the windows need."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("checkpoint")
        patch.setitem(tiny.tensor_shapes.__globals__, "N_POSITIONS", max(LENGTHS))
        tiny.write_checkpoint(folder)
        source = load_graph(folder, Precision.FLOAT32, folder / "cache").source
    assert isinstance(source, bytes)
    return source


def test_sessions_made_side_by_side_have_one_kind_of_attention(
    graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes it, and whatever others make meanwhile: a text has the same bits alone and in a batch."""
    monkeypatch.delenv(VARIABLE, raising=False)
    rng = np.random.default_rng(0)
    windows = [Window(rng.integers(5, tiny.N_WORDS, length).tolist(), 0) for length in LENGTHS]
    for _ in range(3):
        with ThreadPoolExecutor(6) as pool:
            made = list(pool.map(lambda _: Session(graph, Device.CPU, 0, pad_id=0), range(6)))
        assert in_c() is None
        for session in made:
            alone = session.run(windows[:1], needs_logits=True)[0]
            beside = session.run(windows, needs_logits=True)[0]
            assert np.array_equal(alone.logits, beside.logits)


@pytest.mark.parametrize("before", [None, "0", "1"])
def test_the_environment_is_left_as_it_was(
    graph: bytes, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    """Sessions of the CPU are made with the variable set, those of CUDA with what the user has set."""
    seen: dict[str, bytes | None] = {}
    monkeypatch.delenv(VARIABLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VARIABLE, before)
    real = sessions.ort.InferenceSession

    def look(source: Any, options: Any, providers: Any, **more: Any) -> Any:
        seen[providers[0][0]] = in_c()
        return real(source, options, providers=["CPUExecutionProvider"], **more)

    monkeypatch.setattr(sessions.ort, "InferenceSession", look)
    monkeypatch.setattr(sessions.ort, "preload_dlls", lambda: None)
    expected = before.encode() if before is not None else None
    for _ in range(2):
        sessions.create_session(graph, Device.CPU, 0, 1)
        with pytest.raises(ModelError, match=r"(?i)cuda"):  # it runs on the CPU, which is refused
            sessions.create_session(graph, Device.CUDA, 0, 1)
    assert seen == {"CPUExecutionProvider": b"1", "CUDAExecutionProvider": expected}
    assert in_c() == expected
