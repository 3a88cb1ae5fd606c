"""Parquet, read and written in bounded batches; needs pyarrow, the extra `nerve[parquet]`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from nerve.corpus.records import BadRow, InputError, Position, Record
from nerve.corpus.writers import FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pyarrow

    from nerve.corpus.records import Answer
    from nerve.corpus.writers import Layout

# Rows that are read, and written, at once.
_BATCH_ROWS = 1024


def import_pyarrow() -> Any:
    """Return the module. Raises `ModuleNotFoundError` where it is not installed."""
    import pyarrow  # noqa: PLC0415 - an extra
    import pyarrow.parquet  # noqa: PLC0415

    return pyarrow


class ArrowRow:
    """The columns of one row of a batch."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: pyarrow.RecordBatch, index: int) -> None:
        self.batch = batch
        self.index = index

    def __contains__(self, name: object) -> bool:
        """See `Columns`."""
        return name in self.batch.schema.names

    def to_dict(self) -> dict[str, Any]:
        """See `Columns`."""
        row: dict[str, Any] = self.batch.slice(self.index, 1).to_pylist()[0]
        return row


class ParquetReader:
    """Reads rows of a Parquet file; `position` counts rows. Raises `InputError` for what is none, or has no `field`."""

    def __init__(self, path: Path, title: str, field: str, file: str | None, start: Position) -> None:
        self._arrow = import_pyarrow()
        self.position = start
        self._title = title
        self._field = field
        self._file = file
        try:
            # Pages are read as they are needed, so that a large row group costs no more than a small one.
            self._parquet = self._arrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
        except (self._arrow.ArrowException, OSError) as error:
            reason = getattr(error, "strerror", None) or "not a Parquet file, or cut short"
            raise InputError(f"cannot read {title}: {reason}; check the file, or name another") from None
        self.unit_bytes = path.stat().st_size / max(1, self._parquet.metadata.num_rows)
        self.head = self._parquet.schema_arrow
        self._check_column()

    def digest(self) -> str | None:
        """See `Reader`."""
        return None

    def __iter__(self) -> Iterator[Record | BadRow]:
        """See `Reader`."""
        try:
            for batch in self._batches():
                for index, text in enumerate(self._texts(batch)):
                    self.position = Position(self.position.offset + 1, self.position.number + 1)
                    yield self._row(batch, index, text)
        except (self._arrow.ArrowException, OSError):
            raise InputError(
                f"cannot read {self._title}: damaged after row {self.position.number}; write it anew"
            ) from None

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()

    def _check_column(self) -> None:
        schema = self.head
        if self._field not in schema.names:
            raise InputError(
                f"{self._title}: no column `{self._field}`; name the one with the text with --field"
            )
        types = self._arrow.types
        kind = schema.field(self._field).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        if not any(check(kind) for check in (types.is_string, types.is_large_string, types.is_string_view)):
            raise InputError(
                f"{self._title}: the column `{self._field}` holds {kind}, not text; name another with --field"
            )

    def _batches(self) -> Iterator[pyarrow.RecordBatch]:
        """Yield the batches from `position` on; whole row groups before it are not read."""
        metadata = self._parquet.metadata
        group, behind = 0, self.position.offset
        while group < metadata.num_row_groups and behind >= metadata.row_group(group).num_rows:
            behind -= metadata.row_group(group).num_rows
            group += 1
        groups = range(group, metadata.num_row_groups)
        if not groups:
            return
        for batch in self._parquet.iter_batches(_BATCH_ROWS, row_groups=groups, use_threads=False):
            if behind >= batch.num_rows:
                behind -= batch.num_rows
                continue
            yield batch.slice(behind)
            behind = 0

    def _texts(self, batch: pyarrow.RecordBatch) -> Iterator[str | bytes | None]:
        """Yield the texts of a batch; bytes where they are not valid UTF-8."""
        column = batch.column(self._field)
        try:
            yield from column.to_pylist()
        except UnicodeDecodeError:
            for value in column:
                try:
                    yield value.as_py()
                except UnicodeDecodeError:
                    yield value.as_buffer().to_pybytes()

    def _row(self, batch: pyarrow.RecordBatch, index: int, text: str | bytes | None) -> Record | BadRow:
        number = self.position.number
        origin = f"{self._title}, row {number}"
        fields = ArrowRow(batch, index)
        if isinstance(text, bytes):
            return BadRow(number, origin, "not valid UTF-8", text)
        if text is None:
            content = msgspec.json.encode(fields.to_dict(), enc_hook=str)
            return BadRow(number, origin, f"the field `{self._field}` is null", content)
        return Record(text, fields, self._field, origin, number, self._file)


