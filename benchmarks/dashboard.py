"""How smooth the dashboard is with 200 replicas of 50 models that change each second, and pictures of it.

    python -m benchmarks.dashboard [--replicas 200] [--models 50] [--seconds 15]
    python -m benchmarks.dashboard --screenshots docs/images

In headless Chromium (`--chromium` says where it is), round a system that is made up. Frames are the gaps between calls
of requestAnimationFrame: at rest, and while the page scrolls. Long tasks are those of 50 ms and more, as the browser
counts them. Work is what tasks of the page's main thread take of a processor, which other programs change little.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))

from dashboard_scene import BEGAN, Scene
from dashboard_server import served
from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP = {"width": 1440, "height": 1160}
PHONE = {"width": 390, "height": 1780}

PAST_S = 590  # of traffic, in pictures

# Collects gaps between frames and long tasks for some seconds; scrolls by some pixels each frame, up and down.
MEASURE = """
({ seconds, scroll }) => new Promise((resolve) => {
  const gaps = [], tasks = [];
  const observer = new PerformanceObserver((list) => list.getEntries().forEach((entry) => tasks.push(entry.duration)));
  observer.observe({ type: "longtask" });
  const began = performance.now();
  let last = began, step = scroll;
  const frame = (now) => {
    gaps.push(now - last);
    last = now;
    if (step) {
      const before = scrollY;
      scrollBy(0, step);
      if (scrollY === before) step = -step;
    }
    if (now - began < seconds * 1000) requestAnimationFrame(frame);
    else { observer.disconnect(); resolve({ gaps: gaps.slice(1), tasks }); }
  };
  requestAnimationFrame(frame);
})
"""


def work_ms(trace: Path) -> list[float]:
    """Of each task of the page's main thread."""
    events = json.loads(trace.read_text())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    tasks = (e for e in events if e.get("name") == "RunTask" and names.get((e["pid"], e["tid"])) == "CrRendererMain")
    return sorted(task.get("tdur", 0) / 1000 for task in tasks)


def line(name: str, measured: dict[str, Any], works: list[float]) -> str:
    gaps, tasks = sorted(measured["gaps"]), measured["tasks"]
    p95, p99 = (gaps[min(len(gaps) - 1, int(len(gaps) * part))] for part in (0.95, 0.99))
    longest = f", the longest {max(tasks):.0f} ms" if tasks else ""
    return (
        f"{name:<34} {len(gaps):>5} frames: median {statistics.median(gaps):5.1f} ms, p95 {p95:5.1f} ms, "
        f"p99 {p99:5.1f} ms, max {gaps[-1]:5.1f} ms; {len(tasks)} long tasks{longest}; "
        f"work of a task: p99 {works[int(len(works) * 0.99)]:.1f} ms, max {works[-1]:.1f} ms"
    )


def measure(browser: Browser, replicas: int, models: int, seconds: float) -> None:
    with served(Scene(replicas, models, requests=5000)) as server:
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(server.url)
        page.wait_for_selector(".cell.resident", timeout=60_000)
        page.wait_for_timeout(2000)
        print(f"{replicas} replicas of {models} models; an event a second, in which every replica changes")
        for name, scroll in (
            ("at rest", 0),
            ("scrolling, 1,200 pixels a second", 20),
            ("scrolling, 6,000 pixels a second", 100),
        ):
            with tempfile.TemporaryDirectory() as folder:
                trace = Path(folder) / "trace.json"
                browser.start_tracing(page=page, path=trace, categories=["disabled-by-default-devtools.timeline"])
                measured = page.evaluate(MEASURE, {"seconds": seconds, "scroll": scroll})
                browser.stop_tracing()
                print(line(name, measured, work_ms(trace)))
        page.close()


def picture(browser: Browser, file: Path, scheme: Any, viewport: Any) -> None:
    with served(Scene(12, 36), past=PAST_S) as server:
        is_phone = viewport is PHONE
        scale = 2 if is_phone else 1.5
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, device_scale_factor=scale, has_touch=is_phone
        )
        page = context.new_page()
        page.goto(server.url)
        while server.scene.now < BEGAN + PAST_S:
            page.wait_for_timeout(200)
        page.wait_for_timeout(5000)
        if not is_phone:
            _choose(page)
        page.screenshot(path=file)
        print(file)
        context.close()


def _choose(page: Page) -> None:
    page.locator(".grid .cell.used").nth(2).click()
    page.mouse.move(2, 2)
    page.wait_for_timeout(1200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=200)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--screenshots", type=Path, help="a folder for pictures; nothing is measured")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox"])
        if options.screenshots is None:
            measure(browser, options.replicas, options.models, options.seconds)
        else:
            options.screenshots.mkdir(parents=True, exist_ok=True)
            for scheme in ("light", "dark"):
                for name, viewport in (("desktop", DESKTOP), ("phone", PHONE)):
                    picture(browser, options.screenshots / f"dashboard-{scheme}-{name}.png", scheme, viewport)
        browser.close()


if __name__ == "__main__":
    main()
