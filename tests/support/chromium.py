"""A headless Chromium for tests of pages; tests that ask for one are skipped where there is none."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

WAIT_MS = 20_000


@contextmanager
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("No Chromium is installed (CHROMIUM may say where it is).")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield chromium
        finally:
            chromium.close()


def watched(page: Page) -> list[str]:
    """What goes wrong on a page from now on: exceptions, and what its policy forbids."""
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def heard(message: object) -> None:
        text = getattr(message, "text", "")
        if getattr(message, "type", "") == "error" and "Failed to load resource" not in text:
            faults.append(text)

    page.on("console", heard)
    page.set_default_timeout(WAIT_MS)
    return faults
