"""The Python API: the server's engine inside a pipeline that runs beside its data. See docs/guide/python.md.

`load` gives a `TokenClassifier`. Its work is done on the caller's thread (tokens and rows) and on the
engine threads (the model): `predict_many` keeps a bounded number of chunks submitted, so that the engine
threads are busy while the caller's thread prepares the next chunk or decodes the last one.

Threads: every method may be called from any thread, several at once; they share the engine threads.
"""

from __future__ import annotations

import sys
from collections import deque
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import msgspec

from nerve.checkpoint import fetch_checkpoint
from nerve.config import RuntimeConfig, cache_dir_of, choose_config, parse_config
from nerve.engine.chunks import check_text
from nerve.engine.engine import Engine
from nerve.engine.entities import EntityDefaults, read_operators
from nerve.engine.in_process import predict
from nerve.engine.streams import in_thread, stream_rows
from nerve.errors import ModelError
from nerve.graph import build_check
from nerve.models.loader import load_model
from nerve.text.filters import choose_filter
from nerve.text.operators import Numbers
from nerve.text.options import member_of
from nerve.text.pieces import LONG
from nerve.types import (
    AggregationStrategy,
    EntityStrategy,
    OffsetUnit,
    PredictOptions,
    Row,
    TruncationDirection,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from nerve.config import Config
    from nerve.engine.entities import RedactQuery
    from nerve.models.model import Model
    from nerve.text.redaction import Redacted

# What can be written for the members of an enum; checked when called.
Strategy = AggregationStrategy | Literal["none", "simple", "first", "average", "max", "viterbi"]
Unit = OffsetUnit | Literal["code_point", "utf16", "byte"]
Direction = TruncationDirection | Literal["right", "left"]

# Model calls, of the largest size and for each engine thread, that `predict_many` works ahead. More helps
# to find windows of equal length that can share a call; it costs memory.
_CALLS_AHEAD = 8
# Defaults of calls do not depend on the configuration.
_NO_FILTER = RuntimeConfig()


class Options(TypedDict, total=False):
    """What a call may choose besides the aggregation strategy; the meaning is that of the wire contract.

    truncate: cut a text that is too long (default: cover it with overlapping windows).
    truncation_direction: which end is cut; default "right".
    raw_scores: give the scores of all labels (default: of the best one).
    offset_unit: unit of `start` and `end`; default "code_point".
    labels: only entities with these labels; default all. Not with "none".
    min_score: least score of an entity, 0 to 1, for all or by label ("*": all others); default 0. Not with "none".
    """

    truncate: bool
    truncation_direction: Direction
    raw_scores: bool
    offset_unit: Unit
    labels: Sequence[str]
    min_score: float | Mapping[str, float]


class RedactOptions(TypedDict, total=False):
    """What a call of `redact` may choose; the meaning, and the defaults, are those of `POST /redact`.

    operators: by label, or "DEFAULT" for all others: {"EMAIL": {"type": "mask"}}; default `redaction.operators`.
    patterns: names of rules; default `runtime.patterns`.
    aggregation_strategy: default `runtime.entity_strategy`. labels, min_score, offset_unit: as in `Options`.
    """

    operators: Mapping[str, object]
    patterns: Sequence[str]
    aggregation_strategy: EntityStrategy | Literal["auto", "simple", "first", "average", "max", "viterbi"]
    labels: Sequence[str]
    min_score: float | Mapping[str, float]
    offset_unit: Unit


def load(
    checkpoint: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    window_stride: int | None = None,
    rename_labels: Mapping[str, str] | None = None,
    show_progress: bool = False,
) -> TokenClassifier:
    """Load a token classifier; blocks while the checkpoint is fetched and the model loaded.

    checkpoint: a config file, a model folder, or a hub repository ("dslim/bert-base-NER", also with "@REVISION").
        None: what `nerve serve` would take ($NERVE_CONFIG, ./config.yaml, /etc/nerve/config.yaml).
    revision: branch, tag or commit of a hub repository.
    device, precision, threads, window_stride: replace `model.device`, `model.precision`, `cpu.threads` and
        `runtime.window_stride`.
    rename_labels: new names for labels, without prefix, instead of `runtime.rename_labels`: {"PER": "PERSON"}.
    show_progress: draw progress bars on stderr while something is downloaded or an int8 graph is built.

    Raises `StartupError`: `ConfigError`, `CheckpointError` or `ModelError`, each saying what to change.
    """
    config = resolve_config(checkpoint, revision)
    changed: dict[str, dict[str, Any]] = {
        "model": {"device": device, "precision": precision},
        "cpu": {"threads": threads},
        "runtime": {
            "window_stride": window_stride,
            "rename_labels": None if rename_labels is None else dict(rename_labels),
        },
    }
    return load_classifier(override(config, changed), show_progress=show_progress)


class TokenClassifier:
    """A loaded, warm model that answers in process. Use it in a `with` block, or `close` it."""

    def __init__(self, config: Config, model: Model) -> None:
        self.config = config
        self.model = model
        self._runtime = config.runtime
        self._tokens_ahead = _CALLS_AHEAD * model.policy.token_budget * model.n_threads
        # The queue needs no limit of its own: each caller bounds what it has submitted.
        self._engine = Engine(model, max_queue_tokens=sys.maxsize, niceness=config.cpu.niceness)
        self._entities = EntityDefaults(config)
        # Otherwise a text is tokenized as far as the limit before any of it is computed.
        self._takes_any_length = config.limits.most_input_tokens == sys.maxsize
        self._is_closed = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the model's labels, by label id."""
        return self.model.labels.names

    @property
    def entity_labels(self) -> tuple[str, ...]:
        """What `redact` can find: the model's entities as they are renamed, and those of `runtime.patterns`."""
        return tuple(dict.fromkeys((*self.model.labels.entity_labels, *self._entities.pattern_labels)))

    @property
    def max_length(self) -> int:
        """Tokens at which `truncate` cuts, special tokens included."""
        return self.model.lengths.max_length

    @property
    def window_tokens(self) -> int:
        """Most tokens of a window, special tokens included; longer texts are covered by several."""
        return self.model.window_tokens

    def predict(
        self,
        texts: str | Iterable[str],
        aggregation_strategy: Strategy = "simple",
        **options: Unpack[Options],
    ) -> list[list[Row]]:
        """Return one list of rows per text, in order; one text gives a list with one list.

        A text may have any length, unless `limits.max_input_tokens` is set: it is worked in sections.
        Raises `InvalidRequest` for an unknown value of an option, for a text that is not valid Unicode
        and for one above `limits.max_input_tokens`; `InferenceFailed` when the model fails.
        """
        many = [texts] if isinstance(texts, str) else texts
        return list(self.predict_many(many, aggregation_strategy, **options))

    def predict_many(
        self,
        texts: Iterable[str],
        aggregation_strategy: Strategy = "simple",
        **options: Unpack[Options],
    ) -> Iterator[list[Row]]:
        """Yield the rows of each text, in order, reading `texts` a bounded distance ahead.

        `texts` may be endless; it is read on the calling thread, as the rows are asked for. Raises as
        `predict` does, and whatever `texts` raises, after the rows of all texts before it were yielded.
        """
        if isinstance(texts, str):
            raise TypeError("predict_many takes an iterable of texts; predict takes one text")
        return self._stream(texts, self._options(aggregation_strategy, **options))

    async def predict_async(
        self,
        texts: str | list[str],
        aggregation_strategy: Strategy = "simple",
        **options: Unpack[Options],
    ) -> list[list[Row]]:
        """As `predict`, for coroutines; calls that run at the same time share batches.

        All texts of a call are held in memory at once. Several event loops may use it. Raises `Overloaded`
        when 64 calls with long texts wait to be tokenized.
        """
        resolved = self._options(aggregation_strategy, **options)
        many = [texts] if isinstance(texts, str) else texts
        checked = [check_text(index, text) for index, text in enumerate(many)]
        if self._takes_any_length and not resolved.truncate and any(len(text) > LONG for text in checked):
            return await in_thread(lambda check: list(self._stream(checked, resolved, check)))
        return (await predict(self._engine, checked, resolved)).rows if checked else []

    def redact(self, texts: str | Iterable[str], **options: Unpack[RedactOptions]) -> list[Redacted]:
        """Return each text without its entities, in order; one text gives a list of one.

        Raises as `predict` does, and `InvalidRequest` for an unknown operator, pattern or label.
        """
        return list(self.redact_many([texts] if isinstance(texts, str) else texts, **options))

    def redact_many(
        self, texts: Iterable[str], *, ahead: bool = True, **options: Unpack[RedactOptions]
    ) -> Iterator[Redacted]:
        """Yield each text without its entities, in order, reading `texts` a bounded distance ahead, as `predict_many`.

        The operator `number` counts through all of them. ahead: False to answer each text before the next is read.
        """
        if isinstance(texts, str):
            raise TypeError("redact_many takes an iterable of texts; redact takes one text")
        unit = member_of(OffsetUnit, options.get("offset_unit", "code_point"), "offset_unit")
        operators = options.get("operators")
        query = self._entities.redact_query(
            [],
            options.get("aggregation_strategy"),
            options.get("labels"),
            options.get("min_score"),
            options.get("patterns"),
            None if operators is None else read_operators(operators),
            unit,
        )
        return self._redact(texts, query, self._complete(query.options), ahead)

    def close(self) -> None:
        """Finish what was submitted and end the engine threads. Blocks. Calling it again does nothing."""
        if not self._is_closed:
            self._is_closed = True
            self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TokenClassifier {self.model.model_id}, {self.model.precision.value}, {len(self.labels)} labels>"

    def _options(
        self,
        strategy: Strategy,
        truncate: bool = False,
        truncation_direction: Direction = "right",
        raw_scores: bool = False,
        offset_unit: Unit = "code_point",
        labels: Sequence[str] | None = None,
        min_score: float | Mapping[str, float] | None = None,
    ) -> PredictOptions:
        chosen = member_of(AggregationStrategy, strategy, "aggregation_strategy")
        options = PredictOptions(
            aggregation_strategy=chosen,
            truncate=truncate,
            truncation_direction=member_of(TruncationDirection, truncation_direction, "truncation_direction"),
            raw_scores=raw_scores,
            raw_scores_as=self._runtime.raw_scores_as,
            offset_unit=member_of(OffsetUnit, offset_unit, "offset_unit"),
            filter=choose_filter(_NO_FILTER, chosen, labels, min_score),
        )
        return self._complete(options)

    def _complete(self, options: PredictOptions) -> PredictOptions:
        """Check options against the model here, where a message is not of one text."""
        if self._is_closed:
            raise RuntimeError("this TokenClassifier is closed")
        return self._engine.complete(options)

    def _redact(
        self, texts: Iterable[str], query: RedactQuery, options: PredictOptions, ahead: bool
    ) -> Iterator[Redacted]:
        waiting: deque[str] = deque()
        numbers = Numbers()

        def read() -> Iterator[str]:
            for text in texts:
                waiting.append(text)
                yield text

        answers = (
            self._stream(read(), options)
            if ahead
            else chain.from_iterable(self._stream([text], options) for text in read())
        )
        for rows in answers:
            yield query.redact_text(waiting.popleft(), rows, numbers)

    def _stream(
        self, texts: Iterable[str], options: PredictOptions, check: Callable[[], None] = lambda: None
    ) -> Iterator[list[Row]]:
        return stream_rows(
            self._engine, texts, options, self._tokens_ahead, any_length=self._takes_any_length, check=check
        )


def resolve_config(checkpoint: str | Path | None, revision: str | None = None) -> Config:
    """Return the configuration that `load` uses for a config file, folder, hub repository or nothing."""
    return choose_config(checkpoint, revision=revision, alone=True)


def override(config: Config, changed: dict[str, dict[str, Any]], drop: Iterable[str] = ()) -> Config:
    """Return `config` with some keys of its sections replaced; None leaves a key as it is.

    drop: keys, as "model.graph", that get their default. Raises `ConfigError`.
    """
    document = msgspec.to_builtins(config)
    for key in drop:
        section, _, name = key.partition(".")
        del document[section][name]
    for section, values in changed.items():
        document[section].update({key: value for key, value in values.items() if value is not None})
    return parse_config(document, {}, Path.cwd())  # its paths are absolute already


def load_classifier(config: Config, *, show_progress: bool = False) -> TokenClassifier:
    """Fetch and load what `config` names, for this process alone. Raises `StartupError`."""
    changed: dict[str, dict[str, Any]] = {"server": {"workers": 1}}  # all cores are for this process
    if config.limits.max_input_tokens is None:
        changed["limits"] = {"max_input_tokens": sys.maxsize}
    config = override(config, changed)
    cache_dir = cache_dir_of(config)
    folder = fetch_checkpoint(
        config.model, cache_dir, is_buildable=build_check(config.model), show_progress=show_progress
    )
    model = load_model(config, folder, cache_dir, show_progress=show_progress)
    try:
        return TokenClassifier(config, model)
    except RuntimeError as error:
        raise ModelError(
            f"the engine cannot start: {error}; raise the limit of threads (ulimit -u)"
        ) from error
