"""One credential, in one place."""

import pytest

from serving.edge.credentials import authorization_in, credential_of, refuse_credentials_in
from serving.errors import AmbiguousCredentials, Unauthenticated
from tests.edge.grpc.streams import call_head


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
    assert call_head(*headers.items()).authorization == expected


def test_az_14_two_credentials_are_refused() -> None:
    """A key beside a token, on both wires; even if both are the same."""
    two = {b"authorization": b"Bearer x", b"x-api-key": b"x"}

    with pytest.raises(AmbiguousCredentials):
        credential_of(two)
    assert isinstance(call_head(*two.items()).ambiguous, AmbiguousCredentials)


def test_one_kind_twice_is_none() -> None:
    """Nobody chooses between two, also beside one of the other kind; over HTTP/1.1 the head is refused
    before."""
    assert authorization_in([(b"x-api-key", b"a"), (b"x-api-key", b"b")]) is None
    with pytest.raises(AmbiguousCredentials):
        authorization_in([(b"x-api-key", b"a"), (b"authorization", b"c"), (b"x-api-key", b"b")])


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
