"""How long a trail of a million events takes to verify; fails when it takes a minute or more.

    python -m loadtests.audit_trail [--events 1000000]

The trail is made in a folder of its own, by the product's own chain, in transactions of ten thousand
events; then it is signed, verified from the database, exported, and verified from the export.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sqlalchemy import insert, update

from serving.audit.chain import Chain
from serving.audit.checkpoints import Checkpoints
from serving.audit.events import Event, EventName
from serving.audit.log import AuditLog, row_of
from serving.audit.reading import export, read_export, trail_of
from serving.audit.tables import events, log_head
from serving.audit.verification import verify
from serving.core.clock import SystemClock
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from serving.trust.installation import installation_key, read_trusted

LIMIT_S: Final = 60.0
BATCH_EVENTS: Final = 10_000
CLOCK: Final = SystemClock()


def seconds(what: str, work: Callable[[], object]) -> float:
    """Runs it, says how long it took, and returns that."""
    began_ns = CLOCK.monotonic_ns()
    work()
    took_s = (CLOCK.monotonic_ns() - began_ns) / 1e9
    sys.stdout.write(f"{what}: {took_s:.1f} s\n")
    sys.stdout.flush()
    return took_s


def fill(database: Database, count: int) -> None:
    """So many events, as the product would have written them."""
    log_id = database.run(AuditLog(CLOCK).open)
    with database.reading() as connection:
        row = connection.execute(log_head.select()).one()
    chain = Chain(log_id, row.size, row.last)
    while chain.size < count:
        links = []
        for number in range(chain.size, min(count, chain.size + BATCH_EVENTS)):
            event = Event(EventName.KEY_MADE, "ada", f"key:{number}", after={"number": number})
            links.append(chain.link(event, event_id=f"{number:032x}", at_ns=CLOCK.wall_ns()))
        with database.transaction() as connection:
            connection.execute(insert(events), [row_of(link) for link in links])
            connection.execute(update(log_head).values(size=chain.size, last=chain.last))


def measure(folder: Path, count: int) -> bool:
    """Whether both ways stay below the limit, and find the trail intact."""
    database = Database.open(RegistrySettings(), folder)
    key, trusted = installation_key(folder / "keys"), read_trusted(folder / "keys")
    signing = Checkpoints(
        database, key=key, trusted=lambda: trusted, anchor=folder / "anchor.txt", clock=CLOCK
    )
    file, intact = folder / "trail.jsonl", []

    def from_database() -> None:
        trail = trail_of(database, anchor=folder / "anchor.txt")
        intact.append(verify(trail, trusted).intact)

    def from_export() -> None:
        intact.append(verify(read_export(file), trusted).intact)

    def write_export() -> None:
        with file.open("wb") as lines:
            lines.writelines(export(database))

    seconds(f"made {count} events", lambda: fill(database, count))
    seconds("signed", signing.write)
    took_s = [seconds("verified from the database", from_database)]
    seconds("exported", write_export)
    took_s.append(seconds("verified from the export", from_export))
    database.close()
    return all(intact) and max(took_s) < LIMIT_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(0 if measure(Path(folder), wanted.events) else 1)


if __name__ == "__main__":
    main()
