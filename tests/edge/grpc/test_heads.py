"""Heads of gRPC calls: what they say, and what is wrong with them."""

import base64

import pytest

from serving.edge.grpc.heads import CallHead, CallHeads, read_head, timeout_of
from serving.edge.http2.fields import RequestHead
from serving.errors import FeatureUnsupported, ParameterInvalid

GRPC = (b"content-type", b"application/grpc")


def head_of(
    *fields: tuple[bytes, bytes], method: bytes = b"POST", media: bytes = b"application/grpc"
) -> RequestHead:
    fields = ((b"content-type", media), *fields)
    return RequestHead(
        method=method, path=b"/a.B/C", authority=b"here", scheme=b"http", fields=fields
    )


def read(*fields: tuple[bytes, bytes]) -> CallHead:
    return read_head(head_of(*fields))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"40m", 0.04), (b"5u", 5e-6), (b"6n", 6e-9)],
)
def test_timeouts_have_six_units(text: bytes, seconds: float) -> None:
    """As the protocol writes them."""
    assert timeout_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1 S", b"1s", b"\xff"]
)
def test_other_timeouts_are_refused(text: bytes) -> None:
    """More than eight digits, other units, signs and fractions."""
    assert isinstance(read((b"grpc-timeout", text)).refusal, ParameterInvalid)


def test_head_says_who_calls_and_how() -> None:
    """Each fact is where it is looked for."""
    head = read(
        (b"authorization", b"Bearer x"),
        (b"grpc-timeout", b"2S"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"identity, deflate,gzip"),
        (b"traceparent", b"t"),
        (b"serving-subject", b"s"),
        (b"serving-version", b"2"),
    )

    assert head.refusal is None
    assert (head.authorization, head.timeout_s, head.traceparent) == (b"Bearer x", 2.0, b"t")
    assert (head.encoding, head.answer_encoding) == ("gzip", "gzip")
    assert (head.subject, head.version) == (b"s", b"2")


def test_answer_is_packed_for_who_packs_and_unpacks() -> None:
    """Who only could take it gets it plain, and so does who does not say that it can."""
    assert read((b"grpc-accept-encoding", b"gzip")).answer_encoding is None
    assert read((b"grpc-encoding", b"gzip")).answer_encoding is None
    assert read((b"grpc-encoding", b"identity")).encoding is None


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        (((b"grpc-encoding", b"br"),), FeatureUnsupported),
        (((b"serving-subject", b"a"), (b"serving-subject", b"a")), ParameterInvalid),
        (((b"serving-version", b"a"), (b"serving-version", b"a")), ParameterInvalid),
    ],
)
def test_what_is_wrong_is_kept_beside_the_credential(
    fields: tuple[tuple[bytes, bytes], ...], kind: type[Exception]
) -> None:
    """So that it is told to known callers only."""
    head = read((b"authorization", b"Bearer x"), *fields)

    assert isinstance(head.refusal, kind)
    assert head.authorization == b"Bearer x"


def test_two_credentials_name_nobody() -> None:
    """A key beside a token."""
    head = read((b"authorization", b"Bearer x"), (b"x-api-key", b"svk_1"))

    assert (head.authorization, head.ambiguous is not None) == (None, True)


@pytest.mark.parametrize(
    ("method", "media"),
    [(b"GET", b"application/grpc"), (b"POST", b"application/json"), (b"POST", b"")],
)
def test_what_is_no_grpc_call_has_a_status_of_http(method: bytes, media: bytes) -> None:
    """Another method, another media type."""
    assert read_head(head_of(method=method, media=media)).status is not None


@pytest.mark.parametrize("media", [b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_media_types_may_say_more(media: bytes) -> None:
    """What comes behind `application/grpc` is not looked at."""
    assert read_head(head_of(media=media)).status is None


def test_binary_metadata_are_decoded() -> None:
    """With and without padding; what is no base64 stays as it is."""
    text = base64.b64encode(b"\x00\xff")
    head = read((b"a-bin", text), (b"b-bin", text.rstrip(b"=")), (b"c-bin", b"!"))

    assert head.metadata[-3:] == (("a-bin", b"\x00\xff"), ("b-bin", b"\x00\xff"), ("c-bin", b"!"))


def test_known_heads_are_read_once() -> None:
    """The same object is the same head; an equal one is read again."""
    heads, one = CallHeads(), head_of()

    assert heads.of(one) is heads.of(one)
    assert heads.of(head_of()) is not heads.of(one)


def test_large_heads_are_not_kept() -> None:
    """Callers choose them, and many could fill the memory."""
    heads, large = CallHeads(), head_of((b"x", bytes(5000)))

    assert heads.of(large) is not heads.of(large)
