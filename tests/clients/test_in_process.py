"""`nerve.integrations`: Presidio's and spaCy's libraries with a model in their own process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import spacy
from presidio_analyzer import AnalyzerEngine
from presidio_analyzer.nlp_engine import SpacyNlpEngine
from presidio_analyzer.recognizer_registry import RecognizerRegistry
from presidio_anonymizer import AnonymizerEngine

from builders import write_config, write_lookup_model
from nerve import NerveError, load
from nerve.integrations.presidio import NerveRecognizer
from nerve.integrations.spacy import NerveComponent

TEXT = "Anna Maria lives in Paris, anna@example.com"
FOUND = [("Anna Maria", "PERSON"), ("Paris", "LOC"), ("anna@example.com", "EMAIL")]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a config file of the lookup model, with a label that is renamed and a pattern."""
    folder = tmp_path_factory.mktemp("in-process")
    runtime = {"rename_labels": {"PER": "PERSON"}, "patterns": ["email"]}
    return write_config(folder / "config.yaml", write_lookup_model(folder / "model"), runtime=runtime)


@pytest.fixture(scope="module")
def recognizer(config: Path) -> Iterator[NerveRecognizer]:
    """Return a recogniser."""
    found = NerveRecognizer(config)
    yield found
    found.close()


def analyzer_of(*recognizers: NerveRecognizer) -> AnalyzerEngine:
    """Make an analyzer over a pipeline without a model."""
    engine = SpacyNlpEngine(models=[{"lang_code": "en", "model_name": "none"}])
    engine.nlp = {"en": spacy.blank("en")}
    registry = RecognizerRegistry(recognizers=list(recognizers), supported_languages=["en"])
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])


def test_recognizer(recognizer: NerveRecognizer) -> None:
    """What the model and the patterns find, under the configuration's names, through analyzer and anonymizer."""
    analyzer = analyzer_of(recognizer)
    assert set(analyzer.get_supported_entities("en")) == {"PERSON", "LOC", "EMAIL"}
    found = sorted(analyzer.analyze(TEXT, language="en"), key=lambda each: each.start)
    assert [(TEXT[each.start : each.end], each.entity_type) for each in found] == FOUND
    assert all(0.98 < each.score <= 1 for each in found)
    assert {each.recognition_metadata["recognizer_name"] for each in found} == {"NerveRecognizer"}
    masked = AnonymizerEngine().anonymize(text=TEXT, analyzer_results=found)
    assert masked.text == "<PERSON> lives in <LOC>, <EMAIL>"
    assert analyzer.analyze("", language="en") == []


def test_recognizer_is_asked_for_some(recognizer: NerveRecognizer) -> None:
    """Presidio's own choice of entities, threshold and allow list hold; what others find is passed over."""
    analyzer = analyzer_of(recognizer)
    (only,) = analyzer.analyze(TEXT, language="en", entities=["LOC"])
    assert TEXT[only.start : only.end] == "Paris"
    assert recognizer.analyze(TEXT, ["CREDIT_CARD"]) == []
    assert [each.entity_type for each in recognizer.analyze(TEXT, ["CREDIT_CARD", "LOC"])] == ["LOC"]
    assert len(analyzer.analyze(TEXT, language="en", score_threshold=0.999)) == 1  # the pattern's
    assert len(analyzer.analyze(TEXT, language="en", allow_list=["Paris"])) == 2


def test_recognizer_of_a_loaded_model(config: Path) -> None:
    """Several recognisers, of some entities each, share a classifier."""
    with load(config) as classifier:
        people = NerveRecognizer(classifier, supported_entities=["PERSON"], name="people")
        places = NerveRecognizer(classifier, supported_entities=["LOC"], name="places")
        found = analyzer_of(people, places).analyze(TEXT, language="en")
        assert {each.recognition_metadata["recognizer_name"] for each in found} == {"people", "places"}
        with pytest.raises(ValueError, match="the model has no EMAL; it has PERSON, LOC, EMAIL"):
            NerveRecognizer(classifier, supported_entities=["EMAL"])


