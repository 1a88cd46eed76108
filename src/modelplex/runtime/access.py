"""Who may send requests: API keys, which models each allows and how often, and on whose behalf a request is."""

import asyncio
import hashlib
import hmac
import logging
import math
import os
import re
import secrets
import time
from dataclasses import dataclass

from modelplex import errors
from modelplex.config import HTTPOptions
from modelplex.config.access import KEY_PREFIX, NAME, SECRET_BYTES, AccessConfig, AccessKey, any_of
from modelplex.core.rates import Buckets, Rate
from modelplex.runtime.answers import Headers

log = logging.getLogger(__name__)

# How often it is looked whether the file has changed: so long a key that was revoked is good for.
POLL_S = 1.0

# Keys whose rates are remembered at a time.
BUCKETS_MAX = 10_000

KEY_BYTES_MAX = 256

_KEY_HEADERS = (b"x-api-key", b"authorization")
_BEARER = b"bearer "
_PREFIX = KEY_PREFIX.encode()

# In place of the hash of a key that is not there: the same work is done for it.
_NOBODY = "0" * 64


@dataclass(frozen=True, slots=True)
class _Known:
    """A key, ready to be asked."""

    key: AccessKey
    models: re.Pattern[str]
    rate: Rate | None
    expires: float


def _known(key: AccessKey) -> _Known:
    expires = key.expires
    return _Known(key, any_of(key.models), key.limit, math.inf if expires is None else expires)


class Keys:
    """The keys of one file; their rates are counted here."""

    def __init__(self, config: AccessConfig) -> None:
        self._buckets = Buckets(BUCKETS_MAX)
        self.change(config)

    def change(self, config: AccessConfig) -> None:
        """These are the keys from now on."""
        self._keys = {key.id: _known(key) for key in config.keys}

    def holder(self, secret: bytes | None, now: float) -> AccessKey:
        """Whose key this is. Raises `UnauthenticatedError`, whatever is wrong with it, after the same time."""
        return self._find(secret, now).key

    def _find(self, secret: bytes | None, now: float) -> _Known:
        if secret is None:
            raise errors.UnauthenticatedError("This needs an API key: x-api-key: KEY, or authorization: Bearer KEY.")
        parts = secret[:KEY_BYTES_MAX].decode("latin-1").split("_", 2)
        found = self._keys.get(parts[1]) if len(parts) == 3 else None
        told = hashlib.sha256(parts[-1].encode()).hexdigest()
        is_right = hmac.compare_digest(told, _NOBODY if found is None else found.key.sha256)
        if found is None or not is_right or now >= found.expires:
            raise errors.UnauthenticatedError("The API key is not known, or has expired.")
        return found

    def admit(self, secret: bytes | None, application: str, model_id: str, now: float) -> str:
        """The key's tenant, if it allows this request; see `Gate.admit`."""
        known = self._find(secret, now)
        key = known.key
        if known.rate is not None and (wait_s := self._buckets.take(key.id, known.rate, now)):
            raise errors.RateLimitError(f"The API key {key.name!r} allows {key.rate} requests.", retry_after_s=wait_s)
        if key.applications is not None and application not in key.applications:
            raise errors.PermissionDeniedError(f"The API key {key.name!r} does not allow this application.")
        if known.models.fullmatch(model_id) is None:
            what = f"the model {model_id!r}" if model_id else "requests that name no model"
            raise errors.PermissionDeniedError(f"The API key {key.name!r} does not allow {what}.")
        return key.tenant


