"""The special and added tokens of a tokenizer, as the JSON files of a checkpoint name them.

The rules are those of transformers 5 (`PreTrainedTokenizerBase._from_pretrained`, `TokenizersBackend.__init__`):

    - Each class has usual names for the tokens with a role (`[CLS]`, `<s>`); tokenizer_config.json may rename them.
    - `added_tokens_decoder` of tokenizer_config.json (transformers 4.34 and later) lists every added token by id.
      Where there is none, special_tokens_map.json goes over tokenizer_config.json, and added_tokens.json lists what
      was added, special where one of these files gives it a role.
    - First come the added tokens in the order of their ids, then those with a role, then additional special ones.
    - The library gives an added token the id that the vocabulary has for it, else the next free one; of several with
      the same text the first has the id, the last the flags.

A token is a string, or an object with the fields of the library's `AddedToken`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tokenizers import Tokenizer

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_FIELDS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
_LISTS = ("extra_special_tokens", "additional_special_tokens")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """What the files say of tokens beside the vocabulary.

    named: role -> token, of the roles that have one, usual roles first.
    added: those that were added to the vocabulary, in the order of their ids.
    ids: text of a token -> its id, where the files state it.
    extra: further special tokens of tokenizer_config.json; None where it does not speak of any.
    mapped: further special tokens of special_tokens_map.json, which count where `extra` is None.
    """

    named: dict[str, AddedToken]
    added: list[AddedToken]
    ids: dict[str, int]
    extra: list[AddedToken] | None
    mapped: list[AddedToken]

    def text(self, role: str) -> str:
        """Return the text of the token with a role. Raises `KeyError` where the files took it away."""
        found: str = self.named[role].content
        return found


def read_special_tokens(
    settings: Mapping[str, Any],
    special_tokens_map: Mapping[str, Any],
    added_tokens: Mapping[str, Any],
    usual: Mapping[str, Any],
) -> SpecialTokens:
    """Collect the tokens of tokenizer_config.json, special_tokens_map.json and added_tokens.json.

    usual: role -> token of the class, where the files name none.
    Raises `ValueError`, `TypeError`, `AttributeError` or `KeyError` for files that are not of this form.
    """
    listed = settings.get("added_tokens_decoder")
    merged = dict(settings)
    if listed is None:
        merged |= {
            role: value | {"special": True} if isinstance(value, dict) else value
            for role, value in special_tokens_map.items()
            if role not in _LISTS
        }
    extra = _further(settings)
    mapped = _further(special_tokens_map) if listed is None else None
    roles = [*ROLES, *(key for key in merged if key.endswith("_token") and key not in ROLES)]
    named = {role: merged.get(role, usual.get(role)) for role in roles}
    if listed is not None:
        by_id = {int(number): _token(value) for number, value in listed.items()}
    else:
        special = {_text(value) for value in (*(merged.get(role) for role in ROLES), *(extra or ()))}
        by_id = {
            int(number): AddedToken(text, normalized=text not in special, special=text in special)
            for text, number in added_tokens.items()
        }
    added = [by_id[number] for number in sorted(by_id)]
    flags = {token.content: token for token in added}
    found = {
        role: flags.get(_text(value) or "") or _token(value)
        for role, value in named.items()
        if isinstance(value, (str, dict))
    }
    for token in found.values():
        token.special = True
    return SpecialTokens(
        named=found,
        added=added,
        ids={token.content: number for number, token in by_id.items()},
        extra=None if extra is None else [_token(value) for value in extra],
        mapped=[_token(value) for value in mapped or ()],
    )


def add_tokens(tokenizer: Tokenizer, tokens: SpecialTokens, symbols: Iterable[AddedToken] = ()) -> None:
    """Add all tokens to the library's tokenizer; `symbols` are the vocabulary's own, which count as `mapped` do."""
    extra = [*symbols, *tokens.mapped] if tokens.extra is None else tokens.extra
    listed = {token.content for token in tokens.added}
    others = [token for token in (*tokens.named.values(), *extra) if token.content not in listed]
    tokenizer.add_tokens([*tokens.added, *others])


def moved_tokens(tokenizer: Tokenizer, tokens: SpecialTokens) -> dict[str, tuple[int, int | None]]:
    """Return the added tokens whose id is not the one that the files state: text -> stated id, id."""
    ids = {text: (stated, tokenizer.token_to_id(text)) for text, stated in tokens.ids.items()}
    return {text: pair for text, pair in ids.items() if pair[0] != pair[1]}


def _further(source: Mapping[str, Any]) -> list[Any] | None:
    """Return further special tokens as a file writes them; None where it does not speak of any."""
    there = [source[key] or [] for key in _LISTS if key in source]
    if not there:
        return None
    value: Any = next(filter(None, there), [])
    return list(value.values() if isinstance(value, dict) else value)


def _token(value: str | dict[str, Any]) -> AddedToken:
    """Return a token that is written as a string, which is special, or as an object."""
    if isinstance(value, str):
        return AddedToken(value, special=True)
    return AddedToken(**{key: value[key] for key in _FIELDS if key in value})


def _text(value: object) -> str | None:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
