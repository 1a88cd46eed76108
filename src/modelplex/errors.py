"""Everything that can go wrong, as one tree.

Each error says whose fault it is, which HTTP status tells a client so, and, where waiting helps, for how long. All are
made from a message and travel between processes as their name, message and `retry_after_s`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar


class Fault(Enum):
    """Who has to change something for the error to go away."""

    CLIENT = "client"
    USER_CODE = "user code"
    SERVER = "server"
    LOAD = "load"  # nobody: there is too much to do at the moment


class ModelplexError(Exception):
    """The root of the tree.

    Args:
        message: what is wrong and what would be right.
        retry_after_s: seconds after which it is worth trying again; None where waiting does not help.
    """

    status: ClassVar[int] = 500
    fault: ClassVar[Fault] = Fault.SERVER

    def __init__(self, message: str = "", *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class InvalidModelIdError(ModelplexError, ValueError):
    """The model id is empty, too long, or has characters that an id may not have."""

    status = 400
    fault = Fault.CLIENT


class InvalidHeaderError(ModelplexError, ValueError):
    """A header of the request has a value that it cannot have."""

    status = 400
    fault = Fault.CLIENT


class InvalidRequestError(ModelplexError, ValueError):
    """A request is not what its protocol says: its body cannot be read, or it names two models."""

    status = 400
    fault = Fault.CLIENT


class InvalidTensorError(InvalidRequestError):
    """A tensor is not what its datatype and its shape say, or cannot be sent in the form that was asked for."""


class UnauthenticatedError(ModelplexError):
    """The request needs an API key, and has none, or one that is not known or has expired."""

    status = 401
    fault = Fault.CLIENT


class PermissionDeniedError(ModelplexError):
    """The request's API key does not allow its application or its model, whether there is such a model or not."""

    status = 403
    fault = Fault.CLIENT


class RateLimitError(ModelplexError):
    """The request's API key has made as many requests as it allows; `retry_after_s` says when it allows the next."""

    status = 429
    fault = Fault.CLIENT


class RouteNotFoundError(ModelplexError):
    """No application is served under this path."""

    status = 404
    fault = Fault.CLIENT


class BodyTooLargeError(ModelplexError):
    """The request's body is larger than the server takes."""

    status = 413
    fault = Fault.CLIENT


class BodyTooSlowError(ModelplexError, TimeoutError):
    """The client did not send the request's body within the time that the request has."""

    status = 408
    fault = Fault.CLIENT


class RequestCancelledError(ModelplexError):
    """The request was cancelled by whoever made it."""

    status = 499
    fault = Fault.CLIENT


class UserCodeError(ModelplexError):
    """The deployment's own code raised an exception; its log has the traceback."""

    fault = Fault.USER_CODE


class NotInReplicaError(ModelplexError, RuntimeError):
    """Something that only works inside of a replica was used outside."""

    fault = Fault.USER_CODE


class NothingRunsError(ModelplexError):
    """There is no running system that could be asked."""

    fault = Fault.CLIENT


class DeploymentFailedError(ModelplexError, RuntimeError):
    """An application could not be started."""

    fault = Fault.USER_CODE


class ApplicationImportError(ModelplexError, ValueError):
    """What an import path and arguments name is no application, nor something that builds one."""

    status = 400
    fault = Fault.CLIENT


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a file, or that is ignored in it.

    Attributes:
        file: its path as it was given.
        line, column: counted from 1; 0 if the file could not be read at all.
        path: where that is in its structure, as `applications[0].name`; empty for the whole.
        message: what is given, and what would be right.
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigFileError(ModelplexError, ValueError):
    """A configuration file has mistakes: all of them, a line each, in the order of the file.

    Args:
        message: all of them as text; made of `problems` unless given.
        problems: each of them with its place.
    """

    status = 400
    fault = Fault.CLIENT

    def __init__(
        self, message: str = "", *, problems: Sequence[Problem] = (), retry_after_s: float | None = None
    ) -> None:
        super().__init__(message or "\n".join(map(str, problems)), retry_after_s=retry_after_s)
        self.problems = tuple(problems)


