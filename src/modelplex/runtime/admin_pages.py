"""The dashboard's files, which are whatever the package has in its folder `dashboard`."""

from importlib import resources
from importlib.resources.abc import Traversable

from modelplex.runtime.admin_table import Answer, RefusedError

TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "json": b"application/json",
    "svg": b"image/svg+xml",
    "png": b"image/png",
    "ico": b"image/x-icon",
    "woff2": b"font/woff2",
}

# Nothing from elsewhere, nothing inline, in nobody's frame.
POLICY = b"default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'"

INDEX = "index.html"


def folder() -> Traversable:
    return resources.files("modelplex") / "dashboard"


def names() -> list[str]:
    """The files that there are."""
    return [each.name for each in _files()]


def page(name: str) -> Answer:
    """A file of the folder itself, by its name. Raises `RefusedError`."""
    # Only what is found by looking is served, so that no name leads elsewhere.
    found = [each for each in _files() if each.name == name]
    kind = TYPES.get(name.rpartition(".")[2])
    if not found or kind is None:
        what = "This installation has no dashboard." if name == INDEX else f"The dashboard has no file {name!r}."
        raise RefusedError(404, what)
    return Answer(found[0].read_bytes(), content_type=kind, headers=[(b"content-security-policy", POLICY)])


def _files() -> list[Traversable]:
    place = folder()
    return [each for each in place.iterdir() if each.is_file()] if place.is_dir() else []
