"""RFC 9113 section 8 at the gRPC port: a head that means two things, or nothing, is no request.

Most of them carry a good token: whatever took one for a request would answer it.
"""

from typing import Final

import pytest

from tests.edge.grpc.wire import INFER
from tests.hostile.http2_cases import Http2Case, asking, assert_answer
from tests.hostile.http2_wire import (
    END_HEADERS,
    WHOLE,
    Code,
    block,
    data,
    headers,
    literal,
)

MALFORMED: Final = (Code.PROTOCOL_ERROR,)
Pairs = tuple[tuple[bytes, bytes], ...]

ADDED: Final[dict[str, Pairs]] = {
    # 8.2.1: names and values.
    "name in upper case": ((b"X-Thing", b"a"),),
    "name with one capital": ((b"x-thinG", b"a"),),
    "name with a space": ((b"x thing", b"a"),),
    "name that ends with a space": ((b"x-thing ", b"a"),),
    "name that begins with a space": ((b" x-thing", b"a"),),
    "name with a colon": ((b"x:thing", b"a"),),
    "name that ends with a colon": ((b"x-thing:", b"a"),),
    "name with NUL": ((b"x\0thing", b"a"),),
    "name with a line feed": ((b"x\nthing", b"a"),),
    "name with DEL": ((b"x\x7fthing", b"a"),),
    "name beyond ASCII": ((b"x\xe9", b"a"),),
    "name of nothing": ((b"", b"a"),),
    "value with NUL": ((b"x-thing", b"a\0b"),),
    "value with a line feed": ((b"x-thing", b"a\nb"),),
    "value with a carriage return": ((b"x-thing", b"a\rb"),),
    "value with another field": ((b"x-thing", b"a\r\nauthorization: Bearer b"),),
    "value that begins with a space": ((b"x-thing", b" a"),),
    "value that ends with a space": ((b"x-thing", b"a "),),
    "value that begins with a tab": ((b"x-thing", b"\ta"),),
    "value that ends with a tab": ((b"x-thing", b"a\t"),),
    # 8.2.2: fields of a connection.
    "connection": ((b"connection", b"close"),),
    "connection that names another": ((b"connection", b"x-thing"), (b"x-thing", b"a")),
    "keep-alive": ((b"keep-alive", b"timeout=5"),),
    "proxy-connection": ((b"proxy-connection", b"keep-alive"),),
    "transfer-encoding": ((b"transfer-encoding", b"chunked"),),
    "upgrade": ((b"upgrade", b"websocket"),),
    "te that is no trailers": ((b"te", b"gzip"),),
    "te with more than trailers": ((b"te", b"trailers, gzip"),),
    # 8.3: pseudo fields.
    "unknown pseudo field": ((b":thing", b"a"),),
    "pseudo field of an answer": ((b":status", b"200"),),
    "pseudo field without a name": ((b":", b"a"),),
    "protocol of RFC 8441": ((b":protocol", b"websocket"),),
    "late method": ((b":method", b"POST"),),
    "late path": ((b":path", b"/"),),
    # 8.1.1: lengths.
    "length of no number": ((b"content-length", b"abc"),),
    "length with a sign": ((b"content-length", b"+5"),),
    "negative length": ((b"content-length", b"-1"),),
    "length of nothing": ((b"content-length", b""),),
    "two lengths": ((b"content-length", b"5"), (b"content-length", b"6")),
    "a list of lengths": ((b"content-length", b"5, 6"),),
}


@pytest.mark.parametrize("case", ADDED)
def test_field_that_breaks_a_head_ends_its_stream(calls: Http2Case, case: str) -> None:
    """A good head with one bad field more is malformed: PROTOCOL_ERROR for the stream, no answer."""
    reply = calls.faults_stream(calls.call(1, 1.0, *ADDED[case]), *MALFORMED)

    assert not reply.head


def pseudo(**changes: bytes) -> Pairs:
    """Pseudo fields of a good call with some changed."""
    usual = {"method": b"POST", "scheme": b"http", "path": INFER.encode(), "authority": b"here"}
    return tuple((f":{name}".encode(), value) for name, value in (usual | changes).items())


def without(*names: bytes) -> Pairs:
    return tuple(pair for pair in pseudo() if pair[0] not in names)


