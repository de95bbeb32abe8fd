"""One credential, in one place."""

import pytest

from serving.edge.credentials import credential_of, refuse_credentials_in
from serving.edge.grpc.heads import credential_of as grpc_credential_of
from serving.errors import AmbiguousCredentials, Unauthenticated


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({b"authorization": b"Bearer x"}, b"Bearer x"),
        ({b"x-api-key": b"svk_1"}, b"ApiKey svk_1"),
        ({b"x-forwarded-user": b"root", b"x-real-ip": b"127.0.0.1"}, None),
    ],
)
def test_az_03_only_two_headers_can_hold_a_credential(
    headers: dict[bytes, bytes], expected: bytes | None
) -> None:
    """What a proxy says about a caller identifies nobody."""
    assert credential_of(headers) == expected
    metadata = [(name.decode(), value.decode()) for name, value in headers.items()]
    assert grpc_credential_of(metadata) == expected


def test_az_14_two_credentials_are_refused() -> None:
    """A key beside a token, on both wires; even if both are the same."""
    two = {b"authorization": b"Bearer x", b"x-api-key": b"x"}

    with pytest.raises(AmbiguousCredentials):
        credential_of(two)
    with pytest.raises(AmbiguousCredentials):
        grpc_credential_of([(name.decode(), value) for name, value in two.items()])


def test_one_kind_twice_is_none() -> None:
    """Nobody chooses between two; over HTTP the head is refused before."""
    assert grpc_credential_of([("x-api-key", "a"), ("x-api-key", "b")]) is None


@pytest.mark.parametrize(
    "query",
    ["api_key=x", "API-KEY=", "token=x", "access_token=x", "a=svk_1", "svk_1", "a=%73vk_1"],
)
def test_az_11_credential_in_a_query_is_refused(query: str) -> None:
    """However it is called or spelt, and whatever it is worth."""
    with pytest.raises(Unauthenticated, match="URL"):
        refuse_credentials_in(query)


@pytest.mark.parametrize("query", ["", "after=1", "subject=a&action=infer&key=3f9a0c2d71b4"])
def test_other_queries_pass(query: str) -> None:
    """A key's identifier is no secret."""
    refuse_credentials_in(query)
