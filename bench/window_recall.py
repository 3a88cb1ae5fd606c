"""Measure what is found in documents of many paragraphs, by the length of the windows that cover them.

Documents are made of fixed sentences and made-up values (fixed seed), in paragraphs. A value counts as found where all
letters and digits of it lie in entities. Letters and digits outside all values that lie in entities, too, are excess.
For each length and overlap of windows: the model alone, and with the patterns of the shipped config.yaml; tokens that
the model computes, and the seconds it took (figures of an idle machine only). `--model` measures another model (a
folder, a config file, a name on the hub) that finds such things.

usage: python -m bench.window_recall [--documents 20] [--model M] [--windows 512 128/32 ...]
"""

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path

from bench.paths import RESULTS
from bench.redaction import GIVEN, PATTERNS, SENTENCES, SURNAMES, make_value
from bench.serving import machine
from nerve.api import TokenClassifier, load_classifier, override, resolve_config
from nerve.text.patterns import Patterns
from nerve.types import PatternName

# Tokens of a window, and tokens that neighbours share; without these, what nerve takes by itself.
GRID = (
    *("512", "384", "256", "192", "128", "96", "64", "48", "32"),
    *("256/32", "128/32", "128/16", "96/16", "64/16", "48/12", "32/8"),
)
CITIES = ["Springfield", "Riverside", "Portland", "Salem", "Georgetown", "Fairview", "Madison", "Clinton"]
STREETS = ["Main Street", "Oak Avenue", "Elm Street", "Park Road", "Maple Lane", "Hill Drive", "Lake Street"]
# A value stands at each pair of braces; what is in them says of which kind.
PROSE = [
    "My colleague {name} from the office in {city} will call you back on {phone}.",
    "Please send the contract to {name}, {street}, {city}.",
    "{name} told us on the phone ({phone}) that the parcel never came to {street}.",
    "We met {name} and {name} in {city} last spring, and both were content.",
    "If {name} is not there, call {phone} or write to {email}.",
    "The account of {name} was opened with the social security number {ssn}, and the card {card} was added later.",
    "Tel. {phone}, e-mail {email}",
    "Dear {name}, thank you for your letter of May.",
    "According to {name}, the payment with {card} was booked twice.",
    "Her new address is {street} in {city}; the old number {phone} is no longer hers.",
    "Logged in as {email} from {ip}.",
    "{name} ({email}) asked for a copy; the form has {ssn} in field four.",
]
FILLER = [
    "The weather was better than last week, and the meeting took an hour.",
    "Nothing else was decided; the next step is the review of the plan.",
    "Thank you for the quick answer, it helped a lot.",
    "The parcel arrived on Monday, and the box was damaged at one side.",
    "As agreed, the second half of the amount is due when the work is done.",
    "The report has twelve pages, of which the last three are tables.",
    "In general the terms of the old agreement go on until the end of the year.",
]
LISTS = {
    "ssn": SENTENCES["ssn"],
    "card": SENTENCES["card"],
    "email": SENTENCES["email"],
    "url": SENTENCES["url"],
}


def value_of(kind: str, chance: random.Random) -> tuple[str, int, int]:
    """Return a value as it is written, and from where to where it must be found."""
    match kind:
        case "name":
            written = f"{chance.choice(GIVEN)} {chance.choice(SURNAMES)}"
        case "city":
            written = chance.choice(CITIES)
        case "street":
            written = f"{chance.randrange(1, 400)} {chance.choice(STREETS)}"
        case "phone":
            area, first, last = (
                chance.randrange(201, 989),
                chance.randrange(200, 999),
                chance.randrange(10_000),
            )
            form = chance.choice(["({}) {}-{:04}", "{}-{}-{:04}", "+1 {} {} {:04}", "{}.{}.{:04}"])
            written = form.format(area, first, last)
        case _:
            written, core = make_value(kind, chance)
            start = written.index(core)
            return written, start, start + len(core)
    return written, 0, len(written)


def fill(template: str, kinds: list[str], chance: random.Random) -> tuple[str, list[tuple[str, int, int]]]:
    """Put a value at each pair of braces; return the text and the values as (kind, start, end)."""
    parts = template.replace("{{", "\0").replace("}}", "\1").split("{")
    text, found = parts[0], []
    for part, kind in zip(parts[1:], kinds, strict=True):
        written, start, end = value_of(kind, chance)
        found.append((kind, len(text) + start, len(text) + end))
        text += written + part.partition("}")[2]
    return text.replace("\0", "{").replace("\1", "}"), found


def kinds_in(template: str) -> list[str]:
    """Return what stands in the braces of a sentence."""
    return [part.partition("}")[0] for part in template.split("{")[1:]]


