"""Events are in the trail with the change that they tell of, or there is neither."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from serving.audit.log import new_event_id
from serving.audit.reading import Filter, find
from serving.audit.spool import Spool, Spooled
from serving.audit.tables import events
from serving.errors import NotReady, RegistryUnavailable
from tests.audit.trails import Trail, event


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path)


def test_event_of_a_change_that_is_rolled_back_never_was(trail: Trail) -> None:
    """And the next one has its place."""

    def change(connection: Connection) -> None:
        trail.log.append(connection, event(1))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trail.database.run(change)
    trail.append(1)
    trail.sign()

    assert trail.verify().events == 2


def test_p24_au_08_change_whose_event_cannot_be_written_is_not_made(trail: Trail) -> None:
    """The disk is full when the event comes: refused with 503, and nothing has changed."""
    trail.append(1)
    trail.sql("CREATE TABLE things (name TEXT)")

    def change(connection: Connection) -> None:
        connection.execute(text("INSERT INTO things VALUES ('approved')"))
        connection.execute(text("PRAGMA max_page_count = 1"))  # what there is now, and no more
        trail.log.append(connection, event(2, after={"long": "x" * 100_000}))

    with pytest.raises(RegistryUnavailable):
        trail.database.run(change)

    with trail.database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM things")).scalar_one() == 0
    assert trail.verify(anchored=False).events == 2


def test_p24_database_that_is_gone_refuses_the_change(trail: Trail, tmp_path: Path) -> None:
    """503, by its code."""
    trail.append(1)
    (tmp_path / "registry.sqlite").rename(tmp_path / "elsewhere")

    with pytest.raises(RegistryUnavailable):
        trail.append(1)


def test_writers_at_the_same_time_take_their_places_one_by_one(trail: Trail) -> None:
    """Eight threads, each with its own transactions: one whole chain."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: trail.append(3), range(16)))
    trail.sign()

    report = trail.verify()

    assert (report.intact, report.events) == (True, 49)


def test_absorbed_event_is_there_once(trail: Trail) -> None:
    """However often it is handed over."""
    spooled = [Spooled(new_event_id(), 5, event(n)) for n in range(3)]

    first = trail.database.run(lambda c: trail.log.absorb(c, spooled))
    second = trail.database.run(lambda c: trail.log.absorb(c, [*spooled, *spooled[:1]]))

    assert (first, second) == (3, 0)


def test_events_are_found_by_what_they_are_about(trail: Trail) -> None:
    """Name, actor, object and time, newest first, page by page."""
    trail.append(5)
    newest = find(trail.database, Filter(limit=2))
    rest = find(trail.database, Filter(before=newest[-1].position))
    since_ns = int(newest[-1].at_ns)

    assert [each.position for each in (*newest, *rest)] == [5, 4, 3, 2, 1, 0]
    assert len(find(trail.database, Filter(name="access:*"))) == 5
    assert len(find(trail.database, Filter(object=newest[0].object))) == 1
    assert len(find(trail.database, Filter(actor="ad*", since_ns=since_ns))) == 2
    assert find(trail.database, Filter(until_ns=1)) == []
    assert find(trail.database, Filter(name="%")) == []


def test_spool_is_handed_over_in_order_and_forgotten(tmp_path: Path) -> None:
    """Nothing is left behind, and nothing comes twice."""
    spool, seen = Spool(tmp_path / "audit"), list[str]()
    for number in range(3):
        spool.add(event(number), at_ns=number + 1)

    for _ in range(2):
        spool.drain(lambda spooled: seen.extend(each.event.object for each in spooled))

    assert seen == ["key:0", "key:1", "key:2"]


def test_what_could_not_be_absorbed_stays(tmp_path: Path) -> None:
    """And comes before what was added since."""
    spool, seen = Spool(tmp_path), list[str]()
    spool.add(event(1), at_ns=1)

    def refuse(_spooled: object) -> None:
        raise RegistryUnavailable("away")

    with pytest.raises(RegistryUnavailable):
        spool.drain(refuse)
    spool.add(event(2), at_ns=2)
    spool.drain(lambda spooled: seen.extend(each.event.object for each in spooled))

    assert seen == ["key:1", "key:2"]


def test_line_that_was_cut_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    """It was never acknowledged; the one before and the one after were."""
    spool, seen = Spool(tmp_path), list[str]()
    spool.add(event(1), at_ns=1)
    with (tmp_path / "spool.jsonl").open("ab") as file:
        file.write(b'{"id":"x","at_')
    spool.add(event(2), at_ns=2)

    spool.drain(lambda spooled: seen.extend(each.event.object for each in spooled))

    assert seen == ["key:1", "key:2"]


def test_act_that_cannot_be_kept_is_refused(tmp_path: Path) -> None:
    """A spool that cannot be written says no, before the act."""
    folder = tmp_path / "audit"
    folder.write_text("a file in its place")

    with pytest.raises(NotReady):
        Spool(folder).add(event(1), at_ns=1)


CHILD = """
import os, sys
from pathlib import Path
from serving.audit.log import AuditLog
from serving.audit.spool import Spool
from serving.core.clock import SystemClock
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.audit.trails import event
folder, number = Path(sys.argv[1]), int(sys.argv[2])
database = Database.open(RegistrySettings(), folder)
log, spool = AuditLog(SystemClock()), Spool(folder / "audit")
for turn in range(10**6):
    spool.add(event(number * 1000 + turn), at_ns=turn + 1)
    os.write(1, b"added %d\\n" % (number * 1000 + turn))
    spool.drain(lambda waiting: database.run(lambda c: log.absorb(c, waiting)))
"""


@pytest.mark.faults
def test_au_09_p24_killed_between_the_two_writes_nothing_is_lost_or_doubled(
    tmp_path: Path,
) -> None:
    """A process that spools and absorbs is killed again and again: each act is there exactly once."""
    trail = Trail(tmp_path)
    acknowledged: set[str] = set()
    for number in range(8):
        child = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", CHILD, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert child.stdout is not None
        said = (line for line in child.stdout if line.startswith(b"added "))
        for _ in range(3 + number % 4):
            acknowledged.add(f"key:{next(said).split()[1].decode()}")
        os.kill(child.pid, signal.SIGKILL)
        acknowledged |= {
            f"key:{each.split()[1].decode()}"
            for each in child.stdout
            if each.startswith(b"added ") and each.endswith(b"\n")
        }
        child.stdout.close()
        child.wait()
    spool = Spool(tmp_path / "audit")
    spool.drain(trail.absorb)
    trail.sign()

    with trail.database.reading() as connection:
        stored = list(connection.scalars(events.select().with_only_columns(events.c.object)))
    about = [each for each in stored if each.startswith("key:")]
    assert len(set(about)) == len(about)
    assert acknowledged <= set(about)
    assert trail.verify().intact


def test_au_09_p24_killed_at_every_step_of_absorbing(tmp_path: Path) -> None:
    """200 times stopped between commit and clean-up, or before: exactly once each time."""
    trail = Trail(tmp_path)
    spool = Spool(tmp_path / "audit")

    class Killed(BaseException):
        """The process ends here."""

    def absorb(spooled: Sequence[Spooled], *, before: bool) -> None:
        if before:
            raise Killed
        trail.absorb(spooled)
        raise Killed

    for number in range(200):
        spool.add(event(number), at_ns=number + 1)
        with pytest.raises(Killed):
            spool.drain(partial(absorb, before=number % 2 == 0))
    spool.drain(trail.absorb)

    found = find(trail.database, Filter(name="access:*", limit=500))
    assert sorted(each.object for each in found) == sorted(f"key:{n}" for n in range(200))
