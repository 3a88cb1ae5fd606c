"""Finds numbers that check themselves: payment cards (Luhn), IBANs (mod 97), US social security numbers. Pure, linear.

Digits may be of any script (Unicode's decimal digits); they are read by their value.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from nerve.text.scanning import find_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    Span = tuple[int, int]

# One of these may stand between groups of digits.
_GAP = "\u0020\u00a0\u2007\u202f\u2009\\-\u2010-\u2015\u2212"
# Groups of digits with one gap between them; possessive: nothing that was read is read again.
_CHAIN = re.compile(rf"\d++(?:[{_GAP}]\d++)*+")
_GROUP = re.compile(r"\d++")
_CARD_LENGTHS = range(12, 20)
# A card is one group, or some of three digits at least.
_MOST_GROUPS = 5
_LEAST_GROUP = 3
# Maestro alone has cards of 12 digits (ISO/IEC 7812: the first digits are the issuer's).
_SHORT_CARD_STARTS = "56"
_CARD_STARTS = "23456"

# What stands before is looked at last: the library goes quickly over text without digits.
_SSN = re.compile(
    rf"(\d\d\d)(?<!\d{{4}})(?<!\d[\-.]\d{{3}})([.{_GAP}])(\d{{2}})\2(\d{{4}})(?!\d|[\-.]\d)",
)

_IBAN_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}")
# Characters of an IBAN by country: https://www.swift.com/resource/iban-registry-pdf
_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in {
        "15": "NO",
        "16": "BE",
        "18": "DK FI FK FO GL NL SD",
        "19": "MK SI",
        "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV",
        "22": "BG BH CR DE GB GE IE ME RS VA",
        "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK ST TN VG",
        "25": "LY PT",
        "26": "IS TR",
        "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HN HU LB NI PL SV",
        "29": "BR EG PS QA UA",
        "30": "JO KW MU YE",
        "31": "MT SC",
        "32": "LC",
        "33": "RU",
    }.items()
    for country in countries.split()
}


def find_cards(text: str) -> Iterator[Span]:
    """Give numbers of 12 to 19 digits that begin as payment cards do and pass Luhn's check (ISO/IEC 7812-1).

    They are whole groups of digits, as long as possible, with one blank or hyphen between groups.
    """
    for chain in _CHAIN.finditer(text):
        if chain.end() - chain.start() < _CARD_LENGTHS[0] or _is_fraction(text, chain.start()):
            continue
        groups = [found.span() for found in _GROUP.finditer(text, chain.start(), chain.end())]
        first = 0
        while first < len(groups):
            stop = _card_stop(text, groups, first)
            if stop > first:
                yield groups[first][0], groups[stop - 1][1]
            first = max(stop, first + 1)


def _card_stop(text: str, groups: list[Span], first: int) -> int:
    """Return the group after the longest card that begins with group `first`; `first` where there is none."""
    digits, found = "", first
    if _value(text[groups[first][0]]) not in _CARD_STARTS:
        return first
    for index in range(first, min(len(groups), first + _MOST_GROUPS)):
        start, end = groups[index]
        if end - start < _LEAST_GROUP or len(digits) + end - start > _CARD_LENGTHS[-1]:
            break
        digits += text[start:end]
        if len(digits) >= _CARD_LENGTHS[0] and _is_card("".join(map(_value, digits))):
            found = index + 1
    return found


def _is_card(digits: str) -> bool:
    starts = _SHORT_CARD_STARTS if len(digits) == _CARD_LENGTHS[0] else _CARD_STARTS
    return digits[0] in starts and passes_luhn(digits)


def _value(digit: str) -> str:
    """Return a decimal digit of any script as one of ASCII."""
    return digit if digit.isascii() else str(int(digit))


def passes_luhn(digits: str) -> bool:
    """Tell whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _is_fraction(text: str, start: int) -> bool:
    """Tell whether digits are those behind a decimal point."""
    return text[start - 1 : start] in (".", ",") and text[max(0, start - 2) : start - 1].isdigit()


def find_ibans(text: str) -> Iterator[Span]:
    """Give IBANs (ISO 13616) of the registered lengths that pass mod 97, also in groups with one gap between them."""
    for found in find_all(_IBAN_START, text, 4):
        length = _IBAN_LENGTHS.get(found.group()[:2].upper())
        if length is None:
            continue
        whole = _iban_of(length).match(text, found.start())
        if whole is not None and passes_mod_97("".join(filter(str.isalnum, whole.group()))):
            yield whole.span()


@cache
def _iban_of(length: int) -> re.Pattern[str]:
    """Return what matches letters and digits of an IBAN with single gaps between them, and no more after it."""
    return re.compile(rf"[A-Za-z](?:[{_GAP}]?[A-Za-z0-9]){{{length - 1}}}(?![A-Za-z0-9])")


def passes_mod_97(iban: str) -> bool:
    """Tell whether an IBAN's check digits are those of its other characters (ISO 13616, ISO 7064 MOD 97-10)."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def find_ssns(text: str) -> Iterator[Span]:
    """Give US social security numbers in three groups with one sign between them, of numbers that may be given.

    https://www.ssa.gov/employer/randomization.html: no area 000, 666 or from 900 on, no group 00, no serial 0000.
    """
    for found in find_all(_SSN, text, 16):
        area, group, serial = int(found[1]), int(found[3]), int(found[4])
        if 0 < area < 900 and area != 666 and group and serial:
            yield found.span()
