"""Requests that are none, and those that two servers could read in two ways (request smuggling): what each is told.

After each of them the server closes the connection, since what follows cannot be told apart.
"""

_CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
_POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
_GET = b"GET / HTTP/1.1\r\nHost: a\r\n"

# What is sent, and the status that it is told.
CASES: dict[str, tuple[bytes, int]] = {
    "length and chunks": (_POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /", 400),
    "chunks and length": (_POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET /", 400),
    "two lengths": (_POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400),
    "the same length twice": (_POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "a list of lengths": (_POST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "a length with a sign": (_POST + b"Content-Length: +5\r\n\r\nhello", 400),
    "a negative length": (_POST + b"Content-Length: -1\r\n\r\n", 400),
    "a length in hexadecimal": (_POST + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "a length that overflows": (_POST + b"Content-Length: 99999999999999999999\r\n\r\n", 400),
    "another coding": (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked is not the last": (_POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (_POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked after a vertical tab": (_POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "a coding on a folded line": (_POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a space before the colon": (_POST + b"Content-Length : 5\r\n\r\nhello", 400),
    "a tab before the colon": (_POST + b"Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n", 400),
    "a folded header": (_GET + b"X: a\r\n b\r\n\r\n", 400),
    "a space before a header": (b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "a bare LF after the request line": (b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    "a bare LF after a header": (_GET + b"X: a\nY: b\r\n\r\n", 400),
    "a bare CR in a header": (_GET + b"X: a\rY: b\r\n\r\n", 400),
    "a NUL in a value": (_GET + b"X: a\0b\r\n\r\n", 400),
    "a NUL in a name": (_GET + b"X\0Y: a\r\n\r\n", 400),
    "a NUL in the URL": (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "no colon": (_GET + b"nothing\r\n\r\n", 400),
    "no name": (_GET + b": a\r\n\r\n", 400),
    "two hosts": (_GET + b"Host: b\r\n\r\n", 400),
    "a URL of another host": (b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "CONNECT": (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), 400),
    "a chunk's size with a prefix": (_CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk's size that overflows": (_CHUNKED + b"10000000000000005\r\nhello\r\n0\r\n\r\n", 400),
    "a negative chunk": (_CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk that is longer than it says": (_CHUNKED + b"4\r\nhello\r\n0\r\n\r\n", 400),
    "a bare LF in a chunk's extension": (_CHUNKED + b"5;a\nhello\r\n0\r\n\r\n", 400),
    "an endless chunk's extension": (_CHUNKED + b"5;" + b"a" * 1_000_000, 431),
    "a length among the trailers": (_CHUNKED + b"0\r\nContent-Length: 5\r\n\r\n", 400),
    "a header that is too long": (_GET + b"X: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    "too many headers": (_GET + b"X: y\r\n" * 200 + b"\r\n", 431),
    "a URL that is too long": (b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    "an id that is none": (_GET + b"serve_multiplexed_model_id: ../../etc/passwd\r\nConnection: close\r\n\r\n", 400),
}
