"""Every option and its default, once, and the names of the replaceable parts."""

import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from modelplex.errors import InvalidModelIdError

UNLIMITED = -1

# Names that a user may choose, and where each is implemented.
ENGINES = {
    "local": "modelplex.engines.local:LocalEngine",
    "inline": "modelplex.engines.inline:InlineEngine",
}

EVICTION_POLICIES = {
    "lru": "modelplex.core.eviction:LRU",
    "gdsf": "modelplex.core.eviction:GDSF",
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
    if ("/" in model_id or model_id == "..") and any(segment in ("", "..") for segment in model_id.split("/")):
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
        max_leaked_bytes: a replica whose unloaded models still take more is replaced, as a number of bytes or as text
            such as "2GiB"; None for never.
    """

    name: str
    num_replicas: int = 1
    max_ongoing_requests: int = 5
    max_queued_requests: int = UNLIMITED
    graceful_shutdown_timeout_s: float = 20.0
    max_constructor_retry_count: int = 20
    max_leaked_bytes: int | str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or "#" in self.name:
            raise ValueError(f"A deployment's name must be a non-empty string without '#', got {self.name!r}.")
        for option, least in (("num_replicas", 1), ("max_ongoing_requests", 1), ("max_constructor_retry_count", 0)):
            check_int(option, getattr(self, option), least)
        if self.max_queued_requests != UNLIMITED:
            check_int("max_queued_requests", self.max_queued_requests, 0, f", or {UNLIMITED} for any number")
        timeout_s = self.graceful_shutdown_timeout_s
        if not isinstance(timeout_s, int | float) or timeout_s < 0:
            raise ValueError(
                f"graceful_shutdown_timeout_s must be a number of seconds of at least 0, got {timeout_s!r}."
            )
        if self.max_leaked_bytes is not None:
            object.__setattr__(self, "max_leaked_bytes", parse_bytes("max_leaked_bytes", self.max_leaked_bytes))

    @classmethod
    def option_names(cls) -> list[str]:
        return [field.name for field in fields(cls)]


def check_int(option: str, value: object, least: int, more: str = "", *, most: float = math.inf) -> None:
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
        num_proxies: processes that take requests; they share the port.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keep_alive_timeout_s: int = 90
    request_timeout_s: float | None = None
    max_body_bytes: int = 100 * 2**20
    num_proxies: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.host, str) or not self.host:
            raise ValueError(f"host must be an address to listen on, got {self.host!r}.")
        check_int("port", self.port, 0, " and at most 65535", most=65535)
        check_int("keep_alive_timeout_s", self.keep_alive_timeout_s, 1)
        check_int("max_body_bytes", self.max_body_bytes, 0)
        check_int("num_proxies", self.num_proxies, 1)
        timeout_s = self.request_timeout_s
        if timeout_s is not None and (not isinstance(timeout_s, int | float) or timeout_s <= 0):
            raise ValueError(f"request_timeout_s must be a number of seconds above 0, or None, got {timeout_s!r}.")


# Models that one replica holds at a time for each loader, unless the loader says otherwise.
MAX_NUM_MODELS_PER_REPLICA = 3

# A failed load is not tried again for this long at first, doubling with each failure up to the maximum.
LOAD_BACKOFF_S = 0.5
LOAD_BACKOFF_MAX_S = 60.0

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)(" + "|".join(_UNITS) + ")")


def parse_bytes(option: str, size: int | str) -> int:
    """A number of bytes, given as an integer or as text such as "512MiB" or "8GB"; ValueError if it is neither."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    if isinstance(size, str) and (found := _SIZE.fullmatch(size)) is not None and float(found[1]) > 0:
        return int(float(found[1]) * _UNITS[found[2]])
    raise ValueError(
        f"{option} must be a number of bytes above 0, or text such as '512MiB' with a unit of {', '.join(_UNITS)}; "
        f"got {size!r}."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOptions:
    """How one loader's models are kept on each replica: the options of `serve.multiplexed`.

    Attributes:
        models_max: `max_num_models_per_replica`: models that are held at a time; -1 for any number.
        bytes_max: `max_bytes_per_replica`: bytes that they may take together; -1 for any number.
        size_of: the size of a model in bytes. Unless given, the model is asked (torch, numpy, scikit-learn, ONNX), and
            if it cannot tell, the growth of the process during its load counts. Sizes are remembered for the next load.
        loads_max: `max_concurrent_loads`: loads that run at a time on a replica; -1 for any number.
        load_timeout_s: a load that takes longer has failed; None for any time. A plain `def` cannot be stopped: it
            keeps its room until it ends.
        model_exists: plain or async; says of a model id whether there is such a model, before anything is evicted.
        not_found: exceptions of the loader that mean that there is no such model, besides `ModelNotFoundError`.
        eviction: what makes room: "lru", the least recently used; "gdsf", what is least worth by uses, load time and
            size; or a class like those of `modelplex.core.eviction`.
        min_residency_s: a model is not evicted before it has been loaded for so long.
        idle_ttl_s: a model that nobody has used for so long is unloaded; None for never.
        pinned: models that are loaded when a replica starts and never evicted.
        preload: models that are loaded when a replica starts.
        on_unload: plain or async; called with the id and the model before it is destroyed, once.
    """

    models_max: int = MAX_NUM_MODELS_PER_REPLICA
    bytes_max: int = UNLIMITED
    size_of: Callable[[Any], int] | None = None
    loads_max: int = UNLIMITED
    load_timeout_s: float | None = None
    model_exists: Callable[[str], Any] | None = None
    not_found: tuple[type[Exception], ...] = (FileNotFoundError,)
    eviction: Any = "lru"
    min_residency_s: float = 0.0
    idle_ttl_s: float | None = None
    pinned: Sequence[str] = ()
    preload: Sequence[str] = ()
    on_unload: Callable[[str, Any], Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.models_max, int):
            raise TypeError(f"max_num_models_per_replica must be an integer, got {self.models_max!r}.")
        if self.models_max == 0 or self.models_max < UNLIMITED:
            raise ValueError(
                f"max_num_models_per_replica must be at least 1, or {UNLIMITED} for any number, got {self.models_max}."
            )
        if self.loads_max != UNLIMITED:
            check_int("max_concurrent_loads", self.loads_max, 1)
        for option in ("load_timeout_s", "idle_ttl_s"):
            check_seconds(option, getattr(self, option), above_0=True)
        check_seconds("min_residency_s", self.min_residency_s, above_0=False)
        for option in ("size_of", "model_exists", "on_unload"):
            if (hook := getattr(self, option)) is not None and not callable(hook):
                raise TypeError(f"{option} must be a function, got {hook!r}.")
        if isinstance(self.eviction, str) and self.eviction not in EVICTION_POLICIES:
            names = " or ".join(map(repr, EVICTION_POLICIES))
            raise ValueError(f"eviction must be {names}, or a policy class, got {self.eviction!r}.")
        self._check_model_ids()

    @property
    def eviction_policy(self) -> Any:
        """The class that `eviction` names, or is."""
        return load(EVICTION_POLICIES[self.eviction]) if isinstance(self.eviction, str) else self.eviction

    def _check_model_ids(self) -> None:
        for option in ("pinned", "preload"):
            if isinstance(model_ids := getattr(self, option), str):
                raise TypeError(f"{option} takes a list of model ids, got the text {model_ids!r}.")
            for model_id in model_ids:
                check_model_id(model_id)
        if self.models_max != UNLIMITED and len(self.pinned) >= self.models_max:
            raise ValueError(
                f"{len(self.pinned)} models are pinned, which leaves no room for others with "
                f"max_num_models_per_replica={self.models_max}."
            )


def check_seconds(option: str, value: object, *, above_0: bool = False) -> None:
    """Raise ValueError if this is no number of seconds. None stands for any time where 0 would make no sense."""
    if value is None and above_0:
        return
    if not isinstance(value, int | float) or not value >= 0 or (above_0 and value == 0):
        least = "above" if above_0 else "of at least"
        raise ValueError(f"{option} must be a number of seconds {least} 0, got {value!r}.")


# What a router expects before it has seen any load or request of a deployment.
EXPECTED_LOAD_S = 1.0
EXPECTED_SERVICE_S = 0.05

# A request waits so long for a deployment that has no replica, which may be about to start, before it is a 503.
NO_REPLICA_WAIT_S = 30.0

# A replica that dies is replaced at once, and later each time if it keeps dying; one that lived so long starts afresh.
RESTART_BACKOFF_S = 0.1
RESTART_BACKOFF_MAX_S = 10.0
RESTART_FORGET_S = 30.0

# A replica that is to be replaced takes requests for so long beside its successor, so that all routers have met that.
HANDOVER_S = 1.0

# Longer than any replica needs for its own end; past it, it is killed.
STOP_MARGIN_S = 2.0
