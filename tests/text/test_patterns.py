"""Entities that are found by rule: what is one, what is none, and a time that grows with the text alone."""

# ruff: noqa: E501 - tables of texts

from __future__ import annotations

import json
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nerve.text import identifiers, scanning
from nerve.text import patterns as patterns_module
from nerve.text.identifiers import passes_luhn, passes_mod_97
from nerve.text.patterns import Patterns
from nerve.types import PatternName

SHIPPED = [name for name in PatternName if name is not PatternName.PHONE_NUMBER]


def found(name: str, text: str) -> list[str]:
    """Give what a rule finds."""
    return [text[each.start : each.end] for each in Patterns([PatternName(name)], {}).find(text)]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("email", "Mail bob@x.org.", ["bob@x.org"]),
        ("email", "<bob.s+tag@mail.example.co.uk>, 'ann@y.org'", ["bob.s+tag@mail.example.co.uk", "ann@y.org"]),
        ("email", "Bob@X.ORG,ann@y.org;c@z.io", ["Bob@X.ORG", "ann@y.org", "c@z.io"]),
        ("email", "邮箱是bob@x.org谢谢", ["bob@x.org"]),
        ("email", "müller@bücher.de, re\u0301ne@x.org", ["müller@bücher.de", "re\u0301ne@x.org"]),
        ("email", "\u202bbob@x.org\u202c 😀bob@x.org😀", ["bob@x.org", "bob@x.org"]),
        ("email", "bo\u200bb@x.o\u200brg", ["bo\u200bb@x.o\u200brg"]),
        ("email", "bob@x.org\r\nann@y.org--", ["bob@x.org", "ann@y.org"]),
        ("email", 'bob@[1.2.3.4] "john doe"@x.org', ["bob@[1.2.3.4]", '"john doe"@x.org']),
        ("email", "bob@x.org-foo bob@x-y.org. o'brien@x.org", ["bob@x.org", "bob@x-y.org", "o'brien@x.org"]),
        ("email", "jane＠x.org, ｊａｎｅ＠ｘ．ｏｒｇ。用户@例子.广告, o’brien@x.org", ["jane＠x.org", "ｊａｎｅ＠ｘ．ｏｒｇ", "用户@例子.广告", "o’brien@x.org"]),
        ("email", "?to=bob%40x.org&n=50%40 off, j\u0336a\u0336@\u0336x\u0336.\u0336o\u0336r\u0336g\u0336.", ["bob%40x.org", "j\u0336a\u0336@\u0336x\u0336.\u0336o\u0336r\u0336g\u0336"]),
        ("email", r'"\nbob@x.org" "\u003cann@y.org\u003e" C:\\ann@y.org', [r"\nbob@x.org", "ann@y.org", "ann@y.org"]),
        ("email", r"DOMAIN\roger@x.org CORP\tom@x.org \nina@x.org CORP\ann@x.org", [r"\roger@x.org", r"\tom@x.org", r"\nina@x.org", "ann@x.org"]),
        ("email", r'"x\\\nbob@x.org" "\bob@x.org" "\\\\ina@x.org" "\"joe d\"@x.org" C:\\bob@x.org', [r"\nbob@x.org", r"\bob@x.org", "ina@x.org", r"\"joe d\"@x.org", r"\\bob@x.org"]),
        ("email", r'{"a":"{\"b\":\"\\nbob@x.org\"}"} {"a":"\\u003cbob@x.org\\u003e"} UNI\u0027123@x.edu', [r"\\nbob@x.org", "bob@x.org", r"UNI\u0027123@x.edu"]),
        ("email", r"\ud83d\ude00bob@x.org \\u662f\\u3002ann@x.org\\n \u3002u\u00fc@x.org \u00fcu@x.org", ["bob@x.org", "ann@x.org", r"u\u00fc@x.org", r"\u00fcu@x.org"]),
        ("email", '{"a": "@x.org", "b":"@y.org", "c":["d","@z.org"], "e":"f \\"@x.org"}', []),
        ("email", r"pass\n@app.route \u003c@x.org \t.@x.org \\n@app.route", []),
        ("email", "caf%C3%A9@x.org bob&commat;x&Period;org a&shy;nn@x.org", ["caf%C3%A9@x.org", "a&shy;nn@x.org"]),
        ("email", r"bob&#64;x.org ann&#x40;x&period;org jo\u0040z.io b\u00fccher@x.org", ["bob&#64;x.org", "ann&#x40;x&period;org", r"jo\u0040z.io", r"b\u00fccher@x.org"]),
        ("email", "bo\x00b@x.o\x7frg a\u3164nn@\u115fy.org", ["bo\x00b@x.o\x7frg", "a\u3164nn@\u115fy.org"]),
        ("email", "@x.org bob@localhost @@@ x@1.2.3.4 a@b", []),
        ("url", "see http://x.org/a?b=c#d. (https://en.w.org/A_(b))", ["http://x.org/a?b=c#d", "https://en.w.org/A_(b)"]),
        ("url", '<http://x.org> "HTTP://Y.ORG" [a](http://z.org)', ["http://x.org", "HTTP://Y.ORG", "http://z.org"]),
        ("url", "请看https://example.com/，谢谢 www.x.org, www.", ["https://example.com/", "www.x.org"]),
        ("url", "见https://例子.广告/路径，和http://谢谢。", ["https://例子.广告/路径", "http://谢谢"]),
        ("url", "postgres://u:p@h:5432/db", ["postgres://u:p@h:5432/db"]),
        ("url", r'"https:\/\/x.org\/a" \nhttp://y.org/?a\u003db\u0026c, url=https%3A%2F%2Fz.org%2Fa', [r"https:\/\/x.org\/a", r"http://y.org/?a\u003db\u0026c", "https%3A%2F%2Fz.org%2Fa"]),
        ("url", r"_www.x.org_ ｈｔｔｐｓ：／／x.org \nwww.y.org \\nwww.z.org", ["www.x.org", "ｈｔｔｐｓ：／／x.org", "www.y.org", "www.z.org"]),
        ("url", "http:// ://x bob@www.x.org a.www.b.org", []),
        ("ip_address", "192.168.1.1 10.0.0.0/8, 10.0.0.1.", ["192.168.1.1", "10.0.0.0", "10.0.0.1"]),
        ("ip_address", "地址192.168.1.1。", ["192.168.1.1"]),
        ("ip_address", "１９２.１６８.１.１ 10\u200b.0.0.1 ::ffff:192.0.2.128", ["１９２.１６８.１.１", "10\u200b.0.0.1", "::ffff:192.0.2.128"]),
        ("ip_address", r"_10.0.0.1_ \n10.0.0.2\t _2001:db8::1_ \r2001:db8::2\n", ["10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2"]),
        ("ip_address", r'{"a":"{\"b\":\"\\n10.0.0.1\\t\"}"} &amp;#49;0.0.0.2 %25310.0.0.3', ["10.0.0.1", "&amp;#49;0.0.0.2", "%25310.0.0.3"]),
        ("ip_address", "a%0D%0A10.0.0.1%0D%0A %E2%80%8B10.0.0.2 10.0&shy;.0.3 10.0%F3%A0%80%81.0.4", ["10.0.0.1", "10.0.0.2", "10.0&shy;.0.3", "10.0%F3%A0%80%81.0.4"]),
        ("ip_address", r"\fe80::1 x1:.: ::", [r"\fe80::1"]),
        ("ip_address", "%C3%2810.0.0 %E2%80 %ED%A0%80 %C0%AE %F4%90%80%80 &nosuch; &acE; &#9999999; 1.2.3.4.5 256.1.1.1 v1.2.3.4", []),
        ("ip_address", "2001:db8::1. ::1 [fe80::1%eth0]:80", ["2001:db8::1", "::1", "fe80::1"]),
        ("ip_address", "IPv6:2001:0db8:85a3:0000:0000:8a2e:0370:7334", ["2001:0db8:85a3:0000:0000:8a2e:0370:7334"]),
        ("ip_address", "12:30:45 std::string a :: b ab::cd aa:bb:cc:dd:ee:ff", []),
        ("credit_card", "4111 1111 1111 1111, 4111-1111-1111-1111", ["4111 1111 1111 1111", "4111-1111-1111-1111"]),
        ("credit_card", "378282246310005 30569309025904", ["378282246310005", "30569309025904"]),
        ("credit_card", "3782 822463 10005", ["3782 822463 10005"]),
        ("credit_card", "12 5555 5555 5555 4444 123", ["5555 5555 5555 4444"]),
        ("credit_card", "٤١١١١١١١١١١١١١١١ 4111\u00a01111\u00a01111\u00a01111", ["٤١١١١١١١١١١١١١١١", "4111\u00a01111\u00a01111\u00a01111"]),
        ("credit_card", "4111 - 1111 - 1111 - 1111 4111.1111.1111.1111", ["4111 - 1111 - 1111 - 1111", "4111.1111.1111.1111"]),
        ("credit_card", "4111\u200d1111\u200d1111\u200d1111 ４１１１－１１１１－１１１１－１１１１", ["4111\u200d1111\u200d1111\u200d1111", "４１１１－１１１１－１１１１－１１１１"]),
        ("credit_card", "7,4111111111111111,123 0604 0000 0000 180000000000002", ["4111111111111111", "0604 0000 0000", "180000000000002"]),
        ("credit_card", "4111  1111  1111  1111, 4111 1111\r\n1111 1111, 4111-1111-\n1111-1111", ["4111  1111  1111  1111", "4111 1111\r\n1111 1111", "4111-1111-\n1111-1111"]),
        ("credit_card", "x%094111111111111111 4111%C2%A01111%C2%A01111%C2%A01111 4111&ndash;1111&#150;1111&#x2013;1111", ["4111111111111111", "4111%C2%A01111%C2%A01111%C2%A01111", "4111&ndash;1111&#150;1111&#x2013;1111"]),
        ("credit_card", "pan=4111+1111+1111+1111&cvc=1 /pay?a=&pan=4111+1111+1111+1111", ["4111+1111+1111+1111", "4111+1111+1111+1111"]),
        ("credit_card", "4111+1111+1111+1111 n=4111+1111+1111+1111 x ?4111+1111+1111+1111 =4111+1111+1111+1111&", []),
        ("credit_card", r"\u00224111111111111111\u0022", ["4111111111111111"]),
        ("credit_card", "20240305123459 20240305123456782 352099001761481 511-9988776-1234560 41111111\n11111111 4111 1111\n111111 11", []),
        ("credit_card", "511.111.111.118 511,111,111,118 4111\n1111\n1111\n1111 41.11.1111.1111.1111", []),
        ("credit_card", "4111111111111112 0.4111111111111111 41111111111111111111111", []),
        ("iban", "DE89370400440532013000 DE89 3704 0044 0532 0130 00.", ["DE89370400440532013000", "DE89 3704 0044 0532 0130 00"]),
        ("iban", "gb29nwbk60161331926819 FR14 2004 1010 0505 0001 3M02 606", ["gb29nwbk60161331926819", "FR14 2004 1010 0505 0001 3M02 606"]),
        ("iban", "IBANDE89370400440532013000 DE89 3704\r\n0044 0532 0130 00, DE89.3704.0044.0532.0130.00", ["DE89370400440532013000", "DE89 3704\r\n0044 0532 0130 00", "DE89.3704.0044.0532.0130.00"]),
        ("iban", "DE89370400440532013001 xDE89370400440532013000 DE893704004405320130001 ZZ89370400440532013000", []),
        ("us_ssn", "123-45-6789 SSN123-45-6789x 123 45 6789 123.45.6789", ["123-45-6789", "123-45-6789", "123 45 6789", "123.45.6789"]),
        ("us_ssn", "123\u201145\u20116789", ["123\u201145\u20116789"]),
        ("us_ssn", "123 - 45 - 6789, 123\u200b-45-6789 5\ufe0f\u20e336-22-1234", ["123 - 45 - 6789", "123\u200b-45-6789", "5\ufe0f\u20e336-22-1234"]),
        ("us_ssn", 'SSN: 536221234 {"ssn":"536221234"} social security number 536221234', ["536221234", "536221234", "536221234"]),
        ("us_ssn", "123-45-\r\n6789, 536\u2010\n22\u20101234 123 \n45 \n6789", ["123-45-\r\n6789", "536\u2010\n22\u20101234"]),
        ("us_ssn", "order 536221234 lessn 536221234 SSN 5362212345 SSN 666221234 SSN of the caller is not known, order 536221234", []),
        ("us_ssn", "123-45 6789 666-45-6789 900-45-6789 000-12-3456 123-00-4567 123-45-0000", []),
        ("us_ssn", "1123-45-6789 123-45-67890 0-123-45-6789 123-45-6789-1", []),
    ],
)  # fmt: skip
def test_what_is_found(name: str, text: str, expected: list[str]) -> None:
    """Forms that are in use, and texts that only look alike."""
    assert found(name, text) == expected


