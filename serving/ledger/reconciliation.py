"""`serving log reconcile`: what every writer said it did, against what is in the ledger.

    admitted = answered + refused + failed + open     open: in flight, or given up with a killed process
    answered <= recorded + declared lost              recorded beyond that: an answer that did not leave

The left sides are the writers' accounts (`predictionlog.writing.accounts`), read first; the right sides are
counted in segments and tables, each record once. With a client's own list of acknowledged prediction
ids, each has to be there once: this needs no trust in the accounts.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow.parquet as pq

from serving.core.predictions import Fate
from serving.errors import ParameterInvalid
from serving.ledger.catalog import Catalog, TableFile, read_catalog
from serving.ledger.places import Place
from serving.predictionlog.format import FrameType
from serving.predictionlog.losses import decode_loss
from serving.predictionlog.outcomes import prediction_key
from serving.predictionlog.reading.query import segment_key
from serving.predictionlog.reading.reader import (
    Segment,
    SegmentReader,
    list_segments,
    log_directories,
)
from serving.predictionlog.writing.accounts import LIVE_PATTERN, Account, LeftAccounts, read_history

_OK: Final = int(Fate.OK)
Key = tuple[str, int]
"""Log id and sequence: a prediction id taken apart."""


@dataclass(slots=True)
class Counts:
    """What is in the ledger. answered: OK records by log id; lost: declared ones. found: how often each
    id of a client's list was met."""

    answered: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    found: Counter[Key] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Balance:
    """One start of one writer. missing: answered, and neither recorded nor declared lost."""

    worker: str
    account: Account
    recorded: int
    lost: int
    aged: bool

    @property
    def missing(self) -> int:
        if self.aged:
            return 0
        owed = self.account.answered - self.account.unsettled * (not self.account.ended_ns)
        return max(0, owed - self.recorded - self.lost)

    @property
    def unanswered(self) -> int:
        """Recorded as answers that nobody is known to have got."""
        return max(0, self.recorded + self.lost - self.account.answered)

    @property
    def state(self) -> str:
        if not self.account.ended_ns:
            return "open"
        return "killed" if self.account.crashed else "closed"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """missing, twice: acknowledged prediction ids of the client's list; acknowledged: how many it has."""

    balances: tuple[Balance, ...]
    acknowledged: int = 0
    missing: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether both identities hold, and every acknowledged id is there once."""
        balanced = all(each.missing == 0 and each.account.open >= 0 for each in self.balances)
        return balanced and not self.missing and not self.twice


def reconcile(
    log: Path, place: Place, *, acknowledged: Iterable[str] = (), since_ns: int = 0
) -> Reconciliation:
    """since_ns: starts before it are not checked, because records of theirs may be deleted by now.

    Raises LedgerUnavailable, OSError, ParameterInvalid (an id that is none).
    """
    keys = [_key(each) for each in acknowledged]
    accounts = list(_accounts(log))
    counts = Counts(found=Counter(dict.fromkeys(keys, 0)))
    catalog = read_catalog(place)
    _count_hot(log, catalog, counts)
    _count_cold(place, catalog, counts)
    balances = tuple(
        Balance(
            worker,
            account,
            counts.answered[account.log_id],
            counts.lost[account.log_id],
            account.started_ns < since_ns,
        )
        for worker, account in accounts
    )
    return Reconciliation(
        balances,
        len(counts.found),
        tuple(_id(key) for key, times in counts.found.items() if times == 0),
        tuple(_id(key) for key, times in counts.found.items() if times > 1),
    )


def client_ids(file: Path) -> Iterator[str]:
    """Acknowledged ids of a client's ledger: one on each line, or JSON objects with `prediction_id`
    (or `id`), of which those with another `status` than 200 are no acknowledgement."""
    with file.open() as lines:
        for line in lines:
            text = line.strip()
            if text.startswith("{"):
                yield from _of_object(text)
            elif text:
                yield text


def _of_object(text: str) -> Iterator[str]:
    try:
        entry = json.loads(text)
    except ValueError as error:
        raise ParameterInvalid(f"{text[:64]!r} is no JSON object") from error
    if entry.get("status", 200) == 200:  # noqa: PLR2004 -- as HTTP says it
        yield str(entry.get("prediction_id") or entry.get("id") or "")


def _key(prediction_id: str) -> Key:
    log_id, sequence = prediction_key(prediction_id)
    return log_id.hex(), sequence


def _id(key: Key) -> str:
    return f"{key[0]}-{key[1]:x}"


def _accounts(log: Path) -> Iterator[tuple[str, Account]]:
    """Oldest first, for each worker."""
    for directory in sorted(path for path in log.iterdir() if path.is_dir()):
        for account in read_history(directory):
            yield directory.name, account
        for path in sorted(directory.glob(LIVE_PATTERN)):
            left = LeftAccounts.read(path)
            if left is not None:
                yield directory.name, left.account


def _count_hot(log: Path, catalog: Catalog, counts: Counts) -> None:
    for directory in log_directories(log):
        for segment in list_segments(directory):
            header = segment.header
            held = catalog.segments
            if header is not None and segment_key(header.log_id, segment.number) not in held:
                _count_segment(segment, header.log_id.hex(), counts)


def _count_segment(segment: Segment, log_id: str, counts: Counts) -> None:
    for event in SegmentReader(segment).events({FrameType.PREDICTION, FrameType.LOSS}):
        if event.type == FrameType.LOSS:
            loss = decode_loss(event.frame, 0)
            counts.lost[loss.log_id] += loss.count
            continue
        (counts.answered if event.frame[5] == _OK else counts.failed)[log_id] += 1
        key = (log_id, event.sequence)
        if key in counts.found:
            counts.found[key] += 1


def _count_cold(place: Place, catalog: Catalog, counts: Counts) -> None:
    for file in catalog.files:
        if file.dataset == "predictions":
            _count_predictions(place, file, counts)
        elif file.dataset == "losses":
            table = _columns(place, file, ["lost_of", "count"])
            for log_id, count in zip(table["lost_of"], table["count"], strict=True):
                counts.lost[str(log_id)] += int(count)


def _count_predictions(place: Place, file: TableFile, counts: Counts) -> None:
    table = _columns(place, file, ["row", "log_id", "sequence", "fate"])
    first = [row is None or row == 0 for row in table["row"]]
    names = np.array(table["log_id"], object)[first]
    answered = np.array(table["fate"], object)[first] == Fate.OK.name.lower()
    for log_id, ok in zip(names.tolist(), answered.tolist(), strict=True):
        (counts.answered if ok else counts.failed)[log_id] += 1
    if counts.found:
        sequences = np.array(table["sequence"], object)[first]
        for key in zip(names.tolist(), sequences.tolist(), strict=True):
            if key in counts.found:
                counts.found[key] += 1


def _columns(place: Place, file: TableFile, names: list[str]) -> dict[str, list[Any]]:
    with place.open(file.name) as opened:
        table = pq.read_table(opened, columns=names, use_threads=False)
    return {name: table.column(name).to_pylist() for name in names}
