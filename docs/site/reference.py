"""Makes the pages of docs/reference from the code, so that they say what it does.

    python docs/site/reference.py [--openapi FILE]     # or `make reference`

writes them; a test (tests/architecture/test_reference.py) fails where they are not those of the code. They are
committed, so that they can be read on GitHub, too. `--openapi` writes the OpenAPI document instead, for the site.
"""

from __future__ import annotations

import argparse
import json
import os.path
import re
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from nerve import cli
from nerve.config import parse_config
from nerve.config.schema import Config
from nerve.endpoints import create_endpoints
from nerve.errors import REASONS
from nerve.graph.architectures import FAMILIES
from nerve.http.openapi import build_openapi
from nerve.http.responses import ERROR_TABLE
from nerve.http.routing import routes_of
from nerve.observability.metrics import INFO_LABELS, Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

sys.path.insert(0, str(Path(__file__).parent))
import figures

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "docs/reference"
MODEL = {"model": {"checkpoint_repository": {"source": "LOCAL", "path": "m"}}}
# The name that stands for the model in paths.
NAME = "NAME"
_NOTE = (
    "<!-- Made from the code by docs/site/reference.py (`make reference`): change that, not this page. -->"
)
_KEY = re.compile(r"^( *)([a-z_]+):(?: (.*))?$")


def pages() -> dict[str, str]:
    """Return the pages by file name."""
    return {
        "configuration.md": configuration(),
        "commands.md": commands(),
        "routes.md": routes(),
        "metrics.md": metrics(),
        "models.md": models(),
    }


# --- keys of the configuration ---------------------------------------------------------------------------------


