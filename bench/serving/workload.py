"""Requests made from a seed, their expected answers, and the check of an answer against them.

The expected rows come from `tokenizers` and `onnxruntime` in this process, one text a call, on the graph
that the server under test runs.
"""

import importlib.util
import json
import math
import os
import random
from dataclasses import dataclass
from pathlib import Path

# As in our server, and inherited by the peers: else the last bits of an answer depend on whether a batch has padding,
# and in int8 more than the last bits.
os.environ.setdefault("ORT_DISABLE_FLASH_ATTENTION", "1")

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from bench.serving.models import BenchModel, read_labels

# Largest difference of a probability that is not an error. The batch mates of a text change the last
# bits of its logits; a wrong answer is wrong by far more.
TOLERANCE = 2e-3

FIRST = [
    "Ann",
    "Maria",
    "John",
    "Priya",
    "Omar",
    "Chen",
    "Lucia",
    "Pierre",
    "Fatima",
    "David",
    "Ingrid",
    "Kofi",
    "Elena",
    "Hassan",
    "Yuki",
]
LAST = [
    "Lee",
    "Garcia",
    "Smith",
    "Patel",
    "Novak",
    "Okafor",
    "Schmidt",
    "Rossi",
    "Dubois",
    "Kim",
    "Larsen",
    "Silva",
    "Haddad",
    "Cohen",
]
CITY = [
    "Paris",
    "Austin",
    "Berlin",
    "Madrid",
    "Toronto",
    "Lagos",
    "Osaka",
    "Lisbon",
    "Denver",
    "Mumbai",
    "Geneva",
    "Portland",
]
STREET = ["Oak Street", "Main Avenue", "Hill Road", "Lake Drive", "Church Lane", "Park Boulevard"]
PLAIN = [
    "the",
    "order",
    "was",
    "sent",
    "late",
    "and",
    "we",
    "would",
    "like",
    "to",
    "know",
    "when",
    "it",
    "will",
    "arrive",
    "at",
    "our",
    "new",
    "office",
    "because",
    "nobody",
    "has",
    "called",
    "us",
    "back",
    "about",
    "it",
    "this",
    "week",
    "so",
    "please",
    "check",
    "your",
    "records",
    "and",
    "write",
    "to",
    "me",
    "soon",
]


@dataclass(frozen=True)
class Workload:
    """What one request holds. Lengths count tokens, special tokens included, and are log-uniform."""

    min_tokens: int = 36
    max_tokens: int = 36
    texts: int = 1
    raw_scores: bool = False
    distinct: int = 64
    seed: int = 1


@dataclass(frozen=True)
class Expectation:
    """One text's ids and rows: (token, token_id, start, end) and the probability of every label."""

    ids: list[int]
    rows: list[tuple[str, int, int, int]]
    probabilities: np.ndarray  # (T, L)


@dataclass(frozen=True)
class Requests:
    """Bodies to send, and what must come back."""

    bodies: list[bytes]
    ids: list[list[list[int]]]
    expected: list[list[Expectation]]
    labels: list[str]
    raw_scores: bool


def clause(rng: random.Random) -> str:
    """Make some words of an ordinary letter, with something personal in it more often than not."""
    name = f"{rng.choice(FIRST)} {rng.choice(LAST)}"
    number = f"{rng.randint(200, 999)}-{rng.randint(100, 999)}-{rng.randint(1000, 9999)}"
    address = f"{rng.randint(1, 999)} {rng.choice(STREET)}"
    forms = [
        f"my name is {name} and I live in {rng.choice(CITY)}.",
        f"please send it to {name}, {address}, {rng.choice(CITY)} {rng.randint(10000, 99999)}.",
        f"call me on {number} or write to {name.replace(' ', '.').lower()}@example.com.",
        " ".join(rng.choices(PLAIN, k=rng.randint(5, 12))) + ".",
    ]
    return rng.choice(forms)


def make_text(rng: random.Random, tokenizer: Tokenizer, tokens: int) -> str:
    """Make a text of exactly `tokens` tokens, special tokens included."""
    words: list[str] = []

    def length() -> int:
        return len(tokenizer.encode(" ".join(words)))

    while length() < tokens:
        words += clause(rng).split()
    while length() > tokens:
        words.pop()
    while length() < tokens:
        words.append(rng.choice(("the", "and", "it")))
    return " ".join(words)


def choose_length(rng: random.Random, workload: Workload) -> int:
    low, high = math.log(workload.min_tokens), math.log(workload.max_tokens)
    return round(math.exp(rng.uniform(low, high)))