def make_documents(n_documents: int, seed: int = 21) -> list[tuple[str, list[tuple[str, int, int]]]]:
    """Return texts of 3 to 40 paragraphs, each with its values as (kind, start, end)."""
    chance = random.Random(seed)
    documents = []
    for _ in range(n_documents):
        text, values = "", []
        for _ in range(chance.randrange(3, 41)):
            is_list = chance.random() < 0.2
            gap = "\n" if is_list else " "
            for _ in range(chance.randrange(2, 7)):
                if is_list:
                    kind = chance.choice([*LISTS])
                    template = chance.choice(LISTS[kind])
                    sentence, found = fill(template, [kind], chance)
                elif chance.random() < 0.45:
                    sentence, found = chance.choice(FILLER), []
                else:
                    template = chance.choice(PROSE)
                    sentence, found = fill(template, kinds_in(template), chance)
                values += [(kind, len(text) + start, len(text) + end) for kind, start, end in found]
                text += sentence + gap
            text += "\n\n"
        documents.append((text.rstrip(), values))
    return documents


def cover(spans, length: int) -> bytearray:
    """Return 1 for each character of a text that lies in one of the spans, else 0."""
    covered = bytearray(length)
    for start, end in spans:
        covered[start:end] = b"\1" * (end - start)
    return covered


def words_around(text: str, values: list[tuple[str, int, int]]) -> list[tuple[int, int]]:
    """Return the values with what they are a part of: the name of a mailbox, the scheme of a URL."""
    found = []
    for _, first, last in values:
        start, end = first, last
        while start > 0 and not text[start - 1].isspace():
            start -= 1
        while end < len(text) and not text[end].isspace():
            end += 1
        found.append((start, end))
    return found


def count(documents: list, covers: list[bytearray]) -> dict:
    """Count the values that are not found, by kind, and what is found in excess."""
    all_of, missed = Counter(), Counter()
    excess = others = 0
    for (text, values), covered in zip(documents, covers, strict=True):
        for kind, start, end in values:
            all_of[kind] += 1
            missed[kind] += not all(covered[k] for k in range(start, end) if text[k].isalnum())
        is_value = cover(words_around(text, values), len(text))
        other = [k for k in range(len(text)) if text[k].isalnum() and not is_value[k]]
        others += len(other)
        excess += sum(covered[k] for k in other)
    return {
        "missed": sum(missed.values()),
        "of": sum(all_of.values()),
        "excess": round(excess / others, 5),
        "missed_by_kind": {kind: [missed[kind], all_of[kind]] for kind in sorted(all_of)},
    }


def open_with(model: str, windows: str) -> TokenClassifier:
    """Load a model with windows of a length; its threads give way to nobody, so that it ends on a busy machine."""
    tokens, _, stride = windows.partition("/")
    runtime = {"window_tokens": int(tokens), "window_stride": int(stride) if stride else None}
    changed = {"runtime": runtime, "cpu": {"niceness": 0}}
    return load_classifier(override(resolve_config(model), changed, ["runtime.window_stride"]))


def measure(model: str, windows: str, documents: list, rules: list[bytearray]) -> dict:
    """Return what is found with windows of a length. rules: what patterns cover of each document."""
    texts = [text for text, _ in documents]
    with open_with(model, windows) as classifier:
        tokenized = classifier.model.tokenizer.tokenize(texts)
        classifier.predict(texts[:1])
        started = time.perf_counter()
        answers = classifier.predict(texts, classifier.model.entity_strategy.value)
        seconds = time.perf_counter() - started
        stride = classifier.model.tokenizer._stride
    found = [
        cover([(row.start, row.end) for row in rows], len(text))
        for text, rows in zip(texts, answers, strict=True)
    ]
    both = [
        bytearray(a | b for a, b in zip(one, rule, strict=True))
        for one, rule in zip(found, rules, strict=True)
    ]
    return {
        "window_tokens": int(windows.partition("/")[0]),
        "window_stride": stride,
        "tokens_computed": sum(len(window.ids) for each in tokenized for window in each.windows),
        "seconds": round(seconds, 3),
        "model_alone": count(documents, found),
        "with_patterns": count(documents, both),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="config.yaml")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--windows", nargs="+", default=list(GRID), metavar="TOKENS[/SHARED]")
    parser.add_argument("--out", type=Path, default=RESULTS / "window-recall.json")
    arguments = parser.parse_args()
    documents = make_documents(arguments.documents)
    result = {
        **machine.describe(),
        "model": arguments.model,
        "documents": len(documents),
        "characters": sum(len(text) for text, _ in documents),
        "rows": [],
    }
    patterns = Patterns([PatternName(name) for name in PATTERNS], {})
    rules = [
        cover([(entity.start, entity.end) for entity in patterns.find(text)], len(text))
        for text, _ in documents
    ]
    for windows in arguments.windows:
        row = measure(arguments.model, windows, documents, rules)
        result["rows"].append(row)
        alone, both = row["model_alone"], row["with_patterns"]
        kinds = " ".join(f"{kind} {n}/{total}" for kind, (n, total) in alone["missed_by_kind"].items())
        print(
            f"{row['window_tokens']:4}/{row['window_stride']:<3} tokens {row['tokens_computed']:7}",
            f"{row['seconds']:7.2f} s  alone {alone['missed']:5} excess {alone['excess']:.4f}",
            f" with patterns {both['missed']:5} excess {both['excess']:.4f}  {kinds}",
            flush=True,
        )
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
