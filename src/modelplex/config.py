"""Every option and its default, once, and the names of the replaceable parts."""

import importlib
import math
import re
from dataclasses import dataclass, fields
from typing import Any

from modelplex.errors import InvalidModelIdError

UNLIMITED = -1

# Names that a user may choose, and where each is implemented.
ENGINES = {
    "local": "modelplex.engines.local:LocalEngine",
    "inline": "modelplex.engines.inline:InlineEngine",
}

# A model id comes from outside. These characters do no harm in a path, a URL, a log line or a metric.
_MODEL_ID = re.compile(r"[A-Za-z0-9._:@/-]{1,256}")


def load(import_path: str) -> Any:
    """The object that an import path (`package.module:name`) names."""
    module, _, name = import_path.partition(":")
    return getattr(importlib.import_module(module), name)


def check_model_id(model_id: str) -> str:
    """Answer the id, or raise `InvalidModelIdError` that says what an id may look like."""
    if not model_id:
        raise InvalidModelIdError("The model ID cannot be empty.")
    if _MODEL_ID.fullmatch(model_id) is None:
        raise InvalidModelIdError(
            f"The model ID {model_id[:64]!r} is malformed: it takes 1 to 256 characters of A-Z a-z 0-9 . _ : @ / -"
        )
    if any(segment in ("", "..") for segment in model_id.split("/")):
        raise InvalidModelIdError(f"The model ID {model_id[:64]!r} is malformed: no segment may be empty or '..'")
    return model_id


def check_route_prefix(prefix: str | None) -> None:
    """Raise ValueError, and say what a prefix looks like, if this is none. None is one: it is no route at all."""
    if prefix is None or prefix == "/":
        return
    if not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix or "}" in prefix:
        raise ValueError(f"A route_prefix begins with '/', does not end with one, and has no braces; got {prefix!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentConfig:
    """The options of one deployment.

    Attributes:
        name: unique in its application; the name of the class or function unless given.
        num_replicas: processes to run.
        max_ongoing_requests: requests that run at a time on one replica; those for a model that loads count.
        max_queued_requests: requests that may wait in one caller (a proxy, a handle's process); -1 for any number.
        graceful_shutdown_timeout_s: how long a replica that is to stop may take over what runs on it.
        max_constructor_retry_count: failed starts after which a deployment is given up, or three for each replica if
            that is fewer.
    """

    name: str
    num_replicas: int = 1
    max_ongoing_requests: int = 5
    max_queued_requests: int = UNLIMITED
    graceful_shutdown_timeout_s: float = 20.0
    max_constructor_retry_count: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or "#" in self.name:
            raise ValueError(f"A deployment's name must be a non-empty string without '#', got {self.name!r}.")
        for option, least in (("num_replicas", 1), ("max_ongoing_requests", 1), ("max_constructor_retry_count", 0)):
            _check_int(option, getattr(self, option), least)
        if self.max_queued_requests != UNLIMITED:
            _check_int("max_queued_requests", self.max_queued_requests, 0, f", or {UNLIMITED} for any number")
        timeout_s = self.graceful_shutdown_timeout_s
        if not isinstance(timeout_s, int | float) or timeout_s < 0:
            raise ValueError(
                f"graceful_shutdown_timeout_s must be a number of seconds of at least 0, got {timeout_s!r}."
            )

    @classmethod
    def option_names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def _check_int(option: str, value: object, least: int, more: str = "", *, most: float = math.inf) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{option} must be an integer of at least {least}{more}, got {value!r}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class HTTPOptions:
    """Where and how HTTP is served.

    Attributes:
        host: address to listen on.
        port: port to listen on; 0 lets the system choose.
        keep_alive_timeout_s: an idle connection is closed after so long.
        request_timeout_s: a request that is not answered within so long is a 504; None for any time.
        max_body_bytes: a larger request body is a 413.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keep_alive_timeout_s: int = 90
    request_timeout_s: float | None = None
    max_body_bytes: int = 100 * 2**20

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be an address to listen on, got {self.host!r}.")
        _check_int("port", self.port, 0, " and at most 65535", most=65535)
        _check_int("keep_alive_timeout_s", self.keep_alive_timeout_s, 1)
        _check_int("max_body_bytes", self.max_body_bytes, 0)
        timeout_s = self.request_timeout_s
        if timeout_s is not None and (not isinstance(timeout_s, int | float) or timeout_s <= 0):
            raise ValueError(f"request_timeout_s must be a number of seconds above 0, or None, got {timeout_s!r}.")


# Models that one replica holds at a time for each loader, unless the loader says otherwise.
MAX_NUM_MODELS_PER_REPLICA = 3

# A failed load is not tried again for this long at first, doubling with each failure up to the maximum.
LOAD_BACKOFF_S = 0.5
LOAD_BACKOFF_MAX_S = 60.0

# What a router expects before it has seen any load or request of a deployment.
EXPECTED_LOAD_S = 1.0
EXPECTED_SERVICE_S = 0.05

# A request waits so long for a deployment that has no replica, which may be about to start, before it is a 503.
NO_REPLICA_WAIT_S = 30.0

# A replica that dies is replaced at once, and later each time if it keeps dying; one that lived so long starts afresh.
RESTART_BACKOFF_S = 0.1
RESTART_BACKOFF_MAX_S = 10.0
RESTART_FORGET_S = 30.0

# Longer than any replica needs for its own end; past it, it is killed.
STOP_MARGIN_S = 2.0
