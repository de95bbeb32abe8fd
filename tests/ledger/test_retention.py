from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.audit.spool import Spool, Spooled
from serving.core.clock import ManualClock
from serving.core.predictions import PredictionRecord
from serving.ledger.catalog import read_catalog
from serving.ledger.compaction import Compactor
from serving.ledger.places import Folder
from serving.ledger.retention import Evidence, Retention
from serving.ledger.search import LedgerSearch
from serving.ledger_settings import LedgerSettings
from serving.predictionlog.privacy.holds import Hold
from serving.predictionlog.privacy.retention import RetentionRules
from serving.predictionlog.reading.query import Query
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.records import encode_predictions
from tests.ledger.cold import (
    CENSUS_NUMBER,
    DAY_NS,
    KNOWN,
    LEDGER,
    a_census_request,
    as_texts,
    found,
    never,
)
from tests.logs import NOW_NS, SIGNER, TRUSTED, a_committer, a_request, facts

SETTINGS = LedgerSettings(keep_segments_days=5, reader_grace_s=3600)
HOLD = Hold("1", "litigation", "counsel", 0, model="census-employment")


class Keeper:
    """A ledger with one segment a day for four days, its retention, and its clock at the last."""

    def __init__(self, root: Path, settings: LedgerSettings = SETTINGS) -> None:
        self.root = root
        self.place = Folder(root / "cold")
        self.clock = ManualClock(wall_ns=NOW_NS + 3 * DAY_NS)
        self.rules: RetentionRules | None = RetentionRules()
        self.needed: dict[str, int] = {}
        self.shipped: set[str] | None = None
        for day in range(4):
            committer = a_committer(root / "log" / "w", definitions=KNOWN)
            at = NOW_NS + day * DAY_NS
            committer.commit(encode_predictions(facts(), [a_request(day * 2 + 1, time_ns=at)]))
            census = a_census_request(day * 2 + 2, time_ns=at)
            committer.commit(encode_predictions(facts(CENSUS_NUMBER), [census]))
            committer.close()
        Compactor(
            root / "log", self.place, folder=root / "ledger", settings=LEDGER, clock=self.clock
        ).run(stopping=never)
        self.retention = Retention(
            root / "log",
            self.place,
            settings=settings,
            rules=lambda: self.rules,
            shipped=lambda: self.shipped,
            needed=lambda: self.needed,
            evidence=Evidence(Spool(root / "audit"), SIGNER),
            clock=self.clock,
        )

    def after(self, days: float) -> None:
        """Time passes, and retention looks twice: it unlists, and deletes after a grace."""
        self.clock.advance(days * 86_400)
        self.retention.run()
        self.clock.advance(SETTINGS.reader_grace_s)
        self.retention.run()

    def days_of(self, model: str) -> list[str]:
        files = read_catalog(self.place).files
        return sorted({file.day[-2:] for file in files if file.model == model})

    def segments(self) -> list[str]:
        return sorted(path.stem[-1] for path in (self.root / "log").rglob("*.segment"))

    def events(self) -> list[Spooled]:
        taken: list[Spooled] = []
        Spool(self.root / "audit").drain(taken.extend)
        return taken


@pytest.fixture
def keeper(tmp_path: Path) -> Keeper:
    return Keeper(tmp_path)


def test_nothing_is_deleted_unasked(keeper: Keeper) -> None:
    """Without a word about a model, its tables are kept for ever."""
    keeper.after(3)

    assert keeper.days_of("doubler") == ["14", "15", "16", "17"]


def test_tables_go_when_their_time_has_come(keeper: Keeper) -> None:
    """A file goes once its youngest record is too old: from the catalog, then from the disk."""
    keeper.rules = RetentionRules(configured={"doubler": 2.0, "*": 100.0})

    keeper.after(0.5)

    assert keeper.days_of("doubler") == ["16", "17"]
    assert keeper.days_of("census-employment") == ["14", "15", "16", "17"]
    assert len(keeper.place.names("predictions/model=doubler")) == 2
    names = [each.event.object for each in keeper.events() if "table" in each.event.object]
    assert len(names) == 2


def test_no_rules_no_deletion(keeper: Keeper) -> None:
    """While nobody can tell what the models' owners want, everything stays."""
    keeper.rules = None

    keeper.after(1000)

    assert (keeper.segments(), keeper.events()) == (["1", "2", "3", "4"], [])


