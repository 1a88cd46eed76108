"""Log lines: how they look, where they go, and what becomes of them when they cannot be written."""

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import pytest

from modelplex import context
from modelplex.config import LoggingConfig
from modelplex.context import RequestContext
from modelplex.observe import logs
from modelplex.observe.logs import JSONFormatter, LineFormatter, QueueHandler

LOGGER = "modelplex.tests.logs"

# From the page that users know.
KNOWN_LINES = """\
INFO 2023-05-24 01:19:03,853 default_Model default_Model#EjYmnQ CUpzhwUUNw / default replica.py:442 - \
Started executing request CUpzhwUUNw
INFO 2023-05-24 01:19:03,854 default_Model default_Model#EjYmnQ CUpzhwUUNw / default multiplex.py:131 - \
Loading model '1'.
INFO 2023-05-24 01:19:04,859 default_Model default_Model#EjYmnQ CUpzhwUUNw / default replica.py:542 - \
__CALL__ OK 1005.8ms
""".splitlines()


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    logger, top = logging.getLogger(LOGGER), logging.getLogger("modelplex")
    level = top.level
    logger.setLevel(logging.INFO)
    yield logger
    top.setLevel(level)
    logger.setLevel(logging.NOTSET)
    logging.getLogger(logs.ACCESS_LOGGER).setLevel(logging.NOTSET)


@pytest.fixture
def _in_request() -> Iterator[None]:
    context.set_request(RequestContext("CUpzhwUUNw", "default", "/", "__call__"))
    yield
    context.set_request(None)


class Watched(io.StringIO):
    """Tells when the writing thread has caught up."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = threading.Event()

    def flush(self) -> None:
        self.flushed.set()


class Stuck(Watched):
    """A terminal that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.asked.set()
        assert self.let_go.wait(10)
        return super().write(text)


class Full(io.StringIO):
    """A disk without room."""

    def write(self, text: str) -> int:
        raise OSError("no space left on device")


class Bare(LineFormatter):
    """Lines of a message alone."""

    def line(self, *parts: object) -> str:
        return str(parts[-1])


def to(log: logging.Logger, *streams: IO[str]) -> QueueHandler:
    return QueueHandler(Bare("c", "p"), list(streams), log)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# A line


@pytest.mark.parametrize("known", KNOWN_LINES)
def test_a_line_is_exactly_as_users_know_it(known: str) -> None:
    parts = re.fullmatch(r"INFO (\S+ \S+),(\d+) \S+ \S+ \S+ \S+ \S+ (\S+):(\d+) - (.*)", known)
    assert parts is not None
    at, msecs, file, number, message = parts.groups()
    record = logging.LogRecord("modelplex", logging.INFO, f"/somewhere/{file}", int(number), message, None, None)
    record.created = datetime.fromisoformat(at).timestamp()
    record.msecs = float(msecs)
    record.request = RequestContext("CUpzhwUUNw", "default", "/", "__call__")
    assert LineFormatter("default_Model", "default_Model#EjYmnQ").format(record) == known


def formatted(request: RequestContext | None, component: str = "default_Model", process: str = "r#1") -> list[str]:
    """The words of a line after its time."""
    record = logging.LogRecord("modelplex", logging.WARNING, "file.py", 7, "hello %s", ("you",), None)
    if request is not None:
        record.request = request
    return LineFormatter(component, process).format(record).split(" ")[3:]


def test_outside_of_a_request_there_are_dashes() -> None:
    assert formatted(None) == ["default_Model", "r#1", "-", "-", "-", "file.py:7", "-", "hello", "you"]


def test_a_request_without_a_route_has_a_dash_for_it() -> None:
    request = RequestContext("id", "shop", "", "__call__")
    assert formatted(request) == ["default_Model", "r#1", "id", "-", "shop", "file.py:7", "-", "hello", "you"]


def test_names_with_percent_signs_are_no_formats() -> None:
    assert formatted(None, "100%s_Model", "50%(x)d%#1")[:2] == ["100%s_Model", "50%(x)d%#1"]


def test_a_traceback_follows_its_line() -> None:
    try:
        raise ValueError("inside")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("modelplex", logging.ERROR, "file.py", 7, "it failed", None, info)
    first, *rest = LineFormatter("c", "p").format(record).splitlines()
    assert first.endswith(" - it failed")
    assert (rest[0], rest[-1]) == ("Traceback (most recent call last):", "ValueError: inside")


# Where lines go


