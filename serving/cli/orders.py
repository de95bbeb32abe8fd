"""Asks the control port of the instance on a data directory, as whoever may read that directory."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
import msgspec

from serving.access.operators import operator_token
from serving.access.ownports import trust_in, url_of
from serving.app.directory import DataDirectory
from serving.cli.options import running
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import NotReady, OrderRefused

TIMEOUT_S = 10.0

Answer = TypeVar("Answer")


class ControlClient:
    """One short-lived client of the control port. Raises NotReady when nothing runs."""

    def __init__(
        self, directory: DataDirectory, *, role: Role = Role.ADMIN, token: str = ""
    ) -> None:
        """role: in which it asks. token: somebody's own, instead of that of this machine's user."""
        self._port = running(directory).control
        self._url = url_of(self._port)
        self._token = token or operator_token(directory.keys, SystemClock(), role=role)

    def get(self, path: str, kind: type[Answer], **query: str) -> Answer:
        """Raises OrderRefused or NotReady."""
        return msgspec.json.decode(self._ask("GET", path, params=query), type=kind)

    def post(self, path: str, order: object, kind: type[Answer]) -> Answer:
        """Raises OrderRefused or NotReady."""
        content = self._ask("POST", path, content=msgspec.json.encode(order))
        return msgspec.json.decode(content, type=kind)

    def put(self, path: str, order: object, kind: type[Answer]) -> Answer:
        """Raises OrderRefused or NotReady."""
        content = self._ask("PUT", path, content=msgspec.json.encode(order))
        return msgspec.json.decode(content, type=kind)

    def delete(self, path: str) -> None:
        """Raises OrderRefused or NotReady."""
        self._ask("DELETE", path)

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> bytes:
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            # No proxy of the environment stands between us and our own port.
            with httpx.Client(
                base_url=self._url,
                headers=headers,
                trust_env=False,
                timeout=TIMEOUT_S,
                verify=trust_in(self._port),
            ) as client:
                answer = client.request(method, path, params=params, content=content)
        except (httpx.HTTPError, OSError) as error:
            raise NotReady(f"the control port {self._url} does not answer: {error}") from error
        if answer.status_code != HTTPStatus.OK:
            raise OrderRefused(f"the control port refused: {_reason(answer)}")
        return answer.content


def _reason(answer: httpx.Response) -> str:
    try:
        problem: dict[str, Any] = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        return f"status {answer.status_code}"
    return f"{problem.get('error')} ({problem.get('code')})"
