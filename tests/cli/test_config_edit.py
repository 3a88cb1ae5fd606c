"""Keys of a config file change in place; everything else stays as it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nerve.cli.tune.config_edit import edit

REPOSITORY = Path(__file__).parents[2]
FILE = """\
# mine
model:
    checkpoint_repository: {source: LOCAL, path: m}  # relative
    precision: auto
cpu:
  # how many
  threads: null   # all of them
  mode:
batching: {max_batch_size: 4, max_padding: 0.5}
"""


def edited(values: dict[tuple[str, ...], Any], text: str = FILE) -> str:
    """Return the edited text, whose values must be the new ones and otherwise the old ones."""
    result = edit(text, values, "new")
    expected = yaml.safe_load(text)
    for path, value in values.items():
        target = expected
        for name in path[:-1]:
            target[name] = target.get(name) or {}
            target = target[name]
        target[path[-1]] = value
    assert yaml.safe_load(result) == expected
    return result


def test_value_changes_and_comments_stay() -> None:
    """Only the line of the key changes; its comment moves behind the note."""
    before, after = FILE.splitlines(), edited({("cpu", "threads"): 3}).splitlines()
    assert [line for line in after if line not in before] == ["  threads: 3  # new; all of them"]
    assert len(before) == len(after)


def test_equal_value_changes_nothing() -> None:
    """A key that has the value already is not marked."""
    assert edited({("model", "precision"): "auto", ("cpu", "threads"): None}) == FILE


def test_empty_value_and_absent_keys() -> None:
    """A key without a value gets one; an absent key goes into its section, an absent section to the end."""
    result = edited({("cpu", "mode"): "latency", ("model", "device"): "cpu", ("server", "workers"): 2})
    assert "  mode: latency  # new\n" in result
    assert "model:\n    device: cpu  # new\n    checkpoint" in result
    assert result.endswith("\n\nserver:\n  workers: 2  # new\n")


def test_flow_style_sections_are_written_afresh() -> None:
    """A section in braces keeps its other members."""
    result = edited({("batching", "max_batch_size"): 1, ("model", "checkpoint_repository", "path"): "/a b/é"})
    assert "batching: {max_batch_size: 1, max_padding: 0.5}  # new\n" in result
    assert "# new; relative" in result


def test_section_without_members() -> None:
    """`cpu:` alone becomes a section."""
    edited({("cpu", "threads"): 2}, "model: 1\ncpu:\nserver:\n  port: 1\n")


@pytest.mark.parametrize("text", ["{model: 1}", "", "- a\n", "base: &b {threads: 1}\ncpu: *b\n"])
def test_what_cannot_be_edited_in_place_is_refused(text: str) -> None:
    """Flow style throughout, no mapping, and aliases: the caller writes the file afresh."""
    with pytest.raises(ValueError, match=r"mapping|alias"):
        edit(text, {("cpu", "threads"): 2}, "new")


def test_shipped_config_keeps_every_comment() -> None:
    """The repository's config.yaml comes back with each of its lines, but for the changed values."""
    text = (REPOSITORY / "config.yaml").read_text()
    values = {("cpu", "threads"): 4, ("server", "workers"): 2, ("batching", "max_padding"): 0.2}
    after = edited(values, text).splitlines()
    assert len([line for line in text.splitlines() if line not in after]) == 3
