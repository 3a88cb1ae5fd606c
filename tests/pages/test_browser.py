"""The playground in a real browser, before real servers; `make test-page`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from browser_tab import OpenTab, Tab
from builders import ServerProcess

KEY = "a-key-of-many-letters"
TEXT = "Anna Maria lives in New York. Bob sees Paris."
FOUND = [[0, 10, "PER"], [20, 28, "LOC"], [30, 33, "PER"], [39, 44, "LOC"]]
NAMES = {"Anna", "Maria", "Bob", "Paris"}
# Signs of more than one UTF-16 unit or code point, of both directions; the last as a careless program leaves it.
ODD = {
    "emoji of several signs": "'👩🏽\u200d🚀 Anna 👨\u200d👩\u200d👧\u200d👦 in Paris 🇲🇽'",
    "combining marks": "'é e\u0301 Anna \u0336\u0301\u0301 Paris'",
    "hebrew": "'שלום Bob שלום Paris עולם'",
    "arabic": "'مرحبا Anna في Paris\\n\\n  \\tBob'",
    "line breaks": "'Anna\\nMaria\\r\\nBob\\n'",
    "halves of pairs": "'\\ud83d Anna \\udc00 Paris'",
}
# Gives the distance of each badge from its own mark's text, and the order of all letters from left to right: as they
# stand, and as they would stand without marks.
READ_BADGES = r"""() => {
  const line = document.querySelector("#view-text .line");
  const boxOf = (node, at) => {
    const range = document.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getBoundingClientRect();
  };
  const order = (inner) => {
    const walker = document.createTreeWalker(inner, NodeFilter.SHOW_TEXT);
    const found = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (node.parentElement.className === "badge") continue;
      for (let at = 0; at < node.length; at += 1)
        if (node.data[at].trim()) found.push([boxOf(node, at).left, node.data[at]]);
    }
    return found.sort((one, other) => one[0] - other[0]).map((each) => each[1]).join("");
  };
  const gaps = [...line.querySelectorAll(".badge")].map((badge) => {
    const box = badge.getBoundingClientRect();
    const text = badge.previousSibling;
    return Math.min(
      ...[...text.data]
        .map((_, at) => boxOf(text, at))
        .map((each) => Math.max(box.left - each.right, each.left - box.right)),
    );
  });
  const places = order(line);
  line.textContent = [...line.childNodes].map((node) => (node.firstChild ? node.firstChild.data : node.data)).join("");
  return [gaps, places, order(line)];
}"""
LONGEST_TASK_MILLISECONDS = 250  # on a machine that does other work, too


@pytest.fixture
def ready(serve: Callable[..., ServerProcess]) -> ServerProcess:
    """Return a server of the lookup model."""
    return serve()


def expected_marks(server: ServerProcess, text: str) -> list[list[Any]]:
    """Return what the API says of a text."""
    body = {"inputs": text, "aggregation_strategy": "first", "offset_unit": "utf16"}
    (rows,) = server.client.post("/predict_tokens", json=body).json()
    return [[row["start"], row["end"], *row["results"]] for row in rows]


def axe(tab: Tab) -> list[str]:
    """Return what axe-core finds wrong."""
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415 - of `make test-page`

    found = Axe().run(tab.page).response["violations"]
    return [f"{each['id']}: {node['html'][:200]}" for each in found for node in each["nodes"]]


def test_marks_stand_where_the_entities_are(ready: ServerProcess, open_tab: OpenTab) -> None:
    """The text is shown unchanged; marks are the API's, by label, and the legend counts them."""
    tab = open_tab(ready)
    tab.type(TEXT)
    assert tab.marks() == (TEXT, FOUND)
    assert tab.page.inner_text("#legend").split() == ["PER", "2", "LOC", "2"]
    assert tab.page.locator("mark .badge").all_inner_texts() == ["PER", "LOC", "PER", "LOC"]
    assert tab.page.inner_text("#status") == "4 entities, 2 labels."
    assert "ms on the server: tokenize" in tab.page.inner_text("#timing-text")


