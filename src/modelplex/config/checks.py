"""What values of options may be, with messages that say what was given and what would be right."""

import importlib
import math
import re
from dataclasses import fields
from functools import lru_cache
from typing import Any

from modelplex.core.proxy_places import LOCATIONS
from modelplex.errors import InvalidModelIdError

UNLIMITED = -1

# A model id comes from outside. These characters do no harm in a path, a URL, a log line or a metric.
MODEL_ID = re.compile(r"[A-Za-z0-9._:@/-]{1,256}")

# Ids that are known to be good, the last ones: each request has its model's looked at twice.
IDS_MAX = 4096

_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)(" + "|".join(_UNITS) + ")")

IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*[:.][^\W\d]\w*(\.[^\W\d]\w*)*")
IMPORT_PATH_MAX = 1_000


def load(import_path: str) -> Any:
    """The object that an import path (`package.module:name`, or with a dot for the colon) names."""
    module, _, name = import_path.partition(":") if ":" in import_path else import_path.rpartition(".")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def check_import_path(option: str, path: object) -> None:
    # The length goes first: a long text with many dots that is none after all would take for ever to find out.
    if not isinstance(path, str) or len(path) > IMPORT_PATH_MAX or IMPORT_PATH.fullmatch(path) is None:
        raise ValueError(f"{option} must be an import path such as 'package.module:name', got {path!r}.")


def check_code(option: str, value: object) -> None:
    """Raise ValueError if this is neither something to call nor an import path of it."""
    if not callable(value):
        check_import_path(option, value)


def check_location(option: str, location: object) -> None:
    """Raise ValueError if this does not say which machines have proxies."""
    if location not in LOCATIONS:
        raise ValueError(f"{option} must be {', '.join(LOCATIONS[:-1])} or {LOCATIONS[-1]}, got {location!r}.")


@lru_cache(IDS_MAX)
def check_model_id(model_id: str) -> str:
    """Answer the id, or raise `InvalidModelIdError` that says what an id may look like."""
    if not model_id:
        raise InvalidModelIdError("The model ID cannot be empty.")
    if MODEL_ID.fullmatch(model_id) is None:
        raise InvalidModelIdError(
            f"The model ID {model_id[:64]!r} is malformed: it takes 1 to 256 characters of A-Z a-z 0-9 . _ : @ / -"
        )
    if ("/" in model_id or model_id == "..") and any(segment in ("", "..") for segment in model_id.split("/")):
        raise InvalidModelIdError(f"The model ID {model_id[:64]!r} is malformed: no segment may be empty or '..'")
    return model_id


def check_name(whose: str, name: object) -> None:
    """Raise ValueError if this is no name of an application or a deployment.

    It stands in headers of answers, in lines of logs and on terminals, and before the "#" in a replica's name.
    """
    if not isinstance(name, str) or not name or "#" in name or not name.isprintable():
        raise ValueError(f"{whose} name must be a non-empty string of printable characters without '#', got {name!r}.")


def check_route_prefix(prefix: str | None, option: str = "route_prefix") -> None:
    """Raise ValueError, and say what a prefix looks like, if this is none. None is one: it is no route at all."""
    if prefix is None or prefix == "/":
        return
    if (
        not isinstance(prefix, str)
        or not prefix.startswith("/")
        or prefix.endswith("/")
        or "{" in prefix
        or "}" in prefix
    ):
        raise ValueError(f"A {option} begins with '/', does not end with one, and has no braces; got {prefix!r}.")


def check_int(option: str, value: object, least: int, more: str = "", *, most: float = math.inf) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{option} must be an integer of at least {least}{more}, got {value!r}.")


def check_number(option: str, value: object, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Raise ValueError if this is no number from `least` to `most`; if `above`, `least` itself is none either."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not least <= value <= most or (above and value == least):  # type: ignore[operator]
        bounds = f"{'above' if above else 'of at least'} {least:g}"
        bounds += "" if most == math.inf else f" and at most {most:g}"
        raise ValueError(f"{option} must be a number {bounds}, got {value!r}.")


def check_seconds(option: str, value: object, *, above_0: bool = False) -> None:
    """Raise ValueError if this is no number of seconds. None stands for any time where 0 would make no sense."""
    if value is None and above_0:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not value >= 0 or (above_0 and value == 0):  # type: ignore[operator]
        least = "above" if above_0 else "of at least"
        raise ValueError(f"{option} must be a number of seconds {least} 0, got {value!r}.")


def check_choice(option: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be {' or '.join(map(repr, choices))}, got {value!r}.")


def check_known(what: str, given: dict[str, Any], known: list[str]) -> None:
    """Raise TypeError that names the keys that are not known, and those that are."""
    if unknown := sorted(set(map(str, given)) - set(known)):
        raise TypeError(f"Unknown {what} {', '.join(unknown)}; there are {', '.join(known)}.")


def made_from(kind: type[Any], option: str, value: Any) -> Any:
    """An options object from a dict of its fields, or from one of its kind; None stays None.

    Raises TypeError for another type, or a key that is no field.
    """
    if value is None or isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise TypeError(f"{option} must be a dict or {kind.__name__}, got {value!r}.")
    check_known(f"key of {option}:", value, [field.name for field in fields(kind)])
    return kind(**value)


def parse_bytes(option: str, size: int | str) -> int:
    """A number of bytes, given as an integer or as text such as "512MiB" or "8GB"; ValueError if it is neither."""
    if isinstance(size, int) and not isinstance(size, bool) and size > 0:
        return size
    if isinstance(size, str) and (found := SIZE.fullmatch(size)) is not None and float(found[1]) > 0:
        return int(float(found[1]) * _UNITS[found[2]])
    raise ValueError(
        f"{option} must be a number of bytes above 0, or text such as '512MiB' with a unit of {', '.join(_UNITS)}; "
        f"got {size!r}."
    )
