"""Variables of the environment that look like ours and set nothing: a slip that nobody would see otherwise.

`NERVE_SERVER_PORT` has one underscore too few. With two, a key that does not exist is refused (`loading`); with one,
the variable may be somebody else's, so it is a warning.
"""

from __future__ import annotations

import difflib
import logging
import re
from typing import TYPE_CHECKING

import msgspec

from nerve.config.explaining import section_in
from nerve.config.loading import ENV_API_KEY, ENV_PREFIX
from nerve.config.redaction_key import ENV_REDACTION_KEY
from nerve.config.schema import Config

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

log = logging.getLogger(__name__)

ENV_CONFIG = "NERVE_CONFIG"
_OWN = (ENV_CONFIG, ENV_API_KEY, ENV_REDACTION_KEY)
# Of the services of a namespace, `nerve` or `nerve-metrics`, Kubernetes tells every container in variables such as
# NERVE_SERVICE_HOST, NERVE_SERVICE_PORT_HTTP, NERVE_PORT_80_TCP_ADDR, and NERVE_PORT=tcp://10.0.0.1:80; so does Docker
# of linked containers.
_SERVICE = re.compile(
    r"NERVE(_\w+?)??_(SERVICE_(HOST|PORT(_\w+)?)|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://", re.IGNORECASE)
# Share of letters that two names must have in common: one word apart, or a few letters.
_LIKENESS = 0.75
# Letters with which as good as any name begins.
_SHORT = 2


def warn_of_strays(environment: Mapping[str, str]) -> None:
    """Log a warning for each `NERVE_*` variable that names no key, with the nearest one. Values are never quoted."""
    for name in sorted(environment):
        if _is_stray(name, environment[name]):
            log.warning("%s sets nothing: nerve has no such variable; %s", name, _advice(name))


def _is_stray(name: str, value: str) -> bool:
    if not name.startswith(ENV_PREFIX) or "__" in name or name in _OWN:
        return False
    is_address = name.endswith("_PORT") and _SERVICE_ADDRESS.match(value)
    return not is_address and not _SERVICE.fullmatch(name)


def _advice(name: str) -> str:
    wanted = name.removeprefix(ENV_PREFIX).lower()
    keys = {key: ENV_PREFIX + key.upper().replace(".", "__") for key in _keys(Config)}
    known = {**{own.removeprefix(ENV_PREFIX).lower(): own for own in _OWN}, **keys}
    if wanted in {key.partition(".")[0] for key in keys}:
        return f"{wanted} is a section, whose keys are {ENV_PREFIX}{wanted.upper()}__KEY"
    found = _nearest(wanted, list(known))
    if found is None:
        return f"keys are {ENV_PREFIX}SECTION__KEY, as in config.yaml, with two underscores"
    return f"did you mean {known[found]}" + (f", for {found}?" if found in keys else "?")


def _nearest(wanted: str, keys: list[str]) -> str | None:
    """Return the key that is meant by the words of a variable: they end with its name, begin it, or look like it."""
    ends = [key for key in keys if f"_{wanted}".endswith(f"_{key.rpartition('.')[2]}")]
    if ends:  # the longest name, and of its keys the one that has most in common
        return max(ends, key=lambda key: (len(key.rpartition(".")[2]), _likeness(wanted, key)))
    tails: dict[str, str] = {}
    for key in keys:
        names = key.split(".")
        for k in range(len(names)):
            tails.setdefault("_".join(names[k:]), key)
    is_word = len(wanted) > _SHORT
    begun = next((tail for tail in tails if is_word and tail.startswith(wanted)), None)
    near = [begun] if begun else difflib.get_close_matches(wanted, tails, n=1, cutoff=_LIKENESS)
    return tails[near[0]] if near else None


def _likeness(wanted: str, key: str) -> float:
    return difflib.SequenceMatcher(None, wanted, key).ratio()


def _keys(section: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Yield every key below a section, such as "server.tls.key"."""
    for field in msgspec.structs.fields(section):
        below = section_in(field.type)
        if below is None:
            yield prefix + field.name
        else:
            yield from _keys(below, f"{prefix}{field.name}.")
