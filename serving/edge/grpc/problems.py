"""Errors as gRPC statuses: a code, the message, and a `google.rpc.Status` in the trailers.

Its details are an `ErrorInfo` whose reason is our stable code, a `RequestInfo` with the request id
(the prediction id where there is one), and a `RetryInfo` where coming back can help. The code follows
from the HTTP status of `serving.edge.problems`, so that a new error needs one row for both wires.
"""

import base64
import random
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import grpc  # type: ignore[import-untyped]  # it ships no types
from google.protobuf import any_pb2  # type: ignore[import-untyped]  # neither does it
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # nor it

from serving.edge.http2.fields import encode_fields
from serving.edge.problems import RETRYABLE_STATUSES, STATUS
from serving.errors import ServingError

DOMAIN: Final = "serving"
"""Of every `ErrorInfo`: whose codes the reasons are."""

STATUS_KEY: Final = "grpc-status-details-bin"

CODES: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    410: grpc.StatusCode.NOT_FOUND,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    414: grpc.StatusCode.INVALID_ARGUMENT,
    415: grpc.StatusCode.INVALID_ARGUMENT,
    417: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
    505: grpc.StatusCode.INVALID_ARGUMENT,
}
"""From HTTP status to gRPC code."""

_READABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What stands for itself in `grpc-message`; the rest is percent-encoded UTF-8."""

_ids = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a call without an answer. reason: our stable code."""

    code: Any
    message: str
    trailers: tuple[tuple[str, bytes], ...]
    reason: str
    request_id: str


def failure(error: ServingError, *, request_id: str | None = None) -> Failure:
    """What a caller is told about `error`."""
    http_status = STATUS[error.code]
    code = CODES[http_status]
    request_id = request_id or f"{_ids.getrandbits(64):016x}"
    details = [
        error_details_pb2.ErrorInfo(reason=error.code, domain=DOMAIN),
        error_details_pb2.RequestInfo(request_id=request_id),
    ]
    if http_status in RETRYABLE_STATUSES:
        retry = error_details_pb2.RetryInfo()
        # Jittered, so that callers refused together do not come back together.
        retry.retry_delay.FromMilliseconds(_ids.randint(1000, 3000))
        details.append(retry)
    status = status_pb2.Status(
        code=code.value[0], message=error.message, details=[_any(detail) for detail in details]
    )
    trailers = ((STATUS_KEY, status.SerializeToString()),)
    return Failure(code, error.message, trailers, error.code, request_id)


def trailer_block(ended: Failure) -> bytes:
    """The trailers of a call that ends so."""
    status: int = ended.code.value[0]
    details = [
        (name.encode(), base64.b64encode(value).rstrip(b"=")) for name, value in ended.trailers
    ]
    return encode_fields(
        (
            (b"grpc-status", b"%d" % status),
            (b"grpc-message", quote(ended.message, safe=_READABLE).encode()),
            *details,
        )
    )


def _any(detail: Any) -> Any:
    packed = any_pb2.Any()
    packed.Pack(detail)
    return packed
