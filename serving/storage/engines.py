"""How a connection to each kind of database is made, so that nothing waits for long or loses a commit.

SQLite: rollback journal and `synchronous=FULL`. Its write-ahead log is never used: libraries from
3.7.0 to 3.51.2, that of Debian 12 among them, can lose or corrupt commits with it as soon as there
are two connections. A file that was switched to it is switched back, or not used. The file is never
made by connecting, so that one that was deleted is not silently replaced by an empty one.

PostgreSQL: server and client both bound every wait, since a stopped server does not answer at all.
"""

import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import psycopg
from psycopg.abc import PQGen
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import QueuePool

from serving.errors import SettingInvalid
from serving.storage_settings import RegistrySettings
from serving.tls_settings import is_loopback

READING: Final = {"serving_reading": True}
"""Execution option of a connection that only reads."""

WRITERS_LOCK: Final = 0x73657276
"""Advisory lock that every writing transaction on PostgreSQL holds: one writer, as on SQLite."""

CLIENT_GRACE_S: Final = 1.0
"""How much later than the server the client gives up."""

Result = TypeVar("Result")


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server which says nothing, and closes itself then."""

    bound_s: float = 30.0

    def wait(
        self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None
    ) -> Result:
        """Raises OperationalError after `bound_s`."""
        del timeout
        try:
            return super().wait(gen, interval, timeout=self.bound_s)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == psycopg.pq.TransactionStatus.ACTIVE:
                self.pgconn.finish()  # What the server still does is nobody's any more.
            raise


def postgresql_engine(settings: RegistrySettings) -> Engine:
    """Connects when first used. Raises SettingInvalid for a host that would be spoken to openly."""
    _check_encrypted(settings.url)
    timeout_ms = round(settings.timeout_s * 1000)
    options = " ".join(
        f"-c {name}={timeout_ms}"
        for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    )

    def connect() -> BoundedConnection:
        secret = settings.password_file
        connection = BoundedConnection.connect(
            settings.url,
            password=None if secret is None else secret.read_text().strip(),
            application_name="serving",
            connect_timeout=max(2, math.ceil(settings.timeout_s)),
            options=options,
            # A server that became read-only is no registry; with several hosts the next is tried.
            target_session_attrs="read-write",
            keepalives_idle=10,
            tcp_user_timeout=timeout_ms,
        )
        connection.bound_s = settings.timeout_s + CLIENT_GRACE_S
        return connection

    engine = create_engine(
        "postgresql+psycopg://",
        creator=connect,
        pool_size=settings.connections,
        max_overflow=0,
        pool_timeout=settings.timeout_s,
        pool_pre_ping=True,
    )

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not _reads(connection):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITERS_LOCK})")

    return engine


def sqlite_engine(
    file: Path, settings: RegistrySettings, *, recognise: Callable[[sqlite3.Connection], None]
) -> Engine:
    """file: exists. recognise: raises when an opened file is not the database that it should be."""

    def connect() -> sqlite3.Connection:
        opened = open_sqlite(file, settings)
        try:
            recognise(opened)
        except BaseException:
            opened.close()
            raise
        return opened

    engine = create_engine(
        "sqlite+pysqlite://",
        creator=connect,
        poolclass=QueuePool,  # The URL names no file, and would get another one.
        pool_size=settings.connections,
        max_overflow=0,
        pool_timeout=settings.timeout_s,
    )

    @event.listens_for(engine, "connect")
    def _remember(_connection: object, record: Any) -> None:
        record.info["file"] = identity(file)

    @event.listens_for(engine, "checkout")
    def _check(_connection: object, record: Any, _proxy: object) -> None:
        if record.info["file"] != identity(file):
            raise DisconnectionError("the file was replaced")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if _reads(connection) else "BEGIN IMMEDIATE")

    return engine


def open_sqlite(
    file: Path, settings: RegistrySettings, *, create: bool = False
) -> sqlite3.Connection:
    """A connection in the one safe mode. Raises sqlite3.Error."""
    opened = sqlite3.connect(
        f"{file.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=settings.timeout_s,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        _leave_wal(opened)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF"):
            opened.execute(f"PRAGMA {pragma}")
    except BaseException:
        opened.close()
        raise
    return opened


def _check_encrypted(url: str) -> None:
    """Off this machine, how the connection is encrypted has to be said."""
    parts = urlsplit(url)
    hosts = [host.rpartition(":")[0] or host for host in parts.netloc.rpartition("@")[2].split(",")]
    if "sslmode=" in parts.query or all(not host or is_loopback(host) for host in hosts):
        return
    raise SettingInvalid(
        f"registry.url leads to {', '.join(hosts)}: add sslmode=verify-full&sslrootcert=FILE, so that "
        "nobody on the way reads or changes the registry, or say sslmode=disable where nobody can"
    )


def _leave_wal(opened: sqlite3.Connection) -> None:
    (mode,) = opened.execute("PRAGMA journal_mode=DELETE").fetchone()
    if mode != "delete":
        raise sqlite3.OperationalError(f"the database stays in journal mode {mode}")


def identity(file: Path) -> tuple[int, int] | None:
    """Names the file that lies at this path now; None for none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get("serving_reading"))
