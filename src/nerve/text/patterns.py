"""Finds entities by rule: what has a form that can be checked (e-mail addresses, payment cards, ...).

A rule takes a time that grows with the length of the text, whatever is in it: candidates are found by a scan that
looks at each character a bounded number of times, have a bounded length (a URL ends at the next blank), and are then
checked. No expression backtracks over what it has read.

Words are those of scripts that put blanks between them: an address ends where Chinese, Japanese, Korean or Thai
letters begin, unless its host begins with them. Each text is looked at as it is, without the escapes of JSON, HTML and
URLs (`escapes`), and as its reader sees it (`folding`), so that characters without a width hide nothing, and digits and
letters are those of any form.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

from nerve.text.escapes import json_escape_at, unescape
from nerve.text.folding import fold
from nerve.text.identifiers import find_cards, find_ibans, find_ssns
from nerve.text.overlaps import without_overlaps
from nerve.text.scanning import find_all
from nerve.types import Entity, PatternName

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from nerve.text.escapes import Plain

    Span = tuple[int, int]
    Rule = Callable[[str], Iterable[Span]]

# Letters, digits and marks beyond ASCII, of scripts with blanks between words.
_FOREIGN = (
    "\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u0dff\u0f00-\u10ff\u1200-\u1fff\u2c00-\u2dff\ua4d0-\ua95f"
    "\ua980-\uabff\ufb00-\ufdff\ufe00-\ufe0f\ufe20-\ufe2f\ufe70-\ufefe\U00010000-\U0001afff"
)
# Chinese, Japanese, Korean, Thai and the like.
_UNSPACED = (
    "\u0e00-\u0eff\u1100-\u11ff\u3005-\u3007\u3040-\u31ff\u3400-\u9fff\ua960-\ua97f"
    "\uac00-\ud7ff\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
# Longest part of an address on either side of `@`.
_LONGEST = 254


class _Words:
    """What addresses are made of.

    letters: those beyond ASCII, as ranges of a regular expression.
    """

    def __init__(self, letters: str) -> None:
        # Read backwards from `@`. Quotes are a name's: not the end of one string of JSON, and the start of another.
        self.local = re.compile(
            rf"""[A-Za-z0-9_.%+'\u2019!#$&*~^?{{|}}\-{letters}]{{1,{_LONGEST}}}"""
            r"""|"(?![\s\\:,(\[{<=])[^"\r\n]{1,64}(?<![\s:,\])}>])\""""
            r"""|"\\(?![\s\\:,(\[{<=])[^"\r\n]{1,64}(?<![\s:,\])}>])"(?=\\)"""
        )
        self.no_word = re.compile(rf"[^A-Za-z0-9_\"{letters}]+")
        self.domain = re.compile(rf"[A-Za-z0-9.\-{letters}]{{1,{_LONGEST}}}")
        self.label = re.compile(rf"(?!-)[A-Za-z0-9\-{letters}]{{1,63}}(?<!-)")
        self.top_level = re.compile(rf"[A-Za-z{letters}]{{2,63}}|[Xx][Nn]--[A-Za-z0-9\-]{{2,59}}")
        self.url_body = re.compile(rf"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%|{{}}{letters}]+")


_SPACED_WORDS = _Words(_FOREIGN)
_ALL_WORDS = _Words(_FOREIGN + _UNSPACED)
_ADDRESS_LITERAL = re.compile(r"\[(?:IPv6:)?[0-9A-Fa-f:.]{2,45}\]")

# JSON's escapes by number; with more backslashes in JSON within JSON.
_JSON_NUMBER = re.compile(r"\\{1,8}u[0-9A-Fa-f]{4}")
_JSON_NUMBER_BACKWARDS = re.compile(r"\\{1,8}[0-9A-Fa-f]{4}u\\")  # behind the backslashes of the next
# What stands before a URL, whose scheme nobody has to hide. `\f` is rather a path's backslash and `file:`.
_ESCAPED_BLANK = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|[nrt])")
_SCHEME = re.compile(r"[A-Za-z0-9+.\-]{1,32}")  # read backwards
# What stands before is looked at last, here and below: the library goes quickly over text without the first sign.
_WWW = re.compile(r"[wW][wW][wW]\.(?<![A-Za-z0-9.@-][wW]{3}\.)")
_LONGEST_HOST = 256
_AFTER_URL = ".,;:!?'*_~|"
_BRACKETS = {")": "(", "]": "[", "}": "{"}

_IPV4 = re.compile(
    r"[0-9](?<![A-Za-z0-9][0-9])(?<![0-9]\.[0-9])[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![A-Za-z0-9]|\.[0-9])"
)
_HEX_RUN = re.compile(r"[0-9A-Fa-f:.]++")
_LONGEST_IPV6 = 45

