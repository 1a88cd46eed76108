"""Log lines, to the console and a file, written by a thread so that the request path only puts a record on a queue.

A line: level, time, deployment, replica, request id, route, application, file:line - message; "-" where there is none.
"""

import contextlib
import logging
import queue
import re
import sys
import threading
import time
from pathlib import Path
from typing import IO

from modelplex import context

# Records on the queue at a time. When the console or the disk cannot keep up, lines are dropped and counted, since the
# alternative is to make requests wait for a terminal.
RECORDS_MAX = 20_000

# So long the thread lets lines gather, and so many it writes at a time: under load it would else be woken for each, and
# take the interpreter from the event loop each time.
GATHER_S = 0.01
BATCH_MAX = 1_000


class LineFormatter(logging.Formatter):
    """Formats as said above.

    Args:
        component: the deployment as `application_deployment`, or the kind of process.
        process_name: the replica, or the process.
    """

    def __init__(self, component: str, process_name: str) -> None:
        super().__init__()
        self._names = f"{component} {process_name}"
        self._second = -1
        self._time = ""

    def format(self, record: logging.LogRecord) -> str:
        # What the base class does, made for one format: this is half of what a line costs.
        request: context.RequestContext | None = getattr(record, "request", None)
        place = f"{record.filename}:{record.lineno}"
        line = self.line(record.levelname, record.created, record.msecs, request, place, record.getMessage())
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            line += "\n" + self.formatStack(record.stack_info)
        return line

    def line(
        self, level: str, created: float, msecs: float, request: context.RequestContext | None, place: str, message: str
    ) -> str:
        """A line of its parts; `place` is file:line."""
        second = int(created)
        if second != self._second:
            self._second, self._time = second, time.strftime(self.default_time_format, time.localtime(second))
        of = "- - -" if request is None else f"{request.request_id} {request.route or '-'} {request.app_name}"
        return f"{level} {self._time},{int(msecs):03d} {self._names} {of} {place} - {message}"


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
    """

    def __init__(self, formatter: LineFormatter, streams: list[IO[str]], logger: logging.Logger) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._formatter = formatter
        self.dropped = 0
        self._logger = logger
        self._streams = streams
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
            text = "".join(self._text(record) for record in records if record is not None)
            caught_up = self._queue.empty()
            if caught_up and (dropped := self.dropped - reported):
                reported += dropped
                text += f"({dropped} lines were dropped here: they came faster than they could be written)\n"
            self._put(text, flush=caught_up)

    def _text(self, record: "logging.LogRecord | _Frequent") -> str:
        if isinstance(record, tuple):
            frequent, created, request, message = record
            return self._formatter.line("INFO", created, created % 1 * 1e3, request, frequent.place, message) + "\n"
        try:
            return self.format(record) + "\n"
        except Exception:  # noqa: BLE001 - one log call whose message and arguments do not fit must not end the rest
            self.handleError(record)
            return ""

    def _put(self, text: str, *, flush: bool) -> None:
        for stream in list(self._streams):
            try:
                stream.write(text)
                if flush:
                    stream.flush()
            except (OSError, ValueError):
                self._streams.remove(stream)  # a closed console or a full disk must not end the rest


def start(
    component: str, process_name: str, log_dir: str = "", *, console: bool = True, logger: str = ""
) -> QueueHandler:
    """Write this process's log from now on. Close the handler at the end.

    Args:
        component, process_name: see `LineFormatter`.
        log_dir: the file `<process_name>.log` is written in this folder; empty for none.
        console: whether to write to the console.
        logger: the logger whose lines are written, with those below it; all unless given.
    """
    streams: list[IO[str]] = [sys.stderr] if console else []
    if log_dir:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        path = Path(log_dir) / (re.sub(r"[^\w.-]", "_", process_name) + ".log")
        streams.append(path.open("a", encoding="utf-8", errors="backslashreplace"))
    handler = QueueHandler(LineFormatter(component, process_name), streams, logging.getLogger(logger))
    logging.getLogger("modelplex").setLevel(logging.INFO)
    return handler