def are_products_clipped() -> bool:
    """Tell whether int8 is not exact by itself here (docs/decisions/0020). Our graph, so without us there is none."""
    if importlib.util.find_spec("nerve") is None:
        return False
    from nerve.runtime import sessions  # noqa: PLC0415  the bench starts without our package as well

    return sessions.are_products_clipped()


class Reference:
    """The model in process, one text a call, as plainly as it can be written."""

    def __init__(self, model: BenchModel):
        self.tokenizer = Tokenizer.from_file(str(model.folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.labels = read_labels(model.folder)
        options = ort.SessionOptions()
        if are_products_clipped():
            options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = ort.InferenceSession(str(model.graph), options, providers=["CPUExecutionProvider"])

    def expect(self, text: str) -> Expectation:
        """Compute what must come back for a text."""
        encoding = self.tokenizer.encode(text)
        n_tokens = len(encoding.ids)
        known = {
            "input_ids": [encoding.ids],
            "attention_mask": [[1] * n_tokens],
            "token_type_ids": [[0] * n_tokens],
            "lengths": [n_tokens],
        }
        feed = {
            i.name: np.array(known[i.name], "int32" if i.type == "tensor(int32)" else "int64")
            for i in self.session.get_inputs()
        }
        logits = self.session.run(["logits"], feed)[0][0].astype(np.float64)
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        columns = encoding.tokens, encoding.ids, encoding.offsets, encoding.special_tokens_mask
        rows = [
            (token if special else text[start:end], token_id, start, end)
            for token, token_id, (start, end), special in zip(*columns, strict=True)
        ]
        return Expectation(encoding.ids, rows, exp / exp.sum(-1, keepdims=True))

    def requests(self, workload: Workload) -> Requests:
        """Make the workload's requests, and what must come back for each."""
        rng = random.Random(workload.seed)
        bodies, expected = [], []
        for _ in range(workload.distinct):
            lengths = [choose_length(rng, workload) for _ in range(workload.texts)]
            texts = [make_text(rng, self.tokenizer, n) for n in lengths]
            bodies.append(json.dumps({"inputs": texts, "raw_scores": workload.raw_scores}).encode())
            expected.append([self.expect(text) for text in texts])
        ids = [[e.ids for e in request] for request in expected]
        return Requests(bodies, ids, expected, self.labels, workload.raw_scores)


def find_fault(
    requests: Requests, index: int, answer: bytes, specials: bool = True, tolerance: float = TOLERANCE
) -> str | None:
    """Say what is wrong with the answer to request `index`; None when nothing is.

    specials: whether rows of special tokens are part of the answer. tolerance: of a probability.
    """
    found = json.loads(answer)
    expected = requests.expected[index]
    if len(found) != len(expected):
        return f"{len(found)} texts, expected {len(expected)}"
    for number, (rows, one) in enumerate(zip(found, expected, strict=True)):
        wanted = [
            pair for pair in zip(one.rows, one.probabilities, strict=True) if specials or pair[0][3] > 0
        ]
        if len(rows) != len(wanted):
            return f"text {number}: {len(rows)} rows, expected {len(wanted)}"
        for row, (fields, probabilities) in zip(rows, wanted, strict=True):
            got = row["token"], row["token_id"], row["start"], row["end"]
            if got != fields:
                return f"text {number}: {got}, expected {fields}"
            fault = find_score_fault(row["results"], requests, probabilities, tolerance)
            if fault:
                return f"text {number}, {fields}: {fault}"
    return None


def find_score_fault(
    results: dict[str, float], requests: Requests, probabilities: np.ndarray, tolerance: float
) -> str | None:
    by_label = dict(zip(requests.labels, probabilities.tolist(), strict=True))
    if len(results) != (len(by_label) if requests.raw_scores else 1):
        return f"{len(results)} labels"
    if not requests.raw_scores and max(by_label.values()) - by_label[next(iter(results))] > tolerance:
        return f"label {next(iter(results))}, expected {max(by_label, key=by_label.get)}"
    for label, score in results.items():
        if abs(score - by_label[label]) > tolerance:
            return f"{label} {score}, expected {by_label[label]}"
    return None


def hello_requests() -> Requests:
    """Return the body for the framework peer, which knows no model."""
    return Requests([b'{"name": "Ann Lee"}'], [], [], [], False)


def write_floor_work(requests: Requests, file: Path) -> None:
    file.write_text(json.dumps({"ids": requests.ids, "raw_scores": requests.raw_scores}))
