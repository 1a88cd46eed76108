"""How two processes prove to each other that they know the secret of their cluster, before anything else; pure.

    client                                                    server
      | magic (8), nonce (32), mac("hello", nonce) ------------> |   says nothing until this is right
      | <------------- its nonce (32), mac("server", both nonces) |
      | mac("client", both nonces) -----------------------------> |   now both have proved it

Whoever connects speaks first, so that a port scan learns nothing, not even that somebody speaks this protocol here. A
hello can be recorded and sent again: it gets the server's answer, which is of no use without the secret, and no
further. Each MAC is of another role, so none can be sent back to where it came from. The secret does not travel, and
what follows is not encrypted: that takes TLS, which goes round all of this.
"""

import hashlib
import hmac

from modelplex.errors import ProtocolError

SECRET_BYTES = 32
NONCE_BYTES = 32
MAC_BYTES = 32

# No text and no other protocol's first bytes; the last one is the version of the handshake.
MAGIC = b"\x93MDLPLX\x01"

HELLO_BYTES = len(MAGIC) + NONCE_BYTES + MAC_BYTES
ANSWER_BYTES = NONCE_BYTES + MAC_BYTES
PROOF_BYTES = MAC_BYTES


class Client:
    """The side that connects: send `hello`, feed what comes, send what that answers.

    Args:
        secret: the cluster's.
        nonce: random bytes, never used before.

    Attributes:
        rest: what came after the handshake; None until it is over.
    """

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        self._secret, self._nonce = secret, _checked(nonce)
        self._buffer = bytearray()
        self.rest: bytes | None = None

    @property
    def hello(self) -> bytes:
        return MAGIC + self._nonce + _mac(self._secret, b"hello", self._nonce)

    def feed(self, data: bytes) -> bytes:
        """What to send in answer. Raises `ProtocolError` if the server does not know the secret."""
        assert self.rest is None, "the handshake is over"
        wanted = ANSWER_BYTES - len(self._buffer)
        self._buffer += data[:wanted]
        if len(self._buffer) < ANSWER_BYTES:
            return b""
        nonces = self._nonce + self._buffer[:NONCE_BYTES]
        if not hmac.compare_digest(self._buffer[NONCE_BYTES:], _mac(self._secret, b"server", nonces)):
            raise ProtocolError("the process that listens there does not know this cluster's secret")
        self.rest = bytes(data[wanted:])
        return _mac(self._secret, b"client", nonces)


class Server:
    """The side that listens: feed what comes, send what that answers. It keeps no more than one hello's bytes.

    Args:
        secret: the cluster's.
        nonce: random bytes, never used before.

    Attributes:
        rest: what came after the handshake; None until it is over.
    """

    def __init__(self, secret: bytes, nonce: bytes) -> None:
        self._secret, self._nonce = secret, _checked(nonce)
        self._buffer = bytearray()
        self._nonces = b""  # both, when the hello was right
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> bytes:
        """What to send in answer. Raises `ProtocolError` as soon as it is clear that this is nobody who may come in."""
        assert self.rest is None, "the handshake is over"
        if self._nonces:
            self._feed_proof(data)
            return b""
        # The client has nothing to say between its hello and the answer.
        if len(self._buffer) + len(data) > HELLO_BYTES:
            self._check_magic(data)
            raise ProtocolError("more than a hello was sent before the answer")
        self._check_magic(data)
        self._buffer += data
        if len(self._buffer) < HELLO_BYTES:
            return b""
        nonce, mac = self._buffer[len(MAGIC) : -MAC_BYTES], self._buffer[-MAC_BYTES:]
        if not hmac.compare_digest(mac, _mac(self._secret, b"hello", nonce)):
            raise ProtocolError("it does not know this cluster's secret")
        self._nonces = bytes(nonce) + self._nonce
        self._buffer.clear()
        return self._nonce + _mac(self._secret, b"server", self._nonces)

    def _check_magic(self, data: bytes) -> None:
        """The first wrong byte is one too many."""
        at = len(self._buffer)
        if not MAGIC[at:].startswith(data[: max(0, len(MAGIC) - at)]):
            raise ProtocolError("it speaks something else")

    def _feed_proof(self, data: bytes) -> None:
        wanted = PROOF_BYTES - len(self._buffer)
        self._buffer += data[:wanted]
        if len(self._buffer) < PROOF_BYTES:
            return
        if not hmac.compare_digest(self._buffer, _mac(self._secret, b"client", self._nonces)):
            raise ProtocolError("it does not know this cluster's secret: it may have replayed another one's hello")
        self.rest = bytes(data[wanted:])


def _checked(nonce: bytes) -> bytes:
    assert len(nonce) == NONCE_BYTES, "a nonce has its length"
    return nonce


def _mac(secret: bytes, role: bytes, nonces: bytes | bytearray) -> bytes:
    return hmac.digest(secret, MAGIC + role + nonces, hashlib.sha256)
