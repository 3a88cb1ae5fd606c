"""What is asked of each text, in a form that can be sent to another process, and who answers it in this one.

An answerer takes texts, reads them a bounded distance ahead, and yields an `Answer` or a `Refused` for each, in order.
This module answers with a `TokenClassifier`; `server` with a running server, `on_ray` with a cluster.
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.corpus.records import Answer, Refused
from nerve.errors import InvalidRequest
from nerve.text.redaction import Item

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping

    from nerve.api import TokenClassifier


class Facts(msgspec.Struct, frozen=True):
    """What a model says of itself.

    model_id: as its source calls it.
    entity_strategy: by which entities are grouped where nobody says otherwise. label_names: of the model, with their
    prefixes. entity_labels: as answers have them.
    """

    model_id: str
    entity_strategy: str
    label_names: list[str]
    entity_labels: list[str]


def facts_of(classifier: TokenClassifier) -> Facts:
    """Return what a model in this process says of itself."""
    model = classifier.model
    labels = model.labels
    return Facts(model.model_id, model.entity_strategy.value, [*labels.names], [*labels.entity_labels])


class Task(msgspec.Struct, frozen=True):
    """What is asked of each text.

    choices: keywords of `TokenClassifier.predict_many`, or of `redact_many`. aggregation_strategy among them.
    wants_found: what was found is wanted, and not only how often.
    """

    redacts: bool
    choices: dict[str, Any]
    wants_found: bool = True

    def ask(
        self, classifier: TokenClassifier, texts: Iterable[str], *, ahead: bool = True
    ) -> Iterator[Answer]:
        """Yield the answer to each text. Raises as `predict_many` does."""
        if self.redacts:
            for redacted in classifier.redact_many(texts, ahead=ahead, **self.choices):
                yield Answer(redacted.text, redacted.items)
        elif ahead:
            for rows in classifier.predict_many(texts, **self.choices):
                yield Answer(None, rows)
        else:
            for text in texts:
                yield Answer(None, classifier.predict(text, **self.choices)[0])


def labels_of(answer: Answer) -> Mapping[str, int]:
    """Return how often each label was found; of a row with all scores, the best one counts."""
    if answer.labels is not None:
        return answer.labels
    assert not isinstance(answer.found, msgspec.Raw)  # noqa: S101 - it comes with its counts
    return Counter(
        one.label if isinstance(one, Item) else max(one.results, key=one.results.__getitem__)
        for one in answer.found
    )


def answer_here(
    classifier: TokenClassifier, task: Task, texts: Iterable[str], *, ahead: bool = True
) -> Generator[Answer | Refused, None, None]:
    """Answer in this process. ahead: False to answer each text before the next is read."""
    return answer_all(lambda some: task.ask(classifier, some, ahead=ahead), texts)


def answer_all(
    ask: Callable[[Iterable[str]], Iterator[Answer]], texts: Iterable[str]
) -> Generator[Answer | Refused, None, None]:
    """Answer every text, also behind one that is refused, at which `ask` ends. Raises whatever is no refusal of one."""
    waiting: deque[str] = deque()
    again: deque[str] = deque()
    rest = iter(texts)

    def read() -> Iterator[str]:
        for text in chain(_taken(again), rest):
            waiting.append(text)
            yield text

    while True:
        try:
            for answer in ask(read()):
                waiting.popleft()
                yield answer
        except InvalidRequest as error:
            # The first text without an answer is the one that was refused; anything else is wrong with all of them.
            if not waiting or not str(error).startswith("texts["):
                raise
            waiting.popleft()
            yield Refused(str(error).partition(": ")[2])
            again.extendleft(reversed(waiting))
            waiting.clear()
        else:
            return


def _taken(texts: deque[str]) -> Iterator[str]:
    while texts:
        yield texts.popleft()
