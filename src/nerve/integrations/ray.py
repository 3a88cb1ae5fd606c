"""A model in the actors of Ray Data: classes for `Dataset.map_batches`; needs the extra `ray`.

    dataset = ray.data.read_parquet("s3://...")
    found = dataset.map_batches(
        Redact, fn_constructor_kwargs={"model": "config.yaml"}, batch_format="pyarrow", batch_size=512,
        concurrency=8, num_cpus=1,
    )

An actor loads its model once and uses the cores, or the GPU, that Ray has given it. All columns stay.
https://docs.ray.io/en/latest/data/api/doc/ray.data.Dataset.map_batches.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow
import ray

from nerve.api import load

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class _InActor:
    """Loads the model for what Ray has given the actor; answers tables.

    model: what `nerve.load` takes; it must be reachable from every node. column: the one with the texts.
    options: keywords of `predict_many`, or of `redact_many`.
    """

    def __init__(self, model: str | Path | None = None, *, column: str = "text", **options: Any) -> None:  # noqa: ANN401
        given = ray.get_runtime_context().get_assigned_resources()
        device = "cuda" if given.get("GPU", 0) > 0 else "cpu"
        self._classifier = load(model, threads=max(1, int(given.get("CPU", 1))), device=device)
        self._column = column
        self._options = options

    def __call__(self, batch: pyarrow.Table) -> pyarrow.Table:
        """Return a batch with what is wanted of it. Raises as `predict_many`, and `TypeError` for other formats."""
        if not isinstance(batch, pyarrow.Table):
            raise TypeError('batches must be Arrow tables: map_batches(..., batch_format="pyarrow")')
        texts = batch.column(self._column).to_pylist()
        asked = sorted(
            (index for index, text in enumerate(texts) if text is not None), key=lambda i: len(texts[i])
        )
        answers: list[Any] = [None] * len(texts)
        # The shortest first, so that texts of one length are computed together.
        for index, answer in zip(asked, self._ask(texts[index] for index in asked), strict=True):
            answers[index] = answer
        return self._put(batch, answers)

    def _ask(self, texts: Iterable[str]) -> Iterator[Any]:
        raise NotImplementedError

    def _put(self, batch: pyarrow.Table, answers: list[Any]) -> pyarrow.Table:
        raise NotImplementedError


class Predict(_InActor):
    """Adds the column `entities`: a list of label, score, start, end for each text; null where the text is null."""

    def _ask(self, texts: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
        options = {"aggregation_strategy": self._classifier.model.entity_strategy, **self._options}
        for rows in self._classifier.predict_many(texts, **options):
            yield [
                {"label": label, "score": score, "start": row.start, "end": row.end}
                for row in rows
                for label, score in row.results.items()
            ]

    def _put(self, batch: pyarrow.Table, answers: list[Any]) -> pyarrow.Table:
        whole = pyarrow.int64()
        fields = {"label": pyarrow.string(), "score": pyarrow.float32(), "start": whole, "end": whole}
        kind = pyarrow.list_(pyarrow.struct(fields.items()))
        return batch.append_column("entities", pyarrow.array(answers, kind))


class Redact(_InActor):
    """Replaces the texts by those without their entities."""

    def _ask(self, texts: Iterable[str]) -> Iterator[str]:
        for redacted in self._classifier.redact_many(texts, **self._options):
            yield redacted.text

    def _put(self, batch: pyarrow.Table, answers: list[Any]) -> pyarrow.Table:
        place = batch.schema.get_field_index(self._column)
        return batch.set_column(place, self._column, pyarrow.array(answers, pyarrow.string()))
