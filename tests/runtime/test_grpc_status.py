import grpc
import pytest

from modelplex import errors
from modelplex.runtime.grpc_status import DETAILS_MAX, status_of

CODES = {code.value[0]: code for code in grpc.StatusCode}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidModelIdError("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.InvalidRequestError("x"), grpc.StatusCode.INVALID_ARGUMENT),
        (errors.RouteNotFoundError("x"), grpc.StatusCode.NOT_FOUND),
        (errors.ModelNotFoundError("x"), grpc.StatusCode.NOT_FOUND),
        (errors.BodyTooLargeError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.BackPressureError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.TooManyRequestsError("x"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.ModelUnavailableError("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.ModelColdError("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.DeploymentUnavailableError("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.ReplicaLostError("x"), grpc.StatusCode.UNAVAILABLE),
        (errors.RequestTimeoutError("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.ModelLoadTimeoutError("x"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.RequestCancelledError("x"), grpc.StatusCode.CANCELLED),
        (errors.ModelLoadError("x"), grpc.StatusCode.INTERNAL),
        (errors.ModelplexError("x"), grpc.StatusCode.INTERNAL),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_error_has_a_code_that_says_whose_fault_it_is(
    error: errors.ModelplexError, code: grpc.StatusCode
) -> None:
    assert CODES[status_of(error).code] == code
    assert status_of(error).details == "x"


def test_what_user_code_raised_is_not_told() -> None:
    status = status_of(errors.UserCodeError("ValueError('secret')"))
    assert (CODES[status.code], status.details) == (grpc.StatusCode.INTERNAL, "Internal Server Error")


def test_when_to_try_again_is_told_to_people_and_to_clients() -> None:
    assert status_of(errors.BackPressureError("x", retry_after_s=0.25)).metadata == [
        (b"retry-after", b"1"),
        (b"grpc-retry-pushback-ms", b"250"),
    ]
    assert status_of(errors.RouteNotFoundError("x")).metadata == []


def test_details_are_not_too_long_for_clients() -> None:
    assert len(status_of(errors.ModelplexError("x" * 10_000)).details) == DETAILS_MAX


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\u6f22", "\U0001f600"])
def test_details_of_any_letters_fit_into_what_clients_take(letter: str) -> None:
    details = status_of(errors.InvalidRequestError(letter * 10_000)).details
    assert details.startswith(letter)
    assert 3 * len(details.encode()) <= 3 * DETAILS_MAX < 8192
