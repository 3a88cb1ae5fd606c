"""A page that is open in a browser, for the tests of `make test-page`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

# Gives what a view shows: its text without the names of labels, and [start, end, label] of each mark in UTF-16 units.
READ_MARKS = """(id) => {
  const marks = [], lines = [];
  let length = 0;
  for (const line of document.querySelectorAll(`#${id} .line`)) {
    let text = "";
    const walk = (node) => {
      if (node.nodeType === Node.TEXT_NODE) { text += node.data; return; }
      if (node.className === "badge") return;
      const start = length + text.length;
      node.childNodes.forEach(walk);
      if (node.tagName === "MARK") marks.push([start, length + text.length, node.title.split(",")[0]]);
    };
    line.childNodes.forEach(walk);
    lines.push(text);
    length += text.length + 1;
  }
  return {text: lines.join("\\n"), marks};
}"""


@dataclass
class Tab:
    """A page that is open, and what it did.

    requests: method, URL and body of each. complaints: what the browser said of it.
    """

    page: Any
    url: str
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def type(self, text: str) -> None:
        """Put a text into the box, and wait until its answer is shown."""
        self.page.fill("#text", text)
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is asked any more, and something is shown."""
        self.page.wait_for_timeout(350 if len(self.page.input_value("#text")) < 20_000 else 800)
        self.page.wait_for_function("document.querySelector('[aria-busy=true]') === null", timeout=60_000)
        self.page.wait_for_timeout(50)

    def marks(self, view: str = "view-text") -> tuple[str, list[list[Any]]]:
        """Return the text that is shown, and the marks in it."""
        found = self.page.evaluate(READ_MARKS, view)
        return found["text"], found["marks"]

    def view(self, name: str) -> None:
        """Choose a view."""
        self.page.check(f"input[name=view][value={name}]", force=True)
        self.settle()


OpenTab = Callable[..., Tab]