@pytest.mark.parametrize("kind", ODD)
def test_places_are_exact(ready: ServerProcess, open_tab: OpenTab, kind: str) -> None:
    """Whatever a sign takes, a mark covers a name and nothing else; each line has its own direction."""
    tab = open_tab(ready)
    tab.page.evaluate(f"document.getElementById('text').value = {ODD[kind]}")
    tab.page.dispatch_event("#text", "input")
    tab.settle()
    text = tab.page.evaluate("document.getElementById('text').value.toWellFormed()")
    shown, marks = tab.marks()
    assert shown == text
    assert marks == expected_marks(ready, text)
    units = text.encode("utf-16-le")
    assert marks
    for start, end, _ in marks:
        assert set(units[2 * start : 2 * end].decode("utf-16-le").split()) <= NAMES
    direction = tab.page.evaluate("getComputedStyle(document.querySelector('#view-text .line')).direction")
    assert direction == ("rtl" if kind in ("hebrew", "arabic") else "ltr")


@pytest.mark.parametrize(
    "text",
    [
        "שלום Maria Bob אמר",
        "Visit עולם שלום Bob לוי Paris",
        "مرحبا Maria Bob في Paris 12",
        "Bob said שלום Paris",
        "שלום 12 Paris, Bob: עולם",
    ],
)
def test_a_badge_stands_at_its_own_mark(ready: ServerProcess, open_tab: OpenTab, text: str) -> None:
    """In lines of both directions, too; nothing else lies between the two, and the letters stand as without marks."""
    tab = open_tab(ready)
    tab.type(text)
    gaps, places, plain = tab.page.evaluate(READ_BADGES)
    assert gaps
    assert max(gaps) < 8  # pixels
    assert places == plain


def test_answers_come_while_one_types(ready: ServerProcess, open_tab: OpenTab) -> None:
    """Not for every key: a request waits until the hand rests, and is given up when it moves again."""
    tab = open_tab(ready)
    tab.type("")
    tab.requests.clear()
    tab.page.type("#text", "Anna sees Bob", delay=30)
    tab.settle()
    assert [mark[2] for mark in tab.marks()[1]] == ["PER", "PER"]
    assert 1 <= len(tab.requests) <= 3
    tab.page.click("#clear")
    tab.settle()
    assert tab.marks() == ("", [])


def test_legend_turns_labels_off(ready: ServerProcess, open_tab: OpenTab) -> None:
    """By mouse and keyboard; the count stays, and the call says the same."""
    tab = open_tab(ready)
    tab.type(TEXT)
    tab.page.focus("#legend input >> nth=1")
    tab.page.keyboard.press("Space")
    tab.settle()
    assert tab.marks()[1] == [mark for mark in FOUND if mark[2] == "PER"]
    assert tab.page.inner_text("#legend").split() == ["PER", "2", "LOC", "2"]
    assert '"labels":["PER"]' in tab.page.inner_text("#call")
    assert tab.page.evaluate("document.activeElement.type") == "checkbox"
    tab.page.click("#all-off")
    tab.settle()
    assert tab.marks()[1] == []
    tab.page.click("#all-on")
    tab.settle()
    assert tab.marks()[1] == FOUND


@pytest.mark.parametrize("endpoints", [None, ["predict_tokens"]])
def test_what_rules_find_is_shown_too(
    serve: Callable[..., ServerProcess], open_tab: OpenTab, endpoints: list[str] | None
) -> None:
    """Where the server has patterns on, unless they are switched off here, or there is nothing that has them."""
    server = serve(runtime={"patterns": ["email"]}, server={"endpoints": endpoints})
    tab = open_tab(server)
    tab.type("Anna: zoe@example.com")
    model, rule = [0, 4, "PER"], [6, 21, "EMAIL"]
    if endpoints is not None:
        assert tab.marks()[1] == [model]
        assert tab.page.is_hidden("#patterns-box")
        return
    assert tab.marks()[1] == [model, rule]
    assert tab.page.inner_text("#patterns-names") == "email"
    assert "/redact" in tab.page.inner_text("#call")
    tab.view("list")
    assert "EMAIL" in tab.page.inner_text("#list-rows")
    tab.page.uncheck("#with-patterns")
    tab.view("text")
    assert tab.marks()[1] == [model]
    assert "/predict_tokens" in tab.page.inner_text("#call")


