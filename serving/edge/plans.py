"""From the head of an inference request to its plan: whom it asks, and how its bodies are written.

A `Content-Type` may be missing: the protocol's own client names none. Then the body is what the
protocol sends, JSON with or without binary tensors behind it. Any other type than those two is
refused, since there is no parser for it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final
from urllib.parse import unquote

from serving.edge.choices import VERSION, one_version
from serving.edge.compression import ENCODINGS, accepted
from serving.edge.credentials import credential_of, refuse_credentials_in
from serving.edge.exchange import InferencePlan, PackedExchange, RefusedExchange, RestExchange
from serving.edge.http1.heads import Head
from serving.edge.subjects import HEADER, subject_of_header
from serving.errors import (
    DeadlineExceeded,
    EncodingUnsupported,
    MediaTypeUnsupported,
    ParameterInvalid,
    ServingError,
)
from serving.port_settings import HttpSettings

_MOST_TIMEOUT_DIGITS: Final = 9
"""Of milliseconds: days, which admission shortens to its longest."""

_MOST_LENGTH_DIGITS: Final = 10
_SUBJECT: Final = HEADER.encode()
_MEDIA_TYPES: Final = frozenset({b"application/json", b"application/octet-stream", b""})

Headers = Mapping[bytes, bytes]


def plan_of(head: Head, limits: HttpSettings) -> InferencePlan | None:
    """The plan of an inference request's head; None when the head is of another request, or when it
    is not clear whose it is."""
    segments = [unquote(segment) for segment in head.path.split("/")[1:]]
    pinned: str | None
    match segments:
        case ["v2", "models", model, "infer"]:
            pinned = None
        case ["v2", "models", model, "versions", pinned, "infer"]:
            pass
        case _:
            return None
    if head.method != "POST":
        return None
    try:
        refuse_credentials_in(head.query)
        authorization = credential_of(head.headers)
    except ServingError:
        return None  # The router, which asks the same of everybody, tells why.
    plan = InferencePlan(
        exchange=RestExchange,
        model=model,
        version=pinned,
        authorization=authorization,
        traceparent=head.headers.get(b"traceparent"),
        limits=limits,
        headers=head.headers,
    )
    try:
        plan = replace(plan, version=one_version(pinned, head.headers.get(VERSION.encode())))
        return _with_bodies(plan, head.headers)
    except ServingError as error:
        return replace(plan, exchange=RefusedExchange, refusal=error)


def check_media(headers: Headers) -> None:
    """Passes when the body is of a type that is read here. Raises MediaTypeUnsupported."""
    media, _, options = headers.get(b"content-type", b"").partition(b";")
    charset = options.strip().lower().replace(b'"', b"")
    if media.strip().lower() not in _MEDIA_TYPES or charset not in (b"", b"charset=utf-8"):
        raise MediaTypeUnsupported("send application/json in UTF-8, or application/octet-stream")


def encoding_of(headers: Headers) -> str | None:
    """The content coding of the body, None for none. Raises EncodingUnsupported."""
    encoding = headers.get(b"content-encoding", b"identity").lower().decode("latin-1")
    if encoding == "identity":
        return None
    if encoding not in ENCODINGS:
        raise EncodingUnsupported(f"a body may come as it is, or in {', '.join(ENCODINGS)}")
    return encoding


def _with_bodies(plan: InferencePlan, headers: Headers) -> InferencePlan:
    check_media(headers)
    encoding = encoding_of(headers)
    answer_encoding = accepted(headers.get(b"accept-encoding", b""))
    timeout_s, subject = _timeout_s(headers), subject_of_header(headers.get(_SUBJECT))
    return replace(
        plan,
        exchange=PackedExchange if encoding or answer_encoding else RestExchange,
        json_bytes=_json_bytes(headers, is_packed=encoding is not None),
        timeout_s=timeout_s,
        subject=subject,
        amends=timeout_s is not None or bool(subject),
        encoding=encoding,
        answer_encoding=answer_encoding,
    )


def _json_bytes(headers: Headers, *, is_packed: bool) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > _MOST_LENGTH_DIGITS:
        raise ParameterInvalid("Inference-Header-Content-Length must be a number of bytes")
    length = int(value)
    total = headers.get(b"content-length")
    # The length is that of the unpacked body's part; how long that is shows when it is unpacked.
    if total is not None and not is_packed and length > int(total):
        raise ParameterInvalid("Inference-Header-Content-Length is larger than the body")
    return length


def _timeout_s(headers: Headers) -> float | None:
    value = headers.get(b"serving-timeout-ms")
    if value is None:
        return None
    if not value.isdigit():
        raise ParameterInvalid("serving-timeout-ms must be a whole number of milliseconds")
    digits = value.lstrip(b"0")
    if not digits:
        raise DeadlineExceeded("the request allows no time")
    return int(digits[:_MOST_TIMEOUT_DIGITS]) / 1000
