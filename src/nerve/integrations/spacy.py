"""A component for spaCy's pipelines that finds entities with a model in its own process; needs the extra `spacy`.

    nlp = spacy.blank("en")
    nlp.add_pipe("nerve", config={"model": "config.yaml"})

spaCy finds the factory by an entry point of the package. `nlp.pipe` keeps the model's batches full: texts are read
ahead as by `TokenClassifier.redact_many`. https://spacy.io/usage/processing-pipelines#custom-components
"""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, Any

from spacy.language import Language
from spacy.tokens import Span

from nerve.api import TokenClassifier, load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from spacy.tokens import Doc

# What was found matters, not what would stand there instead.
_FIND_ONLY = {"DEFAULT": {"type": "keep"}}
_OPTIONS = ("labels", "min_score", "aggregation_strategy", "patterns")
_SCORE = "nerve_score"


class NerveComponent:
    """Writes what a model and the configuration's patterns find into documents.

    model: what `nerve.load` takes (a config file, a folder, a name on a hub).
    spans_key: None writes `doc.ents`, where entities of other components stay unless they overlap; a name writes all
        into `doc.spans[spans_key]`.
    alignment_mode: of entities whose ends are within tokens of spaCy's: `expand` to whole tokens, `contract`, or
        `strict`, which leaves them out.
    options: `labels`, `min_score`, `aggregation_strategy` and `patterns` of `TokenClassifier.redact`.

    Each span has its score as `span._.nerve_score`. A process that spaCy starts (`n_process`) loads the model anew,
    since threads do not survive a fork. Raises `nerve.NerveError` where the model cannot be loaded, and for an option
    that it cannot take; `ValueError` for an option that there is not.
    """

    def __init__(
        self, model: str | None, spans_key: str | None, alignment_mode: str, options: Mapping[str, Any]
    ) -> None:
        self._model = model
        self._spans_key = spans_key
        self._alignment_mode = alignment_mode
        unknown = [name for name in options if name not in _OPTIONS]
        if unknown:
            raise ValueError(f"unknown option {', '.join(unknown)}; known: {', '.join(_OPTIONS)}")
        self._options = dict(options)
        self._loaded: tuple[int, TokenClassifier] = (os.getpid(), load(model))
        self._loaded[1].redact([], **self._options)  # checks them
        if not Span.has_extension(_SCORE):
            Span.set_extension(_SCORE, default=None)

    @property
    def labels(self) -> tuple[str, ...]:
        """What can be found."""
        return self._classifier().entity_labels

    def __call__(self, doc: Doc) -> Doc:
        """Write what is in one document."""
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], batch_size: int = 128) -> Iterator[Doc]:
        """Write what is in each document, in order, reading ahead; the model batches by itself, whatever batch_size."""
        waiting: deque[Doc] = deque()

        def read() -> Iterator[str]:
            for doc in stream:
                waiting.append(doc)
                yield doc.text

        found = self._classifier().redact_many(read(), operators=_FIND_ONLY, **self._options)
        for redacted in found:
            doc = waiting.popleft()
            self._write(doc, [(item.start, item.end, item.label, item.score) for item in redacted.items])
            yield doc

    def close(self) -> None:
        """End the threads of the model; the component can no longer be called."""
        self._classifier().close()

    def _write(self, doc: Doc, found: Sequence[tuple[int, int, str, float]]) -> None:
        spans: list[Span] = []
        for start, end, label, score in found:
            span = doc.char_span(start, end, label=label, alignment_mode=self._alignment_mode)
            if span is None or (self._spans_key is None and spans and span.start < spans[-1].end):
                continue  # expanded onto a token that an entity has already
            span._.set(_SCORE, score)
            spans.append(span)
        if self._spans_key is not None:
            doc.spans[self._spans_key] = spans
            return
        taken = {token for span in spans for token in range(span.start, span.end)}
        doc.ents = (*spans, *(each for each in doc.ents if taken.isdisjoint(range(each.start, each.end))))

    def _classifier(self) -> TokenClassifier:
        process, classifier = self._loaded
        if process != os.getpid():
            classifier = load(self._model)
            self._loaded = (os.getpid(), classifier)
        return classifier

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to load the model anew."""
        return {**self.__dict__, "_loaded": (0, None)}


@Language.factory(
    "nerve",
    assigns=["doc.ents"],
    default_config={"model": None, "spans_key": None, "alignment_mode": "expand", "options": {}},
)
def make_nerve(
    nlp: Language,
    name: str,
    model: str | None,
    spans_key: str | None,
    alignment_mode: str,
    options: dict[str, Any],
) -> NerveComponent:
    """Make the component from its configuration, as `nlp.add_pipe("nerve", config=...)` does; see `NerveComponent`."""
    return NerveComponent(model, spans_key, alignment_mode, options)
