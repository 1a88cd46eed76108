"""A running system in a terminal: what `/v1/state` of the admin interface says, drawn; and plain tables."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

# What a terminal is taken to have if it does not say.
SIZE = (80, 24)
BAR = 12

STARTS = ("warm", "cold", "joined", "none")


def show(ask: Callable[[], dict[str, Any]], interval_s: float, *, once: bool, console: "Console | None" = None) -> None:
    """Draw what it says again and again until Ctrl-C, or once; on the terminal unless another console is given."""
    from rich.console import Console
    from rich.live import Live

    if console is None:
        columns, lines = shutil.get_terminal_size(SIZE)
        console = Console(width=columns, height=lines)
    state = ask()
    if once:
        console.print(frame(state, None, console.size.height - 1))
        return
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        before = None
        while True:
            live.update(frame(state, before, console.size.height), refresh=True)
            time.sleep(interval_s)
            before, state = state, ask()


def frame(state: dict[str, Any], before: dict[str, Any] | None, lines: int) -> "RenderableType":
    """One picture that is so many lines high at most.

    Args:
        state: what there is now.
        before: what there was, for what happened since; None the first time.
        lines: of the terminal.
    """
    from rich.console import Group
    from rich.text import Text

    loads, decisions = state["slowest_loads"], state["decisions"]
    # Of the lines: two of traffic, and a heading for each of the three tables; replicas have what the others leave.
    rest = max(3, lines - 5)
    shown_loads = min(len(loads), max(1, rest // 5))
    shown_decisions = min(len(decisions), max(1, rest // 4))
    replicas = _replicas(state["replicas"], rest - shown_loads - shown_decisions)
    return Group(
        Text(_title(state), style="bold", no_wrap=True, overflow="ellipsis"),
        Text(traffic(state, before), no_wrap=True, overflow="ellipsis"),
        replicas,
        _loads(loads[:shown_loads]),
        _decisions(decisions[:shown_decisions]),
    )


def _title(state: dict[str, Any]) -> str:
    status = state["status"]
    apps = ", ".join(f"{name} {app['status']}" for name, app in status["applications"].items()) or "no applications"
    now = time.strftime("%H:%M:%S", time.localtime(state["time"]))
    return f"modelplex  {status['address'] or 'no HTTP'}  {now}  {apps}"


def traffic(state: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Requests a second, and how many of them met their model loaded; of all so far, without an earlier state."""
    counts, queued = state["traffic"], state["traffic"]["queued"]
    took_s = 1.0 if before is None else max(state["time"] - before["time"], 1e-3)
    earlier = {} if before is None else before["traffic"]
    since = {name: max(0, counts[name] - earlier.get(name, 0)) for name in (*STARTS, "errors")}
    requests, loaded = sum(since[name] for name in STARTS), since["warm"]
    met = loaded + since["cold"] + since["joined"]
    ratio = f"{loaded / met:.1%}" if met else "-"
    what = f"{requests} requests so far" if before is None else f"{requests / took_s:.0f} requests/s"
    return f"{what}  hits {ratio}  cold {since['cold']}  errors {since['errors']}  queued {queued}"


def _replicas(replicas: Sequence[dict[str, Any]], lines: int) -> "Table":
    from rich.progress_bar import ProgressBar

    drawn = _table("REPLICA", "REQUESTS", "MODELS", "BUDGET", "", "STATE")
    rows = [(replica, loader) for replica in replicas for loader in replica["loaders"] or [None]]
    fits = len(rows) <= lines
    for replica, loader in rows if fits else rows[: max(0, lines - 1)]:
        running = f"{replica['ongoing']}/{replica['max_ongoing']}"
        is_loading = loader is not None and any(m["state"] in ("loading", "settling") for m in loader["models"])
        doing = "retiring" if replica["retiring"] else "loading" if is_loading else ""
        if loader is None:
            _add(drawn, short(replica["replica"]), running, "", "", "", doing)
            continue
        bar = ProgressBar(total=1.0, completed=_share(loader), width=BAR)
        _add(drawn, short(replica["replica"]), running, models(loader), bar, budget(loader), doing)
    if not fits:
        _add(drawn, f"and {len(rows) - max(0, lines - 1)} more", "", "", "", "", "")
    return drawn


def _share(loader: dict[str, Any]) -> float:
    """How much of its budget is taken, of the one that is nearer to its end."""
    of_bytes = loader["size_bytes"] / loader["bytes_max"] if loader["bytes_max"] > 0 else 0.0
    of_models = loader["total"] / loader["models_max"] if loader["models_max"] > 0 else 0.0
    return min(1.0, max(of_bytes, of_models))


def _loads(loads: Iterable[dict[str, Any]]) -> "Table":
    drawn = _table("SLOWEST LOADS", "SECONDS", "REPLICA")
    for load in loads:
        _add(drawn, load["model_id"], f"{load['load_s']:.2f}", short(load["replica"]))
    return drawn


def _decisions(decisions: Iterable[dict[str, Any]]) -> "Table":
    drawn = _table("DECISION", "")
    drawn.columns[0].min_width = len("00:00:00")
    for decision in decisions:
        at = time.strftime("%H:%M:%S", time.localtime(decision["at"]))
        _add(drawn, at, decision["text"] or f"{decision['kind']} {decision['model_id']} {decision['why']}")
    return drawn


def _table(*names: str) -> "Table":
    from rich.table import Table

    drawn = Table(*names, box=None, pad_edge=False, header_style="bold cyan")
    for column in drawn.columns:
        column.no_wrap, column.overflow = True, "ellipsis"
    return drawn


def _add(drawn: "Table", *cells: "RenderableType") -> None:
    """Names come from elsewhere: nothing in them is an order to the terminal, or markup."""
    from rich.text import Text

    drawn.add_row(*(Text(_plain(cell)) if isinstance(cell, str) else cell for cell in cells))


def text_of(drawn: "RenderableType", console: "Console") -> str:
    """What would be on a terminal."""
    with console.capture() as captured:
        console.print(drawn)
    return captured.get()


# Plain text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them."""
    lines = [list(map(_plain, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _plain(text: str) -> str:
    """Names come from elsewhere, and terminals obey what is between their letters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def short(replica: str) -> str:
    """Without the application, unless that is not the default."""
    return replica.removeprefix("default_")


def models(loader: dict[str, Any]) -> str:
    """How many of how many."""
    most = loader["models_max"]
    return str(loader["total"]) if most < 0 else f"{loader['total']}/{most}"


def budget(loader: dict[str, Any]) -> str:
    """How many bytes of how many."""
    most = loader["bytes_max"]
    return size(loader["size_bytes"]) if most < 0 else f"{size(loader['size_bytes'])}/{size(most)}"


def size(size_bytes: float) -> str:
    """As 1.2GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f}{unit}" if unit == "B" else f"{size_bytes:.1f}{unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f}TiB"


def duration(seconds: float) -> str:
    """As 350ms, 12s, 5m, 3h or 2d."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    for unit, length_s in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length_s:
            return f"{seconds / length_s:.0f}{unit}"
    return f"{seconds:.0f}s"
