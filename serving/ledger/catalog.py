"""Which table files count, and which segments they hold: the one truth about cold data.

The catalog is one value, written whole under its number to `catalog/`. A change is the next number,
made with `Place.create`, so that of two who change it at once one has to look again; whoever reads
takes the highest number. So a commit of the ledger is visible in all partitions at once or in none,
whatever is killed when: files that no catalog names are nothing. Rejected: a manifest for each
partition, because a segment holds records of many models and days, and a query would have to know
which of them has been moved for which.

Readers of hot and cold data together read the catalog first, pass over the segments that it holds,
and so see each record once. What leaves the catalog is `removed`: its file stays for a grace, so that
who has read an earlier catalog can finish.
"""

from collections.abc import Callable, Iterable
from typing import Final, Literal

import msgspec

from serving.errors import LedgerUnavailable
from serving.ledger.places import Place

FOLDER: Final = "catalog/"
_KEPT: Final = 8
_TRIES: Final = 20
_DIGITS: Final = 16

Dataset = Literal["predictions", "outcomes", "losses"]


class TableFile(msgspec.Struct, frozen=True):
    """One Parquet file. rows: of the table; records: of the log. Times are those of its rows.

    sources: keys of the segments whose records it holds.
    """

    name: str
    dataset: Dataset
    model: str
    version: str
    digest: str
    day: str
    rows: int
    records: int
    earliest_ns: int
    latest_ns: int
    bytes: int
    sha256: str
    sources: tuple[str, ...]
    committed_ns: int


class HeldSegment(msgspec.Struct, frozen=True):
    """A segment whose records are all in table files. root: of its Merkle tree, empty for none.

    latest_ns: arrival of its youngest record.
    """

    records: int
    events: int
    latest_ns: int
    root: str
    committed_ns: int


class Removed(msgspec.Struct, frozen=True):
    """A file that counts no longer, and since when."""

    name: str
    removed_ns: int


class Catalog(msgspec.Struct, frozen=True):
    """segments: by key. Everything is empty before the first commit."""

    number: int = 0
    files: tuple[TableFile, ...] = ()
    segments: dict[str, HeldSegment] = {}
    removed: tuple[Removed, ...] = ()

    def with_commit(
        self, files: Iterable[TableFile], segments: dict[str, HeldSegment]
    ) -> "Catalog":
        """After a compaction; the same once more when it was committed already."""
        if segments.keys() <= self.segments.keys():
            return self
        added = tuple(files)
        names = {file.name for file in added}
        return msgspec.structs.replace(
            self,
            files=tuple(f for f in self.files if f.name not in names) + added,
            segments={**self.segments, **segments},
            removed=tuple(each for each in self.removed if each.name not in names),
        )

    def with_joint(self, joint: TableFile, names: Iterable[str], *, now_ns: int) -> "Catalog":
        """After files became one; unchanged where one of them counts no longer."""
        parts = set(names)
        if not parts <= {file.name for file in self.files}:
            return self
        shorter = self.without(parts, now_ns=now_ns)
        return msgspec.structs.replace(
            shorter,
            files=(*shorter.files, joint),
            removed=tuple(each for each in shorter.removed if each.name != joint.name),
        )

    def without(self, names: Iterable[str], *, now_ns: int) -> "Catalog":
        """After a retention. Nothing is unlisted twice."""
        gone = set(names) & {file.name for file in self.files}
        return msgspec.structs.replace(
            self,
            files=tuple(file for file in self.files if file.name not in gone),
            removed=self.removed + tuple(Removed(name, now_ns) for name in sorted(gone)),
        )

    def forgetting(self, names: Iterable[str]) -> "Catalog":
        """After removed files were deleted."""
        gone = set(names)
        return msgspec.structs.replace(
            self, removed=tuple(each for each in self.removed if each.name not in gone)
        )


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Catalog).decode


def read_catalog(place: Place) -> Catalog:
    """The newest. Raises LedgerUnavailable."""
    for _ in range(_TRIES):
        names = place.names(FOLDER)
        if not names:
            return Catalog()
        try:
            return _decode(place.read(names[-1]))
        except FileNotFoundError:
            continue  # replaced by many later ones since
        except msgspec.MsgspecError as error:
            raise LedgerUnavailable(f"{names[-1]} is no catalog: {error}") from error
    raise LedgerUnavailable("the catalog changes faster than it can be read")


def change_catalog(place: Place, change: Callable[[Catalog], Catalog]) -> Catalog:
    """What the catalog became; `change` may be called again on a newer one, and again."""
    for _ in range(_TRIES):
        current = read_catalog(place)
        wanted = change(current)
        if wanted is current:
            return current
        wanted = msgspec.structs.replace(wanted, number=current.number + 1)
        if place.create(_name(wanted.number), _encode(wanted)):
            _prune(place, wanted.number)
            return wanted
    raise LedgerUnavailable("the catalog changes faster than it can be changed")


def _name(number: int) -> str:
    return f"{FOLDER}{number:0{_DIGITS}d}.json"


def _prune(place: Place, number: int) -> None:
    for name in place.names(FOLDER):
        if name < _name(max(number - _KEPT, 0)):
            place.delete(name)
