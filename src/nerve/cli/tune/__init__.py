"""Find the configuration that carries the most requests on this machine within a p99 latency.

Starts real servers, one after the other, with different threads, workers, batch limits, cpu.mode and, where it is
allowed, precision, and loads each over loopback HTTP with your own texts. Writes the best configuration found, if it
was better than yours in every round. Takes about --seconds; nothing else should run on the machine meanwhile, and the
result says where something did.
"""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nerve.cli.model import add_model
from nerve.cli.tune.plan import choose
from nerve.cli.verify import compare, reference_config, share
from nerve.config import Precision, cache_dir_of, choose_config, config_file, overridden_keys
from nerve.corpus.records import InputError
from nerve.corpus.sources import read_lines
from nerve.models.samples import sample_texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nerve.config import Config

HELP = "find the configuration that carries the most requests within a p99 latency"
LOG_LEVEL = logging.ERROR  # warnings would tear the progress bar; what matters is in the report

# Texts that the agreement of a precision is measured on; more would change little and take minutes.
_AGREEMENT_TEXTS = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the target, the texts, what may be changed, and where the result goes."""
    add_model(parser)
    parser.add_argument(
        "--target-p99-ms", type=_positive, required=True, metavar="X", help="p99 latency to stay within, ms"
    )
    parser.add_argument(
        "--texts", metavar="FILE", help="your texts, one per line (default: short built-in ones)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="config file to write (default: <name>.tuned.yaml beside the config)"
    )
    parser.add_argument(
        "--seconds", type=_positive, default=240.0, metavar="S", help="about how long to take (default: 240)"
    )
    parser.add_argument(
        "--precision",
        type=_precisions,
        metavar="P,...",
        help="precisions that may be chosen, as float32,int8,bfloat16 (default: the configured one alone)",
    )
    parser.add_argument(
        "--min-agreement",
        type=share,
        metavar="X",
        help="least token agreement with float32 of a precision to be tried (default: model.min_agreement, 0.995)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> int:
    """Search, report and write; returns 1 when no setting meets the target. Raises `NerveError`s."""
    import msgspec

    from nerve.api import override
    from nerve.checkpoint import fetch_checkpoint
    from nerve.checkpoint.settings import read_config, read_tokenizer_settings
    from nerve.cli.tune.load import make_requests
    from nerve.cli.tune.report import describe, make_report, print_report
    from nerve.cli.tune.result_file import write_tuned
    from nerve.cli.tune.search import Search
    from nerve.graph import build_check
    from nerve.models.limits import find_lengths
    from nerve.observability.progress import time_progress

    _end_in_order()
    config = choose_config(options.model, options.config)
    file = config_file(options.model, options.config)
    beside = file or Path("config.yaml")
    out = Path(options.out) if options.out else beside.with_name(f"{beside.stem}.tuned.yaml")
    if out.exists():
        raise InputError(f"{out} exists; remove it, or name another file with --out")
    texts = _read_texts(options.texts)
    with time_progress(options.seconds, show=sys.stderr.isatty()) as report:
        report("the checkpoint")
        folder = fetch_checkpoint(
            config.model, cache_dir_of(config), is_buildable=build_check(config.model), show_progress=False
        )
        lengths = find_lengths(
            read_config(folder.path),
            read_tokenizer_settings(folder.path),
            config.model.max_length,
            config.runtime.window_tokens,
        )
        asked: tuple[Precision, ...] = options.precision or (config.model.precision,)
        agreements = _agreements(config, asked, texts, report)
        if options.min_agreement is not None:  # the servers, and the file, must accept what is asked for here
            config = override(config, {"model": {"min_agreement": options.min_agreement}})
        minimum = config.model.min_agreement
        allowed = [p for p in asked if agreements.get(p, 1.0) >= minimum]
        requests = make_requests([msgspec.json.encode({"inputs": text}) for text in texts], "/predict_tokens")
        search = Search(
            config, requests, lengths.window_tokens, options.target_p99_ms / 1000, options.seconds, report
        )
        search.explore(allowed)
        standings = search.compare_finalists()
    winner = choose(standings, search.start)
    result = make_report(search, standings, winner, agreements, minimum)
    result |= {"texts": len(texts), "own_texts": options.texts is not None, "written": None}
    if winner.capacity > 0 and winner.setting != search.start:
        write_tuned(out, file, config, winner.setting, describe(result), options.min_agreement)
        result["written"] = str(out)
    if options.json:
        print(msgspec.json.encode(result).decode())
    else:
        print_report(result)
    if result["written"] is None:
        return 0 if winner.capacity > 0 else 1
    overrides = sorted({".".join(key) for key in winner.setting.values_by_key()} & set(overridden_keys()))
    if overrides:
        print(f"nerve: the environment overrides {', '.join(overrides)}; unset it there", file=sys.stderr)
    return 0


def _end_in_order() -> None:
    """Let SIGTERM, and the end of the terminal, stop the server that is being measured before this process ends."""

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # the server is being stopped
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # and not ignored, as under nohup
            signal.signal(number, end)


def _agreements(
    config: Config,
    precisions: Sequence[Precision],
    texts: Sequence[str],
    report: Callable[[str], None],
) -> dict[Precision, float]:
    """Return the token agreement with float32 of each precision that rounds, on the texts."""
    from nerve.api import load_classifier, override
    from nerve.models.comparison import summarize_texts
    from nerve.types import AggregationStrategy

    found: dict[Precision, float] = {}
    for precision in precisions:
        if precision in (Precision.AUTO, Precision.FLOAT32):
            continue
        report(f"{precision.value} against float32")
        changed = override(config, {"model": {"precision": precision.value, "min_agreement": 0.0}})
        with (
            load_classifier(changed) as served,
            load_classifier(reference_config(changed, served.window_tokens)) as reference,
        ):
            comparison = summarize_texts(
                compare(served, reference, texts[:_AGREEMENT_TEXTS], AggregationStrategy.SIMPLE), 0
            )
        found[precision] = comparison.token_agreement
    return found


def _read_texts(file: str | None) -> list[str]:
    if file is None:
        return sample_texts()[:-1]  # the last one is long, and would be the p99 of all others
    texts = [text for text in read_lines(file) if text.strip()]
    if not texts:
        raise InputError(f"{file} holds no text; write one a line")
    return texts


def _precisions(text: str) -> tuple[Precision, ...]:
    return tuple(dict.fromkeys(Precision(name.strip()) for name in text.split(",")))


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError("it must be above 0")
    return value
