import asyncio
import resource
from pathlib import Path

import pytest

from serving.core.clock import SystemClock
from serving.errors import LegalHold, LogUnavailable, ServingError
from serving.predictionlog.payloads import BOX, sealed
from serving.predictionlog.privacy.erasures import Erasures
from serving.predictionlog.privacy.holds import Holds
from serving.predictionlog.privacy.subjects import (
    SLOT_BYTES,
    PayloadKeys,
    SubjectSecrets,
    Unreadable,
    key_files,
    model_mark,
)
from serving.predictionlog.writing.subjectkeys import WorkerKeys
from serving.trust.boxes import BoxInvalid, BoxKey, Nonces

PLACE = b"sequence, time, definition"
MARK = model_mark("doubler")


def worker_keys(root: Path, worker: str = "gateway-0", *, max_cached: int = 100) -> WorkerKeys:
    return WorkerKeys(
        root / "subjects",
        worker=worker,
        secrets=SubjectSecrets.open(root / "keys"),
        erasures=Erasures(root / "subjects"),
        max_cached=max_cached,
        clock=SystemClock(),
    )


async def saved(keys: WorkerKeys) -> ServingError | None:
    told: asyncio.Future[ServingError | None] = asyncio.get_running_loop().create_future()
    keys.saved(told.set_result)
    return await told


async def a_box(keys: WorkerKeys, subject: bytes, message: bytes = b"secret") -> bytes:
    """A payload of a subject, sealed with a key that is on disk."""
    tag = keys.secrets.tag(subject)
    box = sealed([message], keys.key(tag, MARK), tag=tag, nonce=keys.nonce(), place=PLACE)
    assert await saved(keys) is None
    return box


def opened(reader: PayloadKeys, box: bytes, *, place: bytes = PLACE) -> bytes | Unreadable:
    _, _, _, _, _, key_id, nonce = BOX.unpack_from(box)
    return reader.open(key_id, nonce, box[BOX.size :], place)


async def test_p25_what_one_worker_sealed_a_reader_opens(tmp_path: Path) -> None:
    """P25: with the key files a payload opens, in its own place only; a changed byte is noticed; and
    without the secret of the installation the key files are worth nothing."""
    keys = worker_keys(tmp_path)
    keys.start()
    box = await a_box(keys, b"ada")
    reader = PayloadKeys.at(tmp_path)

    assert opened(reader, box) == b"secret"
    with pytest.raises(BoxInvalid):
        opened(reader, box, place=b"another record")
    with pytest.raises(BoxInvalid):
        opened(reader, box[:-1] + bytes([box[-1] ^ 1]))
    (tmp_path / "keys" / "subjects").unlink()
    assert opened(PayloadKeys.at(tmp_path), box) == Unreadable(erased=True)
    keys.close()


async def test_keys_survive_a_restart_and_are_used_again(tmp_path: Path) -> None:
    """A subject keeps its key as long as the worker remembers it; a torn slot is passed over."""
    keys = worker_keys(tmp_path)
    keys.start()
    box = await a_box(keys, b"ada")
    keys.close()
    (path,) = key_files(tmp_path / "subjects")
    with path.open("ab") as file:
        file.write(b"torn")

    again = worker_keys(tmp_path)
    again.start()
    second = await a_box(again, b"ada")
    again.close()

    assert path.stat().st_size == SLOT_BYTES
    assert [opened(PayloadKeys.at(tmp_path), each) for each in (box, second)] == [b"secret"] * 2


async def test_a_forgotten_subject_gets_another_key(tmp_path: Path) -> None:
    """What is remembered is bounded; what was sealed before stays readable, and an erasure finds
    every key of the subject."""
    keys = worker_keys(tmp_path, max_cached=2)
    keys.start()
    boxes = [await a_box(keys, name) for name in (b"ada", b"bob", b"cleo", b"ada")]
    tag = keys.secrets.tag(b"ada").hex()

    erased = Erasures(tmp_path / "subjects").erase(tag, now_ns=SystemClock().wall_ns())
    reader = PayloadKeys.at(tmp_path)

    assert erased.keys == 2
    gone = Unreadable(erased=True)
    assert [opened(reader, box) for box in boxes] == [gone, b"secret", b"secret", gone]
    keys.close()


async def test_an_erasure_reaches_every_worker_s_keys(tmp_path: Path) -> None:
    """Each worker has its own keys; after an erasure none opens, and a reader that had them in mind
    has forgotten them."""
    workers = [worker_keys(tmp_path, f"gateway-{index}") for index in range(3)]
    for keys in workers:
        keys.start()
    boxes = [await a_box(keys, b"ada") for keys in workers]
    reader = PayloadKeys.at(tmp_path)
    assert [opened(reader, box) for box in boxes] == [b"secret"] * 3

    tag = workers[0].secrets.tag(b"ada").hex()
    Erasures(tmp_path / "subjects").erase(tag, now_ns=SystemClock().wall_ns())
    anew = [await a_box(keys, b"ada", b"new") for keys in workers]

    assert [opened(reader, box) for box in boxes] == [Unreadable(erased=True)] * 3
    assert [opened(reader, box) for box in anew] == [b"new"] * 3
    for keys in workers:
        keys.close()


async def test_a_key_that_cannot_be_written_refuses_its_records(tmp_path: Path) -> None:
    """No record is acknowledged whose key is not on disk; once the disk takes keys, there are new
    ones."""
    keys = worker_keys(tmp_path)
    keys.start()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        keys.key(keys.secrets.tag(b"ada"), MARK)
        refusal = await saved(keys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    box = await a_box(keys, b"ada")

    assert isinstance(refusal, LogUnavailable)
    assert opened(PayloadKeys.at(tmp_path), box) == b"secret"
    keys.close()


def test_a_hold_on_a_subject_refuses_its_erasure(tmp_path: Path) -> None:
    """Nothing is put on the erase list, so that nothing is erased later either."""
    folder = tmp_path / "subjects"
    Holds(folder).place(reason="case 1", by="officer", now_ns=1, subject="ab" * 16)

    with pytest.raises(LegalHold, match="case 1"):
        Erasures(folder).erase("ab" * 16, now_ns=2)

    assert Erasures(folder).listed() == {}


def test_cr_03_nonces_never_repeat() -> None:
    """CR-03: a million messages over several processes and restarts: no nonce twice."""
    sources = [Nonces() for _ in range(10)]
    seen = {source() for source in sources for _ in range(100_000)}

    assert len(seen) == 1_000_000


def test_cr_06_a_box_names_the_one_key_that_opens_it() -> None:
    """CR-06: the name of a key is derived from the key, so no other key goes by it."""
    key = BoxKey.new()

    assert BoxKey(key.secret).id == key.id
    assert BoxKey.new().id != key.id
    assert key.secret.hex() not in repr(key)
