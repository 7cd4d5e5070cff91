"""What the pages name is there: tests with their functions, scripts, modules, other pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
FOLDERS = ("deploy", "docs", "policies", "replicator", "scripts", "tests")
#: A path from the root, with names inside it; not the end of a longer path, and not an address.
_NAMED = re.compile(rf"(?<![\w./@-])((?:{'|'.join(FOLDERS)})/[\w./@-]*\w)((?:::\w+)*)")
_LINKED = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def text_of(page: str) -> str:
    """A page's text."""
    return (ROOT / page).read_text(encoding="utf-8")


def defined(path: Path, name: str) -> bool:
    """Whether the file defines a function or class of this name."""
    return re.search(rf"^\s*(?:def|class) {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES)
def test_named_paths_are_there(page: str) -> None:
    """Every path that a page names exists, and every function of a test file that it names is defined there."""
    for named, names in sorted(set(_NAMED.findall(text_of(page)))):
        path = ROOT / named
        assert path.exists(), f"{page} names {named}"
        for name in names.split("::")[1:]:
            assert defined(path, name), f"{page} names {named}::{name}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    """Every link to a file of the project leads to one."""
    for link in _LINKED.findall(text_of(page)):
        if "://" not in link and not link.startswith("mailto:"):
            assert ((ROOT / page).parent / link).exists(), f"{page} links to {link}"


def test_something_is_named() -> None:
    """The pages do name tests: the patterns above still find them."""
    found = {named for page in PAGES for named, names in _NAMED.findall(text_of(page)) if names}
    assert len(found) > 20