PIECES = [
    "bob@x.org",
    "nina@x.org",
    "http://x.org/a",
    "10.0.0.1",
    "fe80::1",
    "4111 1111 1111 1111",
    "www.x.org",
]
SIGNS = [
    *(
        "\\",
        "\n",
        "\t",
        "\f",
        "\b",
        '"',
        "/",
        " ",
        "<",
        ">",
        "é",
        "😀",
        "\u200b",
        "%0A",
        "&ndash;",
        "+",
        "a",
        "n",
    )
]


@given(st.lists(st.sampled_from([*PIECES, *SIGNS]), max_size=12), st.booleans())
@example(["\\", "\n", "bob@x.org"], False)
@example(["\n", "http://x.org/a"], False)
@example(["\f", "e80::1"], True)
@example(["\f", "http://x.org/a", "%0A"], False)
def test_json_stays_json(pieces: list[str], is_ascii: bool) -> None:
    """With another text in the place of what was found, and so does JSON within it."""
    inner = json.dumps({"b": "".join(pieces)}, ensure_ascii=is_ascii)
    text = json.dumps({"a": inner}, ensure_ascii=is_ascii)
    parts, position = [], 0
    for each in Patterns(SHIPPED, {}).find(text):
        parts += (text[position : each.start], "<X>")
        position = each.end
    masked = json.loads("".join((*parts, text[position:])))
    assert "b" in json.loads(masked["a"])