_DIGIT = re.compile(r"\d")
# How often a text may have been escaped: JSON within JSON is, twice.
_MOST_LEVELS = 3
# Rules that find nothing in a text without digits.
_OF_DIGITS = (PatternName.CREDIT_CARD, PatternName.IBAN, PatternName.US_SSN, PatternName.PHONE_NUMBER)


def find_emails(text: str) -> Iterator[Span]:
    """Give e-mail addresses (RFC 5322's dot-atoms and short quoted strings, RFC 6531's letters): what is around `@`.

    The domain has a dot and ends with a top level of letters, or is an IP address in brackets.
    """
    at = text.find("@")
    done = 0
    while at >= 0:
        words = _words_at(text, at + 1)
        before = words.local.match(text[max(done, at - _LONGEST) : at][::-1])
        end = _domain_end(text, at + 1, words) if before is not None else 0
        if before is not None and end:
            start = _address_start(text, at, at - before.end(), end, words)
            if start < at:
                yield start, end
                done = end
        at = text.find("@", max(at + 1, done))


def _address_start(text: str, at: int, start: int, end: int, words: _Words) -> int:
    r"""Return where an address begins whose word does at `start`: after the signs before it. `at` where it is empty.

    Behind a backslash the first letter may be a name's (`CORP\roger@x.org`) or that of an escape (`\nbob@x.org`). It
    belongs to the address: it may not be left. Only two escapes by number, in a row or around it, are surely JSON.
    """
    number = _JSON_NUMBER.match(text, start - 1) if start else None
    before = text[max(0, start - 14) : start][::-1]
    if number is not None and (_JSON_NUMBER.match(text, end) or _JSON_NUMBER_BACKWARDS.match(before)):
        return _after_signs(text, number.end(), at, words)
    escape = json_escape_at(text, start)
    if escape is not None and _after_signs(text, escape[1], at, words) == at:
        return at  # as in `\n@app.route`
    return _after_signs(text, start, at, words)


def _after_signs(text: str, start: int, end: int, words: _Words) -> int:
    signs = words.no_word.match(text, start, end)
    return start if signs is None else signs.end()


def _words_at(text: str, host: int) -> _Words:
    return _SPACED_WORDS if _IS_UNSPACED.match(text, host) is None else _ALL_WORDS


def _domain_end(text: str, start: int, words: _Words) -> int:
    """Return where the domain of an address ends; 0 where there is none."""
    literal = _ADDRESS_LITERAL.match(text, start)
    if literal is not None:
        return literal.end()
    found = words.domain.match(text, start)
    if found is None:
        return 0
    end, position = 0, start
    for number, label in enumerate(found.group().split(".")):
        head = label.partition("-")[0]  # a hyphen may belong to the sentence
        if number and words.top_level.fullmatch(label):
            end = position + len(label)
        elif number and words.top_level.fullmatch(head):
            end = position + len(head)
        if words.label.fullmatch(label) is None:
            break
        position += len(label) + 1
    return end


def find_urls(text: str) -> Iterator[Span]:
    """Give what begins with a scheme and `://`, or with `www.`, up to a blank or a sign that no URL has (RFC 3986).

    Signs that end a sentence, and brackets that were not opened in it, do not belong to it.
    """
    starts = [*_after_schemes(text), *_after_www(text)]
    if not starts:
        return
    done = 0
    for start, host in sorted(starts):
        if start < done:
            continue
        url_body, needs_dot = _words_at(text, host).url_body, not text.startswith("://", host - 3)
        # Before the whole is read, which may hold many that are none.
        head = url_body.match(text, host, host + _LONGEST_HOST)
        if head is None or not _is_host(head.group(), needs_dot):
            continue
        body = url_body.match(text, head.end())
        body_end = head.end() if body is None else body.end()
        end = _without_sentence(text, start, body_end)
        if _is_host(text[host : min(end, head.end())], needs_dot):
            yield start, end
            done = body_end


def _is_host(name: str, needs_dot: bool) -> bool:
    return any(map(str.isalnum, name)) and (not needs_dot or "." in name)


def _after_schemes(text: str) -> Iterator[Span]:
    colon = text.find("://")
    while colon >= 0:
        before = _SCHEME.match(text[max(0, colon - 32) : colon][::-1])
        if before is not None:
            start = colon - before.end()
            escape = _ESCAPED_BLANK.match(text, start - 1) if start else None
            if escape is not None:
                start = escape.end()
            while start < colon and not text[start].isalpha():
                start += 1
            if start < colon:
                yield start, colon + 3
        colon = text.find("://", colon + 3)


def _after_www(text: str) -> Iterator[Span]:
    return ((found.start(), found.end()) for found in find_all(_WWW, text, 4))


def _without_sentence(text: str, start: int, end: int) -> int:
    opened = {closing: text.count(opening, start, end) for closing, opening in _BRACKETS.items()}
    closed = {closing: text.count(closing, start, end) for closing in _BRACKETS}
    while end > start:
        last = text[end - 1]
        if last in _BRACKETS and closed[last] > opened[last]:
            closed[last] -= 1
        elif last not in _AFTER_URL:
            break
        end -= 1
    return end


