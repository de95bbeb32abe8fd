from pathlib import Path

from serving.audit.events import EventName
from serving.audit.spool import Spool, Spooled
from serving.control.privacy import SubjectProtection
from serving.core.actors import Actor
from serving.core.clock import SystemClock
from serving.predictionlog.privacy.subjects import model_mark
from tests.predictionlog.privacy.test_subjects import saved, worker_keys

OFFICER = Actor(subject="officer", source="test")


async def with_keys(root: Path, models: dict[str, tuple[str, ...]]) -> None:
    """Keys of people for models, as a worker makes them. models: by person."""
    keys = worker_keys(root)
    keys.start()
    for person, names in models.items():
        for name in names:
            keys.key(keys.secrets.tag(person.encode()), model_mark(name))
    assert await saved(keys) is None
    keys.close()


def protection(root: Path) -> SubjectProtection:
    return SubjectProtection(root, spool=Spool(root / "audit"), copies=(), clock=SystemClock())


def erasures(root: Path) -> list[tuple[str, dict[str, object]]]:
    """The events about completed erasures since the last look: whose, and what came of it."""
    taken: list[Spooled] = []
    Spool(root / "audit").drain(taken.extend)
    events = [each.event for each in taken]
    return [(e.object, dict(e.after or {})) for e in events if e.name is EventName.SUBJECT_ERASED]


async def test_a_release_puts_every_erasure_that_it_ends_on_record(tmp_path: Path) -> None:
    """Each subject whose erasure waited for the hold has an event of its own; others have none."""
    await with_keys(tmp_path, {"ada": ("held", "free"), "bob": ("held",), "eve": ("held",)})
    desk = protection(tmp_path)
    desk.place_hold(model="held", subject="", reason="case 18/26", actor=OFFICER)
    for person in ("ada", "bob"):
        desk.erase(person, reason="asked", actor=OFFICER)
    ordered = erasures(tmp_path)

    desk.release(model="held", subject="", reason="closed", actor=OFFICER)

    ada, bob = (f"subject:{desk.tag(person)}" for person in ("ada", "bob"))
    kept = ["model held"]
    assert ordered == [(ada, {"keys": 1, "spared": kept}), (bob, {"keys": 0, "spared": kept})]
    done = {"keys": 1, "spared": []}
    assert sorted(erasures(tmp_path)) == sorted([(ada, done), (bob, done)])


async def test_a_second_hold_still_spares_and_is_named(tmp_path: Path) -> None:
    """What another hold keeps stays, the event says so, and the next release ends it."""
    await with_keys(tmp_path, {"ada": ("one", "two")})
    desk = protection(tmp_path)
    for model in ("one", "two"):
        desk.place_hold(model=model, subject="", reason="case", actor=OFFICER)
    desk.erase("ada", reason="asked", actor=OFFICER)
    erasures(tmp_path)

    desk.release(model="one", subject="", reason="closed", actor=OFFICER)
    first = erasures(tmp_path)
    desk.release(model="two", subject="", reason="closed", actor=OFFICER)

    assert [facts for _, facts in first] == [{"keys": 1, "spared": ["model two"]}]
    assert [facts for _, facts in erasures(tmp_path)] == [{"keys": 1, "spared": []}]
