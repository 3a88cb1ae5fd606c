"""Two small fixed sets of texts: one that `nerve verify` judges by, one that int8 graphs are calibrated on.

Names, places and personal data in several languages, and prose. All of it is invented; addresses and numbers come
from ranges reserved for documentation. The sets are the same in every run, so that two runs can be
compared, and they share no sentence: what a graph was fitted to must not be what it is judged by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    texts = _fill(_TEMPLATES, _PEOPLE, lambda index, person: (1000 + 37 * index + person, 1 + person))
    return [*dict.fromkeys(texts), " ".join(texts[:_LONG])]


def _fill(
    templates: Sequence[str],
    people: Sequence[tuple[str, str, str, str]],
    numbers: Callable[[int, int], tuple[int, int]],
) -> list[str]:
    """Return every template about every person; `numbers` gives `n` and `d` for the indexes of the two."""
    texts = []
    for index, template in enumerate(templates):
        for person, (given, surname, city, street) in enumerate(people):
            n, d = numbers(index, person)
            names = {"given": given, "surname": surname, "city": city, "street": street}
            texts.append(template.format(**names, user=f"user{person}{index}", n=n, d=d))
    return texts


# For calibration: given name, surname, city, street.
_OTHERS = (
    ("Aaliyah", "Robinson", "Chicago", "2200 Lakeview Ave, Apt 5B"),
    ("Ingrid", "Larsen", "Bergen", "Strandgaten 19"),
)
_CALIBRATION = (
    "Hi, this is {given} {surname}. Could you ship it to {street} in {city}? My number is (555) 01{n:02d}-{n:04d}.",
    "Dear Ms. {surname}, your appointment in {city} on 1{d}/0{d}/2031 at {d}:45 pm has been confirmed.",
    "From: {given}.{surname}@example.com To: support@example.net Subject: refund of invoice INV-{n:05d}",
    "Passport no. X{n:07d}, issued 20{d}4-11-0{d} to {given} {surname}; driver's license D{n:06d} expires in May.",
    "Transfer $ {n},{d}00.50 from account 0000{n:06d}, routing number 000000{n:03d}, to {surname} & Sons Ltd.",
    "username: {given}{n} password: hunter{d}! server https://example.com/login?id={n} from 198.51.100.{d}",
    "The quick results of the survey were published yesterday, and nobody in the committee objected to them.",
    "She said that the weather would be better next week, but the river was still rising when we left.",
    "In 19{d}7 the company opened its first factory; by the end of the century it employed 4,000 people.",
    "Guten Tag, mein Name ist {given} {surname}, geboren am 0{d}.11.198{d}, wohnhaft {street}, {n:05d} {city}.",
    "Bitte überweisen Sie den Betrag bis Freitag auf das Konto DE00 1234 5678 9012 34{n:04d} bei der Bank.",
    "Bonjour, ici {given} {surname}, né le {d} mars 197{d} ; mon numéro est le 01 99 00 {n:02d} {d}0.",
    "La réunion a été reportée à la semaine prochaine parce que la salle n'était pas disponible.",
    "Buenos días, soy {given} {surname}; envíe la factura a la calle {street}, {city}, código postal {n:05d}.",
    "El informe fue publicado ayer y nadie del comité presentó ninguna objeción.",
    "Gentile {surname}, il Suo codice fiscale e la carta 5555 5555 5555 4444 risultano scaduti.",
    "Prezado {given}, o pedido {n:06d} foi entregue na {street}, em {city}, às {d} horas.",
    "Beste {surname}, uw afspraak in {city} is verplaatst naar {d} december om kwart over drie.",
    "Szanowny Panie {surname}, PESEL 000000{n:05d}, prosimy o kontakt pod numerem 500 000 {n:03d}.",
    "Hej {given}, mit CPR-nummer er 0{d}0180-{n:04d}, og jeg bor på {street} i {city}.",
    "Уважаемый Сергей Петрович, ваш заказ {n} отправлен в Новосибирск, улица Ленина, дом {d}.",
    "Η Ελένη Νικολάου γεννήθηκε το 198{d} στη Θεσσαλονίκη και εργάζεται στην τράπεζα.",  # noqa: RUF001
    "Sayın Mehmet Demir, TC kimlik numaranız {n:05d}00000{d}, adresiniz Ankara olarak kayıtlıdır.",  # noqa: RUF001
    "السيدة فاطمة حسن، موعدك في دبي يوم الأحد الساعة {d} صباحا.",
    "श्रीमती सुनीता वर्मा, आपका आदेश {n} मुंबई भेज दिया गया है।",
    "李雷先生,您的订单{n}已发往上海市浦东新区,联系电话 1390000{n:04d}。",
    "鈴木花子様、ご予約は{d}月1{d}日、大阪支店で承りました。",
    "박지훈 님, 부산으로 보낸 소포 {n:06d} 번이 도착했습니다.",
    "lol {given} u still in {city}?? txt me 555-01{n:02d} 😂 #weekend @{surname}",
    '<contact name="{given} {surname}" tel="+1-555-010-{n:04d}"><city>{city}</city></contact>',
    "def greet(name='{given}'): return f'hello {{name}}, you live at {street}'",
)


def calibration_texts() -> list[str]:
    """Return the texts for calibration, none of them long."""
    texts = _fill(_CALIBRATION, _OTHERS, lambda index, person: (1201 + 53 * index + 7 * person, 2 + person))
    return list(dict.fromkeys(texts))
