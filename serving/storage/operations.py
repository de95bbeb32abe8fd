"""Changes that may be asked for twice: made once, answered twice the same.

A change and its answer are committed together under the caller's key. Who asks again with the same
key and the same order is given the stored answer; another order under that key is refused. So a
caller who never heard the answer, because the connection broke or the database died between the
commit and its confirmation, learns what became of it by asking again; `perform` asks once itself.
Keys belong to whoever uses them (`scope`): nobody reads another's answers. They are kept for a week.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from serving.core.clock import Clock
from serving.errors import KeyReused, ParameterInvalid, RegistryUnavailable
from serving.storage.database import Database
from serving.storage.schema import operations

KEPT_NS: Final = 7 * 24 * 3600 * 10**9
MAX_KEY_LENGTH: Final = 255


@dataclass(frozen=True, slots=True)
class Operation:
    """One order of one caller. key: empty when the caller gave none. digest: SHA-256 of the order."""

    scope: str
    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is answered, and whether it is the answer of an earlier time."""

    status: int
    answer: bytes
    repeated: bool = False


def operation(scope: str, key: str, *order: bytes) -> Operation:
    """order: everything that makes it this order: method, path, body. Raises ParameterInvalid."""
    if len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise ParameterInvalid(
            f"Idempotency-Key must be at most {MAX_KEY_LENGTH} printable characters"
        )
    digest = sha256()
    for part in order:
        digest.update(len(part).to_bytes(8, "little") + part)
    return Operation(scope, key, digest.hexdigest())


class Operations:
    """Makes changes, each as one transaction."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def perform(
        self, wanted: Operation, change: Callable[[Connection], bytes], *, status: int = 200
    ) -> Outcome:
        """`change` in a transaction, once per key; its value is the answer.

        Raises what `change` raises (then nothing was stored), KeyReused, RegistryUnavailable.
        """

        def once(connection: Connection) -> Outcome:
            stored = _stored(connection, wanted)
            if stored is not None:
                return stored
            outcome = Outcome(status, change(connection))
            if wanted.key:
                self._store(connection, wanted, outcome)
            return outcome

        try:
            return self._database.run(once)
        except RegistryUnavailable:
            found = self._found(wanted) if wanted.key else None
            if found is None:
                raise
            return found

    def _found(self, wanted: Operation) -> Outcome | None:
        """What became of it, if the database answers."""
        try:
            return self._database.read(lambda connection: _stored(connection, wanted))
        except RegistryUnavailable:
            return None

    def _store(self, connection: Connection, wanted: Operation, outcome: Outcome) -> None:
        now_ns = self._clock.wall_ns()
        connection.execute(delete(operations).where(operations.c.at_ns < now_ns - KEPT_NS))
        connection.execute(
            insert(operations).values(
                scope=wanted.scope,
                key=wanted.key,
                digest=wanted.digest,
                status=outcome.status,
                answer=outcome.answer,
                at_ns=now_ns,
            )
        )


def _stored(connection: Connection, wanted: Operation) -> Outcome | None:
    if not wanted.key:
        return None
    row = connection.execute(
        select(operations.c.digest, operations.c.status, operations.c.answer).where(
            operations.c.scope == wanted.scope, operations.c.key == wanted.key
        )
    ).one_or_none()
    if row is None:
        return None
    if row.digest != wanted.digest:
        raise KeyReused("this Idempotency-Key was used for another order; choose a new one")
    return Outcome(row.status, row.answer, repeated=True)
