"""Where a request may carry its credential, and where it must not.

One credential, in one place: `Authorization`, or `X-Api-Key` as the short form of its scheme `ApiKey`.
Two are refused rather than chosen from, since whoever checks the other one would see another caller.
A client certificate of the connection comes with either or neither.
In a URL it is refused even beside a good one: URLs are kept by browsers, proxies and their logs.
"""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import parse_qsl

from serving.access.apikeys import PREFIX, SCHEME
from serving.access.certificates import Certified, Credential
from serving.edge.http1.heads import CERTIFICATE
from serving.errors import AmbiguousCredentials, Unauthenticated

AUTHORIZATION: Final = b"authorization"
API_KEY: Final = b"x-api-key"

_PLACES: Final = frozenset({AUTHORIZATION, API_KEY})
_NAMES: Final = frozenset(
    {"api_key", "api-key", "apikey", "x-api-key", "access_token", "token", "authorization"}
)
_TWO: Final = "send one credential: Authorization, or X-Api-Key"
_IN_URL: Final = "a credential does not belong in a URL: send it as Authorization, and replace it"


def credential_of(headers: Mapping[bytes, bytes]) -> Credential:
    """The credential as an `Authorization` value, with the client's certificate if it showed one.

    headers: lower-case names. Raises AmbiguousCredentials.
    """
    return credential_with(authorization_in(headers.items()), headers.get(CERTIFICATE))


def authorization_in(fields: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The credential as an `Authorization` value; None when there is none, or one kind twice.

    fields: of a head, with lower-case names. Raises AmbiguousCredentials.
    """
    shown = [field for field in fields if field[0] in _PLACES]
    if len({name for name, _ in shown}) > 1:
        raise AmbiguousCredentials(_TWO)
    if len(shown) != 1:
        return None
    ((name, value),) = shown
    return value if name == AUTHORIZATION else SCHEME + value


def credential_with(authorization: bytes | None, certificate: bytes | None) -> Credential:
    """certificate: DER, of a client that showed one."""
    return authorization if certificate is None else Certified(authorization, certificate)


def refuse_credentials_in(query: str) -> None:
    """Passes when the query of a URL holds no credential. Raises Unauthenticated."""
    prefix = PREFIX.decode()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower() in _NAMES or prefix in value or prefix in name:
            raise Unauthenticated(_IN_URL)
