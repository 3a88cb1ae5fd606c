"""What redaction leaves in synthetic documents, and what decoding and rules cost.

Documents are made of fixed sentences and made-up values (fixed seed); a value is left over where what identifies it
still stands in the redacted text. Costs are the best of several rounds in this process, on an idle machine.

usage: python -m bench.redaction [--out bench/results/redaction.json]
"""

import argparse
import json
import random
import time
from collections import Counter
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np

import nerve
from bench.paths import RESULTS
from bench.serving import machine
from nerve.endpoints.predict_tokens import PredictTokens
from nerve.endpoints.redact import RedactEndpoint
from nerve.engine.in_process import collect, submit
from nerve.text.identifiers import passes_luhn
from nerve.text.labels import parse_labels
from nerve.text.viterbi import Biases, Decoder
from nerve.types import AggregationStrategy, PredictOptions

N_DOCUMENTS = 50
PATTERNS = ["email", "url", "ip_address", "credit_card", "us_ssn"]
GIVEN = [
    "Sarah",
    "John",
    "Priya",
    "Kwame",
    "Maria",
    "Wei",
    "Olga",
    "Ahmed",
    "Lena",
    "Carlos",
    "Ingrid",
    "Tom",
]
SURNAMES = ["Connor", "Smith", "Okafor", "Garcia", "Novak", "Tanaka", "Lindqvist", "Haddad", "Weber", "Rossi"]
DOMAINS = [
    "example.com",
    "mail.example.org",
    "corp-mail.net",
    "uni.example.edu",
    "shop.example.co.uk",
    "post.io",
]
SENTENCES = {
    "email": [
        "You can write to {} at any time.",
        "E-mail: {}",
        "The invoice went to {}, as before.",
        "from={} status=sent",
        "| contact | {} |",
        '{{"user": "{}", "role": "admin"}}',
    ],
    "ssn": [
        "My social security number is {}.",
        "SSN: {}",
        "Please check {} against the records.",
        "| ssn | {} |",
        "employee,{},full time",
    ],
    "card": ["My card is {}.", "Paid with {} yesterday.", "| card | {} |", "pan={} exp=12/29"],
    "ip": ["The request came from {}.", "client={} status=200", "Blocked {} for an hour."],
    "url": ["The profile is at {}.", "See {} for more.", "GET {} 200"],
}
FILLER = [
    "The weather was better than last week, and the meeting took an hour.",
    "Nothing else was decided; the next step is the review of the plan.",
    "Thank you for the quick answer, it helped a lot.",
    "The parcel arrived on Monday, and the box was damaged at one side.",
]


def make_value(kind: str, chance: random.Random) -> tuple[str, str]:
    """Return a value as it is written, and the part of it that must not be left."""
    given, surname = chance.choice(GIVEN).lower(), chance.choice(SURNAMES).lower()
    match kind:
        case "email":
            domain = f"{chance.choice('abcdefgh')}{chance.randrange(1000)}.{chance.choice(DOMAINS)}"
            return f"{given}.{surname}{chance.randrange(100)}@{domain}", domain
        case "ssn":
            number = (
                f"{chance.randrange(1, 665):03}-{chance.randrange(1, 100):02}-{chance.randrange(1, 10000):04}"
            )
            written = chance.choice([number, number, number.replace("-", " ")])
            return written, written
        case "card":
            start = chance.choice("45") + "".join(chance.choice("0123456789") for _ in range(14))
            digits = next(start + last for last in "0123456789" if passes_luhn(start + last))
            gap = chance.choice(["", " ", "-"])
            written = gap.join(digits[k : k + 4] for k in range(0, 16, 4))
            return written, written
        case "ip":
            address = ".".join(str(chance.randrange(1, 255)) for _ in range(4))
            return address, address
        case _:
            token = f"{given}-{chance.randrange(10**6)}"
            return f"https://{chance.choice(DOMAINS)}/u/{token}?ref={chance.randrange(100)}", token


def make_documents() -> list[tuple[str, list[tuple[str, str]]]]:
    """Return texts, each with its values as (kind, what must not be left)."""
    chance = random.Random(19)
    documents = []
    for _ in range(N_DOCUMENTS):
        lines, values = [], []
        for _ in range(chance.randrange(12, 30)):
            kind = chance.choice([*SENTENCES, None, None])
            if kind is None:
                lines.append(chance.choice(FILLER))
                continue
            written, core = make_value(kind, chance)
            values.append((kind, core))
            lines.append(chance.choice(SENTENCES[kind]).format(written))
        documents.append((chance.choice(["\n", " "]).join(lines), values))
    return documents


def count_left(classifier: nerve.TokenClassifier, patterns: list[str]) -> dict[str, dict[str, int]]:
    """Redact all documents and count what is left, by kind."""
    documents = make_documents()
    redacted = classifier.redact([text for text, _ in documents], patterns=patterns)
    all_of, left = Counter(), Counter()
    for (_, values), found in zip(documents, redacted, strict=True):
        for kind, core in values:
            all_of[kind] += 1
            left[kind] += core in found.text
    return {kind: {"values": all_of[kind], "left": left[kind]} for kind in SENTENCES}