def test_slider_hides_what_is_less_sure(ready: ServerProcess, open_tab: OpenTab) -> None:
    """Every entity of this model has the score 0.99: just above it nothing is left."""
    tab = open_tab(ready)
    tab.type(TEXT)
    for value, left in (("0.98", FOUND), ("1", [])):
        tab.page.fill("#threshold", value)
        tab.settle()
        assert tab.marks()[1] == left
        assert f'"min_score":{value}' in tab.page.inner_text("#call")
        assert f"score={value}" in tab.page.evaluate("location.hash")
        assert "Anna" not in tab.page.evaluate("location.href")


def test_list_and_tokens(ready: ServerProcess, open_tab: OpenTab) -> None:
    """The list has each entity; the token view has each token, special ones as well, with every score."""
    tab = open_tab(ready)
    tab.type(TEXT)
    tab.view("list")
    assert tab.page.locator("#list-rows tr >> nth=1").inner_text().split("\t") == [
        "New York",
        "LOC",
        "99.0 %",
        "20",
        "28",
    ]
    tab.view("tokens")
    (rows,) = ready.client.post("/predict_tokens", json={"inputs": TEXT, "raw_scores": True}).json()
    shown = [row.split("\t") for row in tab.page.locator("#token-rows tr").all_inner_texts()]
    assert [row[0] for row in shown] == [row["token"] for row in rows]
    assert [int(row[1]) for row in shown] == [row["token_id"] for row in rows]
    tab.page.click("#token-rows summary >> nth=1")
    tab.page.wait_for_selector("#token-rows .scores")
    scores = tab.page.locator("#token-rows .scores >> nth=0").locator("span").all_inner_texts()
    found = dict(zip(scores[::2], map(float, scores[1::2]), strict=True))
    assert found == pytest.approx(rows[1]["results"], rel=1e-3)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("replace", "<PER> lives in <LOC>. <PER> sees <LOC>."),
        ("number", "<PER_1> lives in <LOC_1>. <PER_2> sees <LOC_2>."),
        ("mask", "********** lives in ********. *** sees *****."),
        ("redact", " lives in .  sees ."),
        ("keep", TEXT),
    ],
)
def test_redacted_view(ready: ServerProcess, open_tab: OpenTab, operator: str, expected: str) -> None:
    """The text as POST /redact gives it, with marks where something was."""
    tab = open_tab(ready, permissions=["clipboard-read", "clipboard-write"])
    tab.type(TEXT)
    tab.view("redacted")
    tab.page.select_option("#operator", operator)
    tab.settle()
    shown, marks = tab.marks("redacted")
    assert shown == expected
    assert [mark[2] for mark in marks] == ["PER", "LOC", "PER", "LOC"]
    tab.page.click("#copy-redacted")
    assert tab.page.evaluate("navigator.clipboard.readText()") == expected


def test_redaction_by_label(ready: ServerProcess, open_tab: OpenTab) -> None:
    """An operator for one label; a label that is off keeps its text."""
    tab = open_tab(ready)
    tab.type(TEXT)
    tab.view("redacted")
    tab.page.fill("#new-value", "😀")
    tab.page.click("#view-redacted summary")
    tab.page.select_option("#label-operators select >> nth=1", "mask")
    tab.settle()
    assert tab.marks("redacted")[0] == "😀 lives in ********. 😀 sees *****."
    tab.page.click("#legend input >> nth=0")
    tab.settle()
    shown, marks = tab.marks("redacted")
    assert shown == "Anna Maria lives in ********. Bob sees *****."
    assert [mark[2] for mark in marks] == ["LOC", "LOC"]


