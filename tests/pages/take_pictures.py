"""Takes the pictures of docs/images again, of the default model's own answers: `make pictures`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from playwright.sync_api import Browser, sync_playwright

from browser_tab import BROWSER
from builders import free_port, start_server

REPOSITORY = Path(__file__).parents[2]
IMAGES = REPOSITORY / "docs/images"
DESKTOP, PHONE = {"width": 1180, "height": 800}, {"width": 390, "height": 844}


def take(browser: Browser, url: str, name: str, view: str, scheme: str, size: dict[str, int]) -> None:
    """Take one picture of a view."""
    page = browser.new_page(viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(f"{url}/#view={view}")
    page.wait_for_selector(f"#{'redacted' if view == 'redacted' else 'view-text'} mark")
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"{name}.png", full_page=size is PHONE)
    page.close()


def main() -> None:
    """Serve the shipped configuration and open its page."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nerve-pictures-") as folder, sync_playwright() as playwright:
        document = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
        document["server"] |= {"port": free_port(), "host": "127.0.0.1"}
        config = Path(folder) / "config.yaml"
        config.write_text(yaml.safe_dump(document))
        server = start_server(config)
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        try:
            take(browser, server.url, "playground", "text", "light", DESKTOP)
            take(browser, server.url, "playground-dark", "redacted", "dark", DESKTOP)
            take(browser, server.url, "playground-phone", "text", "light", PHONE)
        finally:
            browser.close()
            server.client.close()
            server.stop()


if __name__ == "__main__":
    main()
