"""Phone numbers, by the library `phonenumbers` (extra `nerve[phone]`), which has the numbering plan of each country."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    Span = tuple[int, int]

# Numbers without a country code are read as those of this country's plan.
_REGION = "US"
# What a number may be written with. The library takes far longer than this scan, so it sees nothing else.
_SIGNS = r"()+.,;/x#~\-\uff08\uff09\uff0b\uff0d\u2010-\u2015\u2212\u200b\u2060"
_RUN = re.compile(rf"[+(\uff0b\uff08\d][\d\s{_SIGNS}]{{5,}}")
_LEAST_DIGITS = 7
# Characters of a run that the library sees at once, and of neighbouring parts that are the same.
_CHUNK = 400
_OVERLAP = 50


def find_numbers(text: str) -> Iterator[Span]:
    """Give numbers that are valid by the plan of their country."""
    from phonenumbers import Leniency, PhoneNumberMatcher  # noqa: PLC0415 - an extra, and 50 ms

    done = 0
    for run in _RUN.finditer(text):
        for start in range(run.start(), run.end(), _CHUNK - _OVERLAP):
            # One character on either side: a letter beside a number speaks against it.
            before, end = max(0, start - 1), min(run.end() + 1, start + _CHUNK)
            part = text[before:end]
            if sum(map(str.isdigit, part)) < _LEAST_DIGITS:
                continue
            is_cut = end < run.end()  # what ends there is whole in the next part
            for found in PhoneNumberMatcher(part, _REGION, Leniency.VALID, len(part)):
                if before + found.start >= done and not (is_cut and found.end == len(part)):
                    done = before + found.end
                    yield before + found.start, done