PSEUDO: Final[dict[str, Pairs]] = {
    "no method": without(b":method"),
    "no scheme": without(b":scheme"),
    "no path": without(b":path"),
    "nothing": (),
    "only a method": without(b":scheme", b":path", b":authority"),
    "method twice": (*pseudo(), (b":method", b"POST")),
    "another method too": (*pseudo(), (b":method", b"GET")),
    "path twice": (*pseudo(), (b":path", INFER.encode())),
    "another path too": ((b":path", b"/grpc.health.v1.Health/Check"), *pseudo()),
    "scheme twice": (*pseudo(), (b":scheme", b"http")),
    "authority twice": (*pseudo(), (b":authority", b"here")),
    "empty path": pseudo(path=b""),
    "path without a slash": pseudo(path=INFER[1:].encode()),
    "path that is a star": pseudo(path=b"*"),
    "path that is a URL": pseudo(path=b"http://here" + INFER.encode()),
    "path in upper case pseudo": (*without(b":path"), (b":Path", INFER.encode())),
    "path with a line feed": pseudo(path=INFER.encode() + b"\r\nx: y"),
    "path with NUL": pseudo(path=INFER.encode() + b"\0"),
    "method of nothing": pseudo(method=b""),
    "method with a space": pseudo(method=b"POST /"),
    "scheme of nothing": pseudo(scheme=b""),
    "CONNECT without authority": ((b":method", b"CONNECT"),),
}
OTHERS: Final = {b":method", b":scheme", b":path", b":authority"}


def rest_of(calls: Http2Case) -> Pairs:
    """A good head without pseudo fields."""
    return tuple(pair for pair in calls.fields() if pair[0] not in OTHERS)


@pytest.mark.parametrize("case", PSEUDO)
def test_pseudo_fields_say_one_thing(calls: Http2Case, case: str) -> None:
    """8.3.1: each that is needed, once, in its place and of its form; else the stream ends."""
    head = block((*PSEUDO[case], *rest_of(calls)))

    reply = calls.faults_stream(headers(head, 1, END_HEADERS) + data(asking(), 1), *MALFORMED)

    assert not reply.head


@pytest.mark.parametrize("place", [1, 2, 5])
def test_pseudo_field_after_another_is_malformed(calls: Http2Case, place: int) -> None:
    """8.3: the head ends where its pseudo fields have ended, were they otherwise all there."""
    fields = [*pseudo(), *rest_of(calls)]
    late = fields.pop(2)
    fields.insert(3 + place, late)

    raw = headers(block(fields), 1, END_HEADERS) + data(asking(), 1)

    assert not calls.faults_stream(raw, *MALFORMED).head


FINE: Final[dict[str, Pairs]] = {
    "empty value": ((b"x-thing", b""),),
    "value beyond ASCII": ((b"x-thing", b"\xc3\xa9\xff"),),
    "value with spaces and tabs inside": ((b"x-thing", b"a \t b"),),
    "odd name": ((b"!#$%&'*+-.^_`|~09az", b"a"),),
    "the same field twice": ((b"x-thing", b"a"), (b"x-thing", b"b")),
    "cookies": ((b"cookie", b"a=b"), (b"cookie", b"c=d")),
    "host as the authority": ((b"host", b"here"),),
    "user agent": ((b"user-agent", b"grpc-hostile/1"),),
}


@pytest.mark.parametrize("case", FINE)
def test_field_that_is_only_odd_is_served(calls: Http2Case, case: str) -> None:
    """What the RFC allows, a careful server allows too."""
    with calls.connect() as connection:
        connection.send(calls.call(1, 9.0, *FINE[case]))

        assert_answer(connection.reply(1), 9.0)


def test_authority_may_be_missing_or_be_the_host(calls: Http2Case) -> None:
    """8.3.1: neither is needed, and a Host stands in; gRPC routes by the path alone."""
    heads = [
        (*without(b":authority"), *rest_of(calls)),
        (*without(b":authority"), (b"host", b"here"), *rest_of(calls)),
    ]
    with calls.connect() as connection:
        for stream, head in zip((1, 3), heads, strict=True):
            connection.send(headers(block(head), stream, END_HEADERS), data(asking(), stream))

            assert_answer(connection.reply(stream), 1.0)


LENGTHS: Final = {"shorter": -1, "longer": 1, "none": -1_000_000, "endless": 10**20}


@pytest.mark.parametrize("case", LENGTHS)
def test_length_that_lies_ends_the_stream(calls: Http2Case, case: str) -> None:
    """8.1.1: DATA that do not add up to the content-length are malformed, and never a message."""
    told = max(len(asking()) + LENGTHS[case], 0)
    raw = calls.call(1, 1.0, (b"content-length", str(told).encode()))

    assert calls.faults_stream(raw, *MALFORMED).grpc_status != 0


