"""The texts of the parity check: deterministic, mostly short, from ordinary to hostile.

Every text is made here from fixed material and a fixed seed; no real person, no file. Changing anything
changes the checksum that stands in the goldens, so record them again (`make golden`) afterwards.
"""

# ruff: noqa: E501 - tables of look-alike characters: one piece per line would hide them

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Locale:
    """Names, places and sentences of one language; every list is indexed by a random choice."""

    given: str
    surnames: str
    cities: str
    streets: str
    templates: str


# Words are separated by "|" so that they may hold blanks.
LOCALES = {
    "en": Locale(
        "Sarah|John|Priya|Kwame|O'Neil|Mary-Jane",
        "Connor|Smith|McDonald|van Dyke|Okafor|D'Angelo",
        "London|New York|San José|Leeds|St. Louis",
        "Baker Street|5th Avenue|Elm St.|Wallaby Way",
        "My name is {g} {s}.|I live at {n} {r}, {c} {z}.|Call {g} on {p} or write to {e}."
        "|{g} {s}, born {d}, passport {id}|Dear Mr {s}, your account {iban} was charged.",
    ),
    "de": Locale(
        "Jürgen|Änne|Heinz-Peter|Zoë",
        "Müller|Groß|von der Heide|Schäfer",
        "München|Köln|Frankfurt am Main",
        "Hauptstraße|Am Bahnhof|Goethestr.",
        "Ich heiße {g} {s} und wohne in {c}.|{r} {n}, {z} {c}|Rufen Sie {g} unter {p} an!|IBAN: {iban}",
    ),
    "fr": Locale(
        "Élodie|Jean-Luc|Zoé|François",
        "Lefèvre|d'Artagnan|L'Hôpital|Ménard",
        "Paris|Saint-Étienne|Nîmes",
        "rue de l'Église|boulevard Voltaire",
        "Je m'appelle {g} {s}.|J'habite au {n} {r}, {z} {c}.|Écrivez à {e}, s'il vous plaît.",
    ),
    "es": Locale(
        "José|María|Begoña|Íñigo",
        "García López|Núñez|Ibáñez|de la Cruz",
        "Málaga|Ciudad de México|A Coruña",
        "Calle Mayor|Avenida de América",
        "¿Eres {g} {s}?|¡Vivo en {c}, {r} {n}!|Mi teléfono es {p} y mi DNI {id}.",
    ),
    "it": Locale(
        "Niccolò|Giulia|Chloé",
        "Dell'Acqua|Rossi|De Niro",
        "Forlì|Roma|Reggio nell'Emilia",
        "Via Garibaldi|Piazza dell'Unità",
        "Mi chiamo {g} {s} e abito a {c}.|L'indirizzo: {r}, {n} - {z} {c}|Codice fiscale {id}",
    ),
    "pt": Locale(
        "João|Inês|Conceição",
        "Gonçalves|Araújo|dos Santos",
        "São Paulo|Évora|Brasília",
        "Rua da Prata|Praça da Sé",
        "Chamo-me {g} {s}.|Moro na {r}, {n}, {c}.|O telefone de {g} é {p}.",
    ),
    "nl": Locale(
        "Daniël|IJsbrand|Sanne",
        "van den Berg|de Vries|'t Hart",
        "'s-Gravenhage|IJmuiden|Utrecht",
        "Kerkstraat|Laan van Meerdervoort",
        "Ik ben {g} {s} uit {c}.|Adres: {r} {n}, {z} {c}|Bel {p} of mail {e}",
    ),
    "pl": Locale(
        "Łukasz|Małgorzata|Żaneta",
        "Wiśniewski|Dąbrowska|Źrebiec",
        "Łódź|Kraków|Świnoujście",
        "ulica Długa|al. Jerozolimskie",
        "Nazywam się {g} {s}.|Mieszkam w {c}, {r} {n}.|PESEL {id}, tel. {p}",
    ),
    "cs": Locale(
        "Jiří|Šárka|Ondřej",
        "Dvořák|Černá|Říha",
        "Plzeň|České Budějovice",
        "Vinohradská|Na Příkopě",
        "Jmenuji se {g} {s}.|Bydlím v {c}, {r} {n}.|Kontakt: {e}, {p}",
    ),
    "tr": Locale(
        "İbrahim|Ayşe|Gökçe|Işıl",
        "Yılmaz|Öztürk|Çağlar",
        "İstanbul|Iğdır|Diyarbakır",
        "Atatürk Caddesi|İstiklal Cad.",
        "Benim adım {g} {s}.|{c}'da oturuyorum: {r} No:{n}|TC kimlik {id}",
    ),
    "ru": Locale(
        "Алёна|Фёдор|Юрий",
        "Иванов|Щербакова|Подъячев",
        "Москва|Санкт-Петербург|Йошкар-Ола",
        "улица Ленина|Невский проспект",
        "Меня зовут {g} {s}.|Я живу в городе {c}, {r}, {n}.|Паспорт {id}, телефон {p}",
    ),
    "el": Locale(
        "Γιώργος|Ελένη",
        "Παπαδόπουλος|Αΐδη",
        "Αθήνα|Θεσσαλονίκη",
        "Οδός Ερμού",
        "Με λένε {g} {s}.|Μένω στην {c}, {r} {n}.|{e} ΟΔΥΣΣΕΥΣ",
    ),
    "zh": Locale(
        "伟|秀英|小明",
        "王|欧阳|李",
        "北京|上海市|台北",
        "长安街|中山路",
        "我叫{s}{g},住在{c}{r}{n}号。|请联系{s}{g}:{p}|{c} is where {s}{g} lives",
    ),
    "ja": Locale(
        "さくら|健太|ジョン",
        "山田|鈴木|スミス",
        "東京都|大阪市",
        "銀座通り|本町",
        "私の名前は{s}{g}です。|住所は{c}{r}{n}番地、〒{z}。|メール:{e}",
    ),
    "ko": Locale(
        "지민|민수",
        "김|박",
        "서울특별시|부산",
        "세종대로",
        "제 이름은 {s}{g}입니다.|주소: {c} {r} {n}|{p}로 전화",
    ),
    "ar": Locale(
        "محمد|فاطمة|نُور",
        "الأحمد|بن علي",
        "القاهرة|الرياض",
        "شارع التحرير",
        "اسمي {g} {s}.|أسكن في {c}، {r} {n}.|هاتف: {p}",
    ),
    "he": Locale(
        "שָׂרָה|יוסי", "כהן|בן-דוד", "תל אביב|ירושלים", "רחוב הרצל", "שמי {g} {s}.|אני גר ב{c}, {r} {n}"
    ),
    "hi": Locale(
        "प्रिया|राहुल", "शर्मा|गुप्ता", "नई दिल्ली|मुंबई", "महात्मा गांधी मार्ग", "मेरा नाम {g} {s} है।|पता: {r} {n}, {c}"
    ),
}

