"""What describes V2: the file in the documentation is it, and it has every page that there is."""

import json

from pages import ROOT

from modelplex.protocols.openapi import description
from modelplex.protocols.rest import PAGES
from modelplex.runtime.naming import v2_page


def test_the_file_in_the_documentation_is_this() -> None:
    written = json.loads((ROOT / "docs" / "v2.openapi.json").read_text())
    assert written == description(), "python -m modelplex.protocols.openapi > docs/v2.openapi.json"


def test_it_has_every_page_with_its_method() -> None:
    found = set()
    for path, operations in description()["paths"].items():
        page, model_id = v2_page(path.replace("{model_id}", "a").replace("{version}", "1").split("/")[1:])
        assert list(operations) == [PAGES[page].lower()]
        assert model_id == ("a@1" if "{version}" in path else "a" if "{model_id}" in path else "")
        found.add(page)
    assert found == set(PAGES) - {"openapi.json"}