def test_segments_go_oldest_first_and_the_newest_stays(keeper: Keeper) -> None:
    """A segment goes when its records are in tables and old enough; the last one is the chain's end."""
    keeper.after(3.5)
    some = keeper.segments()
    keeper.after(1000)

    assert (some, keeper.segments()) == (["3", "4"], ["4"])


def test_verification_knows_what_retention_took(keeper: Keeper) -> None:
    """A log that retention shortened is sound, and says so; one segment less is damage."""
    keeper.after(3.5)
    report = verify(keeper.root / "log", trusted=TRUSTED)
    (keeper.root / "log" / "w" / "00000003.segment").unlink()
    cut = verify(keeper.root / "log", trusted=TRUSTED)

    assert report.damage == ()
    assert [(each.segments, each.through) for each in report.removed] == [(2, 2)]
    assert [finding.file for finding in cut.damage] == ["w/00000003.segment"]


@pytest.mark.parametrize("reason", ["unshipped", "unread", "held"])
def test_lg_20_what_must_stay_stops_those_behind_it(keeper: Keeper, reason: str) -> None:
    """A segment that is not shipped, not read by a consumer or on hold keeps all later ones."""
    keys = sorted(read_catalog(keeper.place).segments)
    if reason == "unshipped":
        keeper.shipped = {keys[0], keys[2]}
    elif reason == "unread":
        keeper.needed = {"w": 2}
    else:
        keeper.rules = RetentionRules(holds=(HOLD,))

    keeper.after(1000)

    assert keeper.segments() == (["1", "2", "3", "4"] if reason == "held" else ["2", "3", "4"])


def test_lg_20_a_hold_keeps_the_tables_of_its_model(keeper: Keeper) -> None:
    """Held tables outlive their retention; others do not."""
    keeper.rules = RetentionRules(configured={"*": 1.0}, holds=(HOLD,))

    keeper.after(1000)

    assert keeper.days_of("census-employment") == ["14", "15", "16", "17"]
    assert keeper.days_of("doubler") == []


def test_lg_20_a_reader_finishes_while_retention_deletes(keeper: Keeper) -> None:
    """Whoever began to read before files were unlisted reads all of them within the grace."""
    before = sorted(found(keeper.root))
    search = LedgerSearch(keeper.root / "log", keeper.place, Query())
    records: Iterator[PredictionRecord] = search.records()
    read = [next(records)]
    keeper.rules = RetentionRules(configured={"*": 1.0})
    keeper.clock.advance(1000 * 86_400)
    keeper.retention.run()

    read += records

    assert sorted(as_texts(read)) == before
    assert search.missing == set()


def test_lg_20_a_reader_that_is_too_slow_is_told_what_is_missing(keeper: Keeper) -> None:
    """After the grace what was deleted unread is named by model, version and day."""
    search = LedgerSearch(keeper.root / "log", keeper.place, Query(model="doubler"))
    records = search.records()
    next(records)
    keeper.rules = RetentionRules(configured={"*": 1.0})
    keeper.after(1000)

    rest = list(records)

    assert len(rest) < 3
    assert search.missing >= {"doubler@1 2023-11-17"}


def test_evidence_comes_first(keeper: Keeper) -> None:
    """Where the deletion cannot be put on record it does not happen."""
    (keeper.root / "audit").write_text("no folder")

    with pytest.raises(Exception, match="audit trail"):
        keeper.after(1000)

    assert keeper.segments() == ["1", "2", "3", "4"]


def test_the_shortest_word_counts_for_a_segment(keeper: Keeper) -> None:
    """A model that is kept for a short time takes its records' segments along, tables keep the others."""
    keeper.rules = RetentionRules(declared={"doubler": 1.5})

    keeper.after(0)

    assert keeper.segments() == ["3", "4"]
    assert keeper.days_of("census-employment") == ["14", "15", "16", "17"]
    assert msgspec.json.encode(keeper.events())


def test_segments_without_a_word_are_kept(tmp_path: Path) -> None:
    """Where neither the operator nor an owner says how long, the evidence stays for ever."""
    keeper = Keeper(tmp_path, settings=LedgerSettings())

    keeper.after(1000)

    assert keeper.segments() == ["1", "2", "3", "4"]
