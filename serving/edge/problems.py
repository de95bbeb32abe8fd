"""Errors as HTTP: the one table from code to status, and the one error body.

Body: OIP's `{"error": text}` plus the stable `code` and the `request_id` (the prediction id where
there is one, else a fresh id, so that a caller can name the failure to an operator).
"""

import math
import random
from functools import lru_cache
from typing import Final

import orjson

from serving.edge.compression import ENCODINGS
from serving.edge.deprecation import link_to
from serving.errors import (
    EncodingUnsupported,
    MethodNotAllowed,
    ModelRetired,
    QuotaExceeded,
    ServingError,
)

STATUS: Final[dict[str, int]] = {
    "error": 500,
    "invalid_request": 400,
    "invalid_json": 400,
    "non_finite_literal": 400,
    "duplicate_key": 400,
    "json_too_deep": 400,
    "invalid_shape": 400,
    "shape_overflow": 400,
    "data_shape_mismatch": 400,
    "dtype_mismatch": 400,
    "value_out_of_range": 400,
    "non_finite_input": 400,
    "invalid_parameter": 400,
    "unknown_or_read_only_field": 400,
    "invalid_outcome": 400,
    "unsupported_artifact": 400,
    "unsafe_path": 400,
    "ambiguous_credentials": 400,
    "bad_encoding": 400,
    "invalid_message": 400,
    "ambiguous_length": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "separation_of_duties": 403,
    "not_found": 404,
    "model_not_found": 404,
    "model_retired": 410,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "already_exists": 409,
    "revision_conflict": 409,
    "idempotency_key_reused": 409,
    "digest_changed": 409,
    "request_closed": 409,
    "transition_refused": 409,
    "legal_hold": 409,
    "body_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "unsupported_encoding": 415,
    "caller_limit": 429,
    "quota_exceeded": 429,
    "headers_too_large": 431,
    "internal": 500,
    "invalid_frame": 500,
    "model_error": 500,
    "model_output_invalid": 500,
    "unsupported": 501,
    "overloaded": 503,
    "queue_full": 503,
    "too_many_connections": 503,
    "not_ready": 503,
    "no_replica": 503,
    "draining": 503,
    "auth_unavailable": 503,
    "key_store_unavailable": 503,
    "registry_unavailable": 503,
    "log_unavailable": 503,
    "log_storage_full": 503,
    "replica_lost": 503,
    "out_of_memory": 503,
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
    409: "Conflict",
    410: "Gone",
    413: "Content Too Large",
    414: "URI Too Long",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}

NO_CONTENT: Final = 204
"""Has neither a body nor headers about one (RFC 9110 8.6)."""

RETRYABLE_STATUSES: Final = frozenset({429, 503})
"""Answers that carry `Retry-After`."""

_UNAVAILABLE: Final = 503
_ID_DIGITS: Final = 16
_ids = random.Random(random.SystemRandom().getrandbits(128))  # noqa: S311 - names, no secrets


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


def _retry_after_s(error: ServingError) -> int:
    """Jittered, so that callers refused together do not come back together."""
    if isinstance(error, QuotaExceeded):
        soonest_s = math.ceil(error.retry_after_s)
        return soonest_s + _ids.randint(0, max(1, soonest_s // 10))
    return _ids.randint(1, 3)


@lru_cache(maxsize=64)
def _refusal(code: str, message: str) -> bytes:
    """A response to work that there is no room for, rendered but for `Retry-After` and an id.

    Under overload most answers are this one; what they cost is taken from those that are served.
    """
    body = orjson.dumps({"error": message, "code": code, "request_id": "0" * _ID_DIGITS})
    whole = response(_UNAVAILABLE, body, headers=(("Retry-After", "_"),)).replace(b"%", b"%%")
    whole = whole.replace(b"Retry-After: _", b"Retry-After: %d", 1)
    head, _, tail = whole.rpartition(b"0" * _ID_DIGITS)
    return head + b"%016x" + tail


def problem(error: ServingError, *, request_id: str | None = None) -> bytes:
    """The whole response to a failure."""
    status = STATUS[error.code]
    if status == _UNAVAILABLE and request_id is None:
        return _refusal(error.code, error.message) % (_ids.randint(1, 3), _ids.getrandbits(64))
    request_id = request_id or f"{_ids.getrandbits(64):016x}"
    body = orjson.dumps({"error": error.message, "code": error.code, "request_id": request_id})
    headers: list[tuple[str, str]] = []
    if status in RETRYABLE_STATUSES:
        headers.append(("Retry-After", str(_retry_after_s(error))))
    if status == 401:  # noqa: PLR2004 - the status is the name
        headers.append(("WWW-Authenticate", 'Bearer error="invalid_token"'))
    if isinstance(error, MethodNotAllowed):
        headers.append(("Allow", error.allowed))
    if isinstance(error, ModelRetired) and error.successor:
        headers.append(("Link", link_to(error.successor)))
    if isinstance(error, EncodingUnsupported):
        headers.append(("Accept-Encoding", ", ".join(ENCODINGS)))
    return response(status, body, headers=tuple(headers))
