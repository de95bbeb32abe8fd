import shutil
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from serving.audit.spool import Spool
from serving.control.privacy import SubjectProtection
from serving.core.actors import Actor
from serving.core.clock import SystemClock
from serving.core.predictions import Fate, PredictionRecord
from serving.errors import LegalHold
from serving.predictionlog.privacy.subjects import PayloadKeys
from serving.predictionlog.reading.query import Query, Search
from serving.predictionlog.reading.verification import verify
from tests.places import InProcess, a_row, eventually, rows_of

INFER = "/v2/models/doubler/infer"
TWIN = "/v2/models/twin/infer"
CANARY = 4321.625
DOUBLED = 2 * CANARY
SOMEBODY = "customer-4711"
OFFICER = Actor(subject="officer", source="test")


@asynccontextmanager
async def running(
    folder: Path, recording: dict[str, Any], **groups: Any
) -> AsyncIterator[InProcess]:
    """A place whose twin is recorded as this says; the doubler as by default."""
    place = InProcess(folder, **groups)
    file = folder / "models" / "twin" / "model.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "recording": recording}))
    try:
        await place.start()
        yield place
    finally:
        await place.aclose()


def protection(place: InProcess, **paths: Any) -> SubjectProtection:
    """The acts, as control and commands do them."""
    return SubjectProtection(
        place.directory.root,
        spool=Spool(place.directory.audit),
        copies=paths.get("copies", ()),
        clock=SystemClock(),
    )


def records(place: InProcess) -> list[PredictionRecord]:
    """Of an instance, opened with its keys."""
    keys = PayloadKeys.at(place.directory.root)
    return list(Search(place.directory.root / "log", Query(), keys=keys).records())


def facts_of(record: PredictionRecord) -> tuple[object, ...]:
    """What an erasure leaves as it is."""
    return (record.fate, record.rows, record.time_ns, record.total_us, record.subject)


def one(place: InProcess, answer: httpx.Response) -> PredictionRecord:
    wanted = answer.headers["serving-prediction-id"]
    (found,) = [each for each in records(place) if each.prediction_id == wanted]
    return found