def test_recognizer_fails_closed(config: Path) -> None:
    """What cannot be analysed raises; it is not a text in which nothing was found."""
    with pytest.raises(NerveError):
        NerveRecognizer("no/such/model/here.yaml")
    closed = NerveRecognizer(config)
    closed.close()
    with pytest.raises(RuntimeError):
        analyzer_of(closed).analyze(TEXT, language="en")


@pytest.fixture(scope="module")
def nlp(config: Path) -> Iterator[spacy.Language]:
    """Return a pipeline whose only component is found by its entry point."""
    found = spacy.blank("en")
    component = found.add_pipe("nerve", config={"model": str(config)})
    assert isinstance(component, NerveComponent)
    yield found
    component.close()


def test_component(nlp: spacy.Language) -> None:
    """Entities with their scores, of one text and of many in order."""
    doc = nlp(TEXT)
    assert [(each.text, each.label_) for each in doc.ents] == FOUND
    assert all(0.98 < each._.nerve_score <= 1 for each in doc.ents)
    texts = ["Anna", "", "the", "Bob's", TEXT] * 50
    docs = list(nlp.pipe(texts))
    assert [doc.text for doc in docs] == texts
    assert [len(doc.ents) for doc in docs] == [1, 0, 0, 1, 3] * 50
    assert nlp.get_pipe("nerve").labels == ("PERSON", "LOC", "EMAIL")


def test_component_in_other_processes(nlp: spacy.Language) -> None:
    """Threads do not survive a fork: each process loads the model anew instead of waiting for them."""
    docs = list(nlp.pipe(["Anna"] * 4, n_process=2, batch_size=2))
    assert [[each.label_ for each in doc.ents] for doc in docs] == [["PERSON"]] * 4


def test_component_is_saved(nlp: spacy.Language, tmp_path: Path) -> None:
    """A pipeline on disk names the model, and loads it."""
    nlp.to_disk(tmp_path / "pipeline")
    again = spacy.load(tmp_path / "pipeline")
    assert [each.label_ for each in again("Anna").ents] == ["PERSON"]
    again.get_pipe("nerve").close()


@pytest.mark.parametrize(("mode", "expected"), [("expand", ["anna,paris"]), ("strict", []), ("contract", [])])
def test_alignment(config: Path, mode: str, expected: list[str]) -> None:
    """An entity that ends within a token of spaCy's is not lost unless the pipeline says so."""
    nlp = spacy.blank("en")
    nlp.tokenizer = spacy.tokenizer.Tokenizer(nlp.vocab)  # splits at spaces only
    component = nlp.add_pipe("nerve", config={"model": str(config), "alignment_mode": mode})
    assert [each.text for each in nlp("anna,paris the").ents] == expected
    component.close()


def test_other_components(config: Path) -> None:
    """Entities of others stay where they do not overlap; or all of ours go into a group of spans."""
    nlp = spacy.blank("en")
    ruler = nlp.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "VERB", "pattern": "lives"}, {"label": "MINE", "pattern": "Maria"}])
    first = nlp.add_pipe("nerve", config={"model": str(config), "options": {"labels": ["PERSON"]}})
    second = nlp.add_pipe("nerve", name="spans", config={"model": str(config), "spans_key": "pii"})
    doc = nlp("Anna Maria lives in Paris")
    assert [(each.text, each.label_) for each in doc.ents] == [("Anna Maria", "PERSON"), ("lives", "VERB")]
    assert [(each.text, each.label_) for each in doc.spans["pii"]] == FOUND[:2]
    first.close()
    second.close()


def test_component_refuses(config: Path) -> None:
    """An option that there is not, or that the model cannot take, is an error when the pipeline is made."""
    with pytest.raises(ValueError, match="unknown option label; known: labels"):
        spacy.blank("en").add_pipe("nerve", config={"model": str(config), "options": {"label": ["PERSON"]}})
    with pytest.raises(NerveError, match="unknown label; known labels: PERSON, LOC, EMAIL"):
        spacy.blank("en").add_pipe("nerve", config={"model": str(config), "options": {"labels": ["PER"]}})
