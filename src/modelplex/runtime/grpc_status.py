"""What clients of gRPC are told of errors: the status, in words, and when to try again."""

import math

from modelplex import errors
from modelplex.wire import grpc_body
from modelplex.wire.grpc_body import Packed, Status

# By the status that HTTP would have; those that are not here are INTERNAL.
_OF_HTTP = {
    400: grpc_body.INVALID_ARGUMENT,
    401: grpc_body.UNAUTHENTICATED,
    403: grpc_body.PERMISSION_DENIED,
    404: grpc_body.NOT_FOUND,
    408: grpc_body.DEADLINE_EXCEEDED,
    413: grpc_body.RESOURCE_EXHAUSTED,
    429: grpc_body.RESOURCE_EXHAUSTED,
    499: grpc_body.CANCELLED,
    501: grpc_body.UNIMPLEMENTED,
    502: grpc_body.UNAVAILABLE,
    503: grpc_body.UNAVAILABLE,
    504: grpc_body.DEADLINE_EXCEEDED,
}

# Bytes. Clients take no more than 8 KiB of metadata, of which details are a part, whose bytes may need three each.
DETAILS_MAX = 2_000


def shortened(details: str) -> str:
    """As much of it as may be told."""
    return details.encode(errors="replace")[:DETAILS_MAX].decode(errors="ignore")


def status_of(error: errors.ModelplexError) -> Status:
    """What user code raised is in the replica's log, and is no business of whoever may send requests."""
    code = _OF_HTTP.get(error.status, grpc_body.INTERNAL)
    if isinstance(error, errors.BackPressureError):
        code = grpc_body.RESOURCE_EXHAUSTED  # as Ray Serve has it, whichever status HTTP is told
    details = "Internal Server Error" if type(error) is errors.UserCodeError else str(error)
    metadata: Packed = []
    if error.retry_after_s is not None:
        metadata = [
            (b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))),
            # For clients that try again by themselves: https://github.com/grpc/proposal/blob/master/A6-client-retries.md
            (b"grpc-retry-pushback-ms", b"%d" % max(0, math.ceil(error.retry_after_s * 1e3))),
        ]
    return Status(code, shortened(details), metadata)