class Gate:
    """Decides which requests are taken.

    Args:
        access_file: the file of keys; no key is needed without one.
        tenant_header: the header by which a gateway in front says on whose behalf a request is.

    Raises `ConfigFileError` if the file is not right.
    """

    def __init__(self, access_file: str | None, tenant_header: str | None = None) -> None:
        self._file = access_file
        self._tenant_header = None if tenant_header is None else tenant_header.lower().encode()
        self._seen: object = None
        self._keys: Keys | None = None
        if access_file is not None:
            self._seen = _version_of(access_file)
            self._keys = Keys(_read(access_file))

    def check(self, secret: bytes | None, now: float) -> None:
        """Whether anybody may know of this. Raises `UnauthenticatedError`."""
        if self._keys is not None:
            self._keys.holder(secret, now)

    def admit(self, secret: bytes | None, application: str, model_id: str, now: float) -> str:
        """The tenant that a request is on behalf of; empty if that is not known.

        Args:
            secret: the whole key that came with it, in whatever way; None if none did.
            application: that it is for.
            model_id: that it names; empty if it names none.
            now: Unix time.

        Raises `UnauthenticatedError`, `RateLimitError` or `PermissionDeniedError`. The last is the same whether there
        is such a model or not.
        """
        return "" if self._keys is None else self._keys.admit(secret, application, model_id, now)

    def check_http(self, headers: Headers) -> None:
        """`check` with the headers of an HTTP request."""
        if self._keys is not None:
            self._keys.holder(key_of(headers), time.time())

    def admit_http(self, headers: Headers, application: str, model_id: str) -> str:
        """`admit` with the headers of an HTTP request, from which the key is taken: user code does not get it.

        A key's tenant goes before that of the header. Raises `InvalidHeaderError` for one that is none.
        """
        tenant = ""
        if self._keys is not None:
            tenant = self._keys.admit(key_of(headers), application, model_id, time.time())
            headers[:] = [h for h in headers if h[0] not in _KEY_HEADERS or _PREFIX not in h[1]]
        if tenant or self._tenant_header is None:
            return tenant
        given = next((value for name, value in headers if name == self._tenant_header), b"").decode("latin-1")
        if given and NAME.fullmatch(given) is None:
            raise errors.InvalidHeaderError(
                f"{self._tenant_header.decode()} takes 1 to 128 characters of A-Z a-z 0-9 . _ : @ / -"
            )
        return given

    async def follow(self) -> None:
        """Read the file again whenever it has changed, until cancelled. One that is not right changes nothing."""
        while self._file is not None:
            await asyncio.sleep(POLL_S)
            await self.look(self._file)

    async def look(self, file: str) -> None:
        """Read the file again if it has changed."""
        seen = _version_of(file)
        if seen == self._seen or self._keys is None:
            return
        self._seen = seen
        try:
            config = await asyncio.to_thread(_read, file)
            self._keys.change(config)
        except errors.ConfigFileError as error:
            log.error("The file of API keys has changed and is not right; the keys of before are good: %s", error)
        except Exception:  # a fault of ours, after which keys that are taken back have to be noticed all the same
            log.exception("The file of API keys has changed and cannot be read; the keys of before are good.")
        else:
            log.info("The file of API keys has changed; keys in it: %d.", len(config.keys))


def _read(file: str) -> AccessConfig:
    from modelplex.config_file.access import read_keys  # most proxies have no such file

    return read_keys(file)


def gate_of(options: HTTPOptions) -> Gate | None:
    """What the options say; None if all requests are taken, and are on nobody's behalf.

    Raises `DeploymentFailedError` if the file of keys is not right: nothing is served rather than everything.
    """
    if options.access_file is None and options.tenant_header is None:
        return None
    try:
        return Gate(options.access_file, options.tenant_header)
    except errors.ConfigFileError as error:
        raise errors.DeploymentFailedError(f"access_file={options.access_file!r} is not right: {error}") from error


def key_of(headers: Headers) -> bytes | None:
    """The first API key among the headers, whose names are in lower case."""
    for name, value in headers:
        if name == b"x-api-key" and value.startswith(_PREFIX):
            return value
        if name == b"authorization" and value[: len(_BEARER)].lower() == _BEARER:
            token = value[len(_BEARER) :].strip()
            if token.startswith(_PREFIX):
                return token
    return None


def new_key(key_id: str = "") -> tuple[str, str, str]:
    """A new key, its public id, and the SHA-256 of its secret: the key itself is kept nowhere."""
    key_id = key_id or secrets.token_hex(6)
    secret = secrets.token_hex(SECRET_BYTES)
    return f"{KEY_PREFIX}{key_id}_{secret}", key_id, hashlib.sha256(secret.encode()).hexdigest()


def _version_of(file: str) -> object:
    """What is other when the file is other."""
    try:
        status = os.stat(file)
    except OSError as error:
        return error.errno
    return status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode
