"""A file of outcomes, sent to the inference port piece by piece, so that it can be gone on with.

What was taken is noted beside the file after each piece: `FILE.imported`. Sending a piece twice, as
happens when the process ends between the two, changes nothing, because reports are idempotent.
"""

import itertools
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx
import msgspec

from serving.core.clock import Clock
from serving.errors import NotReady, OrderRefused
from serving.ledger.reports import Report, reports_in

CHUNK: Final = 500
TRIES: Final = 8
_WAITING: Final = (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS)


class _Note(msgspec.Struct, frozen=True):
    """How far an import of a file came; bytes and modified_ns tell whether it is still that file."""

    model: str
    bytes: int
    modified_ns: int
    sent: int


class OutcomeImport:
    """Sends the reports of one file. sent: those that are recorded, also by an earlier run."""

    def __init__(self, path: Path, *, model: str, client: httpx.Client, clock: Clock) -> None:
        """client: has the inference port as its base and a credential."""
        self.sent = 0
        self._path = path
        self._note = path.with_name(f"{path.name}.imported")
        self._model = model
        self._client = client
        self._clock = clock

    def resume(self) -> int:
        """Skips what an earlier import of this file has sent; how many reports that is."""
        try:
            note = msgspec.json.decode(self._note.read_bytes(), type=_Note)
        except (FileNotFoundError, msgspec.MsgspecError):
            return 0
        if note == self._noted(note.sent):
            self.sent = note.sent
        return self.sent

    def run(self, advanced: Callable[[int], None]) -> None:
        """Returns once everything is recorded. advanced: told of `sent` after each piece.

        Raises OutcomeInvalid, OrderRefused (with the port's reason), NotReady, OSError.
        """
        reports = itertools.islice(reports_in(self._path), self.sent, None)
        for chunk in _chunks(reports):
            self._send(chunk)
            self.sent += len(chunk)
            self._note.write_bytes(msgspec.json.encode(self._noted(self.sent)))
            advanced(self.sent)
        self._note.unlink(missing_ok=True)

    def _noted(self, sent: int) -> _Note:
        status = self._path.stat()
        return _Note(self._model, status.st_size, status.st_mtime_ns, sent)

    def _send(self, chunk: list[Report]) -> None:
        path, content = (
            f"/v2/models/{quote(self._model, safe='')}/outcomes",
            msgspec.json.encode(chunk),
        )
        for last in (*[False] * (TRIES - 1), True):
            try:
                answer = self._client.post(path, content=content)
            except httpx.HTTPError as error:
                if last:
                    raise NotReady(f"the inference port does not answer: {error}") from error
                self._clock.sleep(1.0)
                continue
            if answer.status_code == HTTPStatus.OK:
                return
            if last or answer.status_code not in _WAITING:
                first = self.sent + 1
                raise OrderRefused(
                    f"reports {first} to {self.sent + len(chunk)} were refused: {_reason(answer)}"
                )
            self._clock.sleep(float(answer.headers.get("retry-after", "1")))


def _chunks(reports: Iterator[Report]) -> Iterator[list[Report]]:
    while chunk := list(itertools.islice(reports, CHUNK)):
        yield chunk


def _reason(answer: httpx.Response) -> str:
    try:
        problem = msgspec.json.decode(answer.content, type=dict[str, Any])
    except msgspec.DecodeError:
        return f"status {answer.status_code}"
    return f"{problem.get('error')} ({problem.get('code')})"
