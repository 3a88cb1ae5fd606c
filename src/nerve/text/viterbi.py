"""Finds the best label sequence that the label scheme allows (the strategy `viterbi`).

Best is the path with the highest sum of the tokens' log-probabilities and of the biases of its moves, among the paths
that the scheme allows. Of paths that are equal, the one whose last label has the smallest id, then the one before it,
and so on. Where no path is possible, it is the best label of each token. docs/explanation/aggregation.md has the rules;
they are those of openai/privacy-filter's own decoder, for every scheme with prefixes.

Two facts make it quick:

    moves   Most labels may follow the same labels and be followed by the same. Labels that are left alike share one
            maximum, labels that are reached alike another: a step takes a time that grows with L, not with L squared.
    anchors Most tokens are `O`, and surely so. Where the scores prove that the best path is at `O` there, it is cut,
            and all pieces are solved side by side. Pieces whose best labels are a path that is allowed, at no
            bias, are solved already.

Pure; any thread may call anything. T = tokens of a text without special ones, L = labels.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from nerve.text.labels import LabelScheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from nerve.text.labels import LabelSet
    from nerve.types import FloatArray, IntArray

    Float64Array = npt.NDArray[np.float64]

# By how much a token must prefer `O` beyond what is needed: more than sums in float64 can be wrong by.
_MARGIN = 1e-6
_IMPOSSIBLE = -np.inf
# A token of the longest of some pieces that are solved side by side takes as long as so many of one alone.
_ALONE_IS_QUICKER = 4
# Tokens of pieces that are solved side by side, about: their scores are kept, 8 bytes for each label.
_TOKENS_TOGETHER = 16_384
# Tokens on either side of one that are looked at to prove that it is `O`, whatever is beyond them.
_REACHES = (16, 64)


class Biases(msgspec.Struct, frozen=True):
    """What is added to the score of a path for each of its moves, in nats; the names are those of the calibration file.

    background: `O`. start: a label that opens an entity. inside: a label within one. end: one that may be its last.
    In schemes without a label for the end, leaving an entity takes `end_to_...`, and `inside_to_end` has no use.
    """

    background_stay: float = 0.0
    background_to_start: float = 0.0
    inside_to_continue: float = 0.0
    inside_to_end: float = 0.0
    end_to_background: float = 0.0
    end_to_start: float = 0.0


def has_decoder(labels: LabelSet) -> bool:
    """Tell whether the labels have prefixes, without which every sequence would be allowed."""
    return labels.scheme is not LabelScheme.PLAIN


def allowed_moves(labels: LabelSet, biases: Biases) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return what it costs to begin with a label (L,), to go from one to another (L, L), to end with one (L,).

    0 or a bias where the scheme allows it, -inf where it does not.

        BIOES, BILOU  begins with O, B, S (U); ends with O, E (L), S; after O, E, S comes O, B or S; after B or I comes
                      I or E of the same tag.
        IOB           begins with O or B; I comes after B or I of the same tag only. A set with a tag that has I and
                      no B is one of IOB1, and so is IO: there I begins an entity, too.
        no prefix     a label other than O in any of these begins, goes on and ends.
    """
    prefixes = np.array(labels.prefixes)  # (L,)
    tag_ids = np.array(labels.tag_ids)
    outside = tag_ids < 0
    closes = np.array(labels.closes) & ~outside
    opens = np.array(labels.opens) & ~outside
    bare = (prefixes == "") & ~outside
    inside = (np.isin(prefixes, ["I", "M"]) & ~outside) | bare
    starts = opens | bare
    ends = closes | bare
    if labels.scheme in (LabelScheme.IOB, LabelScheme.IO):
        ends = ~outside
        if set(tag_ids[inside & ~bare]) - set(tag_ids[opens]):
            starts = ~outside
    goes_on = (opens & ~closes) | inside
    same_tag = tag_ids[:, None] == tag_ids  # (L, L)

    moves = np.full((len(labels), len(labels)), _IMPOSSIBLE)
    moves[np.ix_(outside, outside)] = biases.background_stay
    moves[np.ix_(outside, starts)] = biases.background_to_start
    moves[np.ix_(ends, outside)] = biases.end_to_background
    moves[np.ix_(ends, starts)] = biases.end_to_start
    moves[same_tag & goes_on[:, None] & inside] = biases.inside_to_continue
    only_closes = closes & ~opens
    moves[same_tag & goes_on[:, None] & only_closes] = biases.inside_to_end
    first = np.where(outside | starts, 0.0, _IMPOSSIBLE)
    last = np.where(outside | ends, 0.0, _IMPOSSIBLE)
    return first, moves, last


