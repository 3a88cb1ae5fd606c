"""What each wire format costs over /predict_tokens, for a text of 36 tokens: the same server, model and connection.

In each turn every case is asked once, in an order of its own (fixed seed), and its time is compared with that of
/predict_tokens in the same turn; what slows a turn slows all. /predict_tokens takes part twice: how far its second case
is from the first shows the noise. Formats that redact run the patterns of config.yaml, too.

usage: python -m bench.endpoints [--turns 1500] [--out bench/results/endpoints.json]
       python -m bench.endpoints --table bench/results/endpoints.json
"""

import argparse
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from bench.paths import REPOSITORY, RESULTS
from bench.serving import machine

TEXT = (
    "Please call Maria Garcia at her office in Madrid before noon, she will send the signed contract to John Smith "
    "and the team of the new hospital in the old town today."
)
N_TOKENS = 36
BASE, AGAIN = "predict_tokens", "predict_tokens again"
BLOCKS = 5  # of turns, whose medians show the spread
PORT = 8917
VERTEX = "/aip/predict"


@dataclass(frozen=True)
class Case:
    """One request."""

    name: str
    route: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def make_cases(model: str, text: str = TEXT, n_tokens: int = N_TOKENS) -> list[Case]:
    """Return the cases: `BASE`, `AGAIN`, and one for each format and form of it."""
    entities = {"inputs": text, "aggregation_strategy": "first"}
    message = {"role": "user", "content": text}
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": "f", "arguments": '{"to":"Maria Garcia","days":2}'},
    }
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
    ids = [
        {"name": name, "shape": [1, n_tokens], "datatype": "INT64", "data": [1] * n_tokens}
        for name in ("input_ids", "attention_mask")
    ]
    found = [{"entity_type": "PERSON", "start": 0, "end": 10, "score": 1.0}]
    infer = f"/v2/models/{model}/infer"
    plain: list[tuple[str, str, object]] = [
        (BASE, "/predict_tokens", entities),
        (AGAIN, "/predict_tokens", entities),
        ("predict_tokens, a row for each token", "/predict_tokens", {"inputs": text}),
        ("redact", "/redact", {"inputs": text}),
        ("huggingface", "/pipeline/token-classification", {"inputs": text, "parameters": {}}),
        ("open_inference, texts", infer, {"inputs": [tensor]}),
        ("open_inference, ids to logits", infer, {"inputs": ids}),
        ("kserve_v1", f"/v1/models/{model}:predict", {"instances": [text]}),
        ("sagemaker", "/invocations", {"inputs": text}),
        ("vertex", VERTEX, {"instances": [text]}),
        ("presidio, analyze", "/analyze", {"text": text, "language": "en"}),
        ("presidio, anonymize (no model)", "/anonymize", {"text": text, "analyzer_results": found}),
        ("litellm", "/beta/litellm_basic_guardrail_api", {"texts": [text], "input_type": "request"}),
        (
            "litellm, with a call of a tool (two texts)",
            "/beta/litellm_basic_guardrail_api",
            {"texts": [text], "structured_messages": [message, {"role": "assistant", "tool_calls": [call]}]},
        ),
        ("agentgateway, prompt", "/request", {"body": {"messages": [message]}}),
        ("agentgateway, answer", "/response", {"body": {"choices": [{"message": message}]}}),
        ("nemo, extract", "/v1/extract", {"text": text, "threshold": 0.5}),
        ("nemo, chat", "/v1/chat/completions", {"messages": [message], "threshold": 0.5}),
        ("bigquery", "/bigquery", {"calls": [[text]]}),
        ("snowflake", "/snowflake", {"data": [[0, text]]}),
    ]
    cases = [Case(name, route, json.dumps(body).encode()) for name, route, body in plain]
    return [*cases, _binary_case(infer, text)]


def _binary_case(route: str, text: str) -> Case:
    """Return the request as Triton's client sends it by default."""
    raw = text.encode()
    data = len(raw).to_bytes(4, "little") + raw
    tensor = {
        "name": "text",
        "shape": [1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(data)},
    }
    document = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "inference-header-content-length": str(len(document)),
        "content-type": "application/octet-stream",
    }
    return Case("open_inference, binary texts", route, document + data, headers)


