"""The dashboard with 200 replicas of 50 models, all of which change: what it does is bounded by what is in the window.

How long frames are is measured by `benchmarks/dashboard.py`, since tests share their machine.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import browser, watched
from dashboard_scene import GIB, Model, Scene
from dashboard_server import DashboardServer, served
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.system, pytest.mark.doors]

REPLICAS, MODELS = 200, 50
CARDS_MAX = 40  # that exist in a window of 900 pixels, with those near it

# Counts what is written to the grid from now on, by the kind of change.
WATCH = """
() => {
  window.seen = { cells: new Set(), added: 0, records: 0 };
  new MutationObserver((records) => {
    for (const record of records) {
      const cell = record.target.closest?.(".cell");
      if (cell) window.seen.cells.add(cell);
      else if (record.type === "childList") {
        const cells = [...record.addedNodes].filter((node) => node.classList?.contains("cell")).length;
        window.seen.added += cells;
      }
      window.seen.records += 1;
    }
  }).observe(document.querySelector("#replicas"), {
    subtree: true, childList: true, attributes: true, characterData: true,
  });
}
"""
SEEN = "() => ({ cells: window.seen.cells.size, added: window.seen.added, records: window.seen.records })"

COUNT_MADE = """
() => {
  window.made = 0;
  const make = document.createElement;
  document.createElement = function (...names) {
    window.made += 1;
    return make.apply(this, names);
  };
}
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


@pytest.fixture
def server() -> Iterator[DashboardServer]:
    with served(Scene(REPLICAS, MODELS), period_s=1.0) as server:
        yield server


@pytest.fixture
def page(chromium: Browser, server: DashboardServer) -> Iterator[Page]:
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    faults = watched(page)
    page.goto(server.url)
    expect(page.locator("#shown")).to_have_text(str(REPLICAS))
    expect(page.locator(".card")).not_to_have_count(0)
    yield page
    page.close()
    assert faults == []


def after_events(page: Page, events: int) -> dict[str, Any]:
    """What was written to the grid meanwhile, and was drawn."""
    page.evaluate(WATCH)
    page.evaluate(
        """(events) => new Promise((done) => {
          const rate = document.querySelector("#rate");
          let last = performance.now(), heard = 0;
          // The traffic figures change with each event.
          new MutationObserver(() => {
            if (performance.now() - last < 300) return;
            last = performance.now();
            heard += 1;
            if (heard >= events) setTimeout(done, 400);
          }).observe(rate, { childList: true, characterData: true, subtree: true });
        })""",
        events,
    )
    seen: dict[str, Any] = page.evaluate(SEEN)
    return seen


def test_only_cards_near_the_window_exist(page: Page) -> None:
    assert page.locator(".card").count() <= CARDS_MAX
    height = page.locator("#replicas").evaluate("it => it.offsetHeight")
    assert height > REPLICAS / 3 * 150  # yet the bar at the side is as long as for all
    assert page.evaluate("document.querySelectorAll('*').length") < 4000


def test_an_event_writes_to_cells_that_changed_and_makes_none(page: Page) -> None:
    page.evaluate("window.first = document.querySelector('.grid .cell')")
    mounted = page.locator(".grid .cell").count()
    seen = after_events(page, 3)
    assert seen["cells"] > 0  # something did happen
    assert seen["cells"] < mounted / 2  # about five models of a replica are in use or other than before
    assert seen["added"] == 0
    assert seen["records"] < 6 * mounted
    assert page.evaluate("window.first === document.querySelector('.grid .cell') && window.first.isConnected")


def test_an_event_without_changes_writes_nothing_to_the_grid(page: Page, server: DashboardServer) -> None:
    server.stands_still = True
    page.wait_for_timeout(2500)  # what was on its way
    page.evaluate(WATCH)
    page.wait_for_timeout(2500)
    assert page.evaluate(SEEN)["records"] == 0
    expect(page.locator("#connection-text")).to_have_text("Live")


def test_scrolling_uses_cards_again(page: Page) -> None:
    page.mouse.move(400, 700)
    page.mouse.wheel(0, 1500)  # now there are as many as there ever are at a time
    page.wait_for_timeout(500)
    page.evaluate(COUNT_MADE)
    for _ in range(20):
        page.mouse.wheel(0, 400)
        page.wait_for_timeout(50)
    page.wait_for_timeout(300)
    assert page.locator(".card").count() <= CARDS_MAX
    shown = page.evaluate("[...document.querySelectorAll('.card')].map((it) => +it.getAttribute('aria-rowindex'))")
    assert shown == sorted(shown)  # in the order in which they are read
    assert min(shown) > 60
    # Cards are 60 elements; of those that were passed, a few at most were made anew.
    assert page.evaluate("window.made") < 10 * 75


def test_the_keyboard_reaches_the_last_replica_and_comes_back(page: Page) -> None:
    page.keyboard.press("g")
    page.keyboard.press("End")
    focused = page.locator(".card-head:focus")
    expect(focused).to_be_in_viewport()
    expect(page.locator(".card", has=focused)).to_have_attribute("aria-rowindex", str(REPLICAS))
    page.keyboard.press("Home")
    expect(page.locator(".card", has=focused)).to_have_attribute("aria-rowindex", "1")
    page.mouse.wheel(0, 9000)
    page.wait_for_timeout(500)
    expect(focused).to_have_count(1)  # what has the focus stays, wherever the window is


def test_one_model_of_ten_thousand_is_found(page: Page, server: DashboardServer) -> None:
    with server.scene.lock:
        server.scene.replicas[150].models["needle-in-it"] = Model("needle-in-it", GIB, 1.0)
    page.locator("#filter").fill("needle")
    expect(page.locator("#shown")).to_have_text(f"1 of {REPLICAS} shown, 1 model matches")
    expect(page.locator(".grid .cell[aria-label^=needle-in-it]")).to_be_visible()


def test_many_models_on_one_replica_are_counted_where_they_are_not_shown(chromium: Browser) -> None:
    scene = Scene(1, 40)
    replica = scene.replicas[0]
    replica.models_max = 5000
    for number in range(1000):
        replica.models[f"extra-{number:04d}"] = Model(f"extra-{number:04d}", 1000, 0.1)
    with served(scene) as server:
        server.stands_still = True
        page = chromium.new_page()
        page.goto(server.url)
        expect(page.locator(".card .more")).to_have_text(f"+{len(replica.models) - 240}")
        expect(page.locator(".grid .cell:not(.empty):not(.absent)")).to_have_count(240)
        page.locator("#filter").fill("extra-0999")  # those that match come first
        expect(page.locator(".grid .cell").first).to_have_attribute("aria-label", "extra-0999, resident")
        page.close()
