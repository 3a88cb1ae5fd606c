"""Changes keys of a config file and leaves everything else as it stands: other keys, order, comments.

A YAML library that writes would lose the comments, which are half of what a config file says. So the file is
parsed only to find where values stand, and its text is changed there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

KeyPath = tuple[str, ...]


def edit(text: str, values: Mapping[KeyPath, Any], note: str) -> str:
    """Return the YAML `text` with `values` at their paths, as ("cpu", "threads"); changed lines end with `# note`.

    A key that is absent is added at the head of its section, an absent section at the end of the file. A file
    in flow style ({...}) is refused with `ValueError`; sections in that style are written afresh.
    """
    for path, value in values.items():
        text = _set(text, path, value, note)
    return text


def _set(text: str, path: KeyPath, value: Any, note: str) -> str:  # noqa: ANN401 - what YAML can hold
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        raise ValueError("the file is not a mapping in block style")
    for depth, name in enumerate(path):
        rest = path[depth + 1 :]
        key, found = next(((k, v) for k, v in node.value if k.value == name), (None, None))
        if key is None or found is None:
            if depth == 0:
                return f"{text.rstrip()}\n\n{_block(path, value, '', note)}"
            first = node.value[0][0].start_mark
            at = first.index - first.column
            return text[:at] + _block(path[depth:], value, " " * first.column, note) + text[at:]
        if found.start_mark.index < key.end_mark.index:
            raise ValueError(f"{'.'.join(path[: depth + 1])} is an alias")
        if not rest:
            return _replace(text, found, value, note)
        if not isinstance(found, yaml.MappingNode) or found.flow_style:
            members = _read(text, found) or {}
            _put(members, rest, value)
            return _replace(text, found, members, note)
        node = found
    raise AssertionError("a path has at least one name")


def _put(members: dict[str, Any], path: KeyPath, value: Any) -> None:  # noqa: ANN401 - what YAML can hold
    for name in path[:-1]:
        members = members.setdefault(name, {})
    members[path[-1]] = value


def _replace(text: str, found: yaml.Node, value: Any, note: str) -> str:  # noqa: ANN401 - what YAML can hold
    """Write a value in the place of another; nothing changes where they are equal."""
    if _read(text, found) == value:
        return text
    head, tail = text[: found.start_mark.index], text[found.end_mark.index :]
    rest, _, after = tail.partition("\n")
    old_comment = rest.strip().removeprefix("#").strip()
    comment = f"{note}; {old_comment}" if old_comment else note
    return f"{head}{' ' if head.endswith(':') else ''}{_scalar(value)}  # {comment}\n{after}"


def _read(text: str, node: yaml.Node) -> Any:  # noqa: ANN401 - what YAML can hold
    return yaml.safe_load(text[node.start_mark.index : node.end_mark.index])


def _block(path: KeyPath, value: Any, indent: str, note: str) -> str:  # noqa: ANN401 - what YAML can hold
    """Write one key with the sections above it."""
    *sections, key = path
    lines = [f"{indent}{'  ' * depth}{name}:\n" for depth, name in enumerate(sections)]
    lines.append(f"{indent}{'  ' * len(sections)}{key}: {_scalar(value)}  # {note}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:  # noqa: ANN401 - what YAML can hold
    dumped: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return dumped.removesuffix("...\n").strip()
