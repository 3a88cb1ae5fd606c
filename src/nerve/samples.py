"""A small fixed set of texts for `nerve verify`: names, places and personal data in several languages.

All of it is invented; addresses and numbers come from ranges reserved for documentation. The set is the
same in every run, so that two runs can be compared.
"""

from __future__ import annotations

# Given name, surname, city, street.
_PEOPLE = (
    ("Maria", "Garcia", "Madrid", "Calle Mayor 12"),
    ("John", "Smith", "Boston", "14 Elm Street"),
    ("Zoë", "Müller", "Köln", "Hauptstraße 7"),
    ("Łukasz", "Nowak", "Kraków", "ul. Długa 3"),
    ("Aïcha", "Benali", "Marseille", "9 rue de la Paix"),
    ("José", "da Silva", "São Paulo", "Rua Augusta 1508"),
)
_TEMPLATES = (
    # English
    "My name is {given} {surname} and I live at {street}, {city}.",
    "Call {given} at +1 555 010 {n:04d} or write to {user}@example.com before Friday.",
    "Patient {given} {surname}, born 1984-0{d}-1{d}, MRN {n:08d}, was seen in {city}.",
    "SSN 000-12-{n:04d}, card 4111 1111 1111 1111, expires 0{d}/29, IP 192.0.2.{d}.",
    "{city} - The mayor met {surname} of Example Corp. on Tuesday; shares rose {d} percent.",
    "The meeting is about nothing in particular.",
    # German, French, Spanish, Italian, Portuguese, Dutch, Polish
    "Ich heiße {given} {surname} und wohne in der {street} in {city}. Tel. 0{n:04d} 123456.",
    "Je m'appelle {given} {surname}, j'habite au {street} à {city} ; mon mail : {user}@example.org.",
    "Me llamo {given} {surname}, vivo en {street}, {city}, y mi DNI es 0000{n:04d}X.",
    "Mi chiamo {given} {surname}, abito a {city}. Il mio IBAN è IT60X0542811101000000{n:06d}.",
    "Meu nome é {given} {surname}, moro em {city}, CPF 000.000.{n:03d}-0{d}.",
    "Ik ben {given} {surname} uit {city} en mijn wachtwoord is geheim{n}!",
    "Nazywam się {given} {surname}, mieszkam w: {street}, {city}.",
    # Russian, Greek, Turkish, Arabic, Hindi, Chinese, Japanese, Korean
    "Меня зовут Анна Иванова, я живу в Москве, телефон +7 900 {n:03d}-00-0{d}.",
    "Με λένε Γιώργος Παπαδόπουλος και μένω στην Αθήνα, {street}.",
    "Benim adım Ayşe Yılmaz, İstanbul'da oturuyorum, {user}@example.com.",  # noqa: RUF001
    "اسمي محمد علي وأسكن في القاهرة، رقم هاتفي {n:08d}.",
    "मेरा नाम राहुल शर्मा है और मैं दिल्ली में रहता हूँ।",
    "我叫王小明,住在北京市朝阳区,电话 1380000{n:04d}。",
    "山田太郎です。東京都に住んでいます。{user}@example.jp",
    "제 이름은 김민수이고 서울에 살아요.",
    # Chat, markup, code
    "hey {given} 😀 r u in {city}?? ping me @{user} 👍🏽",
    '{{"user": "{given} {surname}", "email": "{user}@example.net", "id": {n}}}',
    "<p>Dear <b>{given}</b>,<br>your order #{n:06d} ships to {street}.</p>",
)
# Sentences of the long text at the end: more than one window of most models.
_LONG = 60


def sample_texts() -> list[str]:
    """Return the set: short texts, and one long one that needs several windows."""
    texts = [
        template.format(
            given=given,
            surname=surname,
            city=city,
            street=street,
            user=f"user{person}{index}",
            n=1000 + 37 * index + person,
            d=1 + person,
        )
        for index, template in enumerate(_TEMPLATES)
        for person, (given, surname, city, street) in enumerate(_PEOPLE)
    ]
    return [*dict.fromkeys(texts), " ".join(texts[:_LONG])]
