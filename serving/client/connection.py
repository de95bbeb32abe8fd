"""One HTTP connection to the control port: orders that are carried out once, refusals as errors.

Every order carries an idempotency key of its own. When the answer does not come, or says that the
registry cannot be reached now, the same order is sent again under the same key, a few times: it is
carried out at most once, and the caller learns what became of it.
"""

import secrets
import ssl
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from serving import errors
from serving.core.clock import Clock, SystemClock
from serving.errors import NotReady, OrderRefused, RegistryUnavailable, ServingError

ATTEMPTS: Final = 4
MOST_WAIT_S: Final = 5.0

Answer = TypeVar("Answer")
Token = str | Callable[[], str]


class Problem(msgspec.Struct, frozen=True):
    """The one form of a refusal."""

    error: str
    code: str
    request_id: str = ""


class Connection:
    """Sends questions and orders. Raises the error that the answer names, and NotReady when there is
    no answer."""

    def __init__(
        self,
        url: str,
        *,
        token: Token,
        verify: ssl.SSLContext | bool = True,
        timeout_s: float = 30.0,
        attempts: int = ATTEMPTS,
        clock: Clock | None = None,
    ) -> None:
        """token: a token or API key, or what makes one for each call."""
        self._token = token
        self._attempts = attempts
        self._clock = clock or SystemClock()
        # Nothing of the environment stands between us and the control port.
        self._http = httpx.Client(base_url=url, verify=verify, timeout=timeout_s, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ask(self, path: str, kind: type[Answer], **query: str) -> Answer:
        """The answer to a question."""
        return msgspec.json.decode(self.fetch(path, **query), type=kind)

    def fetch(self, path: str, **query: str) -> bytes:
        """The same as bytes."""
        return self._send("GET", path, params=query)

    def order(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        body: object = None,
        if_revision: int | None = None,
        key: str = "",
    ) -> Answer:
        """Carried out once. key: the caller's own idempotency key; empty: one for this call."""
        headers = {"Idempotency-Key": key or secrets.token_hex(16)}
        if if_revision is not None:
            headers["If-Match"] = f'"{if_revision}"'
        content = None if body is None else msgspec.json.encode(body)
        answer = self._send(method, path, content=content, headers=headers)
        return msgspec.json.decode(answer, type=kind)

    def put_bytes(self, path: str, content: bytes) -> bytes:
        """Sends bytes as they are; sending them again must change nothing."""
        return self._send("PUT", path, content=content)

    def _send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        request = self._http.build_request(
            method, path, params=params, content=content, headers=headers
        )
        for attempt in range(1, self._attempts + 1):
            request.headers["Authorization"] = f"Bearer {self._credential()}"
            try:
                answer = self._http.send(request)
            except httpx.HTTPError as error:
                if attempt == self._attempts:
                    raise NotReady(f"{self._http.base_url} does not answer: {error}") from error
                self._clock.sleep(min(attempt / 10, MOST_WAIT_S))
                continue
            if answer.status_code == HTTPStatus.OK:
                return answer.content
            refused = _refusal(answer)
            if not isinstance(refused, RegistryUnavailable) or attempt == self._attempts:
                raise refused
            self._clock.sleep(_wait_s(answer))
        raise ValueError("attempts must be at least 1")

    def _credential(self) -> str:
        return self._token if isinstance(self._token, str) else self._token()


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def _wait_s(answer: httpx.Response) -> float:
    wait = answer.headers.get("Retry-After", "1")
    return min(float(wait), MOST_WAIT_S) if wait.isdigit() else 1.0


def _refusal(answer: httpx.Response) -> ServingError:
    try:
        problem = msgspec.json.decode(answer.content, type=Problem)
    except msgspec.DecodeError:
        return OrderRefused(f"the control port answered {answer.status_code}")
    kind = _KINDS.get(problem.code)
    return (
        OrderRefused(f"{problem.error} ({problem.code})") if kind is None else kind(problem.error)
    )


def _kinds() -> dict[str, Any]:
    """From a code to the error that has it; those that need more than a message are left out."""
    found = [each for each in vars(errors).values() if isinstance(each, type)]
    return {
        each.code: each
        for each in found
        if issubclass(each, ServingError) and each.__init__ is ServingError.__init__
    }


_KINDS: Final = _kinds()
