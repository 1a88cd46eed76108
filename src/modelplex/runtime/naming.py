"""How HTTP requests name their model: every way of which `HTTPOptions.model_id_from` speaks, and no other.

A request that names two models is refused: what is checked of one must not be done with the other.
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol
from urllib.parse import unquote

import msgspec

from modelplex import errors
from modelplex.config import check_model_id
from modelplex.runtime.answers import Headers
from modelplex.runtime.spoken import V2
from modelplex.wire.messages import AppInfo

MODEL_ID_HEADER = b"serve_multiplexed_model_id"
SAGEMAKER_HEADER = b"x-amzn-sagemaker-target-model"

# By way, the headers that name a model, and by what name each is kept. SageMaker's is apart: its platform says there
# where it got the model from, which is another name than that in the path of `/models/{id}/invoke`.
HEADERS: dict[str, dict[bytes, bytes]] = {
    "header": {
        b"serve%bmultiplexed%bmodel%bid" % joints: MODEL_ID_HEADER
        for joints in itertools.product((b"_", b"-"), repeat=3)
    },
    "modelmesh": {b"mm-vmodel-id": MODEL_ID_HEADER, b"mm-model-id": MODEL_ID_HEADER},
    "sagemaker": {SAGEMAKER_HEADER: SAGEMAKER_HEADER},
}

MODELS = frozenset([MODEL_ID_HEADER, SAGEMAKER_HEADER])

# Where among the headers that were read another one of a kind of `MODELS` is kept, if it names another model.
SECOND = b":second"

# What requests call: the user's own code, or what `modelplex.protocols` answers. No class has methods of such names.
CALL, INFER, SAGEMAKER, OPENAI = "__call__", "-/v2", "-/sagemaker", "-/openai"

# The page of V2 that the proxy itself answers.
V2_LIVE = "health/live"

# Bodies that are no JSON, and may have files; what they name is not read.
_FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")


class Request(Protocol):
    """What is read of a request."""

    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> bytes: ...
    @property
    def headers(self) -> Headers: ...


class Named(NamedTuple):
    """What a request names.

    Attributes:
        model_id: checked; empty if it names none.
        door: what it calls.
        field: of its JSON body, which may name a model, too; empty if that is not to be read.
        page: where it leads in the protocol of that door.
    """

    model_id: str
    door: str = CALL
    field: str = ""
    page: str = ""

    @property
    def is_openai(self) -> bool:
        return self.door == OPENAI or self.field == "model"


_NOTHING = Named("")
_new = tuple.__new__  # which costs half of what the class costs


class Naming:
    """Reads the names.

    Args:
        ways: those of `HTTPOptions.model_id_from`.
        others: headers that are to be kept besides, and by what name.

    Attributes:
        headers: which are to be kept, and by what name: the first of those that have one. Another one that names
            another model (`MODELS`) is kept by the name `SECOND`.
    """

    def __init__(self, ways: Collection[str], others: Mapping[bytes, bytes]) -> None:
        self.headers = {**others, **{name: kept for way in ways for name, kept in HEADERS.get(way, {}).items()}}
        self._ways = frozenset(ways)
        self._reads_paths = not {"sagemaker", "openai"}.isdisjoint(ways)

    def of(self, request: Request, told: dict[bytes, bytes], app: AppInfo) -> Named:
        """What the head of a request names. Raises `InvalidModelIdError`, and `InvalidRequestError` for two names.

        Args:
            told: the headers that were read.
            app: whose request it is.
        """
        value = told.get(MODEL_ID_HEADER)
        if SECOND in told:
            raise _two_names(value or told.get(SAGEMAKER_HEADER), told[SECOND])
        by_header = check_model_id(value.decode("latin-1")) if value else ""
        if not self._reads_paths and not app.protocols:
            return _new(Named, (by_header, CALL, "", "")) if by_header else _NOTHING
        named = self._by_path(request, app)
        if named.page != "invoke" and (target := told.get(SAGEMAKER_HEADER)):
            named = _with(named, check_model_id(target.decode("latin-1")))
        return _with(named, by_header)

    def _by_path(self, request: Request, app: AppInfo) -> Named:
        speaks_v2 = V2 in app.protocols
        parts = segments(request.raw_path, app.route_prefix or "/")
        if "openai" in self._ways and parts[:1] == ["v1"]:
            named = _openai(request, parts)
            return Named("", INFER, "", "?") if speaks_v2 and named.door == CALL else named
        if "sagemaker" in self._ways and parts and parts[0] in _SAGEMAKER_ROOTS:
            if speaks_v2:
                return _sagemaker(request, parts)
            invokes = parts[0] == "models" and len(parts) > 2 and parts[-1] == "invoke"
            return _sagemaker(request, parts)._replace(door=CALL) if invokes else _NOTHING
        if not speaks_v2:
            return _NOTHING
        page, model_id = v2_page(parts)
        return Named(model_id if V2 in self._ways else "", INFER, "", page)

    def with_body(self, named: Named, body: bytes) -> Named:
        """The same, with what the body names. Raises `InvalidRequestError`, and as `of`."""
        if not body:
            return named
        try:
            found = getattr(msgspec.json.decode(body, type=_FIELDS[named.field]), named.field)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise errors.InvalidRequestError(
                f"The request's body must be JSON, an object whose {named.field!r} names the model: {error}."
            ) from error
        return _with(named, check_model_id(found) if found is not None else "")


class _OpenAIBody(msgspec.Struct):
    model: str | None = None


class _SageMakerBody(msgspec.Struct):
    model_name: str | None = None


_FIELDS: dict[str, type[msgspec.Struct]] = {"model": _OpenAIBody, "model_name": _SageMakerBody}


def segments(raw_path: bytes, base: str) -> list[str]:
    """The parts of a path below a base, decoded each by itself: an encoded slash is part of a name."""
    parts = raw_path.decode("latin-1").split("/")
    return [unquote(part) if "%" in part else part for part in parts[1 + (base.count("/") if base != "/" else 0) :]]


# Open Inference Protocol (V2), https://github.com/kserve/open-inference-protocol


def v2_page(parts: Sequence[str]) -> tuple[str, str]:
    """Where a path leads, and the model that it names. Raises `InvalidModelIdError`.

    The pages are "" for the server, "health/live", "health/ready", "metadata", "ready", "infer", "index", "load",
    "unload", "openapi.json", and "?" for none. A model id has slashes as they are, or encoded where what follows them
    would be taken for something else.
    """
    match parts:
        case ["v2"] | ["v2", ""]:
            return "", ""
        case ["v2", "health", ("live" | "ready") as which]:
            return f"health/{which}", ""
        case ["v2", "openapi.json"]:
            return "openapi.json", ""
        case ["v2", "repository", "index"]:
            return "index", ""
        case ["v2", "repository", "models", *name, ("load" | "unload") as verb]:
            return verb, check_model_id("/".join(name))
        case ["v2", "models", *name, "config" | "stats"] | ["v2", "models", *name, "trace", "setting"] if name:
            return "?", ""  # of extensions that there are not
        case ["v2", "models", *name, ("infer" | "ready") as verb] if name:
            return verb, _with_version(name)
        case ["v2", "models", *name] if name:
            return "metadata", _with_version(name)
    return "?", ""


def _with_version(parts: list[str]) -> str:
    if len(parts) > 2 and parts[-2] == "versions":
        return check_model_id(f"{'/'.join(parts[:-2])}@{check_model_id(parts[-1])}")
    return check_model_id("/".join(parts))


# SageMaker, https://docs.aws.amazon.com/sagemaker/latest/dg/mms-container-apis.html

_SAGEMAKER_ROOTS = {"ping", "invocations", "models"}


def sagemaker_page(parts: Sequence[str]) -> tuple[str, str]:
    """Where a path leads, and the model that it names. Raises `InvalidModelIdError`.

    The pages are "ping", "invocations", "models", "model", "invoke", and "?" for none.
    """
    match parts:
        case [("ping" | "invocations" | "models") as page]:
            return page, ""
        case ["models", *name, "invoke"] if name:
            return "invoke", check_model_id("/".join(name))
        case ["models", *name]:
            return "model", check_model_id("/".join(name))
    return "?", ""


def _sagemaker(request: Request, parts: Sequence[str]) -> Named:
    page, model_id = sagemaker_page(parts)
    return Named(model_id, SAGEMAKER, "model_name" if (page, request.method) == ("models", "POST") else "", page)


# OpenAI, https://platform.openai.com/docs/api-reference


def _openai(request: Request, parts: Sequence[str]) -> Named:
    match parts, request.method:
        case ["v1", "models"], "GET":
            return Named("", OPENAI, "", "models")
        case ["v1", "models", *name], "GET" if name:
            return Named(check_model_id("/".join(name)), OPENAI, "", "model")
        case _, "POST" if not any(n == b"content-type" and v.lower().startswith(_FORMS) for n, v in request.headers):
            return Named("", CALL, "model")
    return _NOTHING


def _with(named: Named, model_id: str) -> Named:
    """The same, with what a second way says."""
    if not model_id or model_id == named.model_id:
        return named
    if named.model_id:
        raise _two_names(named.model_id.encode(), model_id.encode())
    return named._replace(model_id=model_id)


def _two_names(one: bytes | None, other: bytes) -> errors.InvalidRequestError:
    names = [name[:64].decode("latin-1") for name in (one or b"", other)]
    return errors.InvalidRequestError(f"The request names two models, {names[0]!r} and {names[1]!r}.")