def test_length_that_is_true_is_fine(calls: Http2Case) -> None:
    """A content-length is allowed in gRPC; padding and the number of frames do not count."""
    text = asking(3.0)
    length = (b"content-length", str(len(text)).encode())
    with calls.connect() as connection:
        connection.send(calls.head(1, length), data(text[:7], 1, 0), data(text[7:], 1))

        assert_answer(connection.reply(1), 3.0)


def test_length_without_a_body_is_malformed(calls: Http2Case) -> None:
    """A head that promises a body and ends the stream is no request."""
    head = block(calls.fields((b"content-length", b"5")))

    assert not calls.faults_stream(headers(head, 1, WHOLE), *MALFORMED).head


def test_trailers_of_a_request_are_read_and_mean_nothing(calls: Http2Case) -> None:
    """8.1: a request may end with fields; none of them is a credential or a deadline."""
    trailers = literal(b"x-thing", b"a") + literal(b"grpc-timeout", b"0n")
    with calls.connect() as connection:
        connection.send(calls.head(1), data(asking(2.0), 1, 0), headers(trailers, 1))
        assert_answer(connection.reply(1), 2.0)
        fields = [pair for pair in calls.fields() if pair[0] != b"authorization"]
        token = [pair for pair in calls.fields() if pair[0] == b"authorization"]
        connection.send(headers(block(fields), 3, END_HEADERS), data(asking(), 3, 0))
        connection.try_send(headers(block(token), 3))

        assert connection.reply(3).grpc_status == 16


def test_trailers_before_the_message_is_whole_are_the_end(calls: Http2Case) -> None:
    """A message that trailers cut off is refused, and not waited for."""
    with calls.connect() as connection:
        connection.send(calls.head(1), data(asking()[:9], 1, 0), headers(literal(b"a", b"b"), 1))

        assert connection.reply(1).grpc_status in (3, 13)
        calls.serves(connection)


@pytest.mark.parametrize(
    "method", [b"GET", b"PUT", b"HEAD", b"OPTIONS", b"post", b"PRI", b"CONNECT", b"\xe9"]
)
def test_other_methods_are_no_calls(calls: Http2Case, method: bytes) -> None:
    """Only POST calls anything: the rest gets 405, or is malformed, whoever asks."""
    with calls.connect() as connection:
        connection.send(calls.head(1, method=method), data(asking(), 1))
        reply = connection.reply(1)

        assert reply.reset == Code.PROTOCOL_ERROR or reply.status == 405
        assert b"grpc-status" not in reply.last
        calls.serves(connection)


@pytest.mark.parametrize(
    "path",
    [
        INFER.lower(),
        INFER + "/",
        INFER + "?x=1",
        INFER + "#x",
        INFER + "%00",
        "/" + INFER,
        INFER.replace("/ModelInfer", "/%4dodelInfer"),
        INFER.replace("/ModelInfer", "/../inference.GRPCInferenceService/ModelInfer"),
        "/",
        "//",
        "/v2/models/doubler/infer",
        "/" + "a" * 8_000,
        INFER + " HTTP/1.1",
        "/inference.GRPCInferenceService/\u00e9",
    ],
)
def test_only_the_exact_path_is_a_call(calls: Http2Case, path: str) -> None:
    """No variant of a path reaches what the path itself does: UNIMPLEMENTED, or malformed."""
    with calls.connect() as connection:
        connection.send(calls.head(1, path=path), data(asking(), 1))
        reply = connection.reply(1)

        assert reply.reset == Code.PROTOCOL_ERROR or reply.grpc_status == 12
        calls.serves(connection)


@pytest.mark.parametrize("path", ["/no/such", INFER])
def test_strangers_are_told_nothing(calls: Http2Case, path: str) -> None:
    """Without a token a path that exists and one that does not are refused alike."""
    fields = [pair for pair in calls.fields(path=path) if pair[0] != b"authorization"]
    with calls.connect() as connection:
        connection.send(headers(block(fields), 1, END_HEADERS), data(asking(), 1))

        reply = connection.reply(1)

    assert (reply.status, reply.grpc_status) == (200, 16)


@pytest.mark.parametrize(
    "kind", [b"application/json", b"text/plain", b"", b"application/grp", b"multipart/form-data"]
)
def test_other_content_is_no_call(calls: Http2Case, kind: bytes) -> None:
    """HTTP 415, as gRPC over HTTP/2 says, and no trailers of gRPC."""
    fields = [pair for pair in calls.fields() if pair[0] != b"content-type"]
    head = block([*fields, (b"content-type", kind)])
    with calls.connect() as connection:
        connection.send(headers(head, 1, END_HEADERS), data(asking(), 1))
        reply = connection.reply(1)

        assert (reply.status, reply.grpc_status) == (415, None)
        calls.serves(connection)