@pytest.mark.parametrize("name", SHIPPED)
@given(text=st.text(alphabet="ab1. :@/-@[]wW\u200b\u0301é中😀٣4\r\n", max_size=120))
def test_spans_are_in_order_and_not_empty(name: PatternName, text: str) -> None:
    """Whatever the text."""
    spans = [(each.start, each.end) for each in Patterns([name], {}).find(text)]
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert spans == sorted(spans)


def check_digit(digits: str) -> str:
    """Append Luhn's check digit."""
    return next(digits + str(last) for last in range(10) if passes_luhn(digits + str(last)))


@given(st.integers(0, 10**12 - 1), st.sampled_from(["", " ", "-"]))
@example(50_000_000_000, " ")  # the last three groups of the wrong number are a card of 12 digits
def test_cards_that_pass_are_found_and_others_are_not(number: int, gap: str) -> None:
    """A wrong digit is noticed: Luhn's check sees every one. Groups of a number may be a shorter card themselves."""
    digits = check_digit(f"411{number:012}")
    wrong = digits[:-1] + str((int(digits[-1]) + 1) % 10)
    right, written = (gap.join(one[k : k + 4] for k in range(0, 16, 4)) for one in (digits, wrong))
    assert found("credit_card", f"card {right}!") == [right]
    for part in found("credit_card", f"card {written}!"):
        assert gap
        assert part in (written[:14], written[5:])
        assert passes_luhn(part.replace(gap, ""))


