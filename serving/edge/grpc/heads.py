"""What the head of a gRPC call says: who calls, how messages are packed, until when it waits.

Derived once per distinct head and remembered by its identity: the connection gives out the same
object for the same bytes (`serving.edge.http2.fields`), so that a further call with a known head costs
one look. What is wrong with a head is kept beside it and refused after its caller is known; only
what is no gRPC at all is turned away before that, with a status of HTTP.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from serving.edge.choices import VERSION, only_said
from serving.edge.credentials import authorization_in
from serving.edge.grpc.framing import ENCODINGS
from serving.edge.http2.fields import RequestHead, encode_fields
from serving.edge.subjects import subject_of_metadata
from serving.errors import (
    AmbiguousCredentials,
    FeatureUnsupported,
    ParameterInvalid,
    ServingError,
)

MAX_KNOWN: Final = 1024
"""Heads that are remembered; then all are forgotten, which costs each some ten microseconds."""

_MAX_KEPT_BYTES: Final = 4096
"""Of one that is remembered."""

_TIMEOUT: Final = re.compile(r"(\d{1,8})([HMSmun])")
_UNITS_S: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_BINARY: Final = "-bin"
_TRACEPARENT: Final = "traceparent"
_NOT_POST: Final = encode_fields(((b":status", b"405"), (b"allow", b"POST")))
_NOT_GRPC: Final = encode_fields(((b":status", b"415"),))

Metadata = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class CallHead:
    """What calls with one head have in common.

    timeout_s: from the head's arrival. encoding: what packed messages are packed in; None for
    none. answer_encoding: what answers may be packed in. version: what `serving-version` says.
    status: the HTTP answer to what is no gRPC call. refusal: why no such call can be served, told to
    known callers only. ambiguous: why nobody knows who calls.
    """

    path: bytes
    metadata: Metadata
    authorization: bytes | None = None
    timeout_s: float | None = None
    encoding: str | None = None
    answer_encoding: str | None = None
    traceparent: bytes | None = None
    subject: bytes = b""
    version: bytes | str | None = None
    status: bytes | None = None
    refusal: ServingError | None = None
    ambiguous: ServingError | None = None


class CallHeads:
    """Those of one server that are known."""

    def __init__(self) -> None:
        # The key is kept alive by its entry, so it is nobody else's.
        self._known: dict[int, tuple[CallHead, RequestHead]] = {}

    def of(self, head: RequestHead) -> CallHead:
        known = self._known.get(id(head))
        if known is not None:
            return known[0]
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        read = read_head(head)
        if sum(len(name) + len(value) for name, value in head.fields) <= _MAX_KEPT_BYTES:
            self._known[id(head)] = read, head
        return read


def read_head(head: RequestHead) -> CallHead:
    """Never raises: what is wrong is in what it gives."""
    metadata = tuple([_pair(name, value) for name, value in head.fields])
    if head.method != b"POST":
        return CallHead(head.path, metadata, status=_NOT_POST)
    if not (only(metadata, "content-type") or b"").startswith(b"application/grpc"):
        return CallHead(head.path, metadata, status=_NOT_GRPC)
    try:
        authorization = authorization_in(head.fields)
    except AmbiguousCredentials as error:
        return CallHead(head.path, metadata, ambiguous=error)
    try:
        return _read(head.path, metadata, authorization)
    except ServingError as error:
        return CallHead(head.path, metadata, authorization, refusal=error)


def only(metadata: Iterable[tuple[str, bytes]], key: str) -> bytes | None:
    """The value that metadata hold under `key`; None when there is none, or more than one."""
    values = [value for name, value in metadata if name == key]
    return values[0] if len(values) == 1 else None


def timeout_of(value: bytes | None) -> float | None:
    """Seconds. Raises ParameterInvalid."""
    if value is None:
        return None
    found = _TIMEOUT.fullmatch(value.decode("latin-1"))
    if found is None:
        raise ParameterInvalid(
            "grpc-timeout must be up to eight digits and one of H, M, S, m, u, n"
        )
    return int(found[1]) * _UNITS_S[found[2]]


def _read(path: bytes, metadata: Metadata, authorization: bytes | None) -> CallHead:
    encoding = _encoding(metadata)
    accepted = (only(metadata, "grpc-accept-encoding") or b"").replace(b" ", b"").split(b",")
    said = only_said(metadata, VERSION)
    return CallHead(
        path,
        metadata,
        authorization,
        timeout_s=timeout_of(_said(metadata, "grpc-timeout")),
        encoding=encoding,
        answer_encoding=encoding if encoding and encoding.encode() in accepted else None,
        traceparent=only(metadata, _TRACEPARENT),
        subject=subject_of_metadata(metadata),
        version=said,
    )


def _encoding(metadata: Metadata) -> str | None:
    """What packed messages are packed in. Raises FeatureUnsupported."""
    said = (_said(metadata, "grpc-encoding") or b"identity").decode("latin-1")
    if said == "identity":
        return None
    if said not in ENCODINGS:
        raise FeatureUnsupported(f"messages may be packed in {' or '.join(ENCODINGS)}")
    return said


def _said(metadata: Metadata, name: str) -> bytes | None:
    value = only_said(metadata, name)
    return value.encode() if isinstance(value, str) else value


def _pair(name: bytes, value: bytes) -> tuple[str, bytes]:
    text = name.decode("latin-1")
    if not text.endswith(_BINARY):
        return text, value
    try:
        return text, base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        return text, value  # Nobody here reads any; whoever does sees what came.