class Decoder:
    """Decodes with the labels and biases of one model; stateless after it was made."""

    def __init__(self, labels: LabelSet, biases: Biases | None = None) -> None:
        self._outside = labels.outside
        self._first, self._moves, self._last = allowed_moves(labels, biases or Biases())
        possible = self._moves[np.isfinite(self._moves)]
        # The best that a move can add.
        self._best_bias = float(possible.max(initial=_IMPOSSIBLE))
        self.has_biases = bool(np.any(possible != 0))
        self._into = np.ascontiguousarray(self._moves.T)  # (to, from)
        self._step = _Steps(self._moves)
        self._step_back = _Steps(self._into)

    def best_path(self, logits: FloatArray, best: IntArray) -> IntArray:
        """Return the labels (T,) of the best path.

        logits: (T, L); log-probabilities but for a constant of each token, which is the same for all paths.
        best: (T,), the best label of each token, of equals the smallest.
        """
        n_tokens = len(best)
        if n_tokens == 0:
            return best
        # What the moves of the best labels add: (T + 1,), move t leads to token t, the last one to the end.
        moves = np.empty(n_tokens + 1)
        moves[0] = self._first[best[0]]
        moves[1:-1] = self._moves[best[:-1], best[1:]]
        moves[-1] = self._last[best[-1]]
        possible = np.isfinite(moves)
        if not self.has_biases and possible.all():
            return best
        begins, stops = self._pieces(logits, best, moves)
        if not self.has_biases:
            # A piece with its two moves to the outside; between neighbours one token is left out, which is at O.
            n_wrong = np.concatenate(([0], np.cumsum(~possible)))
            wrong = n_wrong[stops + 1] > n_wrong[begins]
            begins, stops = begins[wrong], stops[wrong]
        path = best.copy()
        self._solve(logits, begins, stops, path)
        return path

    def find_border(self, logits: FloatArray, best: IntArray) -> int | None:
        """Return a late token at which every best path is at `O`, whatever comes after these tokens; None for none.

        The best path up to that token, and the one from it on, are parts of the best path of the whole text.
        logits, best: as for `best_path`, of tokens in the middle of a text or from its beginning on.
        """
        outside = self._outside
        n_tokens = len(best)
        if outside is None:
            return None
        for reach in _REACHES:
            # Tokens that have so many on either side; of them the one that is `O` most surely.
            first = max(reach, n_tokens - 3 * reach)
            candidates = first + np.flatnonzero(best[first : n_tokens - reach] == outside)
            if len(candidates) == 0:
                continue
            rows = logits[candidates].astype(np.float64)
            at_outside = rows[:, outside].copy()
            rows[:, outside] = _IMPOSSIBLE
            token = int(candidates[np.argmax(at_outside - rows.max(axis=1, initial=_IMPOSSIBLE))])
            if self._is_border(logits[token - reach : token + reach + 1].astype(np.float64), reach, outside):
                return token
        return None

    def _is_border(self, logits: Float64Array, token: int, outside: int) -> bool:
        """Tell whether the best path from any label of the first token to any of the last is at `O` at `token`.

        Also each half alone, which ends or begins there, must be best with `O`.
        """
        each = np.where(np.eye(len(self._first), dtype=np.bool_), 0.0, _IMPOSSIBLE)
        before = each  # (label of the first token, label here)
        for row in logits[1 : token + 1]:
            before = self._step(before) + row
        after = each + logits[-1]  # (label of the last token, label here)
        for row in logits[token:-1][::-1]:
            after = self._step_back(after) + row
        with np.errstate(invalid="ignore"):  # an infinity less an infinity is NaN, which is above nothing
            left = (before[:, [outside]] - before).min(axis=0, where=np.isfinite(before), initial=np.inf)
            right = (after[:, [outside]] - after).min(axis=0, where=np.isfinite(after), initial=np.inf)
            both = left + right - (logits[token, outside] - logits[token])
        others = np.arange(len(self._first)) != outside
        return bool((np.minimum(np.minimum(left, right), both)[others] > _MARGIN).all())

    def _pieces(self, logits: FloatArray, best: IntArray, moves: Float64Array) -> tuple[IntArray, IntArray]:
        """Cut a text at tokens where every best path is at `O`; return the half-open ranges between, none empty.

        An anchor is a token whose best label is O; its gap is by how much. Between two anchors some path from O to O
        is known, and the loss of it: by how much it is worse than the best that tokens and moves could give. Take a
        path that is not at O at anchor a, and the nearest anchors on either side at which it is. Between them it loses
        at least the gaps of all anchors it misses. Going through all of them would lose the known losses between. So
        where the gap of a is more than the losses can exceed the gaps on either side, no best path misses a.
        """
        n_tokens = len(best)
        whole = np.array([0]), np.array([n_tokens])
        outside = self._outside
        if outside is None or len(self._first) == 1:
            return whole
        anchors = np.flatnonzero(best == outside)
        if len(anchors) == 0:
            return whole
        top = logits[np.arange(n_tokens), best].astype(np.float64)
        # Losses by move: those of the best labels, and those of O throughout.
        as_best = np.where(np.isfinite(moves), self._best_bias - moves, np.inf)
        at_outside = np.zeros(n_tokens + 1)
        at_outside[:-1] = top - logits[:, outside]
        at_outside[1:-1] += self._best_bias - self._moves[outside, outside]
        as_best[0], as_best[-1] = -moves[0], -moves[-1]  # they have no bias
        edges = np.concatenate(([0], anchors + 1))
        losses = np.minimum(np.add.reduceat(as_best, edges), np.add.reduceat(at_outside, edges))  # (A + 1,)
        rows = logits[anchors]
        others = np.maximum(
            rows[:, :outside].max(axis=1, initial=_IMPOSSIBLE),
            rows[:, outside + 1 :].max(axis=1, initial=_IMPOSSIBLE),
        )
        gaps = top[anchors] - others  # (A,)
        is_sure = gaps > _most_excess(losses, gaps) + _MARGIN
        cuts = anchors[is_sure]
        begins = np.concatenate(([0], cuts + 1))
        stops = np.concatenate((cuts, [n_tokens]))
        filled = stops > begins
        return begins[filled], stops[filled]

    def _solve(self, logits: FloatArray, begins: IntArray, stops: IntArray, path: IntArray) -> None:
        """Write the best path of each piece into `path` (T,); before and after a piece is O, or an end of the text.

        Where a piece has no path, it stays as it is.
        """
        order = np.argsort(begins - stops, kind="stable")  # longest first
        begins, stops = begins[order], stops[order]
        lengths = stops - begins
        if len(lengths) == 0:
            return
        # The longest ones alone, so many that it takes least time.
        costs = np.concatenate(([0], np.cumsum(lengths)))
        costs[:-1] += _ALONE_IS_QUICKER * lengths
        n_alone = int(np.argmin(costs))
        for begin, stop in zip(begins[:n_alone].tolist(), stops[:n_alone].tolist(), strict=True):
            self._solve_alone(logits, begin, stop, path)
        groups = np.cumsum(lengths[n_alone:]) // _TOKENS_TOGETHER
        for group in np.split(np.arange(n_alone, len(lengths)), np.flatnonzero(np.diff(groups)) + 1):
            self._solve_together(logits, begins[group], stops[group], path)

    def _solve_alone(self, logits: FloatArray, begin: int, stop: int, path: IntArray) -> None:
        """Do as `_solve` for one piece."""
        inner = self._outside is not None
        scores = logits[begin:stop].astype(np.float64)  # (tokens, L)
        scores[0] += self._moves[self._outside] if begin > 0 and inner else self._first
        self._step.walk(scores)
        totals = scores[-1] + (self._into[self._outside] if stop < len(path) and inner else self._last)
        label = int(totals.argmax())
        if not np.isfinite(totals[label]):
            return
        labels = [label]
        for row in scores[-2::-1]:
            np.add(row, self._into[label], out=totals)
            label = int(totals.argmax())
            labels.append(label)
        path[begin:stop] = labels[::-1]

    def _solve_together(self, logits: FloatArray, begins: IntArray, stops: IntArray, path: IntArray) -> None:
        """Do as `_solve` for pieces that are sorted, the longest first, side by side."""
        lengths = stops - begins
        if len(lengths) == 0:
            return
        n_longer = np.searchsorted(-lengths, -np.arange(lengths[0] + 1), side="left")  # pieces longer than t
        into = self._moves[self._outside] if self._outside is not None else self._first
        out_of = self._into[self._outside] if self._outside is not None else self._last
        scores: Float64Array = (
            np.where((begins > 0)[:, None], into, self._first) + logits[begins]
        )  # (pieces, L)
        steps = [scores]
        for t in range(1, int(lengths[0])):
            n_pieces = int(n_longer[t])
            scores = self._step(scores[:n_pieces]) + logits[begins[:n_pieces] + t]
            steps.append(scores)
        labels = np.zeros(len(lengths), np.int64)
        is_solved = np.ones(len(lengths), np.bool_)
        for t in range(len(steps) - 1, -1, -1):
            n_longest, n_pieces = int(n_longer[t + 1]), int(n_longer[t])
            if n_longest:
                labels[:n_longest] = (steps[t][:n_longest] + self._into[labels[:n_longest]]).argmax(axis=1)
            if n_pieces > n_longest:
                ending = slice(n_longest, n_pieces)
                is_inner = (stops[ending] < len(path))[:, None]
                totals = steps[t][ending] + np.where(is_inner, out_of, self._last)
                labels[ending] = totals.argmax(axis=1)
                is_solved[ending] = np.isfinite(totals.max(axis=1))
            solved = is_solved[:n_pieces]
            path[begins[:n_pieces][solved] + t] = labels[:n_pieces][solved]


