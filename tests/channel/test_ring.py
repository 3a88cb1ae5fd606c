"""A stream in shared memory gives back what was written, in order, whatever the sizes."""

from __future__ import annotations

import random

import pytest

from nerve.channel import ring
from nerve.channel.ring import Ring


@pytest.mark.parametrize("is_ordered", [True, False])
def test_what_is_written_is_read(is_ordered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of any size, around the end of the memory many times; also where writes need a fence."""
    monkeypatch.setattr(ring, "_IS_ORDERED", is_ordered)
    memory = memoryview(bytearray(128 + 257))
    writer, reader = Ring(memory), Ring(memory)
    chance = random.Random(7)
    sent, received, unsent = b"", b"", b""
    for _ in range(2000):
        if not unsent:
            unsent = chance.randbytes(chance.randrange(600))
        n_bytes = writer.write(unsent)
        assert n_bytes <= 257
        sent, unsent = sent + unsent[:n_bytes], unsent[n_bytes:]
        if chance.random() < 0.5:
            received += reader.read()
            assert received == sent
    assert len(sent) > 50_000
    for end in (writer, reader):
        end.close()


def test_nothing_is_overwritten_before_it_is_read() -> None:
    """A full stream takes nothing until there is room."""
    memory = memoryview(bytearray(128 + 8))
    writer, reader = Ring(memory), Ring(memory)
    assert writer.write(b"12345") == 5
    assert writer.write(b"67890") == 3
    assert writer.write(b"x") == 0
    assert reader.read() == b"12345678"
    assert reader.read() == b""
    assert writer.write(b"x") == 1
