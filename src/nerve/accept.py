"""Reads what a client accepts, in the order in which it says so (RFC 9110, 12.4.2 and 12.5)."""

from __future__ import annotations


def read_choices(header: str) -> list[tuple[str, float]]:
    """Return the choices of an `accept` or `accept-encoding`, in lower case, each with its weight.

    A weight that is left out is 1; one that is no number counts as 0.
    """
    found = []
    for part in header.lower().split(","):
        choice, *parameters = (piece.strip() for piece in part.split(";"))
        found.append((choice, _weight(parameters)))
    return found


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