@given(st.integers(0, 10**18 - 1))
def test_ibans_that_pass_are_found_and_others_are_not(number: int) -> None:
    """A wrong check digit is noticed."""
    check = 98 - int(f"{number:018}131400") % 97
    iban = f"DE{check:02}{number:018}"
    assert passes_mod_97(iban)
    assert found("iban", f"to {iban}.") == [iban]
    assert found("iban", f"to DE{(check + 1) % 100:02}{number:018}.") == []


def test_the_longest_stays() -> None:
    """Of entities that overlap; a card in a URL is a part of the URL."""
    patterns = Patterns([PatternName.URL, PatternName.CREDIT_CARD, PatternName.EMAIL], {"URL": "LINK"})
    text = "https://x.org/?c=4111111111111111&m=a@x.org 4111111111111111"
    assert [(e.label, e.start, e.end, e.score) for e in patterns.find(text)] == [
        ("LINK", 0, 43, 1.0),
        ("CREDIT_CARD", 44, 60, 1.0),
    ]
    only = patterns.find(text, frozenset(["CREDIT_CARD"]))
    assert [(e.start, e.end) for e in only] == [(17, 33), (44, 60)]
    assert patterns.labels == ("EMAIL", "LINK", "CREDIT_CARD")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see bob@x.orghttp://x.org/a now", {"EMAIL": "bob@", "URL": "x.orghttp://x.org/a"}),
        ("see http://x.org/a?m=bob@x.org", {"URL": "http://x.org/a?m=bob@x.org"}),
    ],
)
def test_what_a_longer_one_leaves_stays(text: str, found: dict[str, str]) -> None:
    """A rule has found it, so it is not shown."""
    entities = Patterns([PatternName.URL, PatternName.EMAIL], {}).find(text)
    assert {entity.label: text[entity.start : entity.end] for entity in entities} == found


