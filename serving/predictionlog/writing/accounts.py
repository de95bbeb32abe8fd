"""The accounts of one writer's start: what became of every admitted request, kept through a kill.

    admitted = answered + refused + failed + in flight
    answered = recorded + declared lost + not yet settled

admitted: got a prediction id, copies for candidates included. answered: the answer left (of a copy:
it was there and recorded). refused: could not be recorded and was told so. failed: ended in another
way, and that is recorded. Only versions recorded as `best_effort` ever have anything unsettled or lost.

Figures are integers in the event loop, written once per frame to a mapped file beside the log; a killed
process leaves them with the kernel. Where an answer leaves before its record is safe, the frame's first
sequence stands in the file until the log has said what came of it: the next start looks just these up
(`settling`). A frame is one append, so all its records are in the log, or none is.

    <log directory>/accounts-<log id>.live   while the writer runs, and after a crash
    <log directory>/accounts.jsonl           a line for each start that ended

FILE, integers little-endian: magic 8, log id 8, started 8 (nanoseconds since 1970), first sequence 8;
at 64 admitted, answered, refused, failed, recorded, lost, declared, 8 each. At 4096 64 versions of 192:
2 length of the name, 118 `model@version`, 8 lost, 8 declared, 16 earliest and latest arrival of what
is lost and not declared, 40 last reason. At 16384 4096 tickets of 32: 8 sequence, 8 arrival,
4 requests, 4 number of the version from 1 on (0: the ticket is free), 8 zeros.
"""

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from serving.predictionlog.losses import Loss
from serving.trust.privatefiles import replace_private

HISTORY: Final = "accounts.jsonl"
LIVE_PATTERN: Final = "accounts-*.live"
MAGIC: Final = b"PLOGACC1"
HEADER: Final = struct.Struct("<8s8sqQ")
COUNTERS: Final = struct.Struct("<7Q")
COUNTERS_AT: Final = 64
VERSION: Final = struct.Struct("<H118sQQqq40s")
VERSIONS_AT: Final = 4096
MAX_VERSIONS: Final = 64
TICKET: Final = struct.Struct("<QqII8x")
TICKETS_AT: Final = 16_384
MAX_TICKETS: Final = 4096
FILE_BYTES: Final = TICKETS_AT + MAX_TICKETS * TICKET.size
_OTHERS: Final = "*@*"
"""The last version of the file stands for all that have no place of their own."""


class Lent(Protocol):
    """An answered request whose record is on its way; the gateway's calls fit by shape."""

    @property
    def sequence(self) -> int: ...
    @property
    def time_ns(self) -> int: ...


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one start. ended: when it was closed or settled, 0 while it runs; crashed: it did
    not end by itself."""

    log_id: str
    started_ns: int
    first_sequence: int
    admitted: int
    answered: int
    refused: int
    failed: int
    recorded: int
    lost: int
    declared: int
    ended_ns: int = 0
    crashed: bool = False

    @property
    def unsettled(self) -> int:
        """Answered, and neither recorded nor lost as far as is known."""
        return self.answered - self.recorded - self.lost

    @property
    def open(self) -> int:
        """Admitted and without an end: in flight, or given up with the process."""
        return self.admitted - self.answered - self.refused - self.failed


@dataclass(slots=True)
class _Version:
    """What a version lost. since_ns, until_ns: of what is not declared yet."""

    name: str
    lost: int = 0
    declared: int = 0
    since_ns: int = 0
    until_ns: int = 0
    reason: str = ""

    def lose(self, ticket: "Ticket", reason: str) -> None:
        fresh = self.lost == self.declared
        self.since_ns = ticket.arrival_ns if fresh else min(self.since_ns, ticket.arrival_ns)
        self.until_ns = ticket.arrival_ns if fresh else max(self.until_ns, ticket.arrival_ns)
        self.lost += ticket.count
        self.reason = reason

    def packed(self) -> bytes:
        name = self.name.encode()[:118]
        return VERSION.pack(
            len(name), name, self.lost, self.declared, self.since_ns, self.until_ns,
            self.reason.encode()[:40],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ticket:
    """A frame of answers that are out without a record. sequence: its first request's."""

    sequence: int
    arrival_ns: int
    count: int
    version: int


