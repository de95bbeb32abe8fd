"""The registry's database goes away, hangs, fills up or dies at the worst moment, and comes back."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from serving.core.clock import SystemClock
from serving.errors import RegistryUnavailable
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.databases import DEBIAN, CommitCut, Postgres, postgres
from tests.registries import RegistryStand

pytestmark = pytest.mark.faults

MODEL = {"name": "fraud", "facts": {"owner": "ada"}}
BOUND_S = 8.0
"""Twice what one attempt may take with a `timeout_s` of 2, and some for a busy machine."""


@pytest.fixture
def server(postgres_server: Postgres) -> Iterator[Postgres]:
    """The session's server, running again when the test is over, whatever was done to it."""
    yield postgres_server
    if postgres_server.process is None:
        postgres_server.start()
    postgres_server.thaw()


@pytest.fixture
def stand(server: Postgres, tmp_path: Path) -> Iterator[RegistryStand]:
    database = Database.open(server.database(), tmp_path)
    yield RegistryStand(database)
    database.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for the name of a socket."""
    with tempfile.TemporaryDirectory(prefix="cut-") as name:
        yield Path(name)


def refused_within_bounds(stand: RegistryStand) -> None:
    """Both a question and an order are refused, in a bounded time."""
    clock = SystemClock()
    start_ns = clock.monotonic_ns()
    with pytest.raises(RegistryUnavailable):
        stand.ask("search")
    with pytest.raises(RegistryUnavailable):
        stand.order("register_model", MODEL, key="k")
    assert (clock.monotonic_ns() - start_ns) / 1e9 < 2 * BOUND_S


def serves_again(stand: RegistryStand) -> None:
    """The same order as before, under the same key, is carried out once."""
    stand.order("register_model", MODEL, key="k")
    assert stand.order("register_model", MODEL, key="k").repeated
    assert stand.events() == ["model:registered"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_rg_12_killed_around_the_commit(
    server: Postgres, tmp_path: Path, folder: Path, when: str
) -> None:
    """Whether the commit was made is found out by the idempotency key, and it is made once."""
    direct = server.database()
    cut = CommitCut(server, folder)
    database = Database.open(cut.settings(direct), tmp_path)
    stand = RegistryStand(database)

    cut.arm(when)
    with pytest.raises(RegistryUnavailable, match="Idempotency-Key"):
        stand.order("register_model", MODEL, key="k")
    server.start()
    again = stand.order("register_model", MODEL, key="k")

    assert again.repeated == (when == "after")
    assert stand.events() == ["model:registered"]
    database.close()
    cut.close()


def test_rg_13_a_stopped_server_is_503_until_it_is_back(
    stand: RegistryStand, server: Postgres
) -> None:
    """Gone and back: refused at once meanwhile, as good as before afterwards."""
    server.stop()
    refused_within_bounds(stand)
    server.start()

    serves_again(stand)


def test_rg_13_a_killed_server_loses_nothing_that_was_answered(
    stand: RegistryStand, server: Postgres
) -> None:
    """What was acknowledged before is there afterwards."""
    stand.model("first")
    server.stop(signal.SIGKILL)
    refused_within_bounds(stand)
    server.start()

    serves_again(stand)
    assert [each["name"] for each in stand.ask("search")["models"]] == ["first", "fraud"]


def test_rg_13_a_server_that_hangs_is_given_up(stand: RegistryStand, server: Postgres) -> None:
    """It accepts connections and answers nothing: every wait ends, and nothing is half done."""
    server.freeze()
    refused_within_bounds(stand)
    server.thaw()

    serves_again(stand)


def test_rg_13_at_the_connection_limit(stand: RegistryStand, server: Postgres) -> None:
    """While others hold every connection the registry is away; when they let go it is back."""
    stand.database.close()  # Its own idle connection would be good enough.
    held: list[psycopg.Connection] = []
    with pytest.raises(psycopg.OperationalError):
        hold_all(server, held)
    refused_within_bounds(stand)
    for connection in held:
        connection.close()

    serves_again(stand)


def hold_all(server: Postgres, held: list[psycopg.Connection]) -> None:
    while True:
        held.append(psycopg.connect(server.url("postgres")))


def test_rg_13_a_server_that_became_read_only(
    stand: RegistryStand, server: Postgres, registry_read_only: None
) -> None:
    """A standby takes questions at best; orders are refused until there is a primary again."""
    del registry_read_only
    with pytest.raises(RegistryUnavailable):
        stand.order("register_model", MODEL, key="k")
    set_read_only(server, "off")

    serves_again(stand)


@pytest.fixture
def registry_read_only(stand: RegistryStand, server: Postgres) -> Iterator[None]:
    del stand
    set_read_only(server, "on")
    yield
    set_read_only(server, "off")


def set_read_only(server: Postgres, value: str) -> None:
    """For every transaction that begins from now on, in every connection."""
    writable = "-c default_transaction_read_only=off"
    with psycopg.connect(server.url("postgres"), autocommit=True, options=writable) as connection:
        connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}".encode())
        connection.execute("SELECT pg_reload_conf()")
    # The server passes the news on to its connections before it lets the next one in.
    while (seen := read_only(server)) != value:
        assert seen in {"on", "off"}


def read_only(server: Postgres) -> str:
    """What a connection made now is told."""
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        row = connection.execute("SHOW default_transaction_read_only").fetchone()
    assert row is not None
    return str(row[0])


def test_rg_13_a_statement_that_is_slow_is_given_up(stand: RegistryStand, server: Postgres) -> None:
    """A lock that somebody else holds for long costs `timeout_s`; the queue behind it is bounded."""
    name = stand.database.read(
        lambda c: c.exec_driver_sql("SELECT current_database()").scalar_one()
    )
    with psycopg.connect(server.url(str(name))) as other:
        other.execute("LOCK TABLE models IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(RegistryUnavailable):
            stand.order("register_model", MODEL, key="k")

    serves_again(stand)


def test_rg_14_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    """SQLite at the end of its space: 503, no partial state; with space again it goes on."""
    database = Database.open(RegistrySettings(timeout_s=0.5), tmp_path)
    stand = RegistryStand(database)

    def limit(pages: int) -> None:
        with database.reading() as connection:
            connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    limit(1)  # SQLite never goes below what there is: full at once.
    with pytest.raises(RegistryUnavailable):
        fill(stand)
    count = len(stand.ask("search", query={"limit": "200"})["models"])
    events = sum(len(stand.events(f"model-{number}")) for number in range(count))
    limit(1_000_000)
    stand.model("after")

    assert events == count
    assert len(stand.ask("search", query={"limit": "200"})["models"]) == count + 1
    database.close()


def fill(stand: RegistryStand) -> None:
    for number in range(500):
        stand.model(f"model-{number}", purpose="x" * 2000)


@pytest.mark.skipif(not DEBIAN.exists(), reason="Debian's PostgreSQL 15 is not installed")
def test_the_registry_works_on_postgresql_15_too(tmp_path: Path) -> None:
    """Migrations, a change with its event, and a server that is killed, on the older major."""
    with postgres(DEBIAN) as server:
        database = Database.open(server.database(), tmp_path)
        stand = RegistryStand(database)
        stand.model()
        stand.approved("1", "2")
        stand.route("1", "2")
        server.stop(signal.SIGKILL)
        server.start()

        assert stand.states() == {"1": "stable", "2": "shadow"}
        assert database.facts().version.startswith("15.")
        database.close()