@pytest.mark.parametrize("view", ["text", "tokens", "redacted"])
@pytest.mark.parametrize("language", ["curl", "python", "javascript"])
def test_copied_call_gives_the_answer(
    serve: Callable[..., ServerProcess], open_tab: OpenTab, tmp_path: Path, language: str, view: str
) -> None:
    """Run as it was copied, with any sign in the text and with the key in the environment."""
    server = serve(environment={"NERVE_API_KEY": KEY})
    tab = open_tab(server, answers=False, permissions=["clipboard-read", "clipboard-write"])
    tab.page.fill("#key", KEY)
    tab.page.keyboard.press("Enter")
    tab.settle()
    tab.type("Anna's \"Bob\" `$HOME` \\ 'END'\n\u2028Paris 😀 " + "x " * 3_000)
    tab.view(view)
    tab.page.check(f"input[name=language][value={language}]", force=True)
    assert tab.page.inner_text("#call").count("x x x") < 3_000
    tab.page.click("#copy-call")
    code = tab.page.evaluate("navigator.clipboard.readText()")
    assert KEY not in code
    commands = {"curl": ["bash"], "python": [sys.executable], "javascript": ["node", "--input-type=module"]}
    done = subprocess.run(
        commands[language],
        input=code.encode(),
        capture_output=True,
        env={"PATH": "/usr/bin:/bin", "NERVE_API_KEY": KEY, "PYTHONUTF8": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert ("PER" in done.stdout.decode()) or language == "javascript"  # which shortens what it prints


def test_key_is_asked_for_and_forgotten(serve: Callable[..., ServerProcess], open_tab: OpenTab) -> None:
    """A wrong key is said to be wrong; the right one goes out in a header, and is gone with the page."""
    server = serve(environment={"NERVE_API_KEY": KEY})
    tab = open_tab(server, answers=False)
    tab.page.wait_for_selector("#key-dialog[open]")
    tab.page.fill("#key", "wrong")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("text=The server does not know this key.")
    assert axe(tab) == []
    tab.page.keyboard.press("Escape")
    assert tab.page.inner_text("#problem-text") == "The API key is wrong."
    tab.page.click("#retry")
    tab.page.wait_for_selector("#key-dialog[open]")
    tab.page.fill("#key", KEY)
    tab.page.click("#key-form button[type=submit]")
    tab.type(TEXT)
    assert tab.marks()[1] == FOUND
    assert KEY not in tab.page.content()
    assert all(KEY not in url + (body or "") for _, url, body in tab.requests)
    tab.page.reload()
    tab.page.wait_for_selector("#key-dialog[open]")


def test_refusals_are_told_as_the_server_says_them(
    serve: Callable[..., ServerProcess], open_tab: OpenTab
) -> None:
    """422 and 413 with the server's message; there is nothing to try again."""
    server = serve(limits={"max_input_tokens": 50, "max_body_bytes": 2_000})
    tab = open_tab(server, answers=False)
    for text, word in (
        ("Anna " * 100, "limits.max_input_tokens"),
        ("Anna " * 1_000, "limits.max_body_bytes"),
    ):
        tab.type(text)
        assert word in tab.page.inner_text("#problem-text")
        assert not tab.page.is_visible("#retry")
        assert tab.marks() == (text, [])
    tab.type(TEXT)
    assert not tab.page.is_visible("#problem")
    assert tab.marks()[1] == FOUND


def test_overload_is_waited_for(ready: ServerProcess, open_tab: OpenTab) -> None:
    """429 with `retry-after`: the page says when it tries again, and does."""
    tab = open_tab(ready)
    refused = {
        "status": 429,
        "headers": {"retry-after": "1"},
        "json": {"error": "too much waits", "error_type": "Overloaded"},
    }
    tab.page.route("**/predict_tokens", lambda route: route.fulfill(**refused), times=1)
    tab.page.fill("#text", TEXT)
    tab.page.wait_for_selector("text=Too much waits. The page tries again in 1 s.")
    tab.page.wait_for_selector("#problem", state="hidden")
    tab.settle()
    assert tab.marks()[1] == FOUND


def test_server_that_is_gone(ready: ServerProcess, open_tab: OpenTab) -> None:
    """The page says so, keeps the text, and has a button."""
    tab = open_tab(ready)
    ready.stop()
    tab.type(TEXT)
    assert "cannot be reached" in tab.page.inner_text("#problem-text")
    assert tab.page.is_visible("#retry")
    assert tab.page.input_value("#text") == TEXT
    assert tab.marks() == (TEXT, [])


def test_server_that_starts_is_waited_for(ready: ServerProcess, open_tab: OpenTab) -> None:
    """503: the page says what the server says, and asks again by itself."""
    tab = open_tab(ready)
    starting = {"status": 503, "json": {"error": "starting: the model is loading", "error_type": "Unhealthy"}}
    tab.page.route("**/predict_tokens", lambda route: route.fulfill(**starting), times=1)
    tab.page.fill("#text", TEXT)
    tab.page.wait_for_selector("text=Starting: the model is loading. The page tries again in 2 s.")
    tab.page.wait_for_selector("#problem", state="hidden")


def test_long_text_does_not_freeze_the_page(serve: Callable[..., ServerProcess], open_tab: OpenTab) -> None:
    """100,000 characters with thousands of entities, in lines and in one: no task of the page takes long."""
    server = serve(limits={"max_input_tokens": 200_000}, runtime={"window_stride": 4})
    for unit in (
        "Anna Maria lives in New York. Bob sees Paris.\n",
        "Anna Maria lives in New York. Bob sees Paris. ",
    ):
        tab = open_tab(server)
        text = (unit * (100_000 // len(unit) + 1))[:100_000]
        tab.page.evaluate(
            "() => { window.longest = 0; new PerformanceObserver((list) => list.getEntries().forEach("
            "(entry) => { window.longest = Math.max(window.longest, entry.duration); })).observe({type: 'longtask'}); }"
        )
        tab.page.evaluate(
            "() => setTimeout(() => { const end = performance.now() + 300; while (performance.now() < end); })"
        )
        tab.wait_for("window.longest >= 250")  # a task that is long is seen
        tab.page.evaluate("(text) => { document.getElementById('text').value = text; }", text)
        tab.page.evaluate("window.longest = 0")  # what the browser itself takes for its box is not ours
        tab.page.dispatch_event("#text", "input")
        tab.wait_for("document.getElementById('status').textContent.startsWith('8')")
        tab.page.wait_for_timeout(1_500)
        shown, marks = tab.marks()
        assert shown == text
        assert marks == expected_marks(server, text)
        assert tab.page.evaluate("window.longest") < LONGEST_TASK_MILLISECONDS, tab.page.evaluate(
            "window.longest"
        )
        tab.view("tokens")
        assert "The first 20,000 of 100,000 characters." in tab.page.inner_text("#tokens-note")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["text", "list", "tokens", "redacted"])
def test_axe_finds_nothing(ready: ServerProcess, open_tab: OpenTab, scheme: str, view: str) -> None:
    """Landmarks, names, contrast: in each view, light and dark."""
    tab = open_tab(ready, color_scheme=scheme)
    tab.type(TEXT)
    tab.view(view)
    for summary in tab.page.locator("summary:visible").all()[-2:]:
        summary.click()
    assert axe(tab) == []


@pytest.mark.parametrize("view", ["text", "list", "tokens", "redacted"])
def test_phone(ready: ServerProcess, open_tab: OpenTab, view: str) -> None:
    """On 360 pixels nothing is cut off, and all can be touched."""
    tab = open_tab(ready, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    tab.type(TEXT + " " + "x" * 300)
    tab.view(view)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    assert axe(tab) == []


def test_keyboard_reaches_everything(ready: ServerProcess, open_tab: OpenTab) -> None:
    """Tab goes from part to part; arrows choose the view; what has the focus is seen."""
    tab = open_tab(ready)
    tab.page.focus("input[name=view]:checked")
    tab.page.keyboard.press("ArrowRight")
    tab.settle()
    assert tab.page.is_visible("#view-list")
    seen = set()
    tab.page.focus("#text")
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        seen.add(tab.page.evaluate("document.activeElement.id || document.activeElement.name"))
    assert {"strategy", "threshold", "view", "view-list", "language", "copy-call", "call"} <= seen