class Accounts:
    """Counts. In memory until it is `open`ed; for one event loop."""

    def __init__(self) -> None:
        self.answered = self.refused = self.failed = self.recorded = 0
        self.lost = self.declared = 0
        self.events = 0
        """Sequences given to what is no request."""
        self._sequence: Callable[[], int] = int
        self._memory: mmap.mmap | bytearray = bytearray(FILE_BYTES)
        self._path: Path | None = None
        self._head = ("", 0, 0)
        self._versions: list[_Version] = []
        self._numbers: dict[str, int] = {}
        self._tickets: dict[int, Ticket] = {}
        self._free = list(range(MAX_TICKETS - 1, -1, -1))

    def open(
        self, directory: Path, *, log_id: str, sequence: Callable[[], int], now_ns: int
    ) -> None:
        """Keeps the figures in a file from here on. sequence: the last one given. Raises OSError."""
        self._sequence = sequence
        self._head = (log_id, now_ns, sequence() + 1)
        self._path = directory / f"accounts-{log_id}.live"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, FILE_BYTES)
            self._memory = mmap.mmap(descriptor, FILE_BYTES)
        finally:
            os.close(descriptor)
        HEADER.pack_into(self._memory, 0, MAGIC, bytes.fromhex(log_id), now_ns, self._head[2])

    def answer(self, count: int, *, recorded: bool) -> None:
        """So many answers leave now. recorded: their records are in the log."""
        self.answered += count
        if recorded:
            self.recorded += count
        self.publish()

    def publish(self) -> None:
        COUNTERS.pack_into(
            self._memory, COUNTERS_AT, self.admitted, self.answered, self.refused, self.failed,
            self.recorded, self.lost, self.declared,
        )  # fmt: skip

    @property
    def admitted(self) -> int:
        return self._sequence() - self._head[2] + 1 - self.events if self._path else 0

    # -- answers that do not wait for their records ----------------------------------------------

    def lend(self, version: str, calls: Sequence[Lent]) -> int | None:
        """A ticket for answers that are to leave; None while there are too many."""
        if not self._free:
            return None
        number = self._numbers.get(version) or self._number(version)
        index = self._free.pop()
        ticket = Ticket(calls[0].sequence, calls[0].time_ns, len(calls), number)
        self._tickets[index] = ticket
        self._write(index, ticket)
        return index

    def settle(self, index: int, reason: str = "") -> None:
        """The frame is recorded, or lost for this reason."""
        ticket = self._tickets.pop(index)
        if reason:
            self._lose(ticket, reason)
        else:
            self.recorded += ticket.count
        TICKET.pack_into(self._memory, TICKETS_AT + index * TICKET.size, 0, 0, 0, 0)
        self._free.append(index)
        self.publish()

    def lose(self, version: str, calls: Sequence[Lent], reason: str) -> None:
        """The answers leave although they cannot be recorded."""
        number = self._numbers.get(version) or self._number(version)
        self._lose(Ticket(calls[0].sequence, calls[0].time_ns, len(calls), number), reason)
        self.publish()

    def undeclared(self, now_ns: int) -> list[Loss]:
        """What has to be declared, one for each version."""
        log_id = self._head[0]
        return [
            _loss(each, log_id=log_id, now_ns=now_ns)
            for each in self._versions
            if each.lost > each.declared
        ]

    def declare(self, loss: Loss) -> None:
        """The loss is in the log."""
        number = self._numbers[f"{loss.model}@{loss.version}"]
        version = self._versions[number - 1]
        self.declared += loss.total - version.declared
        version.declared = loss.total
        self._write_version(number)
        self.publish()

    # -- the end ---------------------------------------------------------------------------------

    def account(self) -> Account:
        log_id, started_ns, first = self._head
        return Account(
            log_id=log_id, started_ns=started_ns, first_sequence=first, admitted=self.admitted,
            answered=self.answered, refused=self.refused, failed=self.failed,
            recorded=self.recorded, lost=self.lost, declared=self.declared,
        )  # fmt: skip

    def close(self, now_ns: int) -> None:
        """Puts the figures into the history. Raises OSError."""
        if self._path is None or not isinstance(self._memory, mmap.mmap):
            return
        self.publish()
        if self._tickets:
            self._memory.close()
            return  # As after a crash: the next start finds out what became of them.
        append_history(self._path.parent, msgspec.structs.replace(self.account(), ended_ns=now_ns))
        self._memory.close()
        self._path.unlink()

    # -- the file --------------------------------------------------------------------------------

    def _number(self, version: str) -> int:
        if len(self._versions) >= MAX_VERSIONS - 1:
            version = _OTHERS
            if version in self._numbers:
                return self._numbers[version]
        self._versions.append(_Version(version))
        number = self._numbers[version] = len(self._versions)
        self._write_version(number)
        return number

    def _lose(self, ticket: Ticket, reason: str) -> None:
        self._versions[ticket.version - 1].lose(ticket, reason)
        self.lost += ticket.count
        self._write_version(ticket.version)

    def _write(self, index: int, ticket: Ticket) -> None:
        TICKET.pack_into(
            self._memory, TICKETS_AT + index * TICKET.size, ticket.sequence, ticket.arrival_ns,
            ticket.count, ticket.version,
        )  # fmt: skip

    def _write_version(self, number: int) -> None:
        at = VERSIONS_AT + (number - 1) * VERSION.size
        self._memory[at : at + VERSION.size] = self._versions[number - 1].packed()