NEWS = (
    "{c} (Reuters) - {g} {s}, chief executive of {s} & Sons plc, said on Tuesday the firm would cut {n} jobs.",
    "Shares in the {c}-based bank fell {n}.{n}% after regulators, led by {g} {s}, opened an inquiry.",
    "The minister's spokeswoman, {g} {s}, declined to comment; officials in {c} did not reply to e-mails.",
    '"We won\'t leave {c}," {s} told reporters – adding: “not this year.”',
    "UPDATE 2-{c} court jails ex-U.S. envoy {s}... for {n} years",
)
CODE = (
    'def greet(name: str = "{g}") -> None:\n    print(f"Hello {{name}}, {e}")  # {s}\n',
    "const user = {{ id: {n}, mail: '{e}', city: `{c}` }};\n\tif (user.id !== {n}) throw new Error(\"{p}\");",
    "SELECT * FROM users WHERE name = '{g} {s}' AND zip='{z}'; -- {d}",
    "curl -H 'Authorization: Bearer {id}' https://api.example.com/v1/users/{n}?q={g}%20{s}",
    '#include <stdio.h>\nint main(void){{return printf("%s\\n","{iban}");}}',
)
HTML = (
    "<p class=\"name\">{g} <b>{s}</b></p>\n<a href='mailto:{e}'>{e}</a>",
    "<table><tr><td>{c}</td><td>{p}</td></tr></table>",
    "<!-- {g} --><script>var s='{s}';</script>&nbsp;{c}&amp;co &#8364;{n}",
)
CHAT = (
    "{g}: hey!! u in {c}? 😂😂 call me {p}",
    "[{d} 09:{n}] @{g}_{s}: lol ok... my addy is {n} {r} thx xx",
    "> {g} wrote:\n> {e}\n\nYES pls 👍🏽 -{s}",
    "omg sooooooooooo good {g}!!!1 #{c} www.{s}.com",
)
# Pieces that tokenizers and offset rules stumble over, each put beside ordinary material.
HOSTILE = (
    "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "é", "Z̷̨͓͐a̶l̵g̸o̷", "Jose\u0301", "A\u030angstro\u0308m", "ｆｕｌｌ－ｗｉｄｔｈ　１２３", "ﬁﬀﬄ",
    "\u200b", "John\u200bSmith", "\u200dx\u200c", "\ufeff", "\u2060", "\u00ad", "co\u00adop", "\u202eabc\u202c", "\u200f\u200e", "\x00", "a\x00b",
    "\x07\x1b[31m", "\x7f", "\x85", "\u2028\u2029", "\r\n", "\t\t", "\u00a0", "\u3000", "\u2003", "\u0378", "\U000e0041", "\U0010ffff", "\ue000",
    "\ufffd", "\uffff", "½⅓№™", "²³", "İstanbul", "ſtraße", "ẞ", "ŉ", "ΌΣΟΣ", "Ǆ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "𓀀𓁐", "กรุงเทพมหานคร", "ព្រះរាជាណាចក្រ", "မြန်မာ",
    "[CLS]", "[SEP]", "[UNK]", "[MASK]x", "[PAD]", "<s>", "</s>", "<mask>", " <mask> ", "<unk>", "##ing", "##", "▁", "Ġ", "a▁b", "@@", "'", "''", "...", "--", "‚‘’“”„",
    "C++", "x=y+z;", "O'Brien-Smith's", "http://a.b/c?d=e&f=g#h", "1,234.56", "$€£¥", "#@!%&*()", "\u200b\u200b", "한글", "각", "が", "か\u3099",
)  # fmt: skip
BLANKS = (
    "", " ", "  ", "\n", "\t", "\r\n", "\u00a0", "\u3000", "\u200b", "\ufeff", "\x00", " \n \t ", ".", "a", "é", "😀", "中", "[SEP]", "\u0301", "\U0010ffff",
)  # fmt: skip


