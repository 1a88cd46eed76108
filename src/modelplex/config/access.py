"""Keys that requests may need, as a file has them: who may ask for which models, and how often."""

import re
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from modelplex.config.checks import check_int
from modelplex.core.rates import Rate

KEY_PREFIX = "mpx_"
SECRET_BYTES = 32

# What a tenant, a key's name or its public id may be made of: harmless in a log line, a path and a metric.
NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,128}")
KEY_ID = re.compile(r"[0-9a-z]{8,32}")
SHA256 = re.compile(r"[0-9a-f]{64}")
GLOB = re.compile(r"[A-Za-z0-9._:@/*?-]{1,256}")
RATE = re.compile(r"([1-9][0-9]{0,8})/([smh])")

_UNITS_S = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessKey:
    """One API key, without its secret.

    Attributes:
        name: who has it, for people.
        id: the public part of the key, by which it is found.
        sha256: the SHA-256 of its secret, in hexadecimal.
        models: globs of the model ids that it allows, where `*` stands for any text, with slashes, and `?` for any
            character. A request that names no model needs `*`.
        applications: the applications that it allows; all unless given.
        rate: how many requests it allows, as "100/s", "1000/m" or "5000/h", counted by each proxy; any unless given.
        burst: how many at once after a pause; the number of the rate unless given.
        tenant: on whose behalf its requests are.
        expires_at: when it ends to be good, in ISO 8601, UTC unless it says otherwise; never unless given.
    """

    name: str
    id: str
    sha256: str
    models: list[str]
    applications: list[str] | None = None
    rate: str | None = None
    burst: int | None = None
    tenant: str = ""
    expires_at: str | None = None

    def __post_init__(self) -> None:
        _check_text("name", self.name, NAME, "1 to 128 characters of A-Z a-z 0-9 . _ : @ / -")
        _check_text("id", self.id, KEY_ID, "8 to 32 characters of a-z 0-9")
        _check_text("sha256", self.sha256, SHA256, "64 digits of 0-9 a-f")
        for glob in _items("models", self.models):
            _check_text("models", glob, GLOB, "characters of A-Z a-z 0-9 . _ : @ / - * ?")
        for name in _items("applications", self.applications or ()):
            if not isinstance(name, str) or not name:
                raise ValueError(f"applications must be names, got {name!r}.")
        if self.rate is not None:
            _check_text("rate", self.rate, RATE, "a number and one of /s, /m, /h, such as '100/s'")
        if self.burst is not None:
            check_int("burst", self.burst, 1)
            if self.rate is None:
                raise ValueError("burst is of no use without rate.")
        if self.tenant != "":
            _check_text("tenant", self.tenant, NAME, "1 to 128 characters of A-Z a-z 0-9 . _ : @ / -")
        if self.expires_at is not None:
            self._expiry()

    def _expiry(self) -> datetime:
        try:
            at = datetime.fromisoformat(str(self.expires_at))
        except ValueError as error:
            raise ValueError(
                f"expires_at must be a time such as '2027-01-31T00:00:00Z', got {self.expires_at!r}."
            ) from error
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)

    @property
    def expires(self) -> float | None:
        """The same as seconds of Unix time."""
        return None if self.expires_at is None else self._expiry().timestamp()

    @property
    def limit(self) -> Rate | None:
        """The rate in numbers."""
        if self.rate is None or (found := RATE.fullmatch(self.rate)) is None:
            return None
        return Rate(int(found[1]) / _UNITS_S[found[2]], float(self.burst or int(found[1])))


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """A file of keys."""

    keys: tuple[AccessKey, ...]

    def __post_init__(self) -> None:
        for what in ("name", "id"):
            [(value, count)] = Counter(getattr(key, what) for key in self.keys).most_common(1) or [("", 0)]
            if count > 1:
                raise ValueError(f"keys: {count} have the {what} {value!r}.")


def any_of(globs: list[str]) -> re.Pattern[str]:
    """What matches the texts that any of the globs does, whole, in time linear in each star's part."""
    return re.compile("|".join(f"(?:{_expression(glob)})" for glob in globs) or r"(?!)", re.DOTALL)


def _expression(glob: str) -> str:
    """Each part between two stars is taken where it first occurs, and never looked for again: that is what a star
    leaves most room for, and what keeps a model id from taking for ever."""
    first, *rest = ["".join("." if c == "?" else re.escape(c) for c in part) for part in re.split(r"\*+", glob)]
    if not rest:
        return first
    *inner, last = rest
    return first + "".join(f"(?>.*?{part})" for part in inner) + ".*" + last


def _items(option: str, given: object) -> list[object]:
    if not isinstance(given, list | tuple):
        raise ValueError(f"{option} must be a list, got {given!r}.")
    return list(given)


def _check_text(option: str, value: object, form: re.Pattern[str], right: str) -> None:
    if not isinstance(value, str) or form.fullmatch(value) is None:
        raise ValueError(f"{option} must be {right}, got {value!r}.")
