"""A browser, and pages in it that are held to what they promise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from browser_tab import BROWSER, OpenTab, Tab
from builders import ServerProcess


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a running Chromium; `make test-page` brings what drives it."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed here: run make test-page"
    )
    if BROWSER is None:
        pytest.skip("no browser: install chromium, or name one in NERVE_TEST_BROWSER")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_tab(browser: Any) -> Iterator[OpenTab]:
    """Open pages; at the end each has kept to its server, stored nothing, and broken no rule of its policy."""
    tabs: list[tuple[Tab, Any]] = []

    def open_one(server: ServerProcess | str, path: str = "/", answers: bool = True, **options: Any) -> Tab:
        url = (server if isinstance(server, str) else server.url) + path
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        page.set_default_timeout(20_000)
        tab = Tab(page, url)
        page.on(
            "request", lambda request: tab.requests.append((request.method, request.url, request.post_data))
        )
        page.on("pageerror", lambda error: tab.complaints.append(str(error)))
        page.on(
            "console",
            lambda message: (
                None if "Failed to load resource" in message.text else tab.complaints.append(message.text)
            ),
        )
        tabs.append((tab, context))
        page.goto(url)
        if answers:
            page.wait_for_selector("#view-text .line")
        return tab

    yield open_one
    for tab, context in tabs:
        assert tab.complaints == []
        hosts = {urlsplit(url).netloc for _, url, _ in tab.requests if not url.startswith("data:")}
        assert hosts == {urlsplit(tab.url).netloc}
        assert all("?" not in url for _, url, _ in tab.requests)
        kept = tab.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]
        assert tab.page.evaluate("indexedDB.databases().then((found) => found.length)") == 0
        context.close()
