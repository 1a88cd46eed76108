"""As much of S3 as its clients need to read objects, as fast as loopback carries them.

    python -m benchmarks.stores.fast_s3 FOLDER [--limit BYTES_PER_S]

Serves FOLDER/bucket/key, prints its port, and runs until it is ended. Bodies go from the page cache to the socket by
sendfile, from a thread for each connection. With a limit, no connection brings more.
"""

import argparse
import os
import re
import sys
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_PIECE_BYTES = 2**18


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # a head is one write
    root: Path
    limit_bytes_per_s: float = 0.0

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        file = self.root / unquote(url.path).strip("/")
        if file.is_file():
            self._object(file)
        elif file.is_dir():
            query = parse_qs(url.query)
            self._text(200, self._listing(file, query.get("prefix", [""])[0]))
        else:
            self._text(404, "<Error><Code>NoSuchKey</Code></Error>")

    do_HEAD = do_GET  # noqa: N815 - http.server's name

    def _object(self, file: Path) -> None:
        stat = file.stat()
        etag = _etag(stat)
        if self.headers.get("If-Match", etag) not in (etag, "*"):
            self._text(412, "<Error><Code>PreconditionFailed</Code></Error>")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, stat.st_size
        if asked:
            start, end = int(asked[1]), min(end, int(asked[2] or end - 1) + 1)
            if start >= end:
                self._text(416, "<Error><Code>InvalidRange</Code></Error>")
                return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{stat.st_size}")
        for name, value in {
            "Content-Length": str(end - start),
            "Content-Type": "application/octet-stream",
            "ETag": etag,
            "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.flush()
        if self.command == "GET":
            self._send(file, start, end)

    def _send(self, file: Path, start: int, end: int) -> None:
        began, at = time.monotonic(), start
        with file.open("rb") as opened:
            while at < end:
                most = min(end - at, _PIECE_BYTES) if self.limit_bytes_per_s else end - at
                at += os.sendfile(self.connection.fileno(), opened.fileno(), at, most)
                if self.limit_bytes_per_s:
                    time.sleep(max(0.0, began + (at - start) / self.limit_bytes_per_s - time.monotonic()))

    def _listing(self, bucket: Path, prefix: str) -> str:
        keys = sorted(path.relative_to(bucket).as_posix() for path in bucket.rglob("*") if path.is_file())
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{stat.st_size}</Size><ETag>{escape(_etag(stat))}</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            for key in keys
            if key.startswith(prefix)
            for stat in [(bucket / key).stat()]
        )
        return (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><IsTruncated>false</IsTruncated>'
            f"<Name>{escape(bucket.name)}</Name><Prefix>{escape(prefix)}</Prefix>{found}</ListBucketResult>"
        )

    def _text(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may leave in the midst of an answer
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _etag(stat: os.stat_result) -> str:
    return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=float, default=0.0, help="bytes a second of each connection")
    options = parser.parse_args()
    Handler.root = options.folder
    Handler.limit_bytes_per_s = options.limit
    with Server(("127.0.0.1", 0), Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
