"""The database: the same promises on SQLite and on PostgreSQL."""

import sqlite3
import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, insert, select, text, update

from serving import audit, governance, registry
from serving.audit import tables as audit_tables
from serving.core.clock import ManualClock
from serving.errors import RegistryUnavailable, SchemaUnsupported, StartFailed
from serving.governance import tables as governance_tables
from serving.registry import tables as registry_tables
from serving.storage import migration
from serving.storage.database import FILE_NAME, MARKER_NAME, Database
from serving.storage.engines import open_sqlite
from serving.storage.schema import installation, metadata, operations
from serving.storage_settings import RegistrySettings

OWNERS = (audit, governance, registry, audit_tables, governance_tables, registry_tables)
"""Everything that puts tables into the metadata is imported."""


def note(connection: Connection, key: str) -> None:
    connection.execute(
        insert(operations).values(scope="", key=key, digest="", status=200, answer=b"", at_ns=0)
    )


def run(database: Database, statement: str) -> None:
    database.run(lambda connection: connection.execute(text(statement)))


def count(database: Database) -> int:
    query = select(func.count()).select_from(operations)
    return database.read(lambda connection: connection.execute(query).scalar_one())


def test_a_change_is_made_as_a_whole_or_not_at_all(database: Database) -> None:
    """An exception within the transaction leaves nothing of it."""

    def fail(connection: Connection) -> None:
        note(connection, "one")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        database.run(fail)
    database.run(lambda connection: note(connection, "two"))

    assert count(database) == 1


def test_writers_come_one_after_the_other(database: Database) -> None:
    """What a change has read is still so when it commits, however many write at once."""
    raised: list[BaseException] = []

    def grow() -> None:
        def change(connection: Connection) -> None:
            (seen,) = connection.execute(select(installation.c.created_ns)).one()
            connection.execute(update(installation).values(created_ns=seen + 1))

        try:
            for _ in range(5):
                database.run(change)
        except RegistryUnavailable as error:
            raised.append(error)

    before = database.read(lambda c: c.execute(select(installation.c.created_ns)).scalar_one())
    threads = [threading.Thread(target=grow) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    after = database.read(lambda c: c.execute(select(installation.c.created_ns)).scalar_one())
    assert (after - before, raised) == (20, [])


def test_migrations_make_what_the_metadata_says(database: Database) -> None:
    """The schema that migrations make and the one that queries use are the same."""
    differences = database.read(
        lambda c: compare_metadata(
            MigrationContext.configure(c, opts={"compare_type": True}), metadata
        )
    )

    assert differences == []


def test_opening_again_finds_the_same_installation(
    database: Database, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """The schema is made once; a restart changes nothing."""
    first = database.read(lambda c: c.execute(select(installation.c.id)).scalars().all())
    database.run(lambda connection: note(connection, "one"))

    again = Database.open(registry_settings, tmp_path)

    assert again.read(lambda c: c.execute(select(installation.c.id)).scalars().all()) == first
    assert (count(again), again.facts().revision) == (1, migration.newest())
    again.close()


def test_rg_15_a_newer_schema_is_refused(
    database: Database, registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """A database that a newer version has migrated is left alone, and the message says what to do."""
    run(database, "UPDATE alembic_version SET version_num = '9999'")

    with pytest.raises(SchemaUnsupported, match="upgrade serving"):
        Database.open(registry_settings, tmp_path)

    found = database.read(migration.current)
    assert found == "9999"


def test_rg_15_an_interrupted_migration_leaves_nothing(
    registry_settings: RegistrySettings, tmp_path: Path
) -> None:
    """What breaks in the middle of the steps leaves the schema as it was; the next start goes on."""
    database = Database.open(registry_settings, tmp_path)
    for table in reversed(metadata.sorted_tables):
        run(database, f'DROP TABLE "{table.name}"')
    run(database, "DELETE FROM alembic_version")
    # The first step can be made, the second finds that one of its tables is there already.
    run(database, "CREATE TABLE audit_events (id INTEGER)")

    with pytest.raises(RegistryUnavailable if not registry_settings.url else Exception):
        database.run(lambda connection: migration.upgrade(connection, now_ns=1))
    left = database.read(migration.current)
    run(database, "DROP TABLE audit_events")
    database.run(lambda connection: migration.upgrade(connection, now_ns=1))

    assert (left, database.read(migration.current)) == (None, migration.newest())
    database.close()


def test_rg_11_a_file_in_wal_mode_is_taken_out_of_it(tmp_path: Path) -> None:
    """Libraries before 3.51.3 lose commits in that mode: it is left, and that is stated."""
    Database.open(RegistrySettings(), tmp_path).close()
    other = sqlite3.connect(tmp_path / FILE_NAME)
    (mode,) = other.execute("PRAGMA journal_mode=WAL").fetchone()
    other.close()

    database = Database.open(RegistrySettings(), tmp_path)

    assert (mode, database.facts().journal) == ("wal", "delete")
    database.close()


def test_rg_11_wal_that_cannot_be_left_is_refused(tmp_path: Path) -> None:
    """While another process holds the file in that mode, it is not used."""
    Database.open(RegistrySettings(), tmp_path).close()
    other = sqlite3.connect(tmp_path / FILE_NAME)
    other.execute("PRAGMA journal_mode=WAL").fetchone()
    other.execute("BEGIN")
    other.execute("SELECT * FROM installation").fetchone()

    with pytest.raises(RegistryUnavailable):
        Database.open(RegistrySettings(timeout_s=0.1), tmp_path)

    other.close()


def test_rg_14_a_locked_file_is_waited_for_and_then_refused(tmp_path: Path) -> None:
    """A lock of another process costs `timeout_s` and no more; once it is gone all is well."""
    database = Database.open(RegistrySettings(timeout_s=0.2), tmp_path)
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")

    with pytest.raises(RegistryUnavailable):
        database.run(lambda connection: note(connection, "one"))
    other.execute("COMMIT")
    other.close()
    database.run(lambda connection: note(connection, "two"))

    assert count(database) == 1
    database.close()


def test_rg_14_a_deleted_file_is_not_replaced_by_an_empty_one(tmp_path: Path) -> None:
    """Nothing is committed into a file that is gone, nor into a new one; put back, it is used."""
    database = Database.open(RegistrySettings(timeout_s=0.2), tmp_path)
    file = tmp_path / FILE_NAME
    file.rename(tmp_path / "elsewhere")

    with pytest.raises(RegistryUnavailable):
        database.run(lambda connection: note(connection, "one"))
    was_made = file.exists()
    (tmp_path / "elsewhere").rename(file)
    database.run(lambda connection: note(connection, "two"))

    assert (was_made, count(database)) == (False, 1)
    database.close()


def test_rg_14_a_file_deleted_during_a_change_takes_no_commit(tmp_path: Path) -> None:
    """A change that was under way is refused, not lost in silence."""
    database = Database.open(RegistrySettings(timeout_s=0.2), tmp_path)

    def change(connection: Connection) -> None:
        note(connection, "one")
        (tmp_path / FILE_NAME).unlink()

    with pytest.raises(RegistryUnavailable, match="deleted"):
        database.run(change)
    database.close()


def test_rg_14_a_database_of_another_installation_is_refused(tmp_path: Path) -> None:
    """A file put in the place of ours is not written to; ours put back is."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    database = Database.open(RegistrySettings(timeout_s=0.2), tmp_path / "a")
    Database.open(RegistrySettings(), tmp_path / "b").close()
    ours, theirs = tmp_path / "a" / FILE_NAME, tmp_path / "b" / FILE_NAME
    ours.rename(tmp_path / "ours")
    theirs.rename(ours)

    with pytest.raises(RegistryUnavailable):
        database.run(lambda connection: note(connection, "one"))
    (tmp_path / "ours").rename(ours)
    database.run(lambda connection: note(connection, "two"))

    assert count(database) == 1
    database.close()


def test_a_start_without_the_file_that_was_there_is_refused(tmp_path: Path) -> None:
    """An installation whose registry is gone does not begin with an empty one by itself."""
    Database.open(RegistrySettings(), tmp_path).close()
    (tmp_path / FILE_NAME).unlink()

    with pytest.raises(StartFailed, match=MARKER_NAME):
        Database.open(RegistrySettings(), tmp_path)

    (tmp_path / MARKER_NAME).unlink()
    Database.open(RegistrySettings(), tmp_path).close()


def test_the_file_is_private(tmp_path: Path) -> None:
    """Only its owner can read the registry."""
    Database.open(RegistrySettings(), tmp_path).close()

    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_opening_makes_no_file_by_itself(tmp_path: Path) -> None:
    """A connection to a path where nothing lies fails, instead of making an empty database."""
    with pytest.raises(sqlite3.OperationalError):
        open_sqlite(tmp_path / "none", RegistrySettings())

    assert not (tmp_path / "none").exists()


def test_a_damaged_file_is_unavailable_not_a_traceback(tmp_path: Path) -> None:
    """A file that is no database is refused like one that is away."""
    database = Database.open(RegistrySettings(timeout_s=0.2), tmp_path, clock=ManualClock())
    (tmp_path / FILE_NAME).write_bytes(b"this is no database" * 1000)

    with pytest.raises(RegistryUnavailable):
        database.run(lambda connection: note(connection, "one"))
    database.close()
