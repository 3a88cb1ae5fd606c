"""Cuts a long text into sections: some windows each, and the tokens that these answer for. Pure.

The windows, and what each answers for, are those of the whole text (`windows`); a section can be made, and computed, as
soon as its tokens are known, whatever comes after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nerve.text.windows import border, owned_ranges, plan_windows
from nerve.types import Section, TokenizedText, Window

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nerve.text.pieces import Tokens

# Tokens of a section, about: enough windows for some calls on all cores.
SECTION_TOKENS = 4096


def cut_sections(
    text: str,
    runs: Iterable[Tokens],
    prefix: list[int],
    suffix: list[int],
    capacity: int,
    stride: int,
    section_tokens: int = SECTION_TOKENS,
) -> Iterator[Section]:
    """Yield the sections of a text; there is one at least.

    runs: its real tokens, in order. prefix, suffix: special tokens around it. capacity, stride: as in `plan_windows`.
    """
    step = capacity - stride
    n_windows = max(1, section_tokens // capacity)  # of each section but the last
    reach = (n_windows - 1) * step + capacity
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    base = own = 0  # real tokens: with which the lists begin, and the next section

    def make(windows: list[tuple[int, int]], own_stop: int, *, is_last: bool) -> Section:
        """windows: from `base` on. own_stop: the real token before which the section ends."""
        owned = owned_ranges(windows)
        owned = [(first + base, stop + base) for first, stop in owned]
        owned[0] = (own, owned[0][1])
        owned[-1] = (owned[-1][0], own_stop)
        front, back = (prefix if base == 0 else []), (suffix if is_last else [])
        mine = slice(own - base, own_stop - base)
        tokens = TokenizedText(
            text,
            front + ids[mine] + back,
            [(0, 0)] * len(front) + offsets[mine] + [(0, 0)] * len(back),
            len(front),
            len(back),
            tuple(Window(prefix + ids[a:b] + suffix, base + a) for a, b in windows),
            truncated=False,
        )
        return Section(tokens, owned, is_first=base == 0, is_last=is_last)

    for run_ids, run_offsets in runs:
        ids += run_ids
        offsets += run_offsets
        while len(ids) > reach:  # so another window follows
            windows = [(k * step, k * step + capacity) for k in range(n_windows)]
            stop = border(base + reach, base + n_windows * step)
            yield make(windows, stop, is_last=False)
            del ids[: n_windows * step], offsets[: n_windows * step]
            base += n_windows * step
            own = stop
    yield make(plan_windows(len(ids), capacity, stride), base + len(ids), is_last=True)
