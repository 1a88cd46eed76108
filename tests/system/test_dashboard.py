"""The dashboard in a browser, with two replicas: what it shows, what its buttons ask for, and for whom it works."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from chromium import browser, watched
from dashboard_scene import BEGAN, GIB, Model, Replica, Scene
from dashboard_server import DashboardServer, served
from playwright.sync_api import Browser, Locator, Page, expect

pytestmark = [pytest.mark.system, pytest.mark.doors]

DESKTOP: Any = {"width": 1440, "height": 900}
PHONE: Any = {"width": 360, "height": 740}
HOSTILE = '<img src=x onerror="window.hacked=1">'

# Texts whose contrast with what is behind them is below 4.5, in the colours that they have now.
LOW_CONTRAST = """
() => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = colour;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 255) return colour.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *")) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || !element.checkVisibility() || element.closest(":disabled, .other")) continue;
    const colour = rgba(getComputedStyle(element).color).slice(0, 3);
    const [a, b] = [luminance(colour), luminance(ground(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push([element.className || element.tagName, element.textContent.slice(0, 20), ratio]);
  }
  return low;
}
"""

# What can be used, and has no name for who does not see it.
NAMELESS = """
() => [...document.querySelectorAll("button, input, select, .card-head, .grid .cell:not(.empty, .absent), canvas")]
  .filter((it) => it.checkVisibility() && !(it.ariaLabel || it.textContent.trim() || it.labels?.length))
  .map((it) => it.outerHTML)
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as chromium:
        yield chromium


def small_scene() -> Scene:
    """Two replicas with models in every state. Nothing happens in it by itself."""
    scene = Scene(0, 4)
    first = Replica("shops#Ranker#aaaa", "Ranker", "node-1", 12, 8 * GIB, ongoing=3)
    second = Replica("shops#Ranker#bbbb", "Ranker", "node-2", 12, 8 * GIB, max_ongoing=4, ongoing=4)
    states = ("resident", "waiting", "loading", "settling", "unloading")
    for number, state in enumerate(states):
        model = Model(
            f"m-{state}", (number + 1) * GIB // 4, 1.25, state=state, loaded_at=BEGAN - 120, used_at=BEGAN - 30
        )
        first.models[model.id] = model
    first.models["m-used"] = Model(
        "m-used", GIB, 2.5, loaded_at=BEGAN - 7200, uses=321, leases=2, tenant="acme", waiters=1
    )
    first.models["m-pinned"] = Model("m-pinned", GIB, 0.5, pinned=True, aliases=("m@stable",), used_at=BEGAN - 600)
    for number in range(9):
        model_id = f"other-{number}"
        second.models[model_id] = Model(model_id, GIB // 8, 0.2, uses=10**number, used_at=BEGAN - 4**number)
    scene.replicas = [first, second]
    scene.decisions = [
        _decision("evict", "m-gone", "r-2", "Evicted m-gone, idle for 12 s, for m-used."),
        _decision("route", "m-used", "r-1", "Sent to aaaa, which holds m-used."),
    ]
    scene.slowest_loads = [{"model_id": "m-used", "replica": first.id, "load_s": 2.5, "at": BEGAN - 7200}]
    return scene


def _decision(kind: str, model_id: str, request_id: str, text: str) -> dict[str, Any]:
    told = {"at": BEGAN, "process": "proxy-0", "kind": kind, "request_id": request_id, "model_id": model_id}
    return told | {"replica": "shops#Ranker#aaaa", "why": "holds_it", "numbers": {"wait_s": 0.5}, "text": text}


@pytest.fixture
def server() -> Iterator[DashboardServer]:
    with served(small_scene(), period_s=0.25) as server:
        server.stands_still = True
        yield server


@pytest.fixture
def page(chromium: Browser, server: DashboardServer) -> Iterator[Page]:
    context = chromium.new_context(viewport=DESKTOP, color_scheme="light")
    page = context.new_page()
    faults = watched(page)
    opened(page, server)
    yield page
    context.close()
    assert faults == []


def opened(page: Page, server: DashboardServer) -> Page:
    page.goto(server.url)
    expect(cell(page, "m-used")).to_be_visible()
    return page


def cell(page: Page, model_id: str) -> Locator:
    return page.locator(f'.grid .cell[aria-label^="{model_id},"]')


def said(page: Page, text: str) -> None:
    """It is in the region that screen readers read aloud."""
    expect(page.locator("#toasts[aria-live=polite]")).to_contain_text(text)


def acts(server: DashboardServer) -> list[tuple[str, Any]]:
    return [(told["path"], told["body"]) for told in server.requests if told["method"] == "POST"]


MEANT = {"application": "shops", "deployment": "Ranker"}
LOADER = MEANT | {"loader": "get_model"}


# What it shows


def test_the_header_says_where_and_how_it_is(page: Page, server: DashboardServer) -> None:
    expect(page.locator("#address")).to_have_text("http://127.0.0.1:8000")
    expect(page.locator("#applications li").first).to_contain_text("shops")
    expect(page.locator("#applications li").first).to_contain_text("running")
    expect(page.locator("#connection-text")).to_have_text("Live")
    expect(page.locator("#models")).to_have_text("12")
    expect(page.locator("#models-note")).to_have_text("resident, 2 loading, 1 pinned")
    with server.scene.lock:
        server.scene.traffic.update(warm=900, cold=50, joined=50, queued=7)
    expect(page.locator("#ratio")).to_have_text("90.0 %")
    expect(page.locator("#queued")).to_have_text("7")
    expect(page.locator("#rate")).not_to_have_text("0")


def test_replicas_show_their_budgets_and_every_state_by_more_than_colour(page: Page) -> None:
    first, second = page.locator(".card").nth(0), page.locator(".card").nth(1)
    expect(first.locator(".card-name")).to_have_text("shops#Ranker#aaaa")
    expect(first.locator(".card-ongoing")).to_have_text("3 / 8")
    expect(first.locator(".bar.models .bar-text")).to_have_text("7 / 12")
    expect(first.locator(".bar.bytes .bar-text")).to_contain_text("/ 8 GiB")
    expect(second.locator(".card-ongoing")).to_have_text("4 / 4")
    expect(first.locator(".cell.empty")).to_have_count(5)
    marks = {"resident": "", "waiting": "⋯", "loading": "↓", "settling": "≈", "unloading": "\N{MULTIPLICATION SIGN}"}
    for state, mark in marks.items():
        expect(cell(page, f"m-{state}")).to_have_text(mark)
        expect(cell(page, f"m-{state}")).to_have_accessible_name(f"m-{state}, {state}")
    expect(cell(page, "m-used")).to_have_text("2")
    expect(cell(page, "m-used")).to_have_accessible_name("m-used, resident, in use")
    expect(cell(page, "m-pinned")).to_have_accessible_name("m-pinned, resident, pinned")
    assert "gradient" in cell(page, "m-pinned").evaluate("it => getComputedStyle(it).backgroundImage")  # its corner


def test_the_details_of_a_model_come_up_beside_the_pointer(page: Page) -> None:
    tip = page.get_by_role("tooltip")
    expect(tip).to_be_hidden()
    cell(page, "m-used").hover()
    for text in ("m-used", "1 GiB", "2.0 h", "in use", "321", "2.5 s", "acme", "Waiting"):
        expect(tip).to_contain_text(text.replace("2.0", "2"))
    cell(page, "m-pinned").hover()
    expect(tip).to_contain_text("m@stable")
    page.mouse.move(1, 1)
    expect(tip).to_be_hidden()


def test_the_filter_shows_what_matches_and_counts_it(page: Page) -> None:
    page.locator("#filter").fill("other")
    expect(page.locator("#shown")).to_have_text("1 of 2 shown, 9 models match")
    expect(page.locator(".card")).to_have_count(1)
    page.locator("#filter").fill("aaaa loading")
    expect(page.locator("#shown")).to_have_text("1 of 2 shown, 2 models match")  # and the one that is unloading
    assert "other" in str(cell(page, "m-used").get_attribute("class"))  # the cells that do not match are paler
    page.locator("#filter").fill("")
    page.locator("#filter-state").select_option("pinned")
    expect(page.locator("#shown")).to_have_text("1 of 2 shown, 1 model matches")
    page.locator("#filter").fill("nothing like it")
    expect(page.locator("#replicas-empty")).to_have_text("Nothing matches the filter.")


def test_replicas_are_sorted_by_what_is_chosen(page: Page) -> None:
    names = page.locator(".card .card-name")
    expect(names).to_have_text(["shops#Ranker#aaaa", "shops#Ranker#bbbb"])
    page.locator("#sort").select_option("busy")
    expect(names).to_have_text(["shops#Ranker#bbbb", "shops#Ranker#aaaa"])
    page.locator("#sort").select_option("bytes")
    expect(names).to_have_text(["shops#Ranker#aaaa", "shops#Ranker#bbbb"])


def test_cells_are_darker_by_what_is_chosen(page: Page) -> None:
    expect(cell(page, "other-0")).to_have_class("cell resident level-2")
    expect(cell(page, "other-8")).to_have_class("cell resident level-5")
    page.locator("#shade").select_option("idle")
    expect(cell(page, "other-0")).to_have_class("cell resident level-5")
    expect(cell(page, "other-8")).to_have_class("cell resident level-1")


def test_decisions_are_told_and_asked_for(page: Page, server: DashboardServer) -> None:
    decisions = page.locator("#decisions li")
    expect(decisions).to_have_count(2)
    expect(decisions.first).to_contain_text("Evicted m-gone, idle for 12 s, for m-used.")
    page.locator("#decisions-filter").fill("m-used")
    page.locator("#decisions-filter").press("Enter")
    expect(decisions).to_have_count(1)
    page.locator("#decisions .request").click()
    expect(page.locator("#decisions-note")).to_have_text("about r-1")
    expect(page.locator("#decisions")).to_be_focused()
    expect(decisions).to_contain_text(["Sent to aaaa"])
    assert [told["query"] for told in server.requests] == [
        {"model_id": "m-used", "limit": "50"},
        {"request_id": "r-1", "limit": "50"},
    ]
    page.locator("#decisions-filter").fill("")
    expect(decisions).to_have_count(2)


def test_a_model_of_the_slowest_loads_is_shown_in_the_grid(page: Page) -> None:
    page.locator("#loads button").click()
    expect(page.locator("#inspector-title")).to_have_text("m-used")
    expect(cell(page, "m-used")).to_have_attribute("aria-selected", "true")


# What its buttons do


def test_pin_and_unpin(page: Page, server: DashboardServer) -> None:
    cell(page, "m-used").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    said(page, "Pinned m-used on 1 replica.")
    expect(cell(page, "m-used")).to_have_accessible_name("m-used, resident, in use, pinned")
    page.get_by_role("button", name="Unpin").click()
    said(page, "Unpinned m-used on 1 replica.")
    assert acts(server) == [("/v1/models/m-used/pin", LOADER), ("/v1/models/m-used/unpin", LOADER)]
    assert all(told["headers"]["x-modelplex-admin"] == "1" for told in server.requests)


def test_an_unload_says_what_it_does_first(page: Page, server: DashboardServer) -> None:
    cell(page, "m-used").click()
    page.get_by_role("button", name="Unload…").click()
    dialog = page.get_by_role("dialog", name="Unload m-used?")
    expect(dialog).to_contain_text("1 replica holds it. Requests that use it end first.")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert acts(server) == []
    page.get_by_role("button", name="Unload…").click()
    dialog.get_by_role("button", name="Unload").click()
    said(page, "Unloading m-used on 1 replica.")
    assert acts(server) == [("/v1/models/m-used/unload", LOADER)]


def test_a_model_that_has_gone_is_loaded_again(page: Page, server: DashboardServer) -> None:
    cell(page, "m-used").click()
    expect(page.get_by_role("button", name="Load", exact=True)).to_be_disabled()
    with server.scene.lock:
        del server.scene.replicas[0].models["m-used"]
    expect(page.locator("#inspector-rows")).to_contain_text("not on this replica")
    page.get_by_role("button", name="Prefetch").click()
    said(page, "Asked for m-used.")
    assert acts(server) == [("/v1/models/m-used/prefetch", LOADER)]
    expect(cell(page, "m-used")).to_be_visible()


def test_any_model_is_loaded_by_its_id(page: Page, server: DashboardServer) -> None:
    page.get_by_role("button", name="Load a model…").click()
    page.get_by_label("Model id").fill("team/shop 1?#é")
    page.get_by_role("dialog").get_by_role("button", name="Load").click()
    said(page, "Loaded team/shop 1?#é.")
    assert acts(server) == [(f"/v1/models/{quote('team/shop 1?#é', safe='')}/load", MEANT)]


def test_a_drain_says_what_happens_first(page: Page, server: DashboardServer) -> None:
    page.locator(".card-head").nth(1).click()
    page.get_by_role("button", name="Drain…").click()
    dialog = page.get_by_role("dialog", name="Drain shops#Ranker#bbbb?")
    expect(dialog).to_contain_text("Another replica is started in its place.")
    expect(dialog).to_contain_text("its 4 ongoing requests may end, its 9 models are unloaded")
    dialog.get_by_role("button", name="Drain").click()
    said(page, "Draining shops#Ranker#bbbb.")
    assert acts(server) == [("/v1/replicas/shops%23Ranker%23bbbb/drain", None)]
    expect(page.locator(".card").nth(1)).to_contain_text("draining")
    expect(page.get_by_role("button", name="Drain…")).to_be_disabled()


def test_what_is_refused_is_told_and_stays(page: Page, server: DashboardServer) -> None:
    server.fails["/v1/models/m-used/pin"] = 409, f"The budget is full of pins. {HOSTILE}"
    cell(page, "m-used").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    said(page, f"Could not pin m-used: The budget is full of pins. {HOSTILE}")
    page.get_by_role("button", name="Dismiss").click()
    expect(page.locator(".toast")).to_have_count(0)


# For whom it works


def test_everything_is_done_by_keyboard(page: Page, server: DashboardServer) -> None:
    press = page.keyboard.press
    press("Tab")
    expect(page.get_by_role("link", name="Skip to the replicas")).to_be_focused()
    press("Enter")
    expect(page.locator(".card-head").first).to_be_focused()
    expect(page.locator(".grid [tabindex='0']")).to_have_count(1)
    press("ArrowDown")
    expect(cell(page, "m-resident")).to_be_focused()
    expect(page.get_by_role("tooltip")).to_contain_text("m-resident")
    for _ in range(5):
        press("ArrowRight")
    expect(cell(page, "m-used")).to_be_focused()
    expect(page.locator(".grid [tabindex='0']")).to_have_count(1)
    press("p")
    said(page, "Pinned m-used")
    press("Enter")
    expect(page.locator("#inspector-title")).to_have_text("m-used")
    press("Escape")
    expect(page.locator("#inspector-empty")).to_be_visible()
    press("PageDown")  # there is but one row of them
    press("End")
    expect(page.locator(".card-head").nth(1)).to_be_focused()
    press("ArrowLeft")
    expect(cell(page, "m-pinned")).to_be_focused()
    press("?")
    expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    press("/")
    expect(page.locator("#filter")).to_be_focused()
    page.keyboard.type("gp/")  # what is typed is text
    expect(page.locator("#filter")).to_have_value("gp/")


def test_single_letters_can_be_turned_off(page: Page, server: DashboardServer) -> None:
    page.keyboard.press("?")
    page.get_by_label("Shortcuts of single letters").uncheck()
    page.keyboard.press("Escape")
    opened(page, server)
    page.keyboard.press("/")
    expect(page.locator("#filter")).not_to_be_focused()


def test_the_focus_stays_when_its_model_goes(page: Page, server: DashboardServer) -> None:
    cell(page, "m-pinned").focus()
    with server.scene.lock:
        del server.scene.replicas[0].models["m-pinned"]
    expect(page.locator(".card-head").first).to_be_focused()


def test_everything_that_can_be_used_has_a_name(page: Page) -> None:
    nameless = page.evaluate(NAMELESS)
    assert nameless == []
    expect(page.get_by_role("grid", name="Replicas")).to_have_attribute("aria-rowcount", "2")
    expect(page.get_by_role("row").nth(1)).to_have_attribute("aria-rowindex", "2")
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable(chromium: Browser, server: DashboardServer, scheme: Any) -> None:
    context = chromium.new_context(viewport=DESKTOP, color_scheme=scheme)
    page = opened(context.new_page(), server)
    server.fails["/v1/models/m-used/pin"] = 409, "No."
    cell(page, "m-used").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    said(page, "Could not pin")
    cell(page, "other-3").hover()
    assert page.evaluate(LOW_CONTRAST) == []
    page.keyboard.press("?")
    assert page.evaluate(LOW_CONTRAST) == []
    context.close()


def test_the_scheme_is_the_systems_until_one_is_chosen(chromium: Browser, server: DashboardServer) -> None:
    context = chromium.new_context(viewport=DESKTOP, color_scheme="dark")
    page = opened(context.new_page(), server)
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    page.emulate_media(color_scheme="light")
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    light = page.evaluate(ground)
    assert light != dark
    switch = page.get_by_role("button", name="Dark colours")
    expect(switch).to_have_attribute("aria-pressed", "false")
    switch.click()
    assert page.evaluate(ground) == dark
    opened(page, server)
    assert page.evaluate(ground) == dark
    expect(switch).to_have_attribute("aria-pressed", "true")
    context.close()


def test_nothing_moves_for_who_wants_that(chromium: Browser, server: DashboardServer) -> None:
    context = chromium.new_context(viewport=DESKTOP, reduced_motion="reduce")
    page = opened(context.new_page(), server)
    cell(page, "m-used").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    said(page, "Pinned")
    assert page.evaluate("document.getAnimations().length") == 0
    context.close()


def test_a_phone_shows_everything_without_scrolling_sideways(chromium: Browser, server: DashboardServer) -> None:
    server.scene.replicas[0].models["x" * 200] = Model("x" * 200, GIB, 1.0)
    context = chromium.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    page = opened(context.new_page(), server)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    cell(page, "m-used").tap()
    sheet = page.locator("#inspector")
    expect(sheet).to_be_in_viewport()
    expect(sheet).to_contain_text("acme")
    sheet.get_by_role("button", name="Pin", exact=True).tap()
    said(page, "Pinned m-used")
    sheet.get_by_role("button", name="Close the details").tap()
    expect(sheet).to_be_hidden()
    cell(page, "x" * 200).tap()
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    sheet.get_by_role("button", name="Close the details").tap()
    page.get_by_role("link", name="Decisions").tap()
    expect(page.locator("#decisions")).to_be_in_viewport()
    context.close()


def test_nothing_moves_while_events_come(page: Page, server: DashboardServer) -> None:
    """No layout shift, as browsers count them, after what there is has been shown."""
    page.evaluate(
        """() => { window.shifts = 0; new PerformanceObserver((list) => list.getEntries().forEach(
        (entry) => (window.shifts += entry.value))).observe({ type: "layout-shift" }); }"""
    )
    with server.scene.lock:
        for number in range(3):
            server.scene.replicas[0].models[f"new-{number}"] = Model(f"new-{number}", GIB, 1.0)
        server.scene.decisions = [_decision("load", f"m-{n}", f"q-{n}", "A load.") for n in range(20)]
        server.scene.traffic.update(warm=123456, queued=1234)
    expect(cell(page, "new-2")).to_be_visible()
    expect(page.locator("#decisions li")).to_have_count(20)
    assert page.evaluate("window.shifts") < 0.01


# What goes wrong


def test_hostile_ids_are_text(page: Page, server: DashboardServer) -> None:
    with server.scene.lock:
        model = Model(HOSTILE, GIB, 1.0, tenant=HOSTILE, aliases=(HOSTILE,))
        server.scene.replicas[0].models[HOSTILE] = model
        server.scene.replicas.append(
            Replica(HOSTILE, HOSTILE, HOSTILE, 4, GIB, {"__proto__": Model("__proto__", 1, 1.0)})
        )
        server.scene.decisions = [_decision(HOSTILE, HOSTILE, HOSTILE, HOSTILE)]
        server.scene.slowest_loads = [{"model_id": HOSTILE, "replica": HOSTILE, "load_s": 1.0, "at": BEGAN}]
    expect(page.locator(".card-name", has_text="<img")).to_have_text(HOSTILE)
    expect(page.locator("#decisions p")).to_have_text(HOSTILE)
    hostile = page.locator(".grid .cell[aria-label*='onerror']")
    hostile.hover()
    expect(page.get_by_role("tooltip")).to_contain_text(HOSTILE)
    hostile.click()
    expect(page.locator("#inspector-title")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Decisions").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    said(page, f"Pinned {HOSTILE}")
    assert acts(server) == [(f"/v1/models/{quote(HOSTILE, safe='')}/pin", LOADER)]
    page.locator("#filter").fill("__proto__")
    expect(page.locator("#shown")).to_have_text("1 of 3 shown, 1 model matches")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 1  # the page's own


def test_a_lost_connection_is_told_and_made_again(page: Page, server: DashboardServer) -> None:
    place = page.locator("main").bounding_box()
    server.refuses_all = True
    server.drop()
    expect(page.locator("#connection-text")).to_have_text("Reconnecting")
    expect(page.locator("body")).to_have_class("old")
    expect(page.locator("#notice")).to_contain_text("is tried again")
    assert page.locator("main").bounding_box() == place
    assert "grayscale" in page.locator("#replicas").evaluate("it => getComputedStyle(it).filter")
    server.refuses_all = False
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#connection-text")).to_have_text("Live")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("body")).not_to_have_class("old")


def test_silence_is_told(page: Page, server: DashboardServer) -> None:
    server.pause()
    expect(page.locator("#connection-text")).to_have_text("No news")
    expect(page.locator("#notice")).to_contain_text("s old")
    server.pause(False)
    expect(page.locator("#connection-text")).to_have_text("Live")


def test_a_refused_token_is_told_and_not_tried_on_and_on(page: Page, server: DashboardServer) -> None:
    server.refuses = True
    server.drop()
    expect(page.locator("#connection-text")).to_have_text("Token refused")
    expect(page.locator("#notice")).to_contain_text("/?token=")
    streams = server.streams
    cell(page, "m-used").click()
    page.get_by_role("button", name="Pin", exact=True).click()
    said(page, "Could not pin m-used: A token is needed.")
    page.wait_for_timeout(1500)
    assert server.streams == streams
    server.refuses = False
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#connection-text")).to_have_text("Live")
