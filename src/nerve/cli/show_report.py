"""Prints what `nerve show` found as aligned lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from nerve.cli.display import PlainConsole, make_visible, print_named_lines
from nerve.cli.sizes import bytes_for_people

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from nerve.models.outlook import Outlook

_MOST_NAMES = 40


def print_outlook(outlook: Outlook, console: Console | None = None) -> None:
    """Print all sections, and as the last line why the model would be refused, if it would."""
    console = console or PlainConsole()
    print_named_lines(console, lines(outlook))
    if outlook.refused is not None:
        console.print(Text(f"refused: {make_visible(outlook.refused)}", "bold red"), soft_wrap=True)


def lines(outlook: Outlook) -> Iterator[tuple[str, str]]:
    """Yield each line as its name and its text; sections of which nothing is known are left out."""
    model = outlook.model
    origin = " ".join(part for part in (model.get("model_id", ""), model.get("revision", "")) if part)
    yield "model", f"{model['name']} ({origin or model['source']})"
    yield from _architecture(outlook)
    yield from _labels(outlook)
    yield from _tokenizer(outlook)
    yield from _graph(outlook)
    yield from _files(outlook)
    yield from _lengths(outlook)
    yield from _memory(outlook)
    yield from _limits(outlook)


def _architecture(outlook: Outlook) -> Iterator[tuple[str, str]]:
    found = outlook.architecture
    if not found:
        return
    shape = [f"{found['layers']} layers" if found.get("layers") else ""]
    shape += [f"{found['hidden_size']} wide" if found.get("hidden_size") else ""]
    shape += [f"{found['heads']} heads" if found.get("heads") else ""]
    parts = [str(found["model_type"]), str(found.get("class") or ""), *shape]
    yield "architecture", ", ".join(part for part in parts if part)
    if (n := found.get("parameters")) is not None:
        about = ", estimated from config.json" if found["parameters_are_estimated"] else ""
        yield "parameters", f"{n:,}{about}"


def _labels(outlook: Outlook) -> Iterator[tuple[str, str]]:
    found = outlook.labels
    if not found:
        return
    yield "labels", f"{found['count']}, scheme {found['scheme']}: {_some(found['names'])}"
    if found["made_up_because"]:
        yield "", found["made_up_because"]


def _tokenizer(outlook: Outlook) -> Iterator[tuple[str, str]]:
    found = outlook.tokenizer
    if not found:
        return
    if "kind" not in found:
        yield "tokenizer", f"from {found['file']}"
        return
    around = (
        f", puts {' '.join(found['special_tokens'])} around a text" if found.get("special_tokens") else ""
    )
    yield (
        "tokenizer",
        f"{found['kind']} from {found['file']}, vocabulary of {found['vocabulary']:,} tokens{around}",
    )


def _graph(outlook: Outlook) -> Iterator[tuple[str, str]]:
    found = outlook.graph
    if "from" not in found:
        return
    if "is_built" not in found:
        yield "graph", f"none from {found['from']}"
        return
    how = {
        True: "built from {}",
        False: "the ready graph {}",
        None: "built from the weights in {}, if they can be read back, else that graph",
    }[found["is_built"]].format(found["from"])
    yield "graph", f"{how}, {found['precision']} on {found['device']}"


def _files(outlook: Outlook) -> Iterator[tuple[str, str]]:
    name = "files"
    for file in outlook.files:
        size = bytes_for_people(file.bytes) if file.bytes is not None else "size unknown"
        yield name, f"{file.name}, {size}{', here' if file.is_here else ''}"
        name = ""
    if outlook.files:
        yield "download", bytes_for_people(outlook.download_bytes) if outlook.download_bytes else "nothing"


def _lengths(outlook: Outlook) -> Iterator[tuple[str, str]]:
    found = outlook.lengths
    if found:
        yield "max length", f"{found['max_length']:,} tokens, from {found['max_length_from']}"
        yield "window", f"{found['window_tokens']:,} tokens, from {found['window_tokens_from']}"
        yield (
            "",
            'longer texts take several; how to choose: docs/explanation/long-texts.md, "Choose a window"',
        )


def _memory(outlook: Outlook) -> Iterator[tuple[str, str]]:
    found = outlook.memory
    if not found:
        return
    how = "shared by" if found["is_shared"] else "in"
    twice = f" ({how} {found['sessions']} sessions)" if found["sessions"] > 1 else ""
    text = f"weights {bytes_for_people(found['weights_bytes'])}{twice}"
    if "calls" in found:
        text += f", at most {bytes_for_people(found['calls_bytes'])} for {found['calls']} calls at once"
    if "usable_bytes" in found:
        free, usable = (bytes_for_people(found[key]) for key in ("free_bytes", "usable_bytes"))
        text += f"; {free} of {usable} are free; estimated"
    yield "memory", text


def _limits(outlook: Outlook) -> Iterator[tuple[str, str]]:
    if outlook.limits:
        yield "limits", ", ".join(f"{key} {value:,}" for key, value in outlook.limits.items())


def _some(names: list[str]) -> str:
    rest = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + rest
