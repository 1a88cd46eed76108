"""Log lines, to the console and a file, written by a thread so that the request path only puts a record on a queue.

A line: level, time, deployment, replica, request id, route, application, file:line - message; "-" where there is none.
Or an object with the same as JSON, if a deployment's `LoggingConfig` says so.
"""

import contextlib
import json
import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from modelplex import context
from modelplex.config import LoggingConfig

# Records on the queue at a time. When the console or the disk cannot keep up, lines are dropped and counted, since the
# alternative is to make requests wait for a terminal.
RECORDS_MAX = 20_000

# So long the thread lets lines gather, and so many it writes at a time: under load it would else be woken for each, and
# take the interpreter from the event loop each time.
GATHER_S = 0.01
BATCH_MAX = 1_000

# What programs that were written for Ray Serve log by.
RAY_LOGGER = "ray.serve"

# What the two lines of each request are logged by, so that its level can leave them out.
ACCESS_LOGGER = "modelplex.access"


# Where something in a traceback looks like another line of the log: an exception's text may be a client's.
_LINE = re.compile(r"^(?=(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d{4}-)", re.MULTILINE)


def escaped(text: str, keep: str = "") -> str:
    """The text without characters that a terminal obeys, or that begin another line: as Python's literals have them.

    Messages of our own may have what a client sent. Those of user code are its own business; in tracebacks, which have
    lines, only what a terminal obeys is escaped.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in text)


class LineFormatter(logging.Formatter):
    """Formats as said above.

    Args:
        component: the deployment as `application_deployment`, or the kind of process.
        process_name: the replica, or the process.
    """

    def __init__(self, component: str, process_name: str) -> None:
        super().__init__()
        self._component, self._process_name = component, process_name
        self._names = f"{component} {process_name}"
        self._second = -1
        self._time = ""

    def format(self, record: logging.LogRecord) -> str:
        # What the base class does, made for one format: this is half of what a line costs.
        request: context.RequestContext | None = getattr(record, "request", None)
        place = f"{record.filename}:{record.lineno}"
        line = self.line(record.levelname, record.created, record.msecs, request, place, self.message(record))
        if record.exc_info or record.stack_info:
            line = self.with_trace(line, self._trace(record))
        return line

    def message(self, record: logging.LogRecord) -> str:
        """What a record says, as it may stand in a line."""
        message = record.getMessage()
        return escaped(message) if record.name.startswith("modelplex.") else message

    def line(
        self, level: str, created: float, msecs: float, request: context.RequestContext | None, place: str, message: str
    ) -> str:
        """A line of its parts; `place` is file:line."""
        of = "- - -" if request is None else f"{request.request_id} {request.route or '-'} {request.app_name}"
        return f"{level} {self._at(created)},{int(msecs):03d} {self._names} {of} {place} - {message}"

    def with_trace(self, line: str, trace: str) -> str:
        """The line with the traceback, or the stack, that belongs to it."""
        return f"{line}\n{trace}"

    def dropped(self, count: int) -> str:
        """What is written in place of so many lines."""
        return f"({count} lines were dropped here: they came faster than they could be written)"

    def _at(self, created: float) -> str:
        second = int(created)
        if second != self._second:
            self._second, self._time = second, time.strftime(self.default_time_format, time.localtime(second))
        return self._time

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        text = "\n".join([*parts, self.formatStack(record.stack_info)] if record.stack_info else parts)
        return _LINE.sub("  ", escaped(text, keep="\n\t"))


class JSONFormatter(LineFormatter):
    """Each line is a JSON object, whose fields have the names that Ray Serve's JSON lines have.

    A traceback is the field `exc_text`.
    """

    def message(self, record: logging.LogRecord) -> str:
        return record.getMessage()  # JSON escapes it

    def line(
        self, level: str, created: float, msecs: float, request: context.RequestContext | None, place: str, message: str
    ) -> str:
        filename, _, line = place.rpartition(":")
        return json.dumps(
            {
                "levelname": level,
                "asctime": f"{self._at(created)},{int(msecs):03d}",
                "deployment": self._component,
                "replica": self._process_name,
                "request_id": "-" if request is None else request.request_id,
                "route": (request.route if request is not None else "") or "-",
                "application": "-" if request is None else request.app_name,
                "filename": filename,
                "lineno": int(line),
                "message": message,
            }
        )

    def with_trace(self, line: str, trace: str) -> str:
        return f'{line[:-1]}, "exc_text": {json.dumps(trace)}}}'

    def dropped(self, count: int) -> str:
        now = time.time()
        return self.line("WARNING", now, now % 1 * 1e3, None, "logs.py:0", super().dropped(count))


class FrequentLine:
    """A log call that every request makes: like `logger.info`, but what never changes is found out once.

    To look for the caller, its thread and its process costs `logging` more than all else of a line. The record itself
    is spared, too, while the only handler is the one below.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        caller = sys._getframe(1)
        place = (caller.f_code.co_filename, caller.f_lineno)
        record = logging.LogRecord(logger.name, logging.INFO, *place, "", None, None)
        self._unchanging = record.__dict__
        self.place = f"{record.filename}:{record.lineno}"

    def __call__(self, message: str) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        now = time.time()
        handler = self._only_handler()
        if handler is not None:
            handler.put((self, now, context.request(), message))
        else:
            self._logger.handle(_Record({**self._unchanging, "msg": message, "created": now, "msecs": now % 1 * 1e3}))

    def _only_handler(self) -> "QueueHandler | None":
        """The one that gets all that the logger is told, if there is no other and nothing is filtered."""
        only: QueueHandler | None = None
        logger: logging.Logger | None = self._logger
        filters = self._logger.filters
        while logger is not None:
            for handler in logger.handlers:
                if only is not None or not isinstance(handler, QueueHandler):
                    return None
                only = handler
            logger = logger.parent if logger.propagate else None
        return None if only is None or filters or only.filters else only


