"""Hot records as table files of their own, for as long as somebody looks at them.

SQL and exports read tables. What no catalog holds yet is turned into tables in a scratch folder, by the
same code that compacts, so that hot and cold rows cannot differ; and it costs disk instead of memory
(2.5 us a record).
"""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from serving.ledger.batches import Batch
from serving.ledger.catalog import TableFile, read_catalog
from serving.ledger.places import Folder, Place
from serving.ledger.segments import SegmentDamaged, hot_segments
from serving.ledger_settings import LedgerSettings


@dataclass(frozen=True, slots=True)
class Located:
    """A table file and where it lies."""

    place: Place
    file: TableFile


@dataclass(frozen=True, slots=True)
class AllTables:
    """Every record of a ledger, as it was at one moment. damaged: segments that are left out."""

    tables: tuple[Located, ...]
    damaged: tuple[str, ...]

    def of(self, dataset: str) -> list[Located]:
        return [each for each in self.tables if each.file.dataset == dataset]


def all_tables(
    log: Path,
    place: Place,
    *,
    scratch: Path,
    settings: LedgerSettings,
    models: Collection[str] = (),
) -> AllTables:
    """Hot and cold. models: only theirs, empty for all. Raises LedgerUnavailable, OSError.

    scratch: a private folder that outlives what is returned; the caller removes it.
    """
    catalog = read_catalog(place)
    here = Folder(scratch)
    tables = [Located(place, file) for file in catalog.files if not models or file.model in models]
    damaged = []
    for number, extent in enumerate(hot_segments(log, catalog.segments.keys())):
        try:
            batch = Batch([extent], scratch, name=f"hot-{number}", settings=settings)
            files = batch.write()
        except SegmentDamaged:
            damaged.append(f"{extent.worker}/{extent.path.name}")
            continue
        tables += [Located(here, file) for file in files if not models or file.model in models]
    return AllTables(tuple(tables), tuple(damaged))


@contextmanager
def scratch_in(folder: Path) -> Iterator[Path]:
    """A folder for recent records as tables, readable by this user only; gone afterwards.

    folder: below the data directory. What was recorded is never copied out of it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder) as scratch:
        yield Path(scratch)
