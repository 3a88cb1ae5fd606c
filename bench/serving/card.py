"""The simulated card: what surrounds a GPU can be measured where there is none.

A step takes as long as BERT-base in float16 on an NVIDIA L4, by arithmetic: 0.8 ms up to 250 tokens, in which the card
reads its 0.2 GB of weights, and 2.9 us for each token beyond. It sleeps, so that it holds neither a core nor
Python's interpreter lock. There is one card: steps of all processes take turns.
"""

import ctypes
import fcntl
import os
import threading
import time
from pathlib import Path

LEAST_SECONDS = 0.0008
FREE_TOKENS = 250
SECONDS_PER_TOKEN = 2.9e-6
# Linux ends a sleep up to 50 us late, to wake less often, unless a thread asks for better (prctl(2)).
_PR_SET_TIMERSLACK = 29


def step_seconds(n_tokens: int, least: float = LEAST_SECONDS) -> float:
    return least + SECONDS_PER_TOKEN * max(0, n_tokens - FREE_TOKENS)


class Card:
    """The card as one process sees it; `file` is locked while it computes. least: seconds of its shortest step."""

    def __init__(self, file: Path, least: float = LEAST_SECONDS):
        self.least = least
        self.file = file.open("ab")
        self.lock = threading.Lock()
        self._exact = threading.local()

    def compute(self, n_tokens: int) -> None:
        """Return when the card has computed so many tokens, padding included."""
        if not hasattr(self._exact, "is_set"):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)
            self._exact.is_set = True
        with self.lock:
            fcntl.flock(self.file, fcntl.LOCK_EX)
            try:
                time.sleep(step_seconds(n_tokens, self.least))
            finally:
                fcntl.flock(self.file, fcntl.LOCK_UN)


def find_card() -> Card | None:
    """Return the card that BENCH_CARD names, or None without it. BENCH_CARD_SECONDS: of its shortest step."""
    if "BENCH_CARD" not in os.environ:
        return None
    return Card(Path(os.environ["BENCH_CARD"]), float(os.environ.get("BENCH_CARD_SECONDS", LEAST_SECONDS)))
