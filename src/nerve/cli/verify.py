"""Compare the served precision with float32 on the same texts.

Runs the texts through the model as configured, or through a running server with --url, and through the
float32 graph on the CPU. Prints token agreement, span F1, score drift and the worst texts. Needs neither
PyTorch nor, once the checkpoint is in the cache, a network.
"""

from __future__ import annotations

import argparse
import logging
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Protocol

from nerve.cli.model import add_model
from nerve.config import Device, Precision, choose_config, load_api_key
from nerve.corpus.records import InputError
from nerve.corpus.sources import read_lines
from nerve.models.comparison import Comparison, TextComparison, compare_text, summarize_texts
from nerve.models.samples import sample_texts
from nerve.types import AggregationStrategy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nerve.api import TokenClassifier
    from nerve.config import Config
    from nerve.types import Row

HELP = "compare the served precision with float32 on the same texts"
LOG_LEVEL = logging.WARNING


class Served(Protocol):
    """The side that is judged: a model in process, or a server."""

    def predict_many(
        self, texts: Sequence[str], aggregation_strategy: AggregationStrategy, /
    ) -> Iterator[list[Row]]:
        """Yield the rows of each text, in order."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is compared, on which texts, and how the result is printed."""
    add_model(parser)
    parser.add_argument("--texts", metavar="FILE", help="one text per line (default: a small built-in set)")
    parser.add_argument("--url", metavar="URL", help="judge a running server, such as http://localhost:8000")
    parser.add_argument(
        "--min-agreement",
        type=share,
        metavar="X",
        help="least token agreement, 0 to 1; below it the exit status is 1 (default: model.min_agreement, 0.995)",
    )
    parser.add_argument(
        "--worst", type=_count, default=5, metavar="N", help="worst texts to print (default: 5)"
    )
    parser.add_argument("--show-text", action="store_true", help="print the worst texts themselves, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")


def run(options: argparse.Namespace) -> int:
    """Compare and print; returns 1 below --min-agreement. Raises `NerveError`s."""
    from nerve.api import override

    texts = _read_texts(options.texts)
    config = choose_config(options.model, options.config)
    minimum = config.model.min_agreement if options.min_agreement is None else options.min_agreement
    config = override(config, {"model": {"min_agreement": 0.0}})  # judged here, not when it is loaded
    with ExitStack() as stack:
        served, reference, sides = _open(config, options.url, stack)
        comparison = summarize_texts(compare(served, reference, texts, _strategy(config)), options.worst)
    report = make_report(comparison, sides, minimum, texts if options.show_text else None)
    if options.json:
        import msgspec

        print(msgspec.json.encode(report).decode())
    else:
        from nerve.cli.verify_report import print_report

        print_report(report)
    return 0 if report["passed"] else 1


def compare(
    served: Served, reference: TokenClassifier, texts: Sequence[str], strategy: AggregationStrategy
) -> Iterator[TextComparison]:
    """Run all texts through both sides, with bounded memory, and compare them one by one."""
    answers = zip(
        served.predict_many(texts, AggregationStrategy.NONE),
        reference.predict_many(texts, AggregationStrategy.NONE, raw_scores=True),
        served.predict_many(texts, strategy),
        reference.predict_many(texts, strategy),
        strict=True,
    )
    for index, rows in enumerate(answers):
        yield compare_text(index, *rows)


def make_report(
    comparison: Comparison, sides: dict[str, str], min_agreement: float, texts: Sequence[str] | None
) -> dict[str, Any]:
    """Return what is printed; `texts` is None where they must not be shown."""
    worst = [
        {
            "text_index": text.index,
            "tokens": text.n_tokens,
            "tokens_that_differ": text.n_disagreeing,
            "max_drift": text.max_drift,
            "spans_lost": _describe_spans(text.lost, text.index, texts),
            "spans_added": _describe_spans(text.added, text.index, texts),
            **({"text": texts[text.index]} if texts is not None else {}),
        }
        for text in comparison.worst
    ]
    return {
        **sides,
        "texts": comparison.n_texts,
        "tokens": comparison.n_tokens,
        "spans": comparison.n_spans,
        "token_agreement": comparison.token_agreement,
        "min_agreement": min_agreement,
        "passed": comparison.token_agreement >= min_agreement,
        "span_f1": comparison.span_f1,
        "max_drift": comparison.max_drift,
        "mean_drift": comparison.mean_drift,
        "worst": worst,
    }


def share(text: str) -> float:
    """Read an argument that is a share, 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("it must be between 0 and 1")
    return value


def _open(
    config: Config, url: str | None, stack: ExitStack
) -> tuple[Served, TokenClassifier, dict[str, str]]:
    """Open both sides; also return their names for the report."""
    from nerve.api import load_classifier

    show_progress = sys.stderr.isatty()
    if url is None:
        local = stack.enter_context(load_classifier(config, show_progress=show_progress))
        served: Served = local
        name = f"{local.model.precision.value}, {local.model.backend.provider}"
        window_tokens = local.window_tokens
        labels = local.labels
    else:
        from nerve.corpus.server import RemoteClassifier

        remote = served = RemoteClassifier(url, load_api_key(config.server))
        name = f"{remote.info.dtype}, {remote.info.provider}, {url}"
        window_tokens = remote.info.window_tokens or remote.info.max_length
        labels = tuple(remote.info.id2label.values())
    reference = stack.enter_context(
        load_classifier(reference_config(config, window_tokens), show_progress=show_progress)
    )
    if labels != reference.labels:
        raise InputError(
            f"the server's labels are not those of {reference.model.model_id}; give the config file of the "
            "served model with --config"
        )
    sides = {
        "model_id": reference.model.model_id,
        "served": name,
        "reference": f"{reference.model.precision.value}, {reference.model.backend.provider}",
    }
    return served, reference, sides


def reference_config(config: Config, window_tokens: int) -> Config:
    """Return the configuration of the reference: float32 on the CPU, with the windows of the served side.

    A graph that was named is left out: it may be quantized, and the reference is made from the weights.
    """
    from nerve.api import override

    model = {"device": Device.CPU.value, "precision": Precision.FLOAT32.value}
    changed: dict[str, dict[str, Any]] = {"model": model, "runtime": {"window_tokens": window_tokens}}
    return override(config, changed, drop=["model.graph"])


def _strategy(config: Config) -> AggregationStrategy:
    """Return the strategy whose spans are compared: the configured one, or simple."""
    configured = config.runtime.aggregation_strategy
    return AggregationStrategy.SIMPLE if configured is AggregationStrategy.NONE else configured


def _read_texts(file: str | None) -> list[str]:
    if file is None:
        return sample_texts()
    texts = read_lines(file)
    if not texts:
        raise InputError(f"{file} holds no text; write one a line")
    return texts


def _describe_spans(
    spans: Sequence[tuple[int, int, str]], index: int, texts: Sequence[str] | None
) -> list[dict[str, Any]]:
    return [
        {"start": start, "end": end, "label": label}
        | ({"token": texts[index][start:end]} if texts is not None else {})
        for start, end, label in spans
    ]


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("it must be 0 or more")
    return value