class ParquetWriter:
    """Writes rows with their answers into a Parquet file, batch by batch."""

    def __init__(self, stream: BinaryIO, layout: Layout) -> None:
        self._arrow = import_pyarrow()
        self._stream = stream
        self._layout = layout
        self._waiting: list[tuple[ArrowRow, Record, Answer]] = []
        self._writer: Any = None
        self._schema: Any = None

    def start(self, head: object) -> None:
        """See `Writer`."""
        self._schema = head

    def write(self, record: Record, answer: Answer) -> None:
        """See `Writer`."""
        assert isinstance(record.fields, ArrowRow)  # noqa: S101 - of a Parquet file
        self._waiting.append((record.fields, record, answer))
        if len(self._waiting) >= _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        """See `Writer`."""
        self._flush()
        if self._schema is None:  # the input could not be read
            return
        if self._writer is None:
            self._write(self._with_answers(self._schema.empty_table(), []))
        self._writer.close()

    def _flush(self) -> None:
        for _, rows in groupby(self._waiting, key=lambda row: id(row[0].batch)):
            together = list(rows)
            table = self._arrow.Table.from_batches([together[0][0].batch])
            taken = table.take([row.index for row, _, _ in together])
            self._write(self._with_answers(taken, [(record, answer) for _, record, answer in together]))
        self._waiting.clear()

    def _write(self, table: Any) -> None:
        if self._writer is None:
            self._writer = self._arrow.parquet.ParquetWriter(self._stream, table.schema)
        self._writer.write_table(table)

    def _with_answers(self, table: Any, rows: list[tuple[Record, Answer]]) -> Any:
        arrow, layout = self._arrow, self._layout
        place = table.schema.get_field_index(layout.field)
        if layout.replaces:
            kind = table.schema.field(place).type
            kind = kind.value_type if arrow.types.is_dictionary(kind) else kind
            texts = arrow.array([answer.text for _, answer in rows], kind)
            table = table.set_column(place, table.schema.field(place).with_type(kind), texts)
        elif layout.drops_text:
            table = table.remove_column(place)
        if layout.column is not None:
            found = [_plain(answer.found) for _, answer in rows]
            table = table.append_column(layout.column, arrow.array(found, self._type_of_found()))
        if layout.names_file and FILE not in table.schema.names:
            names = arrow.array([record.file for record, _ in rows], arrow.string())
            table = table.append_column(FILE, names)
        return table

    def _type_of_found(self) -> Any:
        arrow = self._arrow
        whole, number, text = arrow.int64(), arrow.float32(), arrow.string()
        if self._layout.column == "rows":
            fields = {"token": text, "token_id": whole, "start": whole, "end": whole}
            return arrow.list_(arrow.struct({**fields, "results": arrow.map_(text, number)}.items()))
        places = dict.fromkeys(("start", "end", "redacted_start", "redacted_end"), whole)
        return arrow.list_(arrow.struct({"label": text, "score": number, **places, "operator": text}.items()))


def _plain(found: Any) -> Any:
    return msgspec.json.decode(found) if isinstance(found, msgspec.Raw) else msgspec.to_builtins(found)
