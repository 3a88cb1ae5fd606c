"""The documentation: links lead somewhere, pages that are named exist, and the design stays short."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"
PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])
# Where pages of the documentation are named in text: `docs/guide/cli.md`.
FOLDERS = ("src", "tests", "deploy", "bench/gpu", "bench/robustness", "bench/serving")
FILES = ("config.yaml", "pyproject.toml", "Makefile", ".ci/run")
ENDINGS = {".py", ".md", ".toml", ".yaml", ".json", ".conf", ".js", ".sh", ".lua", ""}
# Names that look like pages of ours: a path of another project, a name to fill in.
NO_PAGES = {"docs/ContribOperators.md", "docs/decisions/NNNN-title.md"}

LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
# A page or a folder; `docs/decisions/0001` stands for the page with that number.
NAMED = re.compile(r"(?<![\w/.-])docs/[\w./-]*\w")
SECTION = re.compile(r'(?<![\w/.-])(docs/[\w./-]+\.md), "([^"\n]+)"')
RESULT = re.compile(r"bench/results/[\w./-]+\.json")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def links() -> Iterator[tuple[Path, str]]:
    """Yield every relative link of every page."""
    for page in PAGES:
        for target in LINK.findall(CODE.sub("", page.read_text())):
            if not re.match(r"[a-z]+:", target):
                yield page, target


def texts() -> Iterator[tuple[Path, str]]:
    """Yield every file that may name a page, with its text."""
    found = [file for folder in FOLDERS for file in sorted((REPOSITORY / folder).rglob("*"))]
    for file in [*found, *(REPOSITORY / name for name in FILES), *PAGES]:
        if file.is_file() and file.suffix in ENDINGS:
            yield file, file.read_text()


def exists(path: str) -> bool:
    """Tell whether a path of the repository is there, or is the number of a decision."""
    if re.fullmatch(r"docs/decisions/\d{4}", path):
        return len(list(REPOSITORY.glob(f"{path}-*.md"))) == 1
    return (REPOSITORY / path).exists()


def headings(page: Path) -> list[str]:
    """Return the titles and subtitles of a page."""
    return re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text()), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return what a link may name in a page: its headings, as GitHub writes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading).strip().lower() for heading in headings(page))
    return {heading.replace(" ", "-") for heading in plain}


def test_links_lead_somewhere() -> None:
    """A page that was moved or renamed takes its links along, headings included."""
    wrong = []
    for page, target in links():
        path, _, heading = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (heading and heading not in anchors(file)):
            wrong.append(f"{page.relative_to(REPOSITORY)}: {target}")
    assert not wrong


def test_named_pages_exist() -> None:
    """Code, settings and messages send readers to pages that are there."""
    wrong = {
        f"{file.relative_to(REPOSITORY)}: {path}"
        for file, text in texts()
        for path in NAMED.findall(text)
        if path not in NO_PAGES and not exists(path)
    }
    assert not wrong


def test_named_sections_exist() -> None:
    """Nor is a reader sent to a section that a page has lost."""
    wrong = {
        f'{file.relative_to(REPOSITORY)}: {path}, "{heading}"'
        for file, text in texts()
        for path, heading in SECTION.findall(text)
        if heading not in headings(REPOSITORY / path)
    }
    assert not wrong


def test_named_results_exist() -> None:
    """A figure stands on a result file that is committed."""
    wrong = {
        f"{page.relative_to(REPOSITORY)}: {name}"
        for page in PAGES
        for name in RESULT.findall(page.read_text())
        if not (REPOSITORY / name).exists() and not name.endswith("/NAME.json")
    }
    assert not wrong


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("[0-9]*.md")), ids=lambda page: page.stem)
def test_decisions_are_short_and_listed(page: Path) -> None:
    """Half a page each: context, options measured, decision, result file; and a row in the list."""
    text = page.read_text()
    assert text.count("\n") <= 40
    assert headings(page)[1:] == ["Context", "Options measured", "Decision", "Result file"]
    assert f"]({page.name})" in (DOCS / "decisions/index.md").read_text()


def test_design_is_short() -> None:
    """One reading explains all of it."""
    assert (DOCS / "explanation/design.md").read_text().count("\n") <= 150


def test_index_names_every_page() -> None:
    """Who starts at docs/index.md finds each page of the guide and of the explanation."""
    index = (DOCS / "index.md").read_text()
    pages = [page for part in ("guide", "explanation") for page in sorted((DOCS / part).glob("*.md"))]
    assert [page.name for page in pages if f"({page.relative_to(DOCS).as_posix()})" not in index] == []


def test_readme_says_what_raw_scores_are() -> None:
    """Who comes from BEI expects logits, and finds the key for them."""
    readme = (DOCS.parent / "README.md").read_text()
    assert "probabilities" in readme
    assert "runtime.raw_scores_as: logits" in readme
