"""One tree of errors, which travel between processes."""

import pickle

import pytest

from modelplex import errors
from modelplex.errors import Fault, ModelplexError
from modelplex.serve import exceptions

ALL = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, ModelplexError)]

STATUS_AND_FAULT = {
    "NothingRunsError": (500, Fault.CLIENT),
    "ModelplexError": (500, Fault.SERVER),
    "InvalidModelIdError": (400, Fault.CLIENT),
    "InvalidHeaderError": (400, Fault.CLIENT),
    "UnauthenticatedError": (401, Fault.CLIENT),
    "PermissionDeniedError": (403, Fault.CLIENT),
    "RateLimitError": (429, Fault.CLIENT),
    "InvalidRequestError": (400, Fault.CLIENT),
    "InvalidTensorError": (400, Fault.CLIENT),
    "RouteNotFoundError": (404, Fault.CLIENT),
    "BodyTooLargeError": (413, Fault.CLIENT),
    "BodyTooSlowError": (408, Fault.CLIENT),
    "RequestCancelledError": (499, Fault.CLIENT),
    "UserCodeError": (500, Fault.USER_CODE),
    "NotInReplicaError": (500, Fault.USER_CODE),
    "DeploymentFailedError": (500, Fault.USER_CODE),
    "ApplicationImportError": (400, Fault.CLIENT),
    "ConfigFileError": (400, Fault.CLIENT),
    "ModelLoadError": (500, Fault.USER_CODE),
    "ModelUnavailableError": (503, Fault.USER_CODE),
    "ModelLoadTimeoutError": (504, Fault.USER_CODE),
    "ModelColdError": (503, Fault.LOAD),
    "ModelNotFoundError": (404, Fault.CLIENT),
    "ModelTooLargeError": (500, Fault.USER_CODE),
    "ModelPinnedError": (409, Fault.CLIENT),
    "AliasNotSetError": (409, Fault.CLIENT),
    "InvalidModelFileError": (500, Fault.USER_CODE),
    "UnsafeModelFileError": (500, Fault.USER_CODE),
    "StoreError": (502, Fault.SERVER),
    "StoreConfigError": (500, Fault.USER_CODE),
    "DiskCacheFullError": (503, Fault.LOAD),
    "OvercommittedError": (500, Fault.USER_CODE),
    "BackPressureError": (503, Fault.LOAD),
    "TooManyRequestsError": (429, Fault.LOAD),
    "DeploymentUnavailableError": (503, Fault.SERVER),
    "ReplicaLostError": (502, Fault.SERVER),
    "RequestTimeoutError": (504, Fault.SERVER),
    "CredentialsError": (500, Fault.USER_CODE),
    "ProtocolError": (500, Fault.SERVER),
}


def test_each_error_has_its_status_and_its_fault() -> None:
    assert {c.__name__: (c.status, c.fault) for c in ALL} == STATUS_AND_FAULT


@pytest.mark.parametrize("cls", ALL)
def test_an_error_is_made_from_its_message(cls: type[ModelplexError]) -> None:
    error = cls("what is wrong")
    assert str(error) == "what is wrong"
    assert error.retry_after_s is None


@pytest.mark.parametrize("cls", ALL)
def test_an_error_arrives_on_the_wire_as_what_it_was(cls: type[ModelplexError]) -> None:
    error = errors.from_wire(cls.__name__, "what is wrong", 2.5)
    assert type(error) is cls
    assert (str(error), error.retry_after_s) == ("what is wrong", 2.5)


@pytest.mark.parametrize("cls", ALL)
def test_an_error_can_be_pickled(cls: type[ModelplexError]) -> None:
    error = pickle.loads(pickle.dumps(cls("what is wrong", retry_after_s=2.5)))
    assert type(error) is cls
    assert (str(error), error.retry_after_s) == ("what is wrong", 2.5)


def test_the_problems_of_a_file_are_its_text_and_travel_with_it() -> None:
    problems = (
        errors.Problem("f.yaml", 3, 5, "a.b", "is wrong."),
        errors.Problem("f.yaml", 0, 0, "", "cannot be read."),
    )
    error = pickle.loads(pickle.dumps(errors.ConfigFileError(problems=problems)))
    assert error.problems == problems
    assert str(error) == "f.yaml:3:5: a.b: is wrong.\nf.yaml: cannot be read."


@pytest.mark.parametrize("name", ["", "SomethingNewer", "ValueError", "Fault"])
def test_an_error_of_an_unknown_name_is_still_an_error(name: str) -> None:
    error = errors.from_wire(name, "what is wrong", 1.0)
    assert type(error) is ModelplexError
    assert (str(error), error.retry_after_s) == ("what is wrong", 1.0)


def test_users_own_errors_are_not_made_from_the_wire() -> None:
    class CodedError(ModelplexError):
        def __init__(self, code: int, reason: str) -> None:
            super().__init__(f"{code} {reason}")

    assert type(errors.from_wire(CodedError.__name__, "7 no", None)) is ModelplexError


def test_users_own_errors_do_not_take_the_place_of_ours() -> None:
    class ReplicaLostError(ModelplexError):
        pass

    assert ReplicaLostError.__name__ == errors.ReplicaLostError.__name__
    assert type(errors.from_wire("ReplicaLostError", "", None)) is errors.ReplicaLostError


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.InvalidModelIdError, ValueError),
        (errors.InvalidHeaderError, ValueError),
        (errors.NotInReplicaError, RuntimeError),
        (errors.DeploymentFailedError, RuntimeError),
        (errors.RequestTimeoutError, TimeoutError),
        (errors.BodyTooSlowError, TimeoutError),
    ],
)
def test_an_error_is_caught_by_the_builtin_that_the_interface_promises(
    cls: type[ModelplexError], builtin: type[Exception]
) -> None:
    assert issubclass(cls, builtin)


@pytest.mark.parametrize("cls", [errors.ModelUnavailableError, errors.ModelColdError])
def test_a_model_that_is_not_there_yet_is_a_load_error_too(cls: type[ModelplexError]) -> None:
    assert issubclass(cls, errors.ModelLoadError)


def test_a_cold_model_is_told_by_name_and_with_its_time() -> None:
    error = errors.too_cold("m1", 2.5)
    assert "'m1'" in str(error)
    assert error.retry_after_s == 2.5


def test_programs_import_errors_by_the_names_that_they_know() -> None:
    assert exceptions.RayServeException is ModelplexError
    assert exceptions.BackPressureError is errors.BackPressureError
    assert exceptions.RequestCancelledError is errors.RequestCancelledError
    assert exceptions.DeploymentUnavailableError is errors.DeploymentUnavailableError
