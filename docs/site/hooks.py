"""Makes the site of what is written for GitHub (`mkdocs.yml`; `make docs`).

Links that lead out of docs/ lead to copies in the site: pages of the repository become pages of the site, other files
are files of it. A page whose lists, tables or code blocks come out otherwise than on GitHub is a warning, which
`--strict` makes an error. Beside the site there are llms.txt, llms-full.txt, and each page as Markdown.
"""

from __future__ import annotations

import logging
import posixpath
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markdown_it import MarkdownIt
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.nav import Navigation
    from mkdocs.structure.pages import Page

Entry = str | list[Any] | dict[str, Any]
LOG = logging.getLogger("mkdocs.hooks.nerve")
REPOSITORY = Path(__file__).parents[2]
DOCS = "docs"
# Pages of the repository that are pages of the site.
PROJECT = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)
# What the theme takes from another server, so that the search works from a folder.
SHIM = "https://unpkg.com/iframe-worker/shim"
# What a reader sees, and both ways of writing HTML have: the rest is a matter of the theme.
COUNTED = ("li", "table", "tr", "pre", "h1", "h2", "h3", "h4", "img")


def on_config(config: MkDocsConfig) -> None:
    """Put the pages of a folder where the navigation names the folder."""
    config.nav = _expand(config.nav)


def _expand(entry: Entry) -> Entry:
    if isinstance(entry, list):
        return [_expand(part) for part in entry]
    if isinstance(entry, dict):
        return {title: _expand(part) for title, part in entry.items()}
    if not entry.endswith("/"):
        return entry
    pages = sorted(
        (REPOSITORY / DOCS / entry).glob("*.md"), key=lambda page: (page.name != "index.md", page.name)
    )
    return [f"{entry}{page.name}" for page in pages]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages of the repository, and the files that pages link to."""
    for name in PROJECT:
        files.append(File.generated(config, f"project/{name}", content=(REPOSITORY / name).read_text()))
    linked: set[str] = set()
    for file in list(files.documentation_pages()):
        source = _source(file.src_uri)
        linked |= {target for _, target, _ in _outside(source, file.content_string)}
    for path in sorted(linked):
        if (REPOSITORY / path).is_file() and path not in PROJECT:
            files.append(File.generated(config, f"files/{path}", content=(REPOSITORY / path).read_bytes()))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links out of docs/, as GitHub follows them, into links within the site."""
    here = page.file.src_uri
    source = _source(here)

    def replace(match: re.Match[str]) -> str:
        path, hash_sign, anchor = match["target"].partition("#")
        if not path or re.match(r"[a-z]+:", path):
            return match[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if target.startswith(f"{DOCS}/"):
            target = target.removeprefix(f"{DOCS}/")
            if (REPOSITORY / DOCS / target).is_dir():
                target += "/index.md"
        elif target in PROJECT:
            target = f"project/{target}"
        elif (REPOSITORY / target).is_file():
            target = f"files/{target}"
        else:
            return match["text"].strip("![]")  # a folder: there is nothing to show
        link = posixpath.relpath(target, posixpath.dirname(here) or ".")
        return f"{match['text']}({link}{hash_sign}{anchor})"

    parts = FENCE.split(markdown)
    return "".join(part if part.lstrip().startswith("```") else LINK.sub(replace, part) for part in parts)


def on_page_content(html: str, *, page: Page, config: MkDocsConfig, files: Files) -> None:
    """Compare what the page has here with what it has on GitHub."""
    there, here = Counter[str](), Counter[str]()
    _Tags(there).feed(MarkdownIt("commonmark").enable(["table"]).render(page.markdown or ""))
    _Tags(here).feed(html)
    wrong = [f"{tag} {here[tag]}, not {there[tag]}" for tag in COUNTED if here[tag] != there[tag]]
    if wrong:
        LOG.warning("%s looks otherwise than on GitHub: %s", page.file.src_uri, ", ".join(wrong))


class _Tags(HTMLParser):
    """Counts the tags of a page."""

    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._counts[tag] += 1


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Let nothing come from other servers: the one script that the theme has there lies beside the site."""
    base = posixpath.relpath(".", posixpath.dirname(page.file.dest_uri) or ".")
    output = output.replace(SHIM, f"{base}/assets/javascripts/iframe-worker.js")
    for source in re.findall(
        r'<(?:script|img|iframe)[^>]*src="(https?:[^"]*)"|<link[^>]*stylesheet[^>]*"(https?:[^"]*)"', output
    ):
        LOG.warning("%s has something of another server: %s", page.file.src_uri, "".join(source))
    return output


def on_post_template(output_content: str, *, template_name: str, config: MkDocsConfig) -> str:
    """Let the page for addresses that lead nowhere do without that script."""
    return output_content.replace(f'<script src="{SHIM}"></script>', "")


def on_nav(nav: Navigation, *, config: MkDocsConfig, files: Files) -> None:
    """Keep the navigation, for llms.txt."""
    config.extra["navigation"] = nav


def on_post_build(*, config: MkDocsConfig) -> None:
    """Write llms.txt (llmstxt.org), llms-full.txt, and each page as Markdown beside it."""
    site = Path(config.site_dir)
    shutil.copy(Path(__file__).parent / "iframe-worker.js", site / "assets/javascripts")
    lines = [f"# {config.site_name}", "", f"> {config.site_description}", ""]
    whole: list[str] = []
    section = ""
    for title, page in _pages(config.extra["navigation"].items, "Start"):
        if title != section:
            lines += ["", f"## {title}", ""]
            section = title
        path = page.file.dest_uri.removesuffix(".html") + ".md"
        markdown = page.markdown or ""
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(markdown)
        lines.append(f"- [{page.title}]({config.site_url or ''}{path}): {_first_sentence(markdown)}")
        whole += [f"<!-- {path} -->", markdown, ""]
    (site / "llms.txt").write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n")
    (site / "llms-full.txt").write_text("\n".join(whole))


def _pages(items: list[Any], section: str) -> Iterator[tuple[str, Page]]:
    """Yield the pages of the navigation, each with the part that it belongs to."""
    for item in items:
        if item.is_page:
            yield section, item
        elif item.is_section:
            yield from _pages(item.children, item.title if section == "Start" else section)


def _first_sentence(markdown: str) -> str:
    """Return the first sentence of a page that is no heading, table, list or code."""
    for paragraph in re.split(r"\n\s*\n", FENCE.sub("", markdown)):
        text = " ".join(paragraph.split())
        if text and not re.match(r"[#|!<>-]|\d+\.", text):
            return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.split(r"(?<=[.:])\s", text)[0]).rstrip(":")
    return ""


def _source(uri: str) -> str:
    """Return the path of a page in the repository."""
    return uri.removeprefix("project/") if uri.startswith("project/") else f"{DOCS}/{uri}"


def _outside(source: str, markdown: str) -> Iterator[tuple[str, str, str]]:
    """Yield the links of a page that lead to a file of the repository outside docs/: text, path, anchor."""
    for match in LINK.finditer(FENCE.sub("", markdown)):
        path, _, anchor = match["target"].partition("#")
        if path and not re.match(r"[a-z]+:", path):
            target = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
            if not target.startswith(f"{DOCS}/"):
                yield match["text"], target, anchor