def find_ip_addresses(text: str) -> Iterator[Span]:
    """Give IPv4 addresses of four numbers up to 255, and IPv6 addresses (RFC 4291) but for `::` alone."""
    for found in find_all(_IPV4, text, _LONGEST_IPV6) if text.count(".") >= 3 else ():
        if all(int(part) <= 255 for part in found.group().split(".")):
            yield found.span()
    if "::" not in text and text.count(":") < 7:
        return
    for found in _HEX_RUN.finditer(text):
        start, end = found.span()
        if text.count(":", start, end) < 2 or end - start > _LONGEST_IPV6 + 2:
            continue
        span = _ipv6_in(text, start, end)
        if span is not None:
            yield span


def _ipv6_in(text: str, start: int, end: int) -> Span | None:
    """Return the address that a run of hexadecimal digits, colons and dots is, without the signs around it."""
    while end > start and text[end - 1] in ".:" and not text.startswith("::", end - 2):
        end -= 1
    if _is_word(text[start - 1 : start]):  # as in `IPv6:2001:db8::1`
        start = text.find(":", start, end) + 1
        if start == 0:
            return None
    while start < end and text[start] in ".:" and not text.startswith("::", start):
        start += 1
    if _is_word(text[start - 1 : start]) or _is_word(text[end : end + 1]):
        return None
    run = text[start:end]
    if not any(map(str.isdigit, run)) and len(run) < 10:  # `ab::cd` is code rather than an address
        return None
    for stop in (end, start + run.find(".")):
        try:
            ipaddress.IPv6Address(text[start:stop])
        except ValueError:
            continue
        return start, stop
    return None


def _is_word(character: str) -> bool:
    return character.isascii() and character.isalnum()


def find_phone_numbers(text: str) -> Iterator[Span]:
    """Give phone numbers that exist by their country's numbering plan; without `+` those of the USA and Canada."""
    from nerve.text.phones import find_numbers  # noqa: PLC0415 - an extra

    return find_numbers(text)


RULES: Mapping[PatternName, Rule] = {
    PatternName.EMAIL: find_emails,
    PatternName.URL: find_urls,
    PatternName.IP_ADDRESS: find_ip_addresses,
    PatternName.CREDIT_CARD: find_cards,
    PatternName.IBAN: find_ibans,
    PatternName.US_SSN: find_ssns,
    PatternName.PHONE_NUMBER: find_phone_numbers,
}


class Patterns:
    """The rules that are switched on, and what their entities are called.

    renamed: new names of labels, by the rules' own.
    """

    def __init__(self, names: Iterable[PatternName], renamed: Mapping[str, str]) -> None:
        chosen = set(names)
        # Not by label: several may have got one name.
        self._rules = [
            (renamed.get(name.label, name.label), rule) for name, rule in RULES.items() if name in chosen
        ]
        self._rules_without_digits = [
            (renamed.get(name.label, name.label), rule)
            for name, rule in RULES.items()
            if name in chosen and name not in _OF_DIGITS
        ]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that entities may have."""
        return tuple(dict.fromkeys(label for label, _ in self._rules))

    def find(self, text: str, labels: frozenset[str] | None = None) -> list[Entity]:
        """Return the entities of a text in its order, without overlaps: the longest whole, of equals the first.

        labels: only these; None for all.
        """
        found = self._find_twice(text, labels)
        way_back: list[Plain] = []
        inner = text
        while len(way_back) < _MOST_LEVELS and (plain := unescape(inner)) is not None:
            way_back.append(plain)
            inner = plain.text
            for each in self._find_twice(inner, labels):
                start, end = each.start, each.end
                for level in reversed(way_back):
                    start, end = level.span(start, end)
                found.append(Entity(each.label, each.score, start, end))
        return without_overlaps(text, sorted(found, key=lambda entity: entity.start - entity.end))

    def _find_twice(self, text: str, labels: frozenset[str] | None) -> list[Entity]:
        """Return what is found in a text, and in the text as its reader sees it."""
        found = self._find_in(text, labels)
        folded = fold(text)
        if folded is not None:
            found += [
                Entity(each.label, each.score, *folded.span(each.start, each.end))
                for each in self._find_in(folded.text, labels)
            ]
        return found

    def _find_in(self, text: str, labels: frozenset[str] | None) -> list[Entity]:
        rules = self._rules if _DIGIT.search(text) is not None else self._rules_without_digits
        return [
            Entity(label, 1.0, _before_escape(text, start), end)
            for label, rule in rules
            if labels is None or label in labels
            for start, end in rule(text)
        ]


def _before_escape(text: str, start: int) -> int:
    """Return where a span begins, with the whole of an escape whose end it begins with: half of one breaks JSON."""
    escape = json_escape_at(text, start)
    return start if escape is None else escape[0]
