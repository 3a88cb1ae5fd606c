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
_BLANK = "\u0020\u00a0\u2007\u202f\u2009"
_HYPHEN = "\\-\u2010-\u2015\u2212"
_GAP = _BLANK + _HYPHEN
# Or a hyphen with a blank on either side.
_SPACED_HYPHEN = f"[{_BLANK}][{_HYPHEN}][{_BLANK}]"
# Groups of digits with one gap between them, or two blanks, or the end of a line; possessive: nothing that was read is
# read again. A full stop between four digits each: those of thousands have three.
_CHAIN = re.compile(
    rf"\d++(?:(?:[{_BLANK}]{{1,2}}|[{_HYPHEN}]|{_SPACED_HYPHEN}|[{_GAP}]?\r?\n|(?<=\d{{4}})\.(?=\d{{4}}))\d++)*+"
)
_GROUP = re.compile(r"\d++")
_CARD_LENGTHS = range(12, 20)
# A card is one group, or some of three digits at least; the first has four or, with UnionPay, six. One that goes
# on in the next line has fours.
_MOST_GROUPS = 5
_FIRST_GROUPS = (4, 6)
_LEAST_GROUP = 3
_FOUR = 4
# Digits that issuers give: their first ones, and the lengths in use with them. Of others that pass the check,
# those of 14 and 17 digits that begin with 20 are times, those of 15 that begin with 35 are telephones (IMEI).
_ISSUED = re.compile(
    r"3[47]\d{13}|3(?:0|6|8|9)\d{12,17}|35\d{14,17}"  # American Express, Diners Club, JCB
    r"|4(?:\d{12}|\d{15}|\d{17,18})|2[2-7]\d{14}|220\d{14,16}"  # Visa, Mastercard, Mir
    r"|[56]\d{11,18}|0604\d{8}"  # Mastercard, Maestro, Discover, UnionPay, RuPay
    r"|(?:2131|1800)\d{11}|8[12]\d{14}|9792\d{12}"  # JCB, RuPay, Troy
)
_CARD_STARTS = "012345689"

# A line may end after a hyphen.
_WRAP = rf"(?:(?<=[{_HYPHEN}])\r?\n)?"
# What stands before is looked at last: the library goes quickly over text without digits.
_SSN = re.compile(
    rf"(\d\d\d)(?<!\d{{4}})(?<!\d[\-.]\d{{3}})([.{_GAP}]|{_SPACED_HYPHEN}){_WRAP}(\d{{2}})\2{_WRAP}(\d{{4}})(?!\d|[\-.]\d)",
)

# Nine digits that are said to be a social security number, shortly before them.
_BARE_SSN = re.compile(r"(\d\d\d)(\d\d)(\d{4})(?<!\d{10})(?!\d)")
_SSN_WORDS = re.compile(r"(?<![a-z])(?:ssn|social[ _-]?security)(?![a-z])\D{0,20}\Z")
_SSN_REACH = 40

_IBAN_START = re.compile(r"(?:(?<![A-Za-z0-9])|(?<=[Ii][Bb][Aa][Nn]))[A-Za-z]{2}[0-9]{2}")
# What may stand between its characters: as between digits, up to two, a full stop, the end of a line.
_IBAN_GAP = rf"(?:[{_GAP}]{{1,2}}|\.|[{_BLANK}]?\r?\n|{_SPACED_HYPHEN})?"
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

    They are whole groups of digits, as long as possible, with a blank or two or a hyphen between groups, or, between
    fours and once, the end of a line.
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
        if index > first and groups[first][1] - groups[first][0] not in _FIRST_GROUPS:
            break
        if end - start < _LEAST_GROUP or len(digits) + end - start > _CARD_LENGTHS[-1]:
            break
        lines = text.count("\n", groups[first][0], start)
        if lines and (lines > 1 or end - start != _FOUR or len(digits) != _FOUR * (index - first)):
            break
        digits += text[start:end]
        if len(digits) >= _CARD_LENGTHS[0] and _is_card("".join(map(_value, digits))):
            found = index + 1
    return found


def _is_card(digits: str) -> bool:
    return _ISSUED.fullmatch(digits) is not None and passes_luhn(digits)


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
    """Tell whether digits are those behind a decimal point. A comma more often ends a field of a table."""
    return text[start - 1 : start] == "." and text[max(0, start - 2) : start - 1].isdigit()


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
    return re.compile(rf"[A-Za-z](?:{_IBAN_GAP}[A-Za-z0-9]){{{length - 1}}}(?![A-Za-z0-9])")


def passes_mod_97(iban: str) -> bool:
    """Tell whether an IBAN's check digits are those of its other characters (ISO 13616, ISO 7064 MOD 97-10)."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def find_ssns(text: str) -> Iterator[Span]:
    """Give US social security numbers in three groups with one sign between them, of numbers that may be given.

    https://www.ssa.gov/employer/randomization.html: no area 000, 666 or from 900 on, no group 00, no serial 0000.
    """
    for found in find_all(_SSN, text, 24):
        if _may_be_given(found[1], found[3], found[4]):
            yield found.span()
    for found in find_all(_BARE_SSN, text, 12):
        before = text[max(0, found.start() - _SSN_REACH) : found.start()].lower()
        if _SSN_WORDS.search(before) is not None and _may_be_given(found[1], found[2], found[3]):
            yield found.span()


def _may_be_given(area: str, group: str, serial: str) -> bool:
    return 0 < int(area) < 900 and int(area) != 666 and int(group) > 0 and int(serial) > 0
