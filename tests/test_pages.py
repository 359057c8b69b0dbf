"""Tests of the Markdown pages: the README is short, and the links, pictures and scripts of all pages exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "tests" / "bench" / "RESULTS.md"
MOST_LINES = 180
FOLDERS = (".", "runtime", "tests/bench", "tests/tiny_model", "web/docs")
PAGES = sorted(page for folder in FOLDERS for page in (ROOT / folder).glob("*.md"))
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
ELSEWHERE = ("https://", "http://")


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """The links and pictures of the page whose target in this repository does not exist."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text(encoding="utf-8"))):
        if target.startswith(ELSEWHERE):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            found.append(target)
    return found


def missing_scripts(page: Path) -> list[str]:
    """The Python files of this repository that the page names and that do not exist."""
    named = re.findall(r"\b((?:tests|workflows|runtime|nodes)/[\w/]+\.py)\b", page.read_text(encoding="utf-8"))
    return [name for name in named if not (ROOT / name).is_file()]


def test_the_readme_is_read_in_five_minutes():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def test_the_readme_leads_to_every_help_page_and_to_the_measurements():
    text = README.read_text(encoding="utf-8")
    wanted = [RESULTS, ROOT / "runtime" / "README.md", *(ROOT / "web" / "docs").glob("*.md")]
    assert [page.name for page in wanted if f"]({page.relative_to(ROOT).as_posix()})" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_pictures_and_scripts_are_there(page):
    assert broken(page) == []
    assert missing_scripts(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    """Negative control: broken links and missing scripts are found."""
    (tmp_path / "there.md").write_text("# A heading, *with* signs\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](there.md) [b](there.md#a-heading-with-signs) [c](#page) [d](https://elsewhere.example/x)\n"
        "![e](gone.png) [f](there.md#no-heading) [g](#gone)\n```\n[h](in_code.md)\n```\n`python3 tests/gone.py`\n"
    )
    assert broken(page) == ["gone.png", "there.md#no-heading", "#gone"]
    assert missing_scripts(page) == ["tests/gone.py"]


def test_every_measurement_has_its_command():
    """Every section of the measurements has the command that repeats it."""
    parts = re.split(r"^## ", RESULTS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    measured = [part for part in parts if not part.startswith("Memory and start")]
    assert len(measured) > 5
    assert [part.splitlines()[0] for part in measured if not re.search(r"^ {4}\S.*\.py", part, re.MULTILINE)] == []
