"""A backend of nerve over the simulated card (card.py): `model.device: card`, with the zero-cost model.

nerve finds it by the entry point beside this file, with this folder on PYTHONPATH. Each step is packed as for a GPU,
the card computes it, and the labels are looked up in the table that the zero-cost model is made of.
"""

import dataclasses
import sys
from pathlib import Path

import numpy as np

from nerve.runtime.backend import Backend, Provider
from nerve.runtime.packing import (
    PackingRules,
    StepInputs,
    StepLimits,
    choose_bucket,
    list_buckets,
    make_bucket,
    split_results,
)

sys.path.append(str(Path(__file__).parents[1]))
from card import find_card

TOKENS = 4096  # of a step, at most


class SimulatedCard(Backend):
    """Labels by a table, at the speed of the card."""

    provider = "SimulatedCard"

    def __init__(self, options):
        self.policy = dataclasses.replace(options.policy, token_budget=TOKENS, is_packed=True)
        self._card = find_card()
        self._logits = np.load(Path(options.source).with_name("table.npy"))  # (V, L)
        self._labels = self._logits.argmax(-1)
        exponents = np.exp(self._logits - self._logits.max(-1, keepdims=True))
        self._scores = 1 / exponents.sum(-1)
        self.n_labels = self._logits.shape[1]
        self._rules = PackingRules(len(self._logits), None, options.max_length, has_distances=False)
        limits = StepLimits(options.max_length, self.policy.max_batch_size, TOKENS)
        self._inputs = {bucket: StepInputs(bucket, self._rules) for bucket in list_buckets(limits)}
        self._buckets = tuple(self._inputs)

    def run(self, windows, needs_logits, spread=False):
        """Compute one step."""
        lengths = [len(window.ids) for window in windows]
        bucket = choose_bucket(self._buckets, lengths)
        inputs = self._inputs[bucket] if bucket else StepInputs(make_bucket(lengths), self._rules)
        inputs.fill(windows)
        self._card.compute(sum(lengths))
        ids = inputs.ids[: sum(lengths)]
        logits = self._logits[ids] if needs_logits else None
        return split_results(windows, self._labels[ids], self._scores[ids], logits)


PROVIDER = Provider(device="card", open=SimulatedCard, has_one_owner=True)
