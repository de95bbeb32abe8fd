"""Words that take consent back, kept outside the database too.

Whoever can write to the database can delete the row that says "withdrawn" or "rejected", and the
approval beside it would count again. So the same signed envelope is appended to a file of the data
directory, and synced, before the transaction with the row commits; the guard counts both. What is in
the file and in no row, because the transaction failed or somebody deleted it, counts all the same: in
doubt a version does not serve. Only the control process writes the file.
"""

import os
from collections import defaultdict
from pathlib import Path

import msgspec

from serving.artifacts.statements import Approval
from serving.errors import RegistryUnavailable


class _Line(msgspec.Struct, frozen=True):
    model: str
    version: str
    envelope: str


class Refusals:
    """See the module docstring. For one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: defaultdict[tuple[str, str], list[str]] | None = None

    def keep(self, approval: Approval, envelope: str) -> None:
        """On disk when it returns. Raises RegistryUnavailable."""
        known = self._load()
        line = msgspec.json.encode(_Line(approval.model, approval.version, envelope)) + b"\n"
        try:
            self._append(line)
        except OSError as error:
            raise RegistryUnavailable(
                f"what takes an approval back cannot be kept: {error.strerror}"
            ) from error
        known[approval.model, approval.version].append(envelope)

    def about(self, model: str, version: str) -> tuple[str, ...]:
        """The envelopes about one version, oldest first. Raises RegistryUnavailable."""
        return tuple(self._load().get((model, version), ()))

    def _append(self, line: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path, flags, 0o600)
        try:
            # After a crash in the middle of a line the next one begins on its own.
            whole = b"\n" + line if self._is_torn() else line
            if os.write(descriptor, whole) != len(whole):
                raise OSError(0, "the disk took only a part")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _is_torn(self) -> bool:
        content = self._path.read_bytes()
        return bool(content) and not content.endswith(b"\n")

    def _load(self) -> defaultdict[tuple[str, str], list[str]]:
        if self._known is None:
            self._known = defaultdict(list)
            for line in self._lines():
                self._known[line.model, line.version].append(line.envelope)
        return self._known

    def _lines(self) -> list[_Line]:
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RegistryUnavailable(
                f"what takes approvals back cannot be read: {error.strerror}"
            ) from error
        found = []
        for line in content.splitlines():
            try:
                found.append(msgspec.json.decode(line, type=_Line))
            except msgspec.DecodeError:
                # The end of a crash: what it began was never committed.
                continue
        return found
