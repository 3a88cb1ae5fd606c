"""Bodies that clients have compressed: `gzip` is decoded, within the limit of a body; nothing else is taken."""

from __future__ import annotations

import zlib

from nerve.errors import MalformedRequest, PayloadTooLarge, UnsupportedEncoding

# Answered with 415.
ACCEPTED = "gzip, identity"
# Compressed bytes up to which a body is decoded where it arrives: deflate makes at most 1,032 times as much of them,
# which takes about 1 ms.
INLINE_BYTES = 1_024
# Parts, one behind the other, that are decoded. RFC 1952 has no limit; each costs some 10 us.
_MOST_MEMBERS = 100
_GZIP_ONLY = 31  # `wbits`: the largest window, with gzip's head and checksum
_CUT_SHORT = "the body is not valid gzip, or is cut short"


def is_gzip(content_encoding: str) -> bool:
    """Tell whether a body is gzip, by its header; else it is as it is. Raises `UnsupportedEncoding`."""
    codings = [coding.strip().lower() for coding in content_encoding.split(",")]
    coded = [coding for coding in codings if coding not in ("identity", "")]
    if not coded:
        return False
    if len(coded) == 1 and coded[0] in ("gzip", "x-gzip"):
        return True
    raise UnsupportedEncoding(
        f"header content-encoding must be one of {ACCEPTED}; send the body without any other"
    )


def gunzip(body: bytes | bytearray, limit: int) -> bytes:
    """Decode a body. Raises `PayloadTooLarge` above `limit` bytes, of which no more are made, or `MalformedRequest`."""
    parts: list[bytes] = []
    room = limit
    rest: bytes | bytearray = body
    for _ in range(_MOST_MEMBERS):
        decoder = zlib.decompressobj(_GZIP_ONLY)
        try:
            part = decoder.decompress(rest, room + 1)
        except zlib.error:
            raise MalformedRequest(_CUT_SHORT) from None
        room -= len(part)
        if room < 0:
            raise PayloadTooLarge(
                f"the decoded body is above limits.max_body_bytes = {limit}; send several requests"
            )
        if not decoder.eof:
            raise MalformedRequest(_CUT_SHORT)
        parts.append(part)
        rest = decoder.unused_data
        if not rest:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise MalformedRequest(f"the body has more than {_MOST_MEMBERS} gzip members; compress it in one")