class ModelLoadError(ModelplexError):
    """The loader of a model raised an exception."""

    fault = Fault.USER_CODE


class ModelUnavailableError(ModelLoadError):
    """The model's load failed a short while ago and is not tried again yet."""

    status = 503


class ModelLoadTimeoutError(ModelLoadError, TimeoutError):
    """The loader of a model took longer than `load_timeout_s`."""

    status = 504


class ModelColdError(ModelLoadError):
    """The model was not loaded in the time that the caller would wait (`max_cold_wait_s`); its load goes on."""

    status = 503
    fault = Fault.LOAD


class ModelNotFoundError(ModelLoadError):
    """There is no such model. A loader may raise it to say so."""

    status = 404
    fault = Fault.CLIENT


class ModelTooLargeError(ModelLoadError):
    """The model is larger than all the room that the cache may take (`max_bytes_per_replica`)."""


class ModelPinnedError(ModelplexError):
    """The model is pinned, and what was asked for cannot be done to it; or it would be one too many to be pinned."""

    status = 409
    fault = Fault.CLIENT


class AliasNotSetError(ModelplexError):
    """An alias cannot be made to stand for this, or not here, but only in the store itself."""

    status = 409
    fault = Fault.CLIENT


class InvalidModelFileError(ModelplexError):
    """The file of a model is not what its loader can load: another format, another architecture, damaged."""

    fault = Fault.USER_CODE


class UnsafeModelFileError(InvalidModelFileError):
    """The file of a model could do harm, so it is not loaded: pickled code, a link to elsewhere, a zip bomb."""


class StoreError(ModelplexError):
    """A store of models does not answer, or not with whole files, after several tries."""

    status = 502


class StoreConfigError(StoreError):
    """A store of models refuses its user: credentials, region, bucket, or a way to ask that it does not have."""

    status = 500
    fault = Fault.USER_CODE


class DiskCacheFullError(ModelplexError):
    """There is no room on the disk for a model's file: the rest of the disk cache is in use."""

    status = 503
    fault = Fault.LOAD


class OvercommittedError(ModelplexError):
    """Requests wait for room in a replica that only they themselves could make."""

    fault = Fault.USER_CODE


class BackPressureError(ModelplexError):
    """The deployment's queue (`max_queued_requests`) is full."""

    status = 503
    fault = Fault.LOAD


class TooManyRequestsError(BackPressureError):
    """The same, of a deployment whose `backpressure_config` says that clients are to be told 429."""

    status = 429


class DeploymentUnavailableError(ModelplexError):
    """The deployment has no replica that runs."""

    status = 503


class ReplicaLostError(ModelplexError):
    """The replica died with the request, and it was not sent to another one."""

    status = 502


class RequestTimeoutError(ModelplexError, TimeoutError):
    """The request was not answered within its time."""

    status = 504


class CredentialsError(ModelplexError, ValueError):
    """What protects the links between machines is missing, or not what it should be: certificates, the secret."""

    fault = Fault.USER_CODE


class ProtocolError(ModelplexError):
    """Two processes of Modelplex do not understand each other."""


def too_cold(model_id: str, rest_s: float | None) -> ModelColdError:
    """The model will probably be loaded in `rest_s` seconds, longer than the caller would wait."""
    text = f"Model '{model_id}' is cold: it was not loaded within max_cold_wait_s. Its load goes on; try again later."
    return ModelColdError(text, retry_after_s=rest_s)


def _tree(root: type[ModelplexError]) -> dict[str, type[ModelplexError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        if child.__module__ == __name__:  # users' own may be made from anything
            found |= _tree(child)
    return found


def from_wire(name: str, message: str, retry_after_s: float | None) -> ModelplexError:
    """The error that another process told us about."""
    return _tree(ModelplexError).get(name, ModelplexError)(message, retry_after_s=retry_after_s)
