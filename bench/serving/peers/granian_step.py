"""The least that a server on Granian does for a request: read the body, wait for the step, send bytes made before.

It tokenizes nothing and makes no answer: the first time that it sees a body it keeps what `Model` answers. The step is
waited for in the event loop itself, so that nothing is handed to another thread. What a server needs beyond this is
its own work.
"""

import os

import orjson
from granian import Granian
from granian.constants import Interfaces, Loops
from onnx_model import Model


class Application:
    """An RSGI application."""

    def __init__(self) -> None:
        self.model = Model()
        self.kept: dict[bytes, tuple[int, bytes]] = {}

    async def __call__(self, scope, protocol) -> None:
        """Answer a request."""
        body = await protocol()
        if body not in self.kept:
            request = orjson.loads(body)
            answer = self.model.predict(request["inputs"], request.get("raw_scores", False))
            self.kept[body] = sum(map(len, answer)), orjson.dumps(answer)
        n_tokens, answer = self.kept[body]
        self.model.graph.card.compute(n_tokens)
        protocol.response_bytes(200, [("content-type", "application/json")], answer)


if __name__ == "__main__":
    Granian(
        "granian_step:make",
        factory=True,
        address="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        interface=Interfaces.RSGI,
        loop=Loops.uvloop,
        workers=1,
        log_access=False,
    ).serve()


def make() -> Application:
    return Application()