def configuration() -> str:
    """Return every key with its variable, type, default and meaning: the last is the comment of config.yaml."""
    schema = msgspec.json.schema(Config)
    lines = [
        "# Keys of the configuration",
        "",
        _NOTE,
        "",
        "Every key of `config.yaml`, with the variable that sets it from the environment. Lists and mappings in a",
        "variable are written as YAML. Which file, variable or flag wins: [configuration](../guide/configuration.md).",
        "",
    ]
    section = ""
    for key, comment in _comments((REPOSITORY / "config.yaml").read_text()):
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            lines += [f"## {section}", ""]
        kind, default = _kind(schema, key)
        variable = "NERVE_" + key.upper().replace(".", "__")
        lines += [f"### {key}", "", f"`{variable}` · {kind} · {default}", "", comment, ""]
    return "\n".join(lines)


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Yield each key of config.yaml with its comment: keys that stand together share one."""
    section, comment, is_open = "", [""], False
    for line in text.splitlines():
        key = _KEY.match(line)
        if line.startswith("  #"):
            comment = [*comment, line[4:]] if is_open else [line[4:]]
            is_open = True
        elif key and not key[1]:
            section, is_open = key[2], False
        elif key and len(key[1]) == 2:
            is_open = False
            beside = (key[3] or "").partition("#")[2].strip()
            yield f"{section}.{key[2]}", _as_markdown([*comment, "", beside] if beside else comment)


def _as_markdown(comment: list[str]) -> str:
    """Return a comment with its indented lines as code, and with links to the pages that it names."""
    parts: list[str] = []
    for is_code, lines in groupby(comment, key=lambda line: line.startswith("  ")):
        if is_code:
            parts += ["", "```text", *(line.strip() for line in lines), "```", ""]
        else:
            parts += map(_linked, lines)
    return "\n".join(parts).strip()


def _linked(line: str) -> str:
    def link(match: re.Match[str]) -> str:
        (page,) = REPOSITORY.glob(match[0] if match[0].endswith(".md") else f"{match[0]}-*.md")
        return f"[{page.stem}]({os.path.relpath(page, FOLDER)})"

    return re.sub(r"(?<![\w/.-])docs/[\w/-]+(?:\.md)?", link, line.replace("*", r"\*"))


def _kind(schema: dict[str, Any], key: str) -> tuple[str, str]:
    """Return type and default of a key, in words."""
    here: dict[str, Any] = schema["$defs"]["Config"]
    for part in key.split("."):
        found = here["properties"][part]
        here = _resolved(schema, found)
    default = f"default `{json.dumps(found['default'])}`" if "default" in found else "required"
    return _words(schema, found), default


def _resolved(schema: dict[str, Any], kind: dict[str, Any]) -> dict[str, Any]:
    return schema["$defs"][kind["$ref"].rpartition("/")[2]] if "$ref" in kind else kind


def _words(schema: dict[str, Any], kind: dict[str, Any]) -> str:
    """Describe a JSON schema in a few words."""
    kind = _resolved(schema, kind)
    if "anyOf" in kind:
        return " or ".join(_words(schema, part) for part in kind["anyOf"])
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    words = str(kind.get("type", "value"))
    if words == "array":
        return f"list of {_words(schema, kind['items'])}" if "items" in kind else "list"
    low, high = kind.get("minimum"), kind.get("maximum")
    if low is not None or high is not None:
        return f"{words} {f'from {low}' if low is not None else ''}{f' to {high}' if high is not None else ''}".strip()
    return {"object": "mapping"}.get(words, words)


# --- the command line ------------------------------------------------------------------------------------------


def commands() -> str:
    """Return every command with its arguments, as `--help` has them."""
    parser = cli._parser()
    (group,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    lines = [
        "# Commands and their arguments",
        "",
        _NOTE,
        "",
        "What `nerve COMMAND --help` says. How they are used: [commands](../guide/cli.md).",
        "",
    ]
    for name, command in group.choices.items():
        lines += [f"## nerve {name}", "", *_description(command), f"`{_usage(command)}`", ""]
        lines += ["| argument | |", "|---|---|"]
        for action in command._actions:
            if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
                text = command._get_formatter()._expand_help(action) if action.help else ""
                lines.append(f"| `{_spelt(action)}` | {text.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)


def _description(command: argparse.ArgumentParser) -> list[str]:
    """Return what a command says of itself; what it indents is code."""
    found: list[str] = []
    for part in re.split(r"\n\s*\n", (command.description or "").strip()):
        is_code = all(line.startswith("    ") for line in part.splitlines())
        found += [f"```text\n{part}\n```" if is_code else part, ""]
    return found


def _usage(command: argparse.ArgumentParser) -> str:
    """Return the usage on one line, the same for every version of Python."""
    positional = [
        f"{'' if action.required else '['}{_spelt(action)}{'' if action.required else ']'}"
        for action in command._actions
        if not action.option_strings
    ]
    return " ".join([command.prog, *positional, "[options]"])


def _spelt(action: argparse.Action) -> str:
    """Return an argument as it is typed."""
    value = action.metavar or action.dest
    value = " ".join(value) if isinstance(value, tuple) else str(value)
    if action.choices is not None and action.metavar is None:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if action.nargs in {"*", "+"}:
        value += " ..."
    if not action.option_strings:
        return value
    return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")


# --- HTTP ------------------------------------------------------------------------------------------------------


def openapi() -> dict[str, Any]:
    """Return the OpenAPI document of a server with an API key and all endpoints of this package."""
    config = parse_config({**MODEL, "model": {**MODEL["model"], "name": NAME}}, {}, Path("/"))
    return build_openapi(create_endpoints(config), needs_key=True, has_pages=True)


def routes() -> str:
    """Return every route, and every error."""
    config = parse_config({**MODEL, "model": {**MODEL["model"], "name": NAME}}, {}, Path("/"))
    served = create_endpoints(config)
    lines = [
        "# Routes and errors",
        "",
        _NOTE,
        "",
        "Every route of a server with all endpoints. The whole of it, with every field, is the OpenAPI document: at",
        "`/openapi.json` of a running server, to try out at its `/docs`, and in the site as `reference/openapi.json`.",
        f"`{NAME}` stands for `model.name`. What the endpoints are for: [API](../api/index.md).",
        "",
        "| method | path | `server.endpoints` | |",
        "|---|---|---|---|",
    ]
    for path, operations in openapi()["paths"].items():
        for method, operation in operations.items():
            if method == "head":
                continue
            here = served.get(path)
            route = here and (here.post if method == "post" else here.get)
            lines.append(
                f"| {method.upper()} | `{path}` | {route.endpoint if route else ''} | {operation['summary']} |"
            )
    lines += ["", "GET routes answer HEAD, too.", "", "## Errors", ""]
    lines += ["| status | `error_type` | `reason` in `nerve_rejections_total` |", "|---|---|---|"]
    kinds: dict[tuple[int, str], list[str]] = {}
    for error, kind in ERROR_TABLE.items():
        kinds.setdefault(kind, []).append(error.reason)
    for (status, kind), reasons in sorted(kinds.items()):
        lines.append(f"| {status} | `{kind}` | {', '.join(f'`{reason}`' for reason in reasons)} |")
    lines += ["| 404 | `NotFound` | |", "| 405 | `MethodNotAllowed` | |", ""]
    return "\n".join(lines)


def metrics() -> str:
    """Return every metric with its type, labels and buckets."""
    config = parse_config(MODEL, {}, Path("/"))
    known = routes_of(create_endpoints(config))
    made = Metrics(known, REASONS)
    made.set_info(dict.fromkeys(INFO_LABELS, ""))
    made.record_answer(known[0], 200)  # so that there is a sample, which has the labels
    lines = [
        "# Metrics",
        "",
        _NOTE,
        "",
        "What `GET /metrics` has. How to read them, and what to be alerted by: [operations](../guide/operations.md).",
        "",
        "| name | type | labels | |",
        "|---|---|---|---|",
    ]
    buckets: dict[str, list[str]] = {}
    for family in text_string_to_metric_families(made.render(0, 0).decode()):
        if family.name.endswith("_created"):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels}
        if family.type == "histogram":
            labels.discard("le")
            found = dict.fromkeys(sample.labels["le"] for sample in family.samples if "le" in sample.labels)
            buckets.setdefault(", ".join(found), []).append(name)
        text = ", ".join(f"`{label}`" for label in sorted(labels))
        lines.append(f"| `{name}` | {family.type} | {text} | {family.documentation} |")
    lines += ["", "## Buckets", ""]
    for bounds, names in buckets.items():
        lines += [f"{', '.join(f'`{name}`' for name in names)}: {bounds}", ""]
    lines += [
        "## Reasons",
        "",
        "`nerve_rejections_total` counts by `reason`: " + ", ".join(REASONS) + ".",
        "",
    ]
    return "\n".join(lines)


# --- checkpoints -----------------------------------------------------------------------------------------------


def models() -> str:
    """Return the repositories of the zoo, each with what is served of it."""
    entries = json.loads((REPOSITORY / "tests/zoo/zoo.json").read_text())["entries"]
    lines = [
        "# Checkpoints that are tested",
        "",
        _NOTE,
        "",
        "Repositories of the hub whose files are tested: a small model of random weights with the same configuration,",
        "the same tokenizer files and the same names of tensors as each, against transformers (`tests/zoo/`). Others",
        "of these architectures are served, too; `nerve show OWNER/NAME` says what would be done with one, before",
        "anything large is fetched.",
        "",
        "| repository | architecture | labels | served from |",
        "|---|---|---|---|",
    ]
    for entry in sorted(entries, key=lambda entry: (entry["model_type"], entry["repo"].lower())):
        if entry["slug"].startswith("variant--"):
            continue
        has_weights = any(name.endswith((".safetensors", "pytorch_model.bin")) for name in entry["files"])
        if entry["model_type"] in FAMILIES and has_weights:
            source = "its weights"
        elif any(name.endswith(".onnx") for name in entry["files"]):
            source = "its ONNX graph"
        else:
            source = "`nerve export`"
        lines.append(f"| {entry['repo']} | {entry['model_type']} | {entry['labels']} | {source} |")
    lines += ["", "All architectures: [architectures](../explanation/architectures.md).", ""]
    return "\n".join(lines)


def main() -> None:
    """Write the pages and the tables of figures, or the OpenAPI document."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--openapi", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.openapi:
        options.openapi.write_text(json.dumps(openapi(), indent=1) + "\n")
        return
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
    for page in figures.pages():
        page.write_text(figures.filled(page))
    sys.stdout.write(f"wrote {', '.join(pages())}\n")


if __name__ == "__main__":
    main()