def texts() -> list[str]:
    """Give all texts, each once, always in the same order."""
    chance = random.Random(20_240)
    made = list(BLANKS)
    for locale in LOCALES.values():
        made += [_letter(chance, locale) for _ in range(76)]
    names = list(LOCALES.values())
    for templates, count in ((NEWS, 190), (CODE, 130), (HTML, 90), (CHAT, 160)):
        # Prose of one language with the names of another, as in real documents.
        made += [_fill(chance, chance.choice(names[:12]), chance.choice(templates)) for _ in range(count)]
    made += [_json(chance, chance.choice(names)) for _ in range(90)]
    made += [_hostile(chance, names, piece) for piece in HOSTILE for _ in range(3)]
    made += [_soup(chance) for _ in range(60)]
    made += [_long_word(chance) for _ in range(20)]
    return list(dict.fromkeys(made))


def checksum(of: list[str]) -> str:
    """Give the SHA-256 by which the goldens name their texts."""
    return hashlib.sha256(json.dumps(of).encode()).hexdigest()


def _fill(chance: random.Random, locale: Locale, template: str) -> str:
    given, surname = chance.choice(locale.given.split("|")), chance.choice(locale.surnames.split("|"))
    digits = "".join(chance.choice("0123456789") for _ in range(22))
    return template.format(
        g=given,
        s=surname,
        c=chance.choice(locale.cities.split("|")),
        r=chance.choice(locale.streets.split("|")),
        n=chance.choice(["7", "12", "221b", "1-3", "4 1/2"]),
        z=chance.choice([digits[:5], digits[:4] + " AB", "NW1 6XE", digits[:3] + "-" + digits[3:7]]),
        p=chance.choice([f"+{digits[:2]} {digits[2:5]} {digits[5:12]}", f"({digits[:3]}) {digits[3:6]}-{digits[6:10]}"]),
        e=f"{given.split()[0].lower()}.{chance.choice(['x', surname.split()[-1].lower()])}@example.org",
        d=f"{digits[0]}.{digits[1]}.19{digits[2:4]}",
        id=f"{chance.choice('ABCXYZ')}{digits[:8]}",
        iban=chance.choice([f"DE{digits[:20]}", f"GB{digits[:2]} NWBK {digits[2:6]} {digits[6:10]}"]),
    )  # fmt: skip


def _letter(chance: random.Random, locale: Locale) -> str:
    """Write one or two sentences of one language."""
    templates = locale.templates.split("|")
    return " ".join(_fill(chance, locale, chance.choice(templates)) for _ in range(chance.choice([1, 1, 2])))


def _json(chance: random.Random, locale: Locale) -> str:
    record = {
        "name": _fill(chance, locale, "{g} {s}"),
        "phones": [_fill(chance, locale, "{p}")],
        "address": {"city": _fill(chance, locale, "{c}"), "zip": _fill(chance, locale, "{z}")},
        "age": chance.randrange(100),
        "ok": None,
    }
    kept = dict(chance.sample(sorted(record.items()), 3))
    return json.dumps(kept, ensure_ascii=chance.random() < 0.3, indent=chance.choice([None, 1]))


def _hostile(chance: random.Random, names: list[Locale], piece: str) -> str:
    text = _fill(chance, chance.choice(names), "{g} {s} {c}")
    where = chance.randrange(len(text) + 1)
    glue = chance.choice(["", "", " "])
    return text[:where] + glue + piece + glue + text[where:]


def _soup(chance: random.Random) -> str:
    """Join random code points of all planes, surrogates excepted, with words between them."""
    parts = []
    for _ in range(chance.randrange(3, 12)):
        point = chance.choice([chance.randrange(0x80), chance.randrange(0x3000), chance.randrange(0x110000)])
        parts.append("\ufffd" if 0xD800 <= point < 0xE000 else chr(point))
        parts.append(chance.choice(["", " ", "Anna", "Berlin ", "42"]))
    return "".join(parts)


def _long_word(chance: random.Random) -> str:
    length = chance.choice([60, 99, 100, 101, 150])
    word = "".join(chance.choice("abcdefghijklmnopqrstuvwxyzäöüß0123456789") for _ in range(length))
    return chance.choice(["{}", "Anna {} Smith", "https://example.org/{}", "x.{}@example.org"]).format(word)
