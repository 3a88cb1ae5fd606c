"""Presidio: an analyzer engine with a remote recognizer, nerve's recognizer in process, and the anonymizer's rules."""

from __future__ import annotations

from collections.abc import Sequence

import httpx
import pytest
import spacy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from presidio_analyzer import AnalyzerEngine, RecognizerResult, RemoteRecognizer
from presidio_analyzer.nlp_engine import NlpArtifacts, NlpEngine, SpacyNlpEngine
from presidio_analyzer.recognizer_registry import RecognizerRegistry
from presidio_anonymizer import AnonymizerEngine
from presidio_anonymizer.entities import OperatorConfig
from presidio_anonymizer.entities import RecognizerResult as AnonymizerResult

TEXT = "Anna Maria lives in Paris."


class Remote(RemoteRecognizer):
    """As the sample of Presidio's documentation: asks two addresses, and takes each row as it is."""

    def __init__(self, url: str) -> None:
        self._url = url
        super().__init__(supported_entities=[], name="remote", supported_language="en", version="1")

    def load(self) -> None:
        """Ask what can be found."""
        answer = httpx.get(f"{self._url}/supportedentities", params={"language": "en"})
        self.supported_entities = answer.raise_for_status().json()

    def analyze(
        self, text: str, entities: Sequence[str], nlp_artifacts: NlpArtifacts
    ) -> list[RecognizerResult]:
        """Ask for the entities of a text."""
        body = {"text": text, "language": self.supported_language}
        answer = httpx.post(f"{self._url}/analyze", json=body)
        return [RecognizerResult(**row) for row in answer.raise_for_status().json()]

    def get_supported_entities(self) -> list[str]:
        """Return what can be found."""
        return self.supported_entities


def blank_engine() -> NlpEngine:
    """Make an NLP engine without a model."""
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
    engine.nlp = {"en": spacy.blank("en")}
    return engine


def analyzer_with(recognizer: RemoteRecognizer) -> AnalyzerEngine:
    """Make an analyzer that has this recognizer alone."""
    registry = RecognizerRegistry(recognizers=[recognizer], supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=blank_engine(), supported_languages=["en"])


def test_remote_recognizer(url: str) -> None:
    """Inside a real analyzer engine, and its results through a real anonymizer."""
    recognizer = Remote(url)
    assert recognizer.supported_entities == ["PERSON", "LOCATION", "EMAIL", "CREDIT_CARD"]
    analyzer = analyzer_with(recognizer)
    found = analyzer.analyze(text=TEXT, language="en")
    assert sorted((each.entity_type, each.start, each.end) for each in found) == [
        ("LOCATION", 20, 25),
        ("PERSON", 0, 10),
    ]
    masked = AnonymizerEngine().anonymize(text=TEXT, analyzer_results=found)
    assert masked.text == "<PERSON> lives in <LOCATION>."
    assert analyzer.analyze(text=TEXT, language="en", score_threshold=0.999) == []


WORDS = "ab  cd \n efg"
spans = st.lists(
    st.tuples(
        st.sampled_from("ABC"), st.integers(0, len(WORDS)), st.integers(0, len(WORDS)), st.floats(0, 1)
    ).map(lambda each: (each[0], min(each[1], each[2]), max(each[1], each[2]), each[3])),
    max_size=6,
)
OPERATORS = {
    "A": ("mask", {"masking_char": "#", "chars_to_mask": 2, "from_end": True}),
    "B": ("redact", {}),
}


@pytest.mark.parametrize("operators", [{}, OPERATORS])
def test_anonymize_is_presidios(url: str, operators: dict[str, tuple[str, dict[str, object]]]) -> None:
    """Whatever overlaps: text and items are those of Presidio's anonymizer."""
    engine = AnonymizerEngine()
    with httpx.Client(base_url=url) as client:

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(spans)
        def check(found: list[tuple[str, int, int, float]]) -> None:
            results = [AnonymizerResult(kind, start, end, score) for kind, start, end, score in found]
            chosen = {kind: OperatorConfig(name, dict(more)) for kind, (name, more) in operators.items()}
            expected = engine.anonymize(WORDS, results, operators=chosen)
            body = {
                "text": WORDS,
                "analyzer_results": [
                    {"entity_type": kind, "start": start, "end": end, "score": score}
                    for kind, start, end, score in found
                ],
                "anonymizers": {kind: {"type": name, **more} for kind, (name, more) in operators.items()},
            }
            answer = client.post("/anonymize", json=body).raise_for_status().json()
            assert answer["text"] == expected.text
            assert answer["items"] == [
                {name: getattr(item, name) for name in ("start", "end", "entity_type", "text", "operator")}
                for item in expected.items
            ]

        check()
