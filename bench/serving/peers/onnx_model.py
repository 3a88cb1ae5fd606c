"""The work every ONNX peer does: tokenise, run the graph, make the rows of the contract's `none` strategy.

One file, so that the peers differ in how they serve and in nothing else. Two forms of graph are known:
  * `logits` out, from int64 `input_ids` and whichever of `attention_mask`, `token_type_ids` it takes;
  * `label_ids`, `scores` and `logits` out, from int32 `input_ids` and `lengths` (softmax in the graph).
Settings come from the environment: BENCH_TOKENIZER, BENCH_CONFIG, BENCH_GRAPH (files), BENCH_THREADS, and BENCH_CARD
where each call takes as long as a step of the simulated card (card.py).
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

sys.path.append(str(Path(__file__).parents[1]))
from card import find_card


def threads() -> int:
    return int(os.environ["BENCH_THREADS"])


def load_session(graph: str, n_threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = n_threads
    options.inter_op_num_threads = 1
    if n_threads > 1:  # bounded spinning keeps the gain of spinning and frees the core between calls
        options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


class Graph:
    """An ONNX token classifier behind one call, whichever of the two forms it has."""

    def __init__(self, path: str, n_threads: int):
        self.session = load_session(path, n_threads)
        types = {
            i.name: np.int32 if i.type == "tensor(int32)" else np.int64 for i in self.session.get_inputs()
        }
        self.types = types
        self.card = find_card()
        self.has_top = {"label_ids", "scores"} <= {o.name for o in self.session.get_outputs()}

    def feed(self, ids: list[list[int]]) -> dict[str, np.ndarray]:
        """Make right-padded arrays, only those the graph takes."""
        lengths = np.array([len(row) for row in ids])
        shape = (len(ids), int(lengths.max()))
        input_ids = np.zeros(shape, self.types["input_ids"])
        for row, values in zip(input_ids, ids, strict=True):
            row[: len(values)] = values
        feed = {"input_ids": input_ids}
        if "lengths" in self.types:
            feed["lengths"] = lengths.astype(self.types["lengths"])
        if "attention_mask" in self.types:
            mask = np.arange(shape[1]) < lengths[:, None]
            feed["attention_mask"] = mask.astype(self.types["attention_mask"])
        if "token_type_ids" in self.types:
            feed["token_type_ids"] = np.zeros(shape, self.types["token_type_ids"])
        return feed

    def run(self, outputs: list[str], ids: list[list[int]]) -> list[np.ndarray]:
        """Run the graph, and the card where there is one."""
        found = self.session.run(outputs, self.feed(ids))
        if self.card is not None:
            self.card.compute(len(ids) * max(map(len, ids)))
        return found

    def top(self, ids: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the best label (B, T) and its probability (B, T)."""
        if self.has_top:
            return tuple(self.run(["label_ids", "scores"], ids))
        (logits,) = self.run(["logits"], ids)
        label_ids = logits.argmax(-1)
        best = logits.max(-1, keepdims=True)
        return label_ids, 1 / np.exp(logits - best).sum(-1)

    def probabilities(self, ids: list[list[int]]) -> np.ndarray:
        """Return the softmax over the labels (B, T, L)."""
        (logits,) = self.run(["logits"], ids)
        exp = np.exp(logits - logits.max(-1, keepdims=True))
        return exp / exp.sum(-1, keepdims=True)


class Model:
    """Texts in, rows out."""

    def __init__(self):
        self.tokenizer = Tokenizer.from_file(os.environ["BENCH_TOKENIZER"])
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        names = json.loads(Path(os.environ["BENCH_CONFIG"]).read_text())["id2label"]
        self.labels = [names[str(i)] for i in range(len(names))]
        self.graph = Graph(os.environ["BENCH_GRAPH"], threads())
        self.predict(["warm up"], False)

    def predict(self, texts: list[str], raw_scores: bool) -> list[list[dict]]:
        """Return one list of rows per text; the texts are one padded batch."""
        encodings = self.encode(texts)
        ids = [e.ids for e in encodings]
        if raw_scores:
            results = [self._all_scores(p) for p in self.graph.probabilities(ids).tolist()]
        else:
            best = zip(*(a.tolist() for a in self.graph.top(ids)), strict=True)
            results = [self._best_scores(*pair) for pair in best]
        return [rows(t, e, r) for t, e, r in zip(texts, encodings, results, strict=True)]

    def encode(self, texts: list[str]) -> list[Encoding]:
        """Tokenise; a single text needs no thread pool."""
        if len(texts) == 1:
            return [self.tokenizer.encode(texts[0])]
        return self.tokenizer.encode_batch(texts)

    def _best_scores(self, label_ids: list[int], scores: list[float]) -> list[dict]:
        return [{self.labels[i]: s} for i, s in zip(label_ids, scores, strict=True)]

    def _all_scores(self, probabilities: list[list[float]]) -> list[dict]:
        return [dict(zip(self.labels, p, strict=True)) for p in probabilities]


def rows(text: str, encoding: Encoding, results: list[dict]) -> list[dict]:
    """Make one row per token; `results` may be longer, by the padding."""
    return [
        {
            "token": token if special else text[start:end],
            "token_id": token_id,
            "start": start,
            "end": end,
            "results": result,
        }
        for token, token_id, (start, end), special, result in zip(
            encoding.tokens,
            encoding.ids,
            encoding.offsets,
            encoding.special_tokens_mask,
            results,
            strict=False,
        )
    ]
