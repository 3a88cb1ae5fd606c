"""Serve the simulated card as if it were a GPU; Python imports this file at start, from PYTHONPATH, where BENCH_CARD is set.

The model is loaded on the CPU and warmed up there. Then its session is replaced by one that packs each step as for a
GPU, has the card compute it, and looks the labels up.
"""

import os
import sys
from pathlib import Path

if "BENCH_CARD" in os.environ:
    sys.path.append(str(Path(__file__).parents[1]))
    from dataclasses import replace

    import numpy as np
    from card import find_card
    from nerve import model as nerve_model
    from nerve.packed_session import Packed, PackedSession
    from nerve.packing import Bucket, PackingRules, StepInputs, StepLimits, choose_bucket, list_buckets, split_results
    from nerve.threads import EngineThread
    from nerve.types import Window

    class CardSession(PackedSession):
        """Stands for a packed session; the zero-cost model tells the labels."""

        def __init__(self, model):  # noqa: no base: there is no graph
            n_words = len(model.vocabulary.token_lengths)
            self.n_labels = len(model.labels.names)
            every = [[token_id] for token_id in range(n_words)]
            scores = [s for at in range(0, n_words, 256)
                      for s in model.session.run([Window(ids, 0) for ids in every[at:at + 256]], True)]
            self._labels = np.concatenate([s.label_ids for s in scores])
            self._scores = np.concatenate([s.scores for s in scores])
            self._logits = np.concatenate([s.logits for s in scores])
            self._rules = PackingRules(n_words, None, 512, False)
            self._buckets = tuple(list_buckets(StepLimits(model.max_length, model.policy.max_batch_size, 8192)))
            self._spare = {}
            self._card = find_card()

        @property
        def provider(self):
            return "SimulatedCard"

        def pack(self, windows):
            bucket = choose_bucket(self._buckets, [len(window.ids) for window in windows])
            if bucket is None:
                return None
            try:
                inputs = self._spare.setdefault(bucket, []).pop()
            except IndexError:
                inputs = StepInputs(bucket, self._rules)
            inputs.fill(windows)
            return Packed(bucket, inputs)

        def run(self, windows, needs_logits, spread=False, packed=None):
            packed = packed or self.pack(windows)
            n_tokens = sum(len(window.ids) for window in windows)
            if packed is None:
                ids = np.concatenate([np.asarray(window.ids, np.int32) for window in windows])
            else:
                ids = packed.inputs.ids[:n_tokens].copy()
                self._spare[packed.bucket].append(packed.inputs)
            self._card.compute(n_tokens)
            return split_results(windows, self._labels[ids], self._scores[ids], self._logits[ids] if needs_logits else None)

    load_model = nerve_model.load_model

    def load_on_card(config, folder, cache_dir):
        model = load_model(config, folder, cache_dir)
        policy = replace(model.policy, token_budget=4096, is_packed=True, max_padding=1.0, enough_tokens=sys.maxsize)
        return replace(model, session=CardSession(model), policy=policy, runs_anywhere=False, can_spread=False,
                       n_threads=1, thread=EngineThread("nerve-engine-0"))

    nerve_model.load_model = load_on_card
