"""Baseten's own client at its defaults (256 requests at once) against a slow model, and with 32 at once.

600 requests of one text each, to BERT-base. At its defaults nothing may be refused (the client would wait and repeat),
and the whole may take 1.1 times as long as with 32 at once. Needs `baseten-performance-client`. Writes
bench/results/baseten-client.json.

usage: python -m bench.robustness.baseten_client [--models base] [--rounds 5]
"""

import argparse
import contextlib
import json
import time
import urllib.request

from baseten_performance_client import PerformanceClient, RequestProcessingPreference

from bench.paths import RESULTS
from bench.serving import machine
from bench.serving.models import find_model, hold_work
from bench.serving.results import spread
from bench.serving.servers import Server, read_specs
from bench.serving.workload import Reference, Workload

REQUESTS = 600
AT_ONCE = 32


def send(client: PerformanceClient, payloads: list[dict], at_once: int | None) -> float:
    """Send all requests; return the seconds it took. at_once: None for the client's default."""
    preference = RequestProcessingPreference(
        **({} if at_once is None else {"max_concurrent_requests": at_once})
    )
    started = time.perf_counter()
    answer = client.batch_post(url_path="/predict_tokens", payloads=payloads, preference=preference)
    seconds = time.perf_counter() - started
    if len(answer.data) != len(payloads) or not all(answer.data):
        raise RuntimeError("an answer is missing")
    return seconds


def count_refusals(server: Server) -> float:
    """Return the refusals that the server has counted."""
    with urllib.request.urlopen(f"{server.url}/metrics") as answer:  # noqa: S310  our own address
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("nerve_rejections_total"))


def run_model(name: str, rounds: int) -> dict:
    """Measure one model."""
    model = find_model(name)
    bodies = Reference(model).requests(Workload()).bodies
    texts = [text for body in bodies for text in json.loads(body)["inputs"]]
    payloads = [{"inputs": [[texts[k % len(texts)]]]} for k in range(REQUESTS)]
    spec = next(one for one in read_specs() if one.label == "nerve/auto")
    found = []
    with contextlib.closing(Server(spec, model, bodies[0])) as server, server.turn():
        client = PerformanceClient(base_url=server.url, api_key="none")
        send(client, payloads[:64], AT_ONCE)
        for _ in range(rounds):
            limited = send(client, payloads, AT_ONCE)
            before = count_refusals(server)
            default = send(client, payloads, None)
            found.append(
                {"seconds_32": limited, "seconds": default, "refused": count_refusals(server) - before}
            )
            print(name, json.dumps(found[-1]), flush=True)
    return {
        "requests": REQUESTS,
        "rounds": found,
        "ratio": spread([one["seconds"] / one["seconds_32"] for one in found]),
    }


def main() -> None:
    """Measure all models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=["base"])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with hold_work():
        content = {
            name: {**machine.describe(), **run_model(name, arguments.rounds)} for name in arguments.models
        }
        (RESULTS / "baseten-client.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
