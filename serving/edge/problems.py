"""Errors as HTTP: the one table from code to status, and the one error body.

Body: OIP's `{"error": text}` plus the stable `code` and the `request_id` (the prediction id where
there is one, else a fresh id, so that a caller can name the failure to an operator).
"""

import random
from typing import Final

import orjson

from serving.errors import MethodNotAllowed, ServingError

STATUS: Final[dict[str, int]] = {
    "error": 500,
    "invalid_request": 400,
    "invalid_json": 400,
    "non_finite_literal": 400,
    "json_too_deep": 400,
    "invalid_shape": 400,
    "shape_overflow": 400,
    "data_shape_mismatch": 400,
    "dtype_mismatch": 400,
    "value_out_of_range": 400,
    "non_finite_input": 400,
    "invalid_parameter": 400,
    "invalid_message": 400,
    "ambiguous_length": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not_found": 404,
    "model_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "body_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "caller_limit": 429,
    "headers_too_large": 431,
    "internal": 500,
    "invalid_frame": 500,
    "model_error": 500,
    "model_output_invalid": 500,
    "overloaded": 503,
    "queue_full": 503,
    "too_many_connections": 503,
    "not_ready": 503,
    "no_replica": 503,
    "draining": 503,
    "log_unavailable": 503,
    "log_storage_full": 503,
    "replica_lost": 503,
    "deadline_exceeded": 504,
    "unsupported_protocol_version": 505,
}

PHRASES: Final[dict[int, str]] = {
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

NO_CONTENT: Final = 204
"""Has neither a body nor headers about one (RFC 9110 8.6)."""

RETRYABLE_STATUSES: Final = frozenset({429, 503})
"""Answers that carry `Retry-After`."""

_ids = random.SystemRandom()


def status_line(status: int) -> bytes:
    return f"HTTP/1.1 {status} {PHRASES[status]}\r\n".encode()


def response(
    status: int,
    body: bytes,
    *,
    content_type: str = "application/json",
    headers: tuple[tuple[str, str], ...] = (),
) -> bytes:
    """A whole response, head and body, for the paths that are not hot."""
    lines = [f"{name}: {value}" for name, value in headers]
    if status != NO_CONTENT:
        lines = [f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *lines]
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return status_line(status) + head + b"\r\n" + body


def problem(error: ServingError, *, request_id: str | None = None) -> bytes:
    """The whole response to a failure."""
    status = STATUS[error.code]
    request_id = request_id or f"{_ids.getrandbits(64):016x}"
    body = orjson.dumps({"error": error.message, "code": error.code, "request_id": request_id})
    headers: list[tuple[str, str]] = []
    if status in RETRYABLE_STATUSES:
        # Jittered, so that callers refused together do not come back together.
        headers.append(("Retry-After", str(_ids.randint(1, 3))))
    if status == 401:  # noqa: PLR2004 - the status is the name
        headers.append(("WWW-Authenticate", 'Bearer error="invalid_token"'))
    if isinstance(error, MethodNotAllowed):
        headers.append(("Allow", error.allowed))
    return response(status, body, headers=tuple(headers))
