"""A page that is open in a browser, for the tests of `make test-page`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BROWSER = os.environ.get("NERVE_TEST_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
# Gives what a view shows: its text without the names of labels, and [start, end, label] of each mark in UTF-16 units.
READ_MARKS = r"""(id) => {
  const marks = [];
  let length = 0, shown = "";
  for (const line of document.querySelectorAll(`#${id} .line`)) {
    let text = "";
    const walk = (node) => {
      if (node.nodeType === Node.TEXT_NODE) { text += node.data; return; }
      if (node.className === "badge") return;
      const start = length + text.length;
      node.childNodes.forEach(walk);
      if (node.tagName !== "MARK") return;
      const last = marks.at(-1);
      const label = node.title.split(",")[0];
      // An entity that goes over the end of a line has a mark in each, and its label in the last one.
      if (last && last[3]) last[1] = length + text.length;
      else marks.push([start, length + text.length, label, false]);
      marks.at(-1)[3] = node.classList.contains("more");
    };
    line.childNodes.forEach(walk);
    if (!line.classList.contains("cut")) text += "\n";
    shown += text;
    length += text.length;
  }
  return {text: shown.slice(0, -1), marks: marks.map((mark) => mark.slice(0, 3))};
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
        self.wait_for("document.querySelector('[aria-busy=true]') === null")
        self.page.wait_for_timeout(50)

    def wait_for(self, condition: str) -> None:
        """Wait until a condition holds; Playwright's own way needs `eval`, which the page's policy forbids."""
        deadline = time.monotonic() + 60
        while not self.page.evaluate(condition):
            assert time.monotonic() < deadline, condition
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
