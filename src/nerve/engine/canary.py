"""Proves every now and then that the model still computes, by asking it.

A device can fail without a sign: a call that never returns raises nothing, and where no request comes nobody
sees that the next one would fail. So when no model call has ended for a while, a thread sends a text through the
queue as a request would go. Under load this costs nothing: a call that has ended is proof enough.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING

from nerve.engine.in_process import collect, submit
from nerve.errors import InvalidRequest, NerveError, Overloaded
from nerve.observability.defects import log_defect, survive
from nerve.types import PredictOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from nerve.engine.engine import Engine

log = logging.getLogger(__name__)

TEXT = "canary"
_OPTIONS = PredictOptions()
_PAUSE_SECONDS = 1.0
# Waits are cut into so many parts, so that a process that was stopped for a while loses one part only.
_PARTS = 20


class Canary:
    """Watches an engine on a thread of its own, until it is stopped or the engine is declared dead.

    interval_seconds: without an ended call, after which the model is asked.
    timeout_seconds: within which a call must end. Then `tell` is given False, and True when calls end again;
        after as long once more the engine is made to fail.
    """

    def __init__(
        self, engine: Engine, interval_seconds: float, timeout_seconds: float, tell: Callable[[bool], None]
    ) -> None:
        self._engine = engine
        self._interval = interval_seconds
        self._timeout = timeout_seconds
        self._tell = tell
        self._stopped = threading.Event()
        self._seen = -1  # ended calls at the last look
        self._is_well = True
        threading.Thread(target=self._watch, name="nerve-canary", daemon=True).start()

    def stop(self) -> None:
        """Watch no more, and tell nothing more."""
        self._stopped.set()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            survive(self._look, "in the canary")

    def _look(self) -> None:
        """Ask the model if nothing has shown since the last look that it computes."""
        if self._seen == self._engine.n_calls and not self._is_alive():
            if not self._recovers():
                self._stopped.set()
        elif not self._is_well:
            self._say(is_well=True)
        self._seen = self._engine.n_calls

    def _say(self, *, is_well: bool) -> None:
        self._is_well = is_well
        self._tell(is_well)

    def _recovers(self) -> bool:
        """Wait until calls end again; False when they do not and the engine was declared dead."""
        if self._stopped.is_set():
            return False
        self._say(is_well=False)
        left = self._timeout
        while left > 0:
            started = time.monotonic()
            if self._stopped.wait(min(_PAUSE_SECONDS, self._timeout / _PARTS)):
                return False
            if self._is_alive():
                log.warning("the model computes again")
                self._say(is_well=True)
                return True
            left -= min(time.monotonic() - started, self._timeout)
        if not self._stopped.is_set():
            self._engine.fail("the model has stopped to compute; this process ends")
        return False

    def _is_alive(self) -> bool:
        """Ask the model; True when it answers, or any other call ends meanwhile."""
        n_calls = self._engine.n_calls
        try:
            submitted = submit(self._engine, [TEXT], _OPTIONS)
        except Overloaded:
            return self._sees_progress(n_calls, threading.Event())
        except InvalidRequest:
            return True  # the model does not know the tokens of this text, so it cannot be asked
        except NerveError as error:
            return self._fails(f"refused: {error}")
        except Exception as error:  # noqa: BLE001 - for want of memory, say: requests fare no better
            log_defect(error, "in the canary")
            return self._fails("it could not be asked")
        if not self._sees_progress(n_calls, submitted.done):
            self._engine.cancel(submitted.job)
            return self._fails(f"no call has ended in {self._timeout:.1f} s")
        if not submitted.done.is_set():
            self._engine.cancel(submitted.job)  # others were served meanwhile
            return True
        try:
            rows = collect(self._engine, submitted).rows[0]
        except NerveError as error:
            return self._engine.n_calls != n_calls or self._fails(str(error))
        except Exception as error:  # noqa: BLE001 - see above
            log_defect(error, "in the canary")
            return self._fails("its answer could not be read")
        if all(math.isfinite(score) for row in rows for score in row.results.values()):
            return True
        return self._fails("scores are not finite")

    def _sees_progress(self, n_calls: int, done: threading.Event) -> bool:
        return any(
            done.wait(self._timeout / _PARTS) or self._engine.n_calls != n_calls for _ in range(_PARTS)
        )

    def _fails(self, reason: str) -> bool:
        if not self._stopped.is_set():
            log.error("the model does not compute a text of %d characters: %s", len(TEXT), reason)
        return False
