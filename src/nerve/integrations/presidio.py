"""A recogniser for Presidio's analyzer that asks a model in its own process; needs the extra `presidio`.

    analyzer = AnalyzerEngine(registry=RecognizerRegistry(recognizers=[NerveRecognizer("config.yaml")]), ...)

What it finds is what `/redact` finds with the same configuration: the model's entities, renamed by
`runtime.rename_labels`, and those of `runtime.patterns`. https://microsoft.github.io/presidio/analyzer/adding_recognizers/
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from presidio_analyzer import EntityRecognizer, RecognizerResult

from nerve.api import TokenClassifier, load

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from presidio_analyzer.nlp_engine import NlpArtifacts

# What was found matters, not what would stand there instead.
_FIND_ONLY = {"DEFAULT": {"type": "keep"}}


class NerveRecognizer(EntityRecognizer):
    """Finds what a model finds, and what the configuration's patterns find; for any number of threads.

    model: what `nerve.load` takes (a config file, a folder, a name on a hub), or a classifier that is loaded.
    supported_language: the language that Presidio asks it for; the model is not told.
    supported_entities: only these; None for all that there are.

    Raises `nerve.NerveError` where the model cannot be loaded, and `ValueError` for an entity that it does not have.
    """

    def __init__(
        self,
        model: str | Path | TokenClassifier | None = None,
        supported_language: str = "en",
        supported_entities: Sequence[str] | None = None,
        name: str = "NerveRecognizer",
        context: list[str] | None = None,
    ) -> None:
        self._classifier = model if isinstance(model, TokenClassifier) else load(model)
        known = self._classifier.entity_labels
        wanted = list(known if supported_entities is None else supported_entities)
        unknown = [entity for entity in wanted if entity not in known]
        if unknown:
            raise ValueError(f"the model has no {', '.join(unknown)}; it has {', '.join(known)}")
        super().__init__(wanted, name=name, supported_language=supported_language, context=context)

    def load(self) -> None:
        """Do nothing: the constructor has loaded the model, whose labels it needs."""

    def analyze(
        self, text: str, entities: Sequence[str], nlp_artifacts: NlpArtifacts | None = None
    ) -> list[RecognizerResult]:
        """Return what of `entities` is in a text, in order; offsets in code points, scores from 0 to 1.

        Others than the supported ones are passed over, since Presidio asks every recogniser for all of them. Raises
        `nerve.NerveError` for a text above `limits.max_input_tokens`, and when the model fails.
        """
        wanted = [entity for entity in self.supported_entities if entity in entities]
        if not wanted:
            return []
        (found,) = self._classifier.redact(text, labels=wanted, operators=_FIND_ONLY)
        return [
            RecognizerResult(
                entity_type=item.label,
                start=item.start,
                end=item.end,
                score=item.score,
                recognition_metadata={
                    RecognizerResult.RECOGNIZER_NAME_KEY: self.name,
                    RecognizerResult.RECOGNIZER_IDENTIFIER_KEY: self.id,
                },
            )
            for item in found.items
        ]

    def close(self) -> None:
        """End the threads of the model, also of one that was given; it can no longer be asked."""
        self._classifier.close()
