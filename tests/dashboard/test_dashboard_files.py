"""The page's files as they are: nothing inline, nothing from elsewhere, no text as markup, all names true."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import modelplex

FOLDER = Path(modelplex.__file__).parent / "dashboard"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]

LINES_MAX = 350


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def _tags() -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed((FOLDER / "index.html").read_text())
    return parser.tags


def test_the_page_has_nothing_inline() -> None:
    """Its policy is `default-src 'self'`, which forbids it."""
    for tag, attributes in _tags():
        assert tag != "style"
        assert tag != "script" or attributes.get("src")
        assert not [name for name in attributes if name == "style" or name.startswith("on")], (tag, attributes)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_fetched_from_elsewhere(path: Path) -> None:
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?://|url\(|@import|//cdn", text)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_text_becomes_markup_or_code(path: Path) -> None:
    """Ids come from clients."""
    dangerous = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|setHTML|srcdoc"
    assert not re.search(dangerous, path.read_text())


def test_every_file_that_is_named_is_there() -> None:
    names = {path.name for path in FILES}
    page = (FOLDER / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', page))
    for path in SCRIPTS:
        named |= {name.removeprefix("./") for name in re.findall(r'from "([^"]+)"|Worker\("', path.read_text()) if name}
        named |= set(re.findall(r'new Worker\("([^"]+)"', path.read_text()))
    assert named <= names
    assert names - named == {"index.html"}  # and none is left over


def test_every_element_that_scripts_ask_for_is_on_the_page_once() -> None:
    ids = [attributes["id"] for _, attributes in _tags() if "id" in attributes]
    assert len(ids) == len(set(ids))
    asked = {name for path in SCRIPTS for name in re.findall(r'byId\("([^"]+)"\)', path.read_text())}
    assert asked <= set(ids)
    referred = {
        name
        for _, attributes in _tags()
        for attribute in ("aria-labelledby", "aria-describedby", "for")
        for name in (attributes.get(attribute) or "").split()
    }
    assert referred <= set(ids)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_module_is_too_large(path: Path) -> None:
    assert sum(1 for line in path.read_text().splitlines() if line.strip()) <= LINES_MAX