def microseconds(work, rounds: int) -> float:
    """Return the best time of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return round(best * 1e6, 2)


def time_redaction(classifier: nerve.TokenClassifier) -> dict[str, float]:
    """Time what /redact does for a 36-token text beyond what /predict_tokens does: reading, rules, writing."""
    text = (
        "Please send the papers of Maria Garcia to 12 Main Street in Springfield, or write to "
        "maria.garcia@example.com or to her office before Friday, the third."
    )
    endpoint = RedactEndpoint(classifier.config)
    codec = endpoint.choose_codec({}.get)
    body = json.dumps({"inputs": text}).encode()
    query = codec.decode(body)
    answer = collect(classifier._engine, submit(classifier._engine, query.texts, query.options))
    (tokens,) = classifier.predict(text, "none")

    plain = PredictTokens(classifier.config).choose_codec({}.get)
    plain_body = json.dumps({"inputs": text, "aggregation_strategy": "first"}).encode()
    plain_query = plain.decode(plain_body)

    def both_ways(codec, body, query) -> float:
        return microseconds(lambda: (codec.decode(body), codec.encode(query, answer.rows)), 3000)

    redact, predict = both_ways(codec, body, query), both_ways(plain, plain_body, plain_query)
    return {
        "tokens": len(tokens),
        "redact_us": redact,
        "predict_us": predict,
        "more_us": round(redact - predict, 2),
    }


def time_decoding(classifier: nerve.TokenClassifier) -> list[dict]:
    """Time the decoder on 16 texts of 512 tokens and 217 labels, beside the model on as many tokens."""
    documents = [" ".join(text for text, _ in make_documents())]
    engine = classifier._engine
    options = PredictOptions(aggregation_strategy=AggregationStrategy.VITERBI)
    answers = [collect(engine, submit(engine, documents, options)) for _ in range(3)]
    n_tokens = answers[0].n_tokens
    model = round(min(answer.timings.inference for answer in answers) / n_tokens * 1e6, 2)
    names = ["O", *(f"{prefix}-T{tag}" for tag in range(54) for prefix in "BIES")]
    found = []
    calibrated = Biases(-0.4, 0.9, 0.3, -0.7, 0.2, 0.6)
    for title, biases, is_sure in (
        ("none", Biases(), True),
        ("calibrated", calibrated, True),
        ("none", Biases(), False),
        ("calibrated", calibrated, False),
    ):
        decoder = Decoder(parse_labels(names), biases)
        texts = [make_logits(seed, names) if is_sure else make_noise(seed, names) for seed in range(16)]
        best = [logits.argmax(axis=1) for logits in texts]
        share = microseconds(partial(decode_all, decoder, texts, best), 5)
        found.append(
            {
                "labels": len(names),
                "biases": title,
                "tokens": "as a model gives them" if is_sure else "none is sure",
                "decoder_us_per_token": round(share / (16 * 512), 2),
                "model_us_per_token": model,
                "model": classifier.model.model_id,
            }
        )
    return found


def time_steps() -> dict[str, float]:
    """Time one step of 217 labels: as the decoder does it, and over all moves."""
    names = ["O", *(f"{prefix}-T{tag}" for tag in range(54) for prefix in "BIES")]
    decoder = Decoder(parse_labels(names))
    scores = np.zeros((1, len(names)))
    return {
        "grouped": microseconds(lambda: decoder._step(scores), 2000),
        "all moves": microseconds(lambda: (scores[:, :, None] + decoder._moves).max(axis=1), 2000),
    }


def decode_all(decoder: Decoder, texts: list[np.ndarray], best: list[np.ndarray]) -> None:
    """Decode texts one by one."""
    for logits, labels in zip(texts, best, strict=True):
        decoder.best_path(logits, labels)


def make_logits(seed: int, names: list[str], n_tokens: int = 512) -> np.ndarray:
    """Make up logits as a model gives them: an entity after every dozen tokens, one label in fifty out of place."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n_tokens, len(names))).astype(np.float32)
    logits[:, 0] += 10
    position = int(rng.integers(1, 12))
    while position < n_tokens - 8:
        length, tag = int(rng.integers(1, 7)), int(rng.integers(54))
        kinds = [3] if length == 1 else [0, *[1] * (length - 2), 2]
        for offset, kind in enumerate(kinds):
            other = int(rng.integers(54)) if rng.random() < 0.02 else tag
            logits[position + offset, 1 + 4 * other + kind] += 18
        position += length + int(rng.integers(4, 20))
    return logits


def make_noise(seed: int, names: list[str], n_tokens: int = 512) -> np.ndarray:
    """Make up logits of which nothing can be cut: no token is sure of anything."""
    return np.random.default_rng(seed).normal(size=(n_tokens, len(names))).astype(np.float32)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "redaction.json")
    options = parser.parse_args()
    with nerve.load("config.yaml") as classifier:
        result = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            **machine.describe(),
            "documents": N_DOCUMENTS,
            "left_over": {
                "model alone": count_left(classifier, []),
                f"with patterns {', '.join(PATTERNS)}": count_left(classifier, PATTERNS),
            },
            "redact": time_redaction(classifier),
            "viterbi": time_decoding(classifier),
            "steps_us": time_steps(),
        }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("left_over", "redact", "viterbi", "steps_us")}, indent=1))


if __name__ == "__main__":
    main()
