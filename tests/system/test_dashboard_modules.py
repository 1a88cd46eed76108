"""The modules of the dashboard that know no page, in the browser that is to run them."""

from collections.abc import Iterator
from typing import Any

import pytest
from chromium import browser
from dashboard_scene import Scene
from dashboard_server import served
from playwright.sync_api import Page

pytestmark = [pytest.mark.system, pytest.mark.doors]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with browser() as chromium, served(Scene(0, 4)) as server:
        page = chromium.new_page()
        page.goto(server.url)
        yield page


def model(model_id: str, **other: Any) -> dict[str, Any]:
    told = {"id": model_id, "state": "resident", "size_bytes": 1, "age_s": 5, "idle_s": 2, "load_s": 1, "uses": 1}
    return told | {"leases": 0, "waiters": 0, "pinned": False, "aliases": [], "tenant": ""} | other


def state(time: float, models: list[dict[str, Any]], *others: str) -> dict[str, Any]:
    loader = {"name": "l", "models_max": 3, "bytes_max": -1, "loads_max": 1, "size_bytes": 2, "models": models}
    replicas: list[dict[str, Any]] = [{"replica": "r", "loaders": [loader]}]
    return {"time": time, "replicas": [*replicas, *({"replica": name, "loaders": []} for name in others)]}


CHANGES = """
async (states) => {
  const { Differ } = await import("/differ.js");
  const differ = new Differ();
  return states.map((state) => {
    const { changed, gone, totals } = differ.changes(state);
    const ids = changed.map(({ head, loaders }) => [
      head.replica,
      loaders.flatMap((loader) => loader.models.map(({ id }) => id)),
      loaders.flatMap((loader) => loader.gone),
    ]);
    return { ids, gone, models: totals.models, bytesMax: totals.bytesMax };
  });
}
"""


def test_only_differences_reach_the_page(page: Page) -> None:
    first, older, used, other = page.evaluate(
        CHANGES,
        [
            state(100, [model("a"), model("b")], "s"),
            state(101, [model("a", age_s=6.2, idle_s=3.1), model("b", age_s=6, idle_s=3)], "s"),
            state(102, [model("a", age_s=7, idle_s=4), model("b", age_s=7, idle_s=0, uses=2)], "s"),
            state(103, [model("c")]),
        ],
    )
    assert first == {"ids": [["r", ["a", "b"], []], ["s", [], []]], "gone": [], "models": 2, "bytesMax": -1}
    assert older["ids"] == []  # all of it is only a second older
    assert used["ids"] == [["r", ["b"], []]]
    assert (other["ids"], other["gone"]) == ([["r", ["c"], ["a", "b"]]], ["s"])


def test_models_keep_their_places(page: Page) -> None:
    """What a model leaves is taken by the next one; the others stay where they were."""
    places = page.evaluate(
        """async (states) => {
          const { Differ } = await import("/differ.js");
          const { Fleet } = await import("/fleet.js");
          const differ = new Differ(), fleet = new Fleet();
          return states.map((state) => {
            fleet.apply(differ.changes(state));
            const loader = fleet.replicas.get("r").loaders.get("l");
            return [loader.slots.map((model) => model && model.id), loader.slotsMost];
          });
        }""",
        [
            state(100, [model("a"), model("b"), model("c")]),
            state(101, [model("a"), model("c")]),
            state(102, [model("a"), model("c"), model("d")]),
            state(103, [model("a"), model("d"), model("e"), model("f"), model("g")]),
            state(104, [model("a")]),
        ],
    )
    assert [slots for slots, _ in places] == [
        ["a", "b", "c"],
        ["a", None, "c"],
        ["a", "d", "c"],
        ["a", "d", "e", "f", "g"],
        ["a"],
    ]
    assert [most for _, most in places] == [3, 3, 3, 5, 5]  # a card grows, and does not shrink


def test_rates_come_from_counters_and_gaps_stay_gaps(page: Page) -> None:
    told = page.evaluate(
        """async () => {
          const { History } = await import("/history.js");
          const history = new History();
          const add = (time, warm, cold) => history.add(time, { warm, cold, joined: 0, none: 0, errors: 0, queued: 0 });
          add(100, 1000, 10);
          add(101, 1090, 20);
          add(102, 1180, 30);
          const before = [history.rate(60), history.ratio(60), history.points.length];
          add(162, 9000, 30); // a minute of which nothing is known
          const gap = [history.points.at(-1).gap, history.rate(60), history.ratio(60)];
          add(163, 9010, 30);
          const after = [history.rate(60), history.ratio(60)];
          add(164, 5, 0); // a process has gone, with its counters
          const fell = history.points.at(-1).warm;
          for (let time = 165; time < 900; time += 1) add(time, time, 0);
          return { before, gap, after, fell, kept: history.points.length };
        }"""
    )
    assert told["before"] == [100, 0.9, 2]
    assert told["gap"] == [True, 0, None]
    assert told["after"] == [10, 1]
    assert told["fell"] == 0
    assert 600 <= told["kept"] <= 601


def test_events_may_come_in_any_pieces(page: Page) -> None:
    text = ': hello\r\n\r\nevent: state\ndata: {"é":1}\n\ndata:a\ndata: b\n\nevent: cut\ndata: x'
    told = page.evaluate(
        """async (text) => {
          const { eventsOf } = await import("/event_stream.js");
          const bytes = new TextEncoder().encode(text);
          const all = [];
          for (const size of [1, 3, 1000]) {
            const body = new ReadableStream({ start(controller) {
              for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
              controller.close();
            } });
            const events = [];
            for await (const event of eventsOf(body)) events.push([event.type, event.data]);
            all.push(events);
          }
          return all;
        }""",
        text,
    )
    assert told == [[["state", '{"é":1}'], ["message", "a\nb"]]] * 3


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("count(999)", "999"),
        ("count(12345)", "12.3k"),
        ("count(999999)", "1M"),
        ("bytes(1023)", "1023 B"),
        ("bytes(1.5 * 2 ** 30)", "1.5 GiB"),
        ("duration(0.0123)", "12 ms"),
        ("duration(3.44)", "3.4 s"),
        ("duration(61)", "61 s"),
        ("duration(7200)", "2 h"),
        ("percent(1)", "100 %"),
        ("percent(0.9876)", "98.8 %"),
        ("budget(3, -1)", "3 of any"),
        ("budget(3, 4)", "3 / 4"),
        ("plural(1, 'model')", "1 model"),
        ("plural(0, 'model')", "0 models"),
    ],
)
def test_numbers_are_short(page: Page, call: str, text: str) -> None:
    assert page.evaluate(f"async () => (await import('/format.js')).{call}") == text