# What a `FrequentLine` is told: itself, when, of which request, and the message.
_Frequent = tuple[FrequentLine, float, context.RequestContext | None, str]


class _Record(logging.LogRecord):
    def __init__(self, attributes: dict[str, object]) -> None:
        self.__dict__ = attributes


class QueueHandler(logging.Handler):
    """Puts records on a queue, from which a thread writes them to streams.

    Args:
        formatter: makes lines of records, in the thread.
        streams: where lines are written; not closed at the end.
        logger: what the records come from, until the handler is closed.
        briefly: where all but the lines of each request are written.
    """

    def __init__(
        self,
        formatter: LineFormatter,
        streams: list[IO[str]],
        logger: logging.Logger,
        briefly: Sequence[IO[str]] = (),
    ) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._formatter = formatter
        self.dropped = 0
        self._logger = logger
        self._streams, self._briefly = streams, list(briefly)
        self._queue: queue.SimpleQueue[logging.LogRecord | _Frequent | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="modelplex-log", daemon=True)
        self._thread.start()
        logger.addHandler(self)
        logger.propagate = logger.parent is None

    def handle(self, record: logging.LogRecord) -> bool:
        # Without the base class's lock: a queue needs none.
        passed = bool(self.filter(record))
        if passed:
            self.emit(record)
        return passed

    def emit(self, record: logging.LogRecord) -> None:
        record.request = context.request()
        self.put(record)

    def put(self, what: "logging.LogRecord | _Frequent") -> None:
        """Have a line written, unless too many are to be."""
        if self._queue.qsize() >= RECORDS_MAX:
            self.dropped += 1
        else:
            self._queue.put(what)

    def close(self) -> None:
        """Take no more records, write what is on the queue, within a second, and end."""
        self._logger.removeHandler(self)
        self._logger.propagate = True
        self._queue.put(None)
        self._thread.join(timeout=1.0)
        super().close()

    def _write(self) -> None:
        reported = 0
        ended = False
        while not ended:
            records = [self._queue.get()]
            if records[0] is not None:
                time.sleep(GATHER_S)
            with contextlib.suppress(queue.Empty):
                while len(records) < BATCH_MAX:
                    records.append(self._queue.get_nowait())
            ended = None in records
            texts = [(record, self._text(record)) for record in records if record is not None]
            caught_up = self._queue.empty()
            end = ""
            if caught_up and (dropped := self.dropped - reported):
                reported += dropped
                end = self._formatter.dropped(dropped) + "\n"
            self._put(self._streams, "".join(text for _, text in texts) + end, flush=caught_up)
            if self._briefly:
                brief = "".join(text for record, text in texts if not _is_of_each_request(record))
                self._put(self._briefly, brief + end, flush=caught_up)

    def _text(self, record: "logging.LogRecord | _Frequent") -> str:
        if isinstance(record, tuple):
            frequent, created, request, message = record
            return self._formatter.line("INFO", created, created % 1 * 1e3, request, frequent.place, message) + "\n"
        try:
            return self.format(record) + "\n"
        except Exception:  # noqa: BLE001 - one log call whose message and arguments do not fit must not end the rest
            self.handleError(record)
            return ""

    @staticmethod
    def _put(streams: list[IO[str]], text: str, *, flush: bool) -> None:
        for stream in list(streams):
            try:
                stream.write(text)
                if flush:
                    stream.flush()
            except (OSError, ValueError):
                streams.remove(stream)  # a closed console or a full disk must not end the rest


def _is_of_each_request(record: "logging.LogRecord | _Frequent") -> bool:
    return isinstance(record, tuple) or record.name == ACCESS_LOGGER


def start(
    component: str,
    process_name: str,
    log_dir: str = "",
    *,
    console: bool = True,
    briefly: bool = False,
    logger: str = "",
    options: LoggingConfig | None = None,
) -> QueueHandler:
    """Write this process's log from now on. Close the handler at the end. Raises OSError if the file cannot be opened.

    Args:
        component, process_name: see `LineFormatter`.
        log_dir: the file `<process_name>.log` is written in this folder, or in that of the options; empty
            for none.
        console: whether to write to the console.
        briefly: whether the lines of each request are left out there.
        logger: the logger whose lines are written, with those below it; all unless given.
        options: what is written, and how. Loggers of the user's have the levels that the user gives them, `ray.serve`,
            which programs for Ray Serve write to, that of the options; above INFO, nothing below it is written.
    """
    options = options or LoggingConfig()
    streams: list[IO[str]] = [sys.stderr] if console and not briefly else []
    if folder := options.logs_dir or log_dir:
        Path(folder).mkdir(parents=True, exist_ok=True)
        path = Path(folder) / (re.sub(r"[^\w.-]", "_", process_name) + ".log")
        streams.append(path.open("a", encoding="utf-8", errors="backslashreplace"))
    formatter = (JSONFormatter if options.encoding == "JSON" else LineFormatter)(component, process_name)
    handler = QueueHandler(formatter, streams, logging.getLogger(logger), [sys.stderr] if console and briefly else [])
    level: int = logging.getLevelNamesMapping()[options.log_level]
    if level > logging.INFO:
        handler.addFilter(lambda record: record.levelno >= level)  # not the handler's level: see `FrequentLine`
    for own in ("modelplex", RAY_LOGGER):
        logging.getLogger(own).setLevel(level)
    logging.getLogger(ACCESS_LOGGER).setLevel(logging.NOTSET if options.enable_access_log else logging.WARNING)
    return handler