@dataclass(slots=True)
class LeftAccounts:
    """What a writer that was killed, or one that still runs, left in its file."""

    account: Account
    tickets: list[Ticket]
    versions: list[_Version]

    @classmethod
    def read(cls, path: Path) -> "LeftAccounts | None":
        """None when the file was never whole. Raises OSError."""
        content = path.read_bytes()
        if len(content) != FILE_BYTES or not content.startswith(MAGIC):
            return None
        _, log_id, started_ns, first = HEADER.unpack_from(content)
        figures = dict(
            zip(
                ("admitted", "answered", "refused", "failed", "recorded", "lost", "declared"),
                COUNTERS.unpack_from(content, COUNTERS_AT),
                strict=True,
            )
        )
        account = Account(
            log_id=log_id.hex(), started_ns=started_ns, first_sequence=first, **figures
        )
        places = range(TICKETS_AT, FILE_BYTES, TICKET.size)
        tickets = [Ticket(*TICKET.unpack_from(content, at)) for at in places]
        return cls(account, [each for each in tickets if each.version], _versions(content))

    def settle(self, recorded: set[int], *, declared: int, now_ns: int) -> list[Loss]:
        """recorded: sequences of tickets that the log holds. What is left to declare.

        declared: how many the log says already that this writer lost.
        """
        found = 0
        for ticket in self.tickets:
            if ticket.sequence in recorded:
                found += ticket.count
            else:
                self.versions[ticket.version - 1].lose(ticket, "crash")
        lost = sum(each.lost for each in self.versions)
        self.account = msgspec.structs.replace(
            self.account,
            recorded=self.account.recorded + found,
            lost=lost,
            declared=lost,
            ended_ns=now_ns,
            crashed=True,
        )
        if declared >= lost:
            return []
        left = [each for each in self.versions if each.lost > each.declared]
        return [_loss(each, log_id=self.account.log_id, now_ns=now_ns) for each in left]


def _versions(content: bytes) -> list[_Version]:
    found = []
    for at in range(VERSIONS_AT, TICKETS_AT, VERSION.size):
        length, name, lost, declared, since_ns, until_ns, reason = VERSION.unpack_from(content, at)
        if length:
            text = reason.rstrip(b"\0").decode()
            found.append(_Version(name[:length].decode(), lost, declared, since_ns, until_ns, text))
    return found


def _loss(version: _Version, *, log_id: str, now_ns: int) -> Loss:
    model, _, name = version.name.partition("@")
    return Loss(
        log_id, model, name, version.lost - version.declared, version.lost, version.since_ns,
        version.until_ns, version.reason, now_ns,
    )  # fmt: skip


def append_history(directory: Path, account: Account) -> None:
    """Whole or not at all, and on disk on return. Raises OSError."""
    path = directory / HISTORY
    before = path.read_bytes() if path.exists() else b""
    replace_private(path, before + msgspec.json.encode(account) + b"\n")


def read_history(directory: Path) -> list[Account]:
    """Raises OSError; a line that is none of ours is a msgspec.DecodeError."""
    path = directory / HISTORY
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Account) for line in path.read_bytes().splitlines()]