def measure(host: str, cases: list[Case], n_turns: int) -> dict[str, list[float]]:
    """Return the seconds of each case in each turn. Raises `AssertionError` for an answer that is not 200."""
    connection = http.client.HTTPConnection(host, timeout=60)
    order = random.Random(0)
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    for turn in range(-len(cases), n_turns):  # some to warm up
        for case in order.sample(cases, len(cases)):
            headers = {"content-type": "application/json", **case.headers}
            begin = time.perf_counter()
            connection.request("POST", case.route, case.body, headers)
            answer = connection.getresponse()
            content = answer.read()
            end = time.perf_counter()
            assert answer.status == 200, (case.name, answer.status, content)
            if turn >= 0:
                seconds[case.name].append(end - begin)
    connection.close()
    return seconds


def summarise(seconds: dict[str, list[float]]) -> dict[str, dict[str, object]]:
    """Return for each case its median in ms, and its median difference from `BASE` in µs, whole and by block."""
    base = seconds[BASE]
    size = len(base) // BLOCKS
    found: dict[str, dict[str, object]] = {}
    for name, own in seconds.items():
        differences = [(each - other) * 1e6 for each, other in zip(own, base, strict=True)]
        blocks = [statistics.median(differences[i * size : (i + 1) * size]) for i in range(BLOCKS)]
        found[name] = {
            "median_ms": round(statistics.median(own) * 1e3, 3),
            "over_base_us": round(statistics.median(differences), 1),
            "over_base_us_by_block": [round(each, 1) for each in blocks],
        }
    return found


def table(content: dict) -> str:
    """Return the result as a table of the documentation."""
    lines = ["| format | over `/predict_tokens`, µs | in blocks |", "|---|---|---|"]
    for name, row in content["cases"].items():
        if name == BASE:
            continue
        blocks = row["over_base_us_by_block"]
        lines.append(f"| {name} | {row['over_base_us']:.0f} | {min(blocks):.0f} to {max(blocks):.0f} |")
    return "\n".join(lines)


def run(n_turns: int, out: Path) -> None:
    """Start a server of the default model, measure, and write the result."""
    command = [sys.executable, "-m", "nerve", "serve", "--config", "config.yaml", "--port", str(PORT)]
    environment = {**os.environ, "AIP_PREDICT_ROUTE": VERTEX}
    facts = machine.describe()
    server = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.DEVNULL)
    try:
        info = wait(server)
        cases = make_cases(info["model_name"])
        n_tokens = count_tokens(cases[0])
        assert n_tokens == N_TOKENS, f"the text has {n_tokens} tokens"
        seconds = measure(f"127.0.0.1:{PORT}", cases, n_turns)
    finally:
        server.terminate()
        server.wait(30)
    content = {
        **facts,
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(sys.argv[1:]),
        "model": info["model_id"],
        "dtype": info["dtype"],
        "tokens": n_tokens,
        "turns": n_turns,
        "cases": summarise(seconds),
    }
    out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    print(table(content))


def wait(server: subprocess.Popen) -> dict:
    """Return what the server says of itself, once it is ready."""
    while True:
        assert server.poll() is None, "the server has ended"
        connection = http.client.HTTPConnection(f"127.0.0.1:{PORT}", timeout=10)
        try:
            connection.request("GET", "/info")
            answer = connection.getresponse()
            content = answer.read()
            if answer.status == 200:
                return json.loads(content)
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.5)


def count_tokens(case: Case) -> int:
    """Return how many tokens the text of a case has, special ones included."""
    connection = http.client.HTTPConnection(f"127.0.0.1:{PORT}", timeout=60)
    connection.request("POST", case.route, case.body, {"content-type": "application/json"})
    n_tokens = int(connection.getresponse().headers["x-compute-tokens"])
    connection.close()
    return n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=RESULTS / "endpoints.json")
    parser.add_argument("--table", type=Path, help="print the table of a result")
    options = parser.parse_args()
    if options.table is not None:
        print(table(json.loads(options.table.read_text())))
        return
    run(options.turns, options.out)


if __name__ == "__main__":
    main()
