"""Where a request may carry its credential, and where it must not.

One credential, in one place: `Authorization`, or `X-Api-Key` as the short form of its scheme `ApiKey`.
Two are refused rather than chosen from, since whoever checks the other one would see another caller.
A client certificate of the connection comes with either or neither.
In a URL it is refused even beside a good one: URLs are kept by browsers, proxies and their logs.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qsl

from serving.access.apikeys import PREFIX, SCHEME
from serving.access.certificates import Certified, Credential
from serving.edge.http1.heads import CERTIFICATE
from serving.errors import AmbiguousCredentials, Unauthenticated

AUTHORIZATION: Final = b"authorization"
API_KEY: Final = b"x-api-key"

_NAMES: Final = frozenset(
    {"api_key", "api-key", "apikey", "x-api-key", "access_token", "token", "authorization"}
)
_TWO: Final = "send one credential: Authorization, or X-Api-Key"
_IN_URL: Final = "a credential does not belong in a URL: send it as Authorization, and replace it"


def credential_of(headers: Mapping[bytes, bytes]) -> Credential:
    """The credential as an `Authorization` value, with the client's certificate if it showed one.

    headers: lower-case names. Raises AmbiguousCredentials.
    """
    authorization = _authorization(headers)
    certificate = headers.get(CERTIFICATE)
    return authorization if certificate is None else Certified(authorization, certificate)


def refuse_credentials_in(query: str) -> None:
    """Passes when the query of a URL holds no credential. Raises Unauthenticated."""
    prefix = PREFIX.decode()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name.lower() in _NAMES or prefix in value or prefix in name:
            raise Unauthenticated(_IN_URL)


def _authorization(headers: Mapping[bytes, bytes]) -> bytes | None:
    key = headers.get(API_KEY)
    if key is None:
        return headers.get(AUTHORIZATION)
    if AUTHORIZATION in headers:
        raise AmbiguousCredentials(_TWO)
    return SCHEME + key