def traces_of(value: float, root: Path) -> list[str]:
    """Files below `root` that hold this number, in binary as tensors have it or as text."""
    needles = (struct.pack("<f", value), str(value).encode())
    return [
        path.relative_to(root).as_posix()
        for path in sorted(root.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


async def test_a_subject_s_payload_is_unreadable_without_its_key(tmp_path: Path) -> None:
    """What a request that names a subject sends and gets is on no disk in the clear, and its records
    can be read with the keys."""
    async with running(tmp_path, {}) as place, place.place.client() as client:
        by_header = await client.post(
            INFER, json=a_row(CANARY), headers={"Serving-Subject": SOMEBODY}
        )
        by_parameter = await client.post(INFER, json=a_row(CANARY, subject=SOMEBODY))
        found = [one(place, each) for each in (by_header, by_parameter)]
        await eventually(lambda: len(records(place)) == 4)  # and their copies for the candidate

        assert by_header.json()["outputs"][0]["data"][0] == DOUBLED
        assert [rows_of(each)[0][0] for each in found] == [DOUBLED] * 2
        assert len({each.subject for each in records(place)}) == 1
        assert traces_of(CANARY, place.directory.root) == []
        assert traces_of(DOUBLED, place.directory.root) == []
        assert not [
            path for path in place.directory.root.rglob("*")
            if path.is_file() and SOMEBODY.encode() in path.read_bytes()
        ]  # fmt: skip


async def test_a_request_that_names_two_subjects_is_refused(tmp_path: Path) -> None:
    """Nobody chooses between them: not between header and parameter, nor between two headers."""
    async with running(tmp_path, {}) as place, place.place.client() as client:
        answers = [
            await client.post(
                INFER, json=a_row(1, subject="a"), headers=[("Serving-Subject", "b")]
            ),
            await client.post(
                INFER, json=a_row(1), headers=[("Serving-Subject", "a"), ("Serving-Subject", "b")]
            ),
            await client.post(INFER, json=a_row(1, subject=7)),
            await client.post(INFER, json=a_row(1), headers=[("Serving-Subject", "x" * 300)]),
        ]

        assert [each.status_code for each in answers] == [400] * 4


async def test_n20_erasure_reaches_a_running_worker_and_leaves_the_log_sound(
    tmp_path: Path,
) -> None:
    """P26, N20: after an erasure nothing recorded of the subject can be read, others' records can,
    the log verifies, and the same worker records the subject anew under a new key."""
    async with running(tmp_path, {}) as place, place.place.client() as client:
        mine = await client.post(TWIN, json=a_row(CANARY, subject=SOMEBODY))
        other = await client.post(TWIN, json=a_row(7, subject="somebody else"))
        before = records(place)

        erased = protection(place).erase(SOMEBODY, reason="asked", actor=OFFICER)
        again = await client.post(TWIN, json=a_row(5, subject=SOMEBODY))

        assert erased.keys == 1
        assert [tensor.keeping for tensor in one(place, mine).inputs] == ["erased"]
        assert rows_of(one(place, other)) == [[14.0, 0.0]]
        assert rows_of(one(place, again)) == [[10.0, 0.0]]
        after = {each.prediction_id: facts_of(each) for each in records(place)}
        assert all(after[each.prediction_id] == facts_of(each) for each in before)
        await place.aclose()
        assert not verify(place.directory.root / "log").damage


async def test_cr_07_a_restored_backup_stays_erased(tmp_path: Path) -> None:
    """CR-07: key files from before an erasure, put back with or without the erase list beside them,
    open nothing after the next start: the list, or a copy of it elsewhere, is applied again."""
    copies = tmp_path / "elsewhere"
    folder = tmp_path / "here"
    folder.mkdir()
    settings = {"privacy": {"erase_list_copies": [copies]}}
    async with running(folder, {}, **settings) as place, place.place.client() as client:
        answer = await client.post(TWIN, json=a_row(CANARY, subject=SOMEBODY))
        subjects = place.directory.subjects
        shutil.copytree(subjects, tmp_path / "backup")
        protection(place, copies=[copies]).erase(SOMEBODY, reason="", actor=OFFICER)
    shutil.rmtree(subjects)
    shutil.copytree(tmp_path / "backup", subjects)
    assert one(place, answer).inputs[0].keeping == "kept"  # the backup did bring the key back

    await place.start()
    found = one(place, answer)
    await place.aclose()

    assert (found.inputs[0].keeping, found.inputs[0].array.size) == ("erased", 0)
    assert traces_of(CANARY, place.directory.root) == []


async def test_lg_20_what_is_on_hold_stays(tmp_path: Path) -> None:
    """LG-20: a hold on the subject refuses its erasure and says why; a hold on a model keeps that
    model's records of the subject, until it is released: then the erasure is completed."""
    async with running(tmp_path, {}) as place, place.place.client() as client:
        held = await client.post(TWIN, json=a_row(1, subject=SOMEBODY))
        free = await client.post(INFER, json=a_row(2, subject=SOMEBODY))
        desk = protection(place)
        desk.place_hold(model="", subject=SOMEBODY, reason="case 17/26", actor=OFFICER)
        with pytest.raises(LegalHold, match="case 17/26"):
            desk.erase(SOMEBODY, reason="", actor=OFFICER)
        desk.release(model="", subject=SOMEBODY, reason="closed", actor=OFFICER)
        desk.place_hold(model="twin", subject="", reason="case 18/26", actor=OFFICER)

        erased = desk.erase(SOMEBODY, reason="", actor=OFFICER)
        meanwhile = [one(place, each).inputs[0].keeping for each in (held, free)]
        desk.release(model="twin", subject="", reason="closed", actor=OFFICER)

        assert [hold.reason for hold in erased.spared] == ["case 18/26"]
        assert meanwhile == ["kept", "erased"]
        assert [one(place, each).inputs[0].keeping for each in (held, free)] == ["erased"] * 2


@pytest.mark.parametrize(
    ("treatment", "keeping"), [("hash", "hashed"), ("drop", "dropped"), ("encrypt", "kept")]
)
async def test_cr_08_a_field_policy_acts_before_anything_is_written(
    tmp_path: Path, treatment: str, keeping: str
) -> None:
    """CR-08: values of a hashed, dropped or encrypted field are in no file, no metric and no trace,
    while the answer holds them and other fields are recorded."""
    policy = {"fields": {"x": treatment, "y": treatment}}
    async with running(tmp_path, policy) as place, place.place.client() as client:
        answer = await client.post(TWIN, json=a_row(CANARY))
        same = await client.post(TWIN, json=a_row(CANARY))
        found = one(place, answer)
        metrics = place.worker.metrics.families.render(b"")[0]

        assert answer.json()["outputs"][0]["data"] == [DOUBLED, 0.0]
        assert found.inputs[0].keeping == keeping
        assert found.fate is Fate.OK
        assert str(CANARY).encode() not in metrics
        assert traces_of(CANARY, place.directory.root) == []
        assert traces_of(DOUBLED, place.directory.root) == []
        if treatment == "hash":
            assert found.inputs[0].array.tolist() == one(place, same).inputs[0].array.tolist()
            assert found.inputs[0].array.tolist() != found.outputs[0].array.tolist()
        if treatment == "encrypt":
            assert rows_of(found) == [[DOUBLED, 0.0]]


async def test_lg_23_a_client_that_asks_again_finds_both_records(tmp_path: Path) -> None:
    """LG-23: after a lost answer a client asks again with its request id; the answer is the same, and
    both records carry the id by which they are linked."""
    async with running(tmp_path, {}) as place, place.place.client() as client:
        body = a_row(3) | {"id": "order-17"}
        first = await client.post(TWIN, json=body)
        second = await client.post(TWIN, json=body)
        linked = [each for each in records(place) if each.request_id == "order-17"]

        assert first.json() == second.json()
        assert {each.prediction_id for each in linked} == {
            each.headers["serving-prediction-id"] for each in (first, second)
        }
        assert len({rows_of(each)[0][0] for each in linked}) == 1


async def test_the_evidence_names_no_subject(tmp_path: Path) -> None:
    """Every act leaves its events on disk before it is done, and they hold the tag alone."""
    async with running(tmp_path, {}) as place, place.place.client() as client:
        await client.post(TWIN, json=a_row(1, subject=SOMEBODY))
        desk = protection(place)
        desk.erase(SOMEBODY, reason="asked for", actor=OFFICER)
        text = (place.directory.audit / "spool.jsonl").read_text()

        assert "privacy:erasure:ordered" in text
        assert "privacy:subject:erased" in text
        assert desk.tag(SOMEBODY) in text
        assert SOMEBODY not in text