CLASSES = [
    *("@", "a@", "x@x.", "a@x.org ", '"@', "://", "a://", "http://x.org) ", "www.", "www.a ", "a."),
    *("1", "1 ", "4444 ", "4", "1.", "1.1.1.", "::", "1:", "a:", "f", "fe80::1 ", "DE12 ", "de12", "1-"),
    *(
        "ssn 123456789 ",
        "4111.",
        " - ",
        "%40",
        "&#64;",
        "\\u0040",
        "\\/",
        "\\n",
        "4111\n",
        "\x00",
        "@例.",
        "１",
        "1\u0336",
        "DE89\r\n",
    ),
    *(
        "x1:.: ",
        "x1:.: ::",
        "::x1:.: ",
        "x1:.:1::2 ",
        "%0A",
        "%E2%80%8B",
        "%C3",
        "&shy;",
        "&ndash;1",
        "&" + "a" * 32,
    ),
    *("=+", "?a=+", "&a=1+", "a=1+& ", "\\", "\\n@a.b", "\\\\nb@a.bc "),
    *("123-45-6789 ", "-", " ", "\u00a01", ")", "é", "\u0301", "\u200b", "😀", "中", "٣", "((((http://"),
]
# What might be a URL at many places, and at none of them is one: each could be read up to the end of the text.
FAR_APART = ["a://" + "(" * 300, "a://" + "-" * 300, "/www." + "a" * 300]


@pytest.mark.timeout(600)  # 20 s, where others leave it the processor
def test_time_grows_with_the_text_alone() -> None:
    """0.5 MB of each class of characters, and of a mixture, takes about a second at most; quadratic would be minutes.

    The processor's time: others may use it meanwhile.
    """
    chance = random.Random(3)
    mixture = "".join(chance.choice(CLASSES) for _ in range(300_000))
    sizes = {**dict.fromkeys((mixture, *CLASSES), 1 << 19), **dict.fromkeys(FAR_APART, 1 << 21)}
    for kind, size in sizes.items():
        text = (kind * (size // len(kind) + 1))[:size]
        started = time.process_time()
        Patterns(SHIPPED, {}).find(text)
        assert time.process_time() - started < 10, kind[:20]


def test_rules_with_one_name_are_all_asked() -> None:
    """Renaming two labels to one costs neither its rule."""
    patterns = Patterns(list(PatternName)[:6], {"EMAIL": "X", "URL": "X", "US_SSN": "X"})
    assert patterns.labels == ("X", "IP_ADDRESS", "CREDIT_CARD", "IBAN_CODE")
    found = patterns.find("a@x.org https://x.org/ 536-22-1234")
    assert [(each.label, each.start) for each in found] == [("X", 0), ("X", 8), ("X", 23)]


@given(st.text("wW.@_1234567890-AZ \u00a0d", max_size=60), st.integers(1, 7))
@example("www.536-22-1234 1.2.3.4", 1)
def test_steps_change_nothing(text: str, step: int) -> None:
    """A long text is gone through in steps; what lies across their borders is found as without."""
    patterns = (patterns_module._WWW, patterns_module._IPV4, identifiers._SSN, identifiers._IBAN_START)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "_STEP", step)
        for pattern in patterns:
            found = [each.span() for each in scanning.find_all(pattern, text, 45)]
            assert found == [each.span() for each in pattern.finditer(text)]
        in_steps = Patterns(list(PatternName)[:6], {}).find(text)
    assert in_steps == Patterns(list(PatternName)[:6], {}).find(text)
