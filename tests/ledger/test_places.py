from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.core.clock import SystemClock
from serving.errors import LedgerUnavailable
from serving.ledger.catalog import Catalog, HeldSegment, change_catalog, read_catalog
from serving.ledger.hot import all_tables
from serving.ledger.places import Bucket, Folder, Place, cold_place
from serving.ledger.shipping import Shipping
from serving.ledger.sql import LedgerDatabase
from serving.storage_settings import BlobSettings
from tests.ledger.cold import LEDGER, compact, found, never, write_log
from tests.seaweed import seaweed

APART = LEDGER.model_copy(update={"commit_bytes": 1, "merge_bytes": 1})
HELD = HeldSegment(1, 0, 0, "", 0)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlobSettings]:
    with seaweed(tmp_path_factory.mktemp("s3")) as settings:
        yield settings


@pytest.fixture(
    params=["folder", pytest.param("bucket", marks=pytest.mark.faults)],
)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty one of each kind."""
    if request.param == "folder":
        return Folder(tmp_path / "cold")
    settings: BlobSettings = request.getfixturevalue("bucket")
    url = f"{settings.url}/{tmp_path.name}"
    return cold_place(settings.model_copy(update={"url": url}), tmp_path)


def test_what_is_there_is_not_created_again(place: Place) -> None:
    """Of two who create one name the first wins, and the other is told."""
    outcomes = [place.create("a/b", content) for content in (b"first", b"second")]

    assert (outcomes, place.read("a/b")) == ([True, False], b"first")


def test_objects_come_and_go(place: Place, tmp_path: Path) -> None:
    """What was uploaded is listed, read at any position, replaced and deleted."""
    file = tmp_path / "file"
    for content in (b"old", b"0123456789" * 1000):
        file.write_bytes(content)
        place.upload("x/y/z", file)
    place.create("x/other", b"")

    with place.open("x/y/z") as opened:
        opened.seek(-5, 2)
        assert bytes(opened.read(3)) == b"567"
    assert place.names("x/") == ["x/other", "x/y/z"]
    place.delete("x/y/z")
    place.delete("x/y/z")
    assert place.names("x/") == ["x/other"]
    with pytest.raises(FileNotFoundError):
        place.read("x/y/z")


def test_changes_at_once_lose_nothing(place: Place) -> None:
    """Who finds the catalog changed meanwhile looks again, so both changes are in it."""
    calls: list[str] = []

    def change(name: str) -> None:
        def add(catalog: Catalog) -> Catalog:
            calls.append(name)
            if name == "first" and len(calls) == 1:
                change("second")
            return catalog.with_commit((), {name: HELD})

        change_catalog(place, add)

    change("first")

    assert read_catalog(place).segments.keys() == {"first", "second"}
    assert calls == ["first", "second", "first"]


def test_the_whole_ledger_works_there(place: Place, tmp_path: Path) -> None:
    """Compaction, queries and SQL give the same wherever cold data lies; segments are shipped."""
    write_log(tmp_path / "log", workers=1)
    before = found(tmp_path, place=place)

    compact(tmp_path, place=place, settings=LEDGER)
    after = found(tmp_path, place=place)
    shipping = Shipping(
        tmp_path / "log",
        place,
        folder=tmp_path,
        settings=LEDGER,
        clock=SystemClock(),
        stopping=never,
    )
    shipping.run()

    assert sorted(after) == sorted(before)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    tables = all_tables(tmp_path / "log", place, scratch=scratch, settings=LEDGER)
    with LedgerDatabase(tables, scratch=scratch, settings=LEDGER) as database:
        _, rows = database.select("SELECT count(*), max(input_AGEP) FROM census_employment")
        assert list(rows) == [(119, 160.0)]
    (segment,) = (tmp_path / "log").rglob("*.segment")
    (name,) = place.names("segments/")
    assert place.read(name) == segment.read_bytes()


def test_small_files_are_joined_there(place: Place, tmp_path: Path) -> None:
    """Wherever cold data lies, small files become one, and every record is found once."""
    write_log(tmp_path / "log", workers=8, steps=2, days=1)
    compact(tmp_path, place=place, settings=APART)
    before = sorted(found(tmp_path, place=place))

    compact(tmp_path, place=place, settings=LEDGER)

    assert sorted(found(tmp_path, place=place)) == before
    assert {len(file.sources) for file in read_catalog(place).files} == {8}


def test_a_bucket_that_does_not_answer_is_an_error_of_ours() -> None:
    """Every failure of the other side is one class, with the object's name."""
    nowhere = BlobSettings(url="s3://ledger", endpoint="http://127.0.0.1:1")
    bucket = cold_place(nowhere, Path("unused"))

    assert isinstance(bucket, Bucket)
    with pytest.raises(LedgerUnavailable, match="a/b"):
        bucket.create("a/b", b"")
