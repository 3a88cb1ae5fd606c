"""Prints what `nerve doctor` found as aligned lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from nerve.cli.display import PlainConsole, print_named_lines
from nerve.cli.sizes import bytes_for_people

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from nerve.cli.checkup import Checkup


def print_checkup(found: Checkup, console: Console | None = None) -> None:
    """Print all sections, then notes, then what would make a start fail, or that nothing would."""
    console = console or PlainConsole()
    print_named_lines(console, lines(found))
    for note in found.notes:
        console.print(Text(f"note: {note}", "yellow"), soft_wrap=True)
    for problem in found.problems:
        console.print(Text(f"problem: {problem}", "bold red"), soft_wrap=True)
    if not found.problems:
        what = found.model.get("name") or "a model"
        console.print(
            Text(f"nothing here would keep `nerve serve` from serving {what}", "bold green"), soft_wrap=True
        )


def lines(found: Checkup) -> Iterator[tuple[str, str]]:
    """Yield each line as its name and its text."""
    version = found.version
    yield "nerve", f"{version['nerve']}, Python {version['python']}, {version['system']}"
    yield "cores", _cores(found)
    yield "processor", _processor(found)
    if found.memory:
        free, usable = (bytes_for_people(found.memory[key]) for key in ("free_bytes", "usable_bytes"))
        yield "memory", f"{free} of {usable} are free"
    if found.runtime:
        yield (
            "runtime",
            f"onnxruntime {found.runtime['onnxruntime']}: {', '.join(found.runtime['providers'])}",
        )
    yield from _gpu(found)
    for name, choice in found.chosen.items():
        yield name, f"{choice['is']}: {choice['because']}"
    name = "caches"
    for cache in found.caches:
        state = "" if cache["is_writable"] else ", CANNOT BE WRITTEN"
        yield (
            name,
            f"{cache['path']}: {bytes_for_people(cache['bytes'])} of {cache['what']}, "
            f"{bytes_for_people(cache['free_bytes'])} free{state}",
        )
        name = ""
    yield from _hub(found)
    installed = [extra for extra, is_there in found.extras.items() if is_there]
    missing = [extra for extra, is_there in found.extras.items() if not is_there]
    yield (
        "extras",
        f"{', '.join(installed) or 'none'} installed; not installed: {', '.join(missing) or 'none'}",
    )
    yield from _model(found)


def _cores(found: Checkup) -> str:
    cores = found.cores
    parts = [f"{cores['usable']} usable of {cores['of_machine']}"]
    if cores["allowed"] != cores["of_machine"]:
        parts.append(f"the affinity allows {cores['allowed']}")
    parts.append("no cgroup limits them" if cores["quota"] is None else f"a cgroup grants {cores['quota']:g}")
    return ", ".join([*parts, f"load {cores['load']:.1f}"])


def _processor(found: Checkup) -> str:
    instructions = found.processor["instructions"]
    have = [name for name, is_there in instructions.items() if is_there]
    lack = [name for name, is_there in instructions.items() if not is_there]
    without = f"; without {', '.join(lack)}" if lack else ""
    known = (
        f"{', '.join(have) or 'none of the known instructions'}{without}"
        if instructions
        else "instructions unknown"
    )
    return f"{found.processor['name']} ({found.processor['architecture']}), {known}"


def _gpu(found: Checkup) -> Iterator[tuple[str, str]]:
    if not found.gpu:
        yield "gpu", "none: there is no NVIDIA driver"
        return
    driver = f"the driver supports CUDA {found.gpu['driver_supports_cuda']}"
    if not found.gpu["cards"]:
        yield "gpu", f"{driver}, but shows no card"
    for number, card in enumerate(found.gpu["cards"]):
        memory = bytes_for_people(card["memory"])
        yield f"gpu {number}", f"{card['name']}, {memory}, compute capability {card['capability']}; {driver}"


def _hub(found: Checkup) -> Iterator[tuple[str, str]]:
    hub = found.hub
    if not hub:
        return
    token = "with a token" if hub["has_token"] else "without a token"
    state = (
        f"answers in {hub['seconds']:.2f} s" if hub["is_reachable"] else f"NOT reachable ({hub['problem']})"
    )
    yield "hub", f"{hub['endpoint']} {state}; {token}"


def _model(found: Checkup) -> Iterator[tuple[str, str]]:
    model = found.model
    if not model:
        return
    parts = [f"{model['name']} ({model['id']})" if model["id"] else model["name"]]
    if model["download_bytes"] is None:
        parts.append("no file of it is known")
    else:
        size = bytes_for_people(model["download_bytes"])
        parts.append(f"{size} to download" if model["download_bytes"] else "is here")
    if model["weights_bytes"]:
        parts.append(f"about {bytes_for_people(model['weights_bytes'])} of weights in memory")
    yield "model", ", ".join(parts)