class _Steps:
    """Steps by one table of moves (from, to); made once, used by any thread."""

    def __init__(self, moves: Float64Array) -> None:
        """Labels with equal rows of `moves` are one source, with equal columns one target."""
        rows, source_of = np.unique(moves, axis=0, return_inverse=True)  # (R, L)
        source_of = source_of.reshape(-1)
        self._by_source = np.argsort(source_of, kind="stable")
        self._source_begins = np.searchsorted(source_of[self._by_source], np.arange(len(rows)))
        columns, target_of = np.unique(rows, axis=1, return_inverse=True)  # (R, C)
        self._target_of = target_of.reshape(-1)
        sources: list[int] = []
        biases: list[float] = []
        begins: list[int] = []
        for column in columns.T:
            begins.append(len(sources))
            found = np.flatnonzero(np.isfinite(column)).tolist() or [0]  # reduceat knows no empty group
            sources += found
            biases += column[found].tolist()
        self._sources = np.array(sources)
        self._biases = np.array(biases)
        self._target_begins = np.array(begins)

    def walk(self, scores: Float64Array) -> None:
        """Add to each row (T, L) the best score with which its labels can be reached from the row before.

        As a call for each row, with nothing made anew.
        """
        by_source = np.empty(len(self._by_source))
        sources = np.empty(len(self._source_begins))
        reached = np.empty(len(self._sources))
        targets = np.empty(len(self._target_begins))
        best = np.empty(len(self._target_of))
        for before, row in itertools.pairwise(scores):
            before.take(self._by_source, out=by_source, mode="clip")
            np.maximum.reduceat(by_source, self._source_begins, out=sources)
            sources.take(self._sources, out=reached, mode="clip")
            np.add(reached, self._biases, out=reached)
            np.maximum.reduceat(reached, self._target_begins, out=targets)
            targets.take(self._target_of, out=best, mode="clip")
            np.add(row, best, out=row)

    def __call__(self, scores: Float64Array) -> Float64Array:
        """Return the best score with which each label can be reached, (pieces, L) to (pieces, L)."""
        sources = np.maximum.reduceat(scores[:, self._by_source], self._source_begins, axis=1)
        reached = sources[:, self._sources] + self._biases
        targets: Float64Array = np.maximum.reduceat(reached, self._target_begins, axis=1)
        return targets[:, self._target_of]


