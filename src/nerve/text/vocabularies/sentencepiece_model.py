"""Reads the models of sentencepiece (`*.model`): a protobuf `ModelProto`.

Only the fields that a tokenizer is made from are described here (numbers and defaults: sentencepiece_model.proto of
sentencepiece 0.2); enumerations are read as numbers. protobuf comes with `onnx`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import (  # type: ignore[import-untyped]  # no stubs
    descriptor_pb2,
    descriptor_pool,
    message_factory,
)
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no stubs

if TYPE_CHECKING:
    from pathlib import Path

_PACKAGE = "nerve.sentencepiece"
_FIELD = descriptor_pb2.FieldDescriptorProto


class Algorithm(IntEnum):
    """TrainerSpec.ModelType."""

    UNIGRAM = 1
    BPE = 2


class PieceType(IntEnum):
    """SentencePiece.Type."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """A model of sentencepiece.

    pieces: text and score (log-probability) of each, by id. types: likewise, values of `PieceType`.
    algorithm: a value of `Algorithm`, or of an algorithm that is not supported.
    unknown: id of the unknown piece. charsmap: the normaliser's table, empty for none.
    byte_fallback: an unknown character becomes its bytes.
    """

    pieces: list[tuple[str, float]]
    types: list[int]
    algorithm: int
    unknown: int
    unknown_piece: str
    byte_fallback: bool
    charsmap: bytes

    def symbols(self) -> list[tuple[str, bool]]:
        """Return the pieces that are found in a text whatever is around them, and whether each is a control symbol."""
        kinds = (PieceType.CONTROL, PieceType.USER_DEFINED)
        return [
            (self.pieces[index][0], kind == PieceType.CONTROL)
            for index, kind in enumerate(self.types)
            if kind in kinds
        ]


def read_model(path: Path) -> SentencePieceModel:
    """Read a model. Raises `ValueError` for a file that is none, and `OSError`."""
    proto = _message_class()()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError("it is not a model of sentencepiece") from None
    if not proto.pieces:
        raise ValueError("it is not a model of sentencepiece, or has no pieces")
    trainer = proto.trainer_spec
    if trainer.model_type not in (Algorithm.UNIGRAM, Algorithm.BPE):
        raise ValueError("it is a model of words or characters; only Unigram and BPE are known")
    return SentencePieceModel(
        pieces=[(piece.piece, piece.score) for piece in proto.pieces],
        types=[piece.type for piece in proto.pieces],
        algorithm=trainer.model_type,
        unknown=trainer.unk_id,
        unknown_piece=trainer.unk_piece,
        byte_fallback=trainer.byte_fallback,
        charsmap=proto.normalizer_spec.precompiled_charsmap,
    )


@cache
def _message_class() -> Any:  # noqa: ANN401 - protobuf makes it
    """Return a message class for the part of `ModelProto` that is read."""
    file = descriptor_pb2.FileDescriptorProto(name="nerve/sentencepiece.proto", package=_PACKAGE)

    def add(message: str, *fields: tuple[str, int, int, str]) -> None:
        described = file.message_type.add(name=message)
        for name, number, kind, default in fields:
            described.field.add(
                name=name,
                number=number,
                type=kind,
                label=_FIELD.LABEL_OPTIONAL,
                default_value=default or None,
            )

    add(
        "Piece",
        ("piece", 1, _FIELD.TYPE_STRING, ""),
        ("score", 2, _FIELD.TYPE_FLOAT, ""),
        ("type", 3, _FIELD.TYPE_INT32, "1"),
    )
    add(
        "TrainerSpec",
        ("model_type", 3, _FIELD.TYPE_INT32, "1"),
        ("byte_fallback", 35, _FIELD.TYPE_BOOL, ""),
        ("unk_id", 40, _FIELD.TYPE_INT32, ""),
        ("unk_piece", 45, _FIELD.TYPE_STRING, "<unk>"),
    )
    add("NormalizerSpec", ("precompiled_charsmap", 2, _FIELD.TYPE_BYTES, ""))
    model = file.message_type.add(name="Model")
    for name, number, message, label in (
        ("pieces", 1, "Piece", _FIELD.LABEL_REPEATED),
        ("trainer_spec", 2, "TrainerSpec", _FIELD.LABEL_OPTIONAL),
        ("normalizer_spec", 3, "NormalizerSpec", _FIELD.LABEL_OPTIONAL),
    ):
        model.field.add(
            name=name,
            number=number,
            type=_FIELD.TYPE_MESSAGE,
            label=label,
            type_name=f".{_PACKAGE}.{message}",
        )
    pool = descriptor_pool.DescriptorPool()  # its own, so that it cannot clash with sentencepiece's
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Model"))