def test_each_replica_has_a_file_of_its_own(log: logging.Logger, tmp_path: Path) -> None:
    handler = logs.start("default_Model", "default_Model#EjYmnQ", str(tmp_path), console=False, logger=LOGGER)
    log.info("hello")
    handler.close()
    [path] = tmp_path.iterdir()
    assert path.name == "default_Model_EjYmnQ.log"
    [line] = lines(path)
    assert re.fullmatch(
        r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} default_Model default_Model#EjYmnQ - - - test_logs\.py:\d+ - hello",
        line,
    )


@pytest.mark.parametrize("name", ["../../etc/passwd#1", "/etc/passwd", "a/b#1", "a b\n#1"])
def test_no_name_leads_out_of_the_folder(log: logging.Logger, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "logs"
    logs.start("c", name, str(folder), console=False, logger=LOGGER).close()
    assert [path.parent for path in tmp_path.rglob("*.log")] == [folder]


def test_the_folder_is_made_and_a_file_that_is_there_is_continued(log: logging.Logger, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for message in ("first", "second"):
        handler = logs.start("c", "p", str(folder), console=False, logger=LOGGER)
        log.info(message)
        handler.close()
    assert [line.split(" - ")[-1] for line in lines(folder / "p.log")] == ["first", "second"]


def test_without_a_folder_there_is_the_console_alone(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    handler = logs.start("c", "p", logger=LOGGER)
    log.info("hello")
    handler.close()
    assert capsys.readouterr().err.endswith(" - hello\n")
    assert not list(tmp_path.iterdir())


def test_the_console_can_be_left_out(log: logging.Logger, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    handler = logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER)
    log.info("hello")
    handler.close()
    assert capsys.readouterr() == ("", "")


def test_loggers_below_are_written_and_others_are_not(log: logging.Logger, tmp_path: Path) -> None:
    handler = logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER)
    logging.getLogger(f"{LOGGER}.below").info("below")
    logging.getLogger("somebody.else").error("elsewhere")
    handler.close()
    assert [line.split(" - ")[-1] for line in lines(tmp_path / "p.log")] == ["below"]


def test_information_is_written_unless_the_user_decides_otherwise(log: logging.Logger, tmp_path: Path) -> None:
    logging.getLogger("modelplex").setLevel(logging.WARNING)
    log.setLevel(logging.NOTSET)
    logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER).close()
    assert log.isEnabledFor(logging.INFO)
    assert not log.isEnabledFor(logging.DEBUG)


@pytest.mark.usefixtures("_in_request")
def test_a_line_names_the_request_that_it_was_logged_in(log: logging.Logger, tmp_path: Path) -> None:
    handler = logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER)
    log.info("inside")
    context.set_request(None)
    log.info("outside")
    handler.close()
    inside, outside = lines(tmp_path / "p.log")
    assert " c p CUpzhwUUNw / default " in inside
    assert " c p - - - " in outside


# The end


def test_closing_writes_everything_that_was_logged(log: logging.Logger, tmp_path: Path) -> None:
    handler = logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER)
    for number in range(1000):
        log.info("line %d", number)
    handler.close()
    assert [line.split(" - ")[-1] for line in lines(tmp_path / "p.log")] == [f"line {n}" for n in range(1000)]


def test_after_closing_nothing_is_kept_for_nobody(log: logging.Logger) -> None:
    stream = io.StringIO()
    handler = to(log, stream)
    assert (log.handlers, log.propagate) == ([handler], False)
    handler.close()
    log.info("too late")
    assert (log.handlers, log.propagate) == ([], True)
    assert stream.getvalue() == ""


def test_closing_twice_is_nothing(log: logging.Logger) -> None:
    handler = to(log, io.StringIO())
    handler.close()
    handler.close()


def test_the_root_logger_can_be_written_too() -> None:
    root, stream = logging.getLogger(), io.StringIO()
    handler = to(root, stream)
    logging.getLogger("somebody.else").warning("elsewhere")
    handler.close()
    assert stream.getvalue() == "elsewhere\n"
    assert handler not in root.handlers


# When writing is slow, or fails


def test_whoever_logs_does_not_wait_for_the_terminal(log: logging.Logger) -> None:
    stream = Stuck()
    handler = to(log, stream)
    for number in range(100):
        log.info("line %d", number)  # would never end if it waited
    assert stream.asked.wait(10)
    assert stream.getvalue() == ""
    stream.let_go.set()
    handler.close()
    assert stream.getvalue() == "".join(f"line {n}\n" for n in range(100))