def _most_excess(losses: Float64Array, gaps: Float64Array) -> Float64Array:
    """Return for each anchor the most that losses can exceed gaps, summed from it to either side: (A,).

    losses: (A + 1,), anchor i stands between losses i and i + 1. A sum to the right has the losses i + 1 to j, and the
    gaps of the anchors between them; so to the left.
    """
    with np.errstate(invalid="ignore"):  # infinities leave NaN, which is above no gap
        return _excess_to_the_right(losses, gaps) + _excess_to_the_right(losses[::-1], gaps[::-1])[::-1]


def _excess_to_the_right(losses: Float64Array, gaps: Float64Array) -> Float64Array:
    total_losses = np.cumsum(losses)
    totals = total_losses[1:] - np.concatenate(([0.0], np.cumsum(gaps[1:])))  # (A,), up to loss i + 1
    best = np.maximum.accumulate(totals[::-1])[::-1]
    excess: Float64Array = best - total_losses[:-1] + np.concatenate(([0.0], np.cumsum(gaps[1:])))
    return excess


def path_scores(
    logits: FloatArray, path: IntArray, entities: Sequence[tuple[int, int, int, int]], begin: int
) -> FloatArray:
    """Return exp of the mean log-probability of the path's labels in each entity, float32 (E,).

    logits: (T, L) and path: (T,), from token `begin` on. An entity begins with its first token and the token after it.
    """
    means = []
    for first, stop, _, _ in entities:
        rows = logits[first - begin : stop - begin].astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        chosen = rows[np.arange(len(rows)), path[first - begin : stop - begin]]
        means.append((chosen - np.log(np.exp(rows).sum(axis=1))).mean())
    scores: FloatArray = np.exp(np.array(means)).astype(np.float32)
    return scores
