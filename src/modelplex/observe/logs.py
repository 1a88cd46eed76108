"""Log lines, to the console and a file, written by a thread so that the request path only puts a record on a queue.

A line: level, time, deployment, replica, request id, route, application, file:line - message; "-" where there is none.
"""

import logging
import queue
import re
import sys
import threading
from pathlib import Path
from typing import IO

from modelplex import context

# Records on the queue at a time. When the console or the disk cannot keep up, lines are dropped and counted, since the
# alternative is to make requests wait for a terminal.
RECORDS_MAX = 20_000


class LineFormatter(logging.Formatter):
    """Formats as said above.

    Args:
        component: the deployment as `application_deployment`, or the kind of process.
        process_name: the replica, or the process.
    """

    def __init__(self, component: str, process_name: str) -> None:
        names = f"{component} {process_name}".replace("%", "%%")  # users choose them
        super().__init__(
            f"%(levelname)s %(asctime)s {names} "
            "%(request_id)s %(route)s %(app_name)s %(filename)s:%(lineno)d - %(message)s"
        )

    def format(self, record: logging.LogRecord) -> str:
        request: context.RequestContext | None = getattr(record, "request", None)
        record.request_id = request.request_id if request is not None else "-"
        record.route = request.route or "-" if request is not None else "-"
        record.app_name = request.app_name if request is not None else "-"
        return super().format(record)


class QueueHandler(logging.Handler):
    """Puts records on a queue, from which a thread writes them to streams.

    Args:
        formatter: makes lines of records, in the thread.
        streams: where lines are written; not closed at the end.
        logger: what the records come from, until the handler is closed.
    """

    def __init__(self, formatter: logging.Formatter, streams: list[IO[str]], logger: logging.Logger) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.dropped = 0
        self._logger = logger
        self._streams = streams
        self._queue: queue.SimpleQueue[logging.LogRecord | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="modelplex-log", daemon=True)
        self._thread.start()
        logger.addHandler(self)
        logger.propagate = logger.parent is None

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= RECORDS_MAX:
            self.dropped += 1
            return
        record.request = context.request()
        self._queue.put(record)

    def close(self) -> None:
        """Take no more records, write what is on the queue, within a second, and end."""
        self._logger.removeHandler(self)
        self._logger.propagate = True
        self._queue.put(None)
        self._thread.join(timeout=1.0)
        super().close()

    def _write(self) -> None:
        reported = 0
        while True:
            record = self._queue.get()
            text = "" if record is None else self._text(record)
            caught_up = record is None or self._queue.empty()
            if caught_up and (dropped := self.dropped - reported):
                reported += dropped
                text += f"({dropped} lines were dropped here: they came faster than they could be written)\n"
            self._put(text, flush=caught_up)
            if record is None:
                return

    def _text(self, record: logging.LogRecord) -> str:
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
