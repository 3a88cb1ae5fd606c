"""Refuses a rounded graph that does not agree with float32: the figures of `nerve verify`, when a graph is built.

The texts are those of `nerve verify`, whose figures these are. They are kept beside the graph in the cache, so
that a start from the cache costs nothing; a changed limit is judged by them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nerve.checkpoint.storage import write_whole
from nerve.errors import InvalidRequest, ModelError
from nerve.models.comparison import compare_text, summarize_texts
from nerve.models.samples import sample_texts
from nerve.observability.progress import progress
from nerve.text.aggregation import decode_texts
from nerve.types import AggregationStrategy, PredictOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from nerve.config import Precision
    from nerve.models.comparison import TextComparison
    from nerve.runtime.backend import Backend
    from nerve.text.labels import LabelSet
    from nerve.text.tokenizer import TextTokenizer
    from nerve.text.words import Vocabulary
    from nerve.types import Row, TokenizedText

log = logging.getLogger(__name__)

_FILE = "agreement.json"
# Changes when the same graph is computed in another way, so that figures kept before do not count. 2: exact products
# on CPUs that would clip them.
_ARITHMETIC = b"2"
_TOKENS = PredictOptions(raw_scores=True)
_SPANS = PredictOptions(aggregation_strategy=AggregationStrategy.SIMPLE)


@dataclass(frozen=True, slots=True)
class Judge:
    """What turns the scores of a graph into the rows that are compared."""

    tokenizer: TextTokenizer
    labels: LabelSet
    vocabulary: Vocabulary

    def compare(self, served: Backend, reference: Backend, show_progress: bool = False) -> dict[str, float]:
        """Return token agreement, span F1 and numbers of texts and tokens (`nerve.models.comparison` defines them)."""
        texts = sample_texts()
        with progress("agreement with float32, texts", len(texts), show=show_progress) as task:
            compared = []
            for index, text in enumerate(texts):
                compared.append(self._compare(index, served, reference, text))
                task.advance()
        found = summarize_texts(text for text in compared if text is not None)
        return {
            "token_agreement": found.token_agreement,
            "span_f1": found.span_f1,
            "texts": found.n_texts,
            "tokens": found.n_tokens,
        }

    def _compare(self, index: int, served: Backend, reference: Backend, text: str) -> TextComparison | None:
        """Compare the rows of a text; None where the model does not know all of its tokens."""
        try:
            (tokenized,) = self.tokenizer.tokenize([text])
        except InvalidRequest:
            return None
        tokens, spans = self._rows(served, tokenized)
        reference_tokens, reference_spans = self._rows(reference, tokenized)
        return compare_text(index, tokens, reference_tokens, spans, reference_spans)

    def _rows(self, session: Backend, text: TokenizedText) -> tuple[list[Row], list[Row]]:
        """Return the rows of a text by token and by entity."""
        scores = [score for window in text.windows for score in session.run([window], needs_logits=True)]
        (tokens,), (spans,) = (
            decode_texts([text], scores, self.labels, self.vocabulary, options)
            for options in (_TOKENS, _SPANS)
        )
        return tokens, spans


def check_agreement(
    precision: Precision,
    judge: Judge,
    served: Backend,
    open_reference: Callable[[], Backend],
    minimum: float,
    entry: Path | None,
    tokenizer: str,
    *,
    show_progress: bool = False,
) -> None:
    """Log how far `served` agrees with float32; raise `ModelError` when that is below `minimum`.

    precision: what `served` computes in.
    open_reference: opens the float32 graph; called only when there are no figures yet.
    entry: folder that keeps them, or None. tokenizer: the library's description; they hold for this tokenizer only.
    """
    judged_by = "\0".join((*sample_texts(), tokenizer)).encode()
    of = hashlib.sha256(_ARITHMETIC + precision.value.encode() + judged_by).hexdigest()
    found = _load(entry, of)
    if found is None:
        found = judge.compare(served, open_reference(), show_progress)
        _store(entry, of, found)
    message = (
        f"{precision.value} against float32: {found['token_agreement']:.4%} of {found['tokens']:.0f} tokens have the "
        f"same label, span F1 {found['span_f1']:.4f}, over the {found['texts']:.0f} texts of `nerve verify`"
    )
    if found["token_agreement"] < minimum:
        raise ModelError(
            f"{message}; that is below model.min_agreement {minimum}: use model.precision float32, or lower it "
            "if `nerve verify --texts` with your own texts satisfies you"
        )
    log.info(message)


def _load(entry: Path | None, of: str) -> dict[str, float] | None:
    """Return the figures of an entry; None when there are none, or they are of something else."""
    try:
        stored = json.loads((entry / _FILE).read_bytes()) if entry is not None else {}
        return (
            {name: float(value) for name, value in stored["figures"].items()} if stored["of"] == of else None
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _store(entry: Path | None, of: str, figures: dict[str, float]) -> None:
    """Keep the figures; without a cache they are measured at every start."""
    if entry is None or not entry.is_dir():
        return
    try:
        write_whole(entry / _FILE, json.dumps({"of": of, "figures": figures}))
    except OSError as error:
        log.warning("the agreement is not kept, so every start measures it: %s", error.strerror)
