"""What is said of a run on a card: its figures beside the goals and the open points, a summary, a plot."""

import json
from pathlib import Path


def judge(result: dict) -> dict:
    """Put what was measured beside the goals of issue 6, for BERT-base and requests of 36 tokens."""
    goals = {}
    server = result.get("server", {}).get("bert-base", {})
    ours, theirs = (server.get(name, {}).get("points", []) for name in ("nerve", "transformers"))
    if ours:
        lone = ours[0]
        goals["server p50 / p99 <= 1 / 3 ms"] = [lone["server_p50_ms"], lone["server_p99_ms"]]
        goals["end to end p50 / p99 <= 1.5 / 3.5 ms"] = [lone["p50_ms"], lone["p99_ms"]]
    if ours and theirs:
        goals["p50 of transformers over ours >= 10"] = theirs[0]["p50_ms"] / ours[0]["p50_ms"]
    lone_step = result.get("engine", {}).get("bert-base", {}).get("request_of_36_tokens")
    if lone_step:
        goals["engine step over captured launch <= 1.15"] = lone_step["ratio"]
    return goals


def answer_points(result: dict) -> dict:
    """Put what was seen beside the ten points that the study left open (its section 6)."""
    seen = result.get("checks", {})
    rows = result.get("engine", {}).get("bert-base", {}).get("steps", [])
    tests = result.get("tests", {})
    return {
        "1 packed graph loads": seen.get("1 nodes by provider"),
        "1 attention kernel": seen.get("1 attention kernels"),
        "2 replay equals eager, in every bucket": {
            "tests": tests.get("counts", "not run"),
            "largest difference of logits": seen.get("2 replays equal eager runs"),
        },
        "3 empty sequences, uncovered tokens": seen.get("3 empty sequences, uncovered tokens"),
        "4 mapped memory against copies": seen.get("4 mapped memory against copies"),
        "5 step without a graph over replay, by tokens": {
            row["tokens"]: row["no_graph_ms"] / row["replay_ms"] for row in rows
        },
        "6 replay, by setting": {key: value for key, value in seen.items() if key.startswith("6 ")},
        "7 8-bit weights": seen.get("7 8-bit weights"),
        "8 replay by tokens, tokens per step chosen": {
            "replay_ms": {row["bucket"][0]: row["replay_ms"] for row in rows},
            "chosen": result.get("engine", {}).get("bert-base", {}).get("max_batch_tokens"),
        },
        "9 memory": seen.get("9 memory"),
        "10 padded against packed": seen.get("10 padded against packed"),
    }


def plot(result: dict, path: Path) -> None:
    """Draw step time by tokens, and latency by throughput."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no matplotlib: no plot")
        return
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5))
    for model, measured in result.get("engine", {}).items():
        for key, style in (("step_ms", "o-"), ("replay_ms", "--"), ("no_graph_ms", ":")):
            rows = measured.get("steps", [])
            label = f"{model}: {key.removesuffix('_ms').replace('_', ' ')}"
            left.plot([row["tokens"] for row in rows], [row[key] for row in rows], style, label=label)
    left.set(xlabel="tokens of the step", ylabel="ms", xscale="log", yscale="log", title="Engine")
    for model, servers in result.get("server", {}).items():
        for name, measured in servers.items():
            points = measured.get("points", [])
            rate = [point["per_second"] for point in points]
            right.plot(rate, [point["p99_ms"] for point in points], "o-", label=f"{name}, {model}: p99")
            right.plot(rate, [point["p50_ms"] for point in points], "--", label=f"{name}, {model}: p50")
    right.set(xlabel="requests per second", ylabel="ms", yscale="log", title="Server, requests of 36 tokens")
    for axis in (left, right):
        if axis.lines:
            axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    versions = result["versions"]
    version = versions.get("onnxruntime-gpu") or versions.get("onnxruntime", "")
    figure.suptitle(f"{result['gpu']['name']}, onnxruntime {version}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def print_summary(result: dict, path: Path) -> None:
    """Print what a reader who sees nothing but the end of the output needs."""
    kept = {key: result[key] for key in ("goals", "open_points", "skipped", "seconds")}
    for model, measured in result.get("engine", {}).items():
        for row in measured.get("steps", []):
            print(f"{model}: " + ", ".join(f"{key} {short(value)}" for key, value in row.items()))
    for model, servers in result.get("server", {}).items():
        for server, measured in servers.items():
            for point in measured.get("points", []):
                print(f"{model}, {server}: " + ", ".join(f"{k} {short(v)}" for k, v in point.items()))
    print(json.dumps(kept, indent=1, default=str))
    print(f"written: {path}")


def short(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