@pytest.fixture
def flooded(log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Stuck, QueueHandler]]:
    """A handler that was told ten lines, of which one is being written, three fit on its queue and six are dropped."""
    monkeypatch.setattr(logs, "RECORDS_MAX", 3)
    stream = Stuck()
    handler = to(log, stream)
    log.info("line 0")
    assert stream.asked.wait(10)
    for number in range(1, 10):
        log.info("line %d", number)
    yield stream, handler
    stream.let_go.set()
    handler.close()


DROPPED = "({} lines were dropped here: they came faster than they could be written)"


def test_lines_that_come_too_fast_are_dropped_and_counted(flooded: tuple[Stuck, QueueHandler]) -> None:
    stream, handler = flooded
    assert handler.dropped == 6
    stream.let_go.set()
    handler.close()
    assert stream.getvalue().splitlines() == [*(f"line {n}" for n in range(4)), DROPPED.format(6)]


def test_dropped_lines_are_reported_once(flooded: tuple[Stuck, QueueHandler], log: logging.Logger) -> None:
    stream, handler = flooded
    stream.let_go.set()
    while "dropped" not in stream.getvalue():
        assert stream.flushed.wait(10)
        stream.flushed.clear()
    log.info("afterwards")
    handler.close()
    assert stream.getvalue().count("dropped") == 1
    assert stream.getvalue().endswith("\nafterwards\n")


def test_a_line_is_flushed_before_the_next_one_comes(log: logging.Logger) -> None:
    stream = Watched()
    handler = to(log, stream)
    log.info("hello")
    assert stream.flushed.wait(10)
    assert stream.getvalue() == "hello\n"
    handler.close()


@pytest.mark.parametrize("broken", [Full, lambda: closed()], ids=["full", "closed"])
def test_a_stream_that_fails_does_not_end_the_others(log: logging.Logger, broken: Callable[[], IO[str]]) -> None:
    good = io.StringIO()
    handler = to(log, broken(), good)
    log.info("first")
    log.info("second")
    handler.close()
    assert good.getvalue() == "first\nsecond\n"


def closed() -> IO[str]:
    stream = io.StringIO()
    stream.close()
    return stream


def test_a_wrong_log_call_is_reported_and_does_not_end_the_rest(
    log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    handler = to(log, stream)
    log.info("%d models", "many")
    log.info("afterwards")
    handler.close()
    assert stream.getvalue() == "afterwards\n"
    assert "TypeError: %d format" in capsys.readouterr().err


def test_text_that_cannot_be_encoded_does_not_end_the_file(log: logging.Logger, tmp_path: Path) -> None:
    handler = logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER)
    log.info("a file named \udcff")
    log.info("afterwards: ü 模型")
    handler.close()
    assert [line.split(" - ")[-1] for line in lines(tmp_path / "p.log")] == [
        "a file named \\udcff",
        "afterwards: ü 模型",
    ]


# Lines that every request makes


def test_a_frequent_line_is_a_line_like_others(log: logging.Logger, tmp_path: Path) -> None:
    frequent = logs.FrequentLine(log)
    handler = logs.start("c", "p", str(tmp_path), console=False, logger=LOGGER)
    frequent("100% done")
    log.info("%d%% done", 100)
    handler.close()
    first, second = lines(tmp_path / "p.log")
    pattern = r"INFO \d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} c p - - - test_logs\.py:\d+ - 100% done"
    assert re.fullmatch(pattern, first)
    assert re.fullmatch(pattern, second)


