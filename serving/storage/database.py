"""The database of the control plane: SQLite or PostgreSQL behind the same few words.

Writers come one after the other on both, so a change that read something can rely on it until it is
committed; the audit trail, which is a chain, needs that anyway. A reader sees one consistent state.

Whatever makes the database unusable (gone, stopped, full, locked, read-only, deleted, replaced) is
`RegistryUnavailable` after a bounded time, and works again when the database does. A change that was
refused with it was either made as a whole or not at all: `storage.operations` finds out which.
"""

import contextlib
import random
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
import structlog
from sqlalchemy import Connection, Engine, exc

from serving.core.clock import Clock, SystemClock
from serving.errors import RegistryUnavailable, StartFailed
from serving.storage import migration
from serving.storage.engines import (
    READING,
    identity,
    open_sqlite,
    postgresql_engine,
    sqlite_engine,
)
from serving.storage_settings import RegistrySettings

logger = structlog.get_logger()

FILE_NAME: Final = "registry.sqlite"
MARKER_NAME: Final = "registry.id"
"""Names the installation that a SQLite file must belong to."""

ATTEMPTS: Final = 5
RETRY_S: Final = 0.02
AGAIN: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs after which the same transaction may succeed: serialization failure, deadlock."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """What an operator wants to know. journal: of SQLite, always `delete`; empty for others."""

    kind: str
    version: str
    journal: str
    revision: str


class Database:
    """One database. Safe to use from several threads."""

    def __init__(self, engine: Engine, *, clock: Clock, file: Path | None = None) -> None:
        """file: of SQLite. Use `open`."""
        self._engine = engine
        self._clock = clock
        self._file = file

    @classmethod
    def open(
        cls, settings: RegistrySettings, data_dir: Path, *, clock: Clock | None = None
    ) -> "Database":
        """With its schema brought up to date.

        Raises RegistryUnavailable when it cannot be reached, SchemaUnsupported when a newer version
        of the product has used it, StartFailed when its file is gone or another installation's.
        """
        clock = clock or SystemClock()
        if settings.url:
            database = cls(postgresql_engine(settings), clock=clock)
        else:
            file, marker = data_dir / FILE_NAME, data_dir / MARKER_NAME
            _make_file(file, marker, settings)
            engine = sqlite_engine(file, settings, recognise=lambda c: _recognise(c, file, marker))
            database = cls(engine, clock=clock, file=file)
        try:
            installation = database.run(lambda c: migration.upgrade(c, now_ns=clock.wall_ns()))
        except BaseException:
            database.close()
            raise
        if not settings.url:
            (data_dir / MARKER_NAME).write_text(installation)
        logger.info("registry database opened", **asdict(database.facts()))
        return database

    @classmethod
    def existing(cls, settings: RegistrySettings, file: Path, *, clock: Clock) -> "Database":
        """As it is, for reading: nothing is made or brought up to date. file: of SQLite."""
        if settings.url:
            return cls(postgresql_engine(settings), clock=clock)
        return cls(sqlite_engine(file, settings, recognise=lambda _: None), clock=clock, file=file)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Connection]:
        """For changes: committed at the end, rolled back by any exception; one writer at a time.

        Raises RegistryUnavailable.
        """
        with self._translated(), self._engine.connect() as connection, connection.begin():
            yield connection
            self._check_file()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """For questions: one state, whatever is written meanwhile. Raises RegistryUnavailable."""
        with self._translated(), self._engine.connect() as connection:
            connection.execution_options(**READING, **self._snapshot())
            with connection.begin():
                yield connection

    def run(self, change: Callable[[Connection], Result]) -> Result:
        """`change` in a transaction, again when the database asks for it: it must not do anything
        else. Raises RegistryUnavailable."""
        for _ in range(ATTEMPTS - 1):
            try:
                with self.transaction() as connection:
                    return change(connection)
            except RegistryUnavailable as error:
                if not _is_worth_repeating(error):
                    raise
                self._clock.sleep(RETRY_S * (1 + random.random()))  # noqa: S311 - no secret
        with self.transaction() as connection:
            return change(connection)

    def read(self, question: Callable[[Connection], Result]) -> Result:
        """The answer to a question. Raises RegistryUnavailable."""
        with self.reading() as connection:
            return question(connection)

    def facts(self) -> DatabaseFacts:
        """Raises RegistryUnavailable."""
        revision = self.read(migration.current) or ""
        if self._file is not None:
            journal = self.read(lambda c: c.exec_driver_sql("PRAGMA journal_mode").scalar_one())
            return DatabaseFacts("sqlite", sqlite3.sqlite_version, str(journal), revision)
        version = self.read(lambda c: c.exec_driver_sql("SHOW server_version").scalar_one())
        return DatabaseFacts("postgresql", str(version), "", revision)

    def close(self) -> None:
        self._engine.dispose()

    # -- inside ----------------------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Any]:
        return {} if self._file is not None else {"isolation_level": "REPEATABLE READ"}

    def _check_file(self) -> None:
        """A commit into a file that nobody will find again is none."""
        if self._file is not None and identity(self._file) is None:
            raise RegistryUnavailable("the database file was deleted; nothing was changed")

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (exc.IntegrityError, exc.ProgrammingError, exc.DataError):
            raise  # Of our own making, not the database's.
        except (exc.DBAPIError, exc.TimeoutError, exc.DisconnectionError, sqlite3.Error) as error:
            logger.warning("the database cannot be used", error=str(error).splitlines()[0])
            raise RegistryUnavailable(
                "the registry's database cannot be used now; the change may have been made: repeat "
                "it with the same Idempotency-Key to find out"
            ) from error
        except (exc.InvalidRequestError, OSError) as error:
            logger.warning("the database cannot be used", error=str(error).splitlines()[0])
            raise RegistryUnavailable("the registry's database cannot be used now") from error


def _is_worth_repeating(error: RegistryUnavailable) -> bool:
    cause = error.__cause__
    origin = cause.orig if isinstance(cause, exc.DBAPIError) else None
    return isinstance(origin, psycopg.Error) and origin.sqlstate in AGAIN


def _make_file(file: Path, marker: Path, settings: RegistrySettings) -> None:
    """An empty database where there was none. Raises StartFailed, RegistryUnavailable."""
    if not file.exists() and marker.exists():
        raise StartFailed(
            f"the registry's database {file} is gone, though this installation had one; put it back "
            f"from a backup, or remove {marker} to begin with an empty registry"
        )
    try:
        open_sqlite(file, settings, create=True).close()
        file.chmod(0o600)
    except (OSError, sqlite3.Error) as error:
        raise RegistryUnavailable(f"the database {file} cannot be opened: {error}") from error


def _recognise(opened: sqlite3.Connection, file: Path, marker: Path) -> None:
    """Raises sqlite3.OperationalError for a database of another installation."""
    if not marker.exists():
        return  # It is just being made.
    row = opened.execute("SELECT id FROM installation").fetchone()
    if row is None or row[0] != marker.read_text():
        raise sqlite3.OperationalError(f"{file} belongs to another installation")
