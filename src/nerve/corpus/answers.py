"""What is asked of each text, in a form that can be sent to another process, and who answers it in this one.

An answerer takes texts, reads them a bounded distance ahead, and yields an `Answer` or a `Refused` for each, in order.
This module answers with a `TokenClassifier`; `server` with a running server, `on_ray` with a cluster.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec

from nerve.corpus.records import Answer, Refused
from nerve.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from nerve.api import TokenClassifier


class Task(msgspec.Struct, frozen=True):
    """What is asked of each text.

    choices: keywords of `TokenClassifier.predict_many`, or of `redact_many`. aggregation_strategy among them.
    """

    redacts: bool
    choices: dict[str, Any]

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