def test_a_frequent_line_has_its_time(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    before = time.time()
    logs.FrequentLine(log)("hello")
    [record] = caplog.records
    assert before <= record.created <= time.time()
    assert record.msecs == pytest.approx(record.created % 1 * 1000)
    assert (record.name, record.levelname, record.getMessage()) == (LOGGER, "INFO", "hello")


def test_a_frequent_line_is_left_out_below_the_level(log: logging.Logger, caplog: pytest.LogCaptureFixture) -> None:
    frequent = logs.FrequentLine(log)
    log.setLevel(logging.WARNING)
    frequent("hello")
    assert not caplog.records


def drop_secrets(record: logging.LogRecord) -> bool:
    return "secret" not in record.getMessage()


@pytest.mark.parametrize("of_the_handler", [False, True])
def test_a_frequent_line_passes_through_filters(log: logging.Logger, of_the_handler: bool) -> None:
    stream = io.StringIO()
    handler = to(log, stream)
    (handler if of_the_handler else log).addFilter(drop_secrets)
    frequent = logs.FrequentLine(log)
    frequent("a secret")
    frequent("no news")
    handler.close()
    log.removeFilter(drop_secrets)
    assert stream.getvalue() == "no news\n"


def test_a_frequent_line_reaches_every_handler_once(log: logging.Logger) -> None:
    streams = io.StringIO(), io.StringIO()
    handlers = [to(log, stream) for stream in streams]
    logs.FrequentLine(log)("hello")
    for handler in handlers:
        handler.close()
    assert [stream.getvalue() for stream in streams] == ["hello\n", "hello\n"]


def test_more_lines_than_are_written_at_a_time(log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "BATCH_MAX", 3)
    stream = Stuck()
    handler = to(log, stream)
    for number in range(10):
        log.info("line %d", number)
    stream.let_go.set()
    handler.close()
    assert stream.getvalue() == "".join(f"line {n}\n" for n in range(10))


@pytest.mark.usefixtures("_in_request")
def test_lines_of_two_seconds_have_their_own_times() -> None:
    formatter = LineFormatter("c", "p")
    record = logging.LogRecord("modelplex", logging.INFO, "file.py", 7, "hello", None, None)
    times = []
    for record.created, record.msecs in ((1e9, 0.0), (1e9 + 0.25, 250.0), (1e9 + 1, 0.0), (1e9, 999.9)):
        times.append(formatter.format(record).split(" ")[2])
    assert [at.partition(":")[2] for at in times] == ["46:40,000", "46:40,250", "46:41,000", "46:40,999"]


# What a deployment says of its logs


def started(folder: Path, **options: Any) -> QueueHandler:
    return logs.start("c", "p", str(folder), console=False, logger=LOGGER, options=LoggingConfig(**options))


def objects(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(path)]


@pytest.mark.usefixtures("_in_request")
def test_json_has_what_the_text_has(log: logging.Logger, tmp_path: Path) -> None:
    handler = started(tmp_path, encoding="JSON")
    log.warning('a "word",\nand %s \udcff', "模型")
    logs.FrequentLine(log)("100% done")
    handler.close()
    one, other = objects(tmp_path / "p.log")
    assert datetime.fromisoformat(one.pop("asctime").replace(",", "."))
    assert one.pop("lineno") > 0
    assert one == {
        "levelname": "WARNING",
        "deployment": "c",
        "replica": "p",
        "request_id": "CUpzhwUUNw",
        "route": "/",
        "application": "default",
        "filename": "test_logs.py",
        "message": 'a "word",\nand 模型 \udcff',
    }
    assert (other["levelname"], other["message"], other["filename"]) == ("INFO", "100% done", "test_logs.py")


def test_json_outside_of_a_request_has_dashes(log: logging.Logger, tmp_path: Path) -> None:
    handler = started(tmp_path, encoding="JSON")
    log.info("hello")
    handler.close()
    [line] = objects(tmp_path / "p.log")
    assert (line["request_id"], line["route"], line["application"]) == ("-", "-", "-")


def test_a_traceback_is_in_the_same_object(log: logging.Logger, tmp_path: Path) -> None:
    handler = started(tmp_path, encoding="JSON")
    try:
        raise ValueError("inside {}")
    except ValueError:
        log.exception("it failed", stack_info=True)
    handler.close()
    [line] = objects(tmp_path / "p.log")
    assert line["message"] == "it failed"
    assert "ValueError: inside {}" in line["exc_text"]
    assert "Stack (most recent call last)" in line["exc_text"]


def test_what_is_said_of_dropped_lines_is_json_too(log: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "RECORDS_MAX", 1)
    stream = Stuck()
    handler = QueueHandler(JSONFormatter("c", "p"), [stream], log)
    log.info("first")
    assert stream.asked.wait(10)
    for _ in range(3):
        log.info("more")
    stream.let_go.set()
    handler.close()
    *_, last = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert (last["levelname"], last["message"]) == ("WARNING", DROPPED.format(2))


def test_a_folder_of_the_deployments_goes_before(log: logging.Logger, tmp_path: Path) -> None:
    handler = started(tmp_path / "of the run", logs_dir=str(tmp_path / "own"))
    log.info("hello")
    handler.close()
    assert [path.parent.name for path in tmp_path.rglob("*.log")] == ["own"]


@pytest.mark.parametrize(
    ("level", "written"),
    [("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]), ("INFO", ["INFO", "WARNING", "ERROR"]), ("ERROR", ["ERROR"])],
)
@pytest.mark.parametrize("of_the_user", [False, True])
def test_lines_below_the_level_are_not_written(
    log: logging.Logger, tmp_path: Path, level: str, written: list[str], of_the_user: bool
) -> None:
    log.setLevel(logging.DEBUG if of_the_user else logging.NOTSET)
    handler = started(tmp_path, log_level=level)
    for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(number, "hello")
    handler.close()
    if of_the_user and level == "INFO":
        written = ["DEBUG", *written]  # a level that somebody has set is theirs, above what is left out for good
    assert [line.split(" ")[0] for line in lines(tmp_path / "p.log")] == written


def test_a_frequent_line_is_left_out_below_the_level_of_the_deployment(log: logging.Logger, tmp_path: Path) -> None:
    log.setLevel(logging.INFO)
    handler = started(tmp_path, log_level="WARNING")
    logs.FrequentLine(log)("hello")
    handler.close()
    assert lines(tmp_path / "p.log") == []


@pytest.mark.parametrize("enabled", [False, True])
def test_the_lines_of_each_request_can_be_left_out(log: logging.Logger, tmp_path: Path, enabled: bool) -> None:
    handler = logs.start(
        "c",
        "p",
        str(tmp_path),
        console=False,
        logger="modelplex",
        options=LoggingConfig(enable_access_log=enabled),
    )
    logs.FrequentLine(logging.getLogger(logs.ACCESS_LOGGER))("Started executing request r")
    log.info("hello")
    handler.close()
    expected = ["Started executing request r", "hello"] if enabled else ["hello"]
    assert [line.split(" - ")[-1] for line in lines(tmp_path / "p.log")] == expected


@pytest.mark.parametrize("goes_the_short_way", [False, True])
def test_the_lines_of_each_request_can_be_kept_from_the_console_alone(
    log: logging.Logger, capsys: pytest.CaptureFixture[str], tmp_path: Path, goes_the_short_way: bool
) -> None:
    handler = logs.start("c", "p", str(tmp_path), briefly=True, logger="modelplex")
    access = logging.getLogger(logs.ACCESS_LOGGER)
    (logs.FrequentLine(access) if goes_the_short_way else access.info)("Started executing request r")
    log.warning("hello")
    handler.close()
    assert [line.split(" - ")[-1] for line in lines(tmp_path / "p.log")] == ["Started executing request r", "hello"]
    assert [line.split(" - ")[-1] for line in capsys.readouterr().err.splitlines()] == ["hello"]


def test_a_frequent_line_that_is_written_goes_the_short_way(log: logging.Logger, tmp_path: Path) -> None:
    handler = started(tmp_path)
    assert logs.FrequentLine(log)._only_handler() is handler
    handler.close()


# What clients send


HOSTILE = "a\r\nERROR 2026-01-01 forged\x1b[2J\x00\x9b\u2028\u202e b"


def line_of(name: str, message: str, *arguments: object) -> str:
    record = logging.LogRecord(name, logging.WARNING, "file.py", 7, message, arguments, None)
    return LineFormatter("c", "p").format(record)


def test_nothing_in_a_line_of_ours_begins_another_or_is_obeyed_by_a_terminal() -> None:
    line = line_of("modelplex.runtime.proxy", "%s failed", HOSTILE)
    assert line.isprintable()
    assert line.endswith(r"a\r\nERROR 2026-01-01 forged\x1b[2J\x00\x9b\u2028\u202e b failed")
    assert line_of("shop", "two\nlines").endswith("two\nlines")  # user code's own business


def test_in_a_traceback_there_is_nothing_that_a_terminal_obeys() -> None:
    try:
        raise KeyError(f"x\x1b[2J\x07{1}") from ValueError("\x1b]0;title\x07")
    except KeyError:
        record = logging.LogRecord("modelplex.x", logging.ERROR, "f.py", 1, "no", (), sys.exc_info())
    text = LineFormatter("c", "p").format(record)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert r"\x1b]0;title\x07" in text
    assert text.count("\n") > 3


def test_a_traceback_has_no_line_that_looks_like_one_of_the_log() -> None:
    try:
        raise ValueError("x\nERROR 2026-01-01 00:00:00,000 forged\nnot one")
    except ValueError:
        record = logging.LogRecord("modelplex.x", logging.ERROR, "f.py", 1, "no", (), sys.exc_info())
    text = LineFormatter("c", "p").format(record)
    assert [line for line in text.splitlines() if line.startswith("ERROR 2")] == [text.splitlines()[0]]
    assert "\n  ERROR 2026-01-01" in text
    assert "\nnot one" in text


def test_json_lines_stay_one_line() -> None:
    record = logging.LogRecord("modelplex.x", logging.WARNING, "f.py", 1, "%s", (HOSTILE,), None)
    assert json.loads(JSONFormatter("c", "p").format(record))["message"] == HOSTILE
    assert "\n" not in JSONFormatter("c", "p").format(record)
