"""The task that keeps the trail: everything that waits comes in once, and the whole is signed."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from serving.access.orders import KeyOrder
from serving.access.tallies import OTHERS
from serving.audit.chain import Entry
from serving.audit.reading import Filter, find
from serving.audit.spool import Spool
from serving.control.auditing import Auditing, Instance
from serving.control.auditing import Trail as Parts
from serving.core.clock import ManualClock
from serving.core.principals import Action, Decision, Ground, Principal, Role
from serving.governance.service import Governance, Keys
from serving.governance_settings import GovernanceSettings, WebhookSettings
from serving.storage.worker import Worker
from serving.trust.installation import read_trusted
from tests.audit.trails import Trail, event
from tests.desks import Desk

ADMIN = Principal("ada", frozenset({Role.ADMIN}))
BOB = Principal("bob", frozenset(), tenant="acme")
WHY = Decision(False, Ground.DENIED, "r1", "rule r1 denies infer")


class Keeping:
    """The task over a real database, turn by turn."""

    def __init__(self, folder: Path) -> None:
        self.trail = Trail(folder)
        self.clock: ManualClock = self.trail.clock
        self.desk = Desk(folder, self.clock)
        self.spool = Spool(folder / "audit")
        self.worker = Worker(self.clock)
        self.settings: dict[str, Any] = {"log": {"sync": True, "wait_s": 5.0}}
        governance = Governance(
            GovernanceSettings(),
            WebhookSettings(),
            keys=Keys(self.trail.key, lambda: read_trusted(self.trail.keys), b"s" * 32),
            refusals=self.trail.keys / "refusals.jsonl",
            audit=self.trail.log,
            clock=self.clock,
        )
        self.parts: Parts | None = Parts(
            self.trail.database, self.trail.log, self.trail.checkpoints, governance.requests
        )
        self.auditing = self.begun()

    def begun(self) -> Auditing:
        """As after a start of the process."""
        return Auditing(
            lambda: self.parts,
            self.worker,
            access=self.desk.access,
            spool=self.spool,
            instance=Instance("run-1", self.settings),
            period_s=1.0,
            clock=self.clock,
        )

    async def turn(self, *, after_s: float = 6.0) -> None:
        self.clock.advance(after_s)
        assert self.parts is not None
        await self.auditing.turn(self.parts)

    def found(self, name: str = "") -> list[Entry]:
        return find(self.trail.database, Filter(name=name, limit=1000))


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Keeping]:
    keeping = Keeping(tmp_path)
    yield keeping
    keeping.worker.close()


async def test_start_and_settings_are_the_first_events(keeping: Keeping) -> None:
    """The settings are told once, and again only when they are others, with those before."""
    await keeping.turn()
    keeping.auditing = keeping.begun()
    await keeping.turn()
    keeping.settings["log"] = {"sync": False}
    keeping.auditing = keeping.begun()
    await keeping.turn()

    names = [each.name for each in keeping.found("product:*")]
    applied = keeping.found("product:configuration:applied")
    assert names.count("product:instance:started") == 3
    assert [each.after for each in applied] == [
        {"log": {"sync": False}},
        {"log": {"sync": True, "wait_s": 5}},
    ]
    assert applied[0].before == applied[1].after


async def test_change_of_access_comes_in_once_and_is_signed(keeping: Keeping) -> None:
    """From the file that the change is in; afterwards the file waits for nothing."""
    keeping.desk.keys.make_key(KeyOrder(subject="ci", roles=(Role.CALLER,)), ADMIN)

    await keeping.turn()
    await keeping.turn()

    assert [each.actor for each in keeping.found("access:key:made")] == ["ada"]
    assert keeping.desk.access.waiting_events() == ()
    report = keeping.trail.verify()
    assert (report.intact, report.covered) == (True, report.events)
    assert keeping.auditing.state.events == report.events


async def test_acts_of_other_processes_come_in_from_the_spool(keeping: Keeping) -> None:
    """In their order, with the time at which they were made."""
    for number in range(2):
        keeping.spool.add(event(number), at_ns=number + 1)

    await keeping.turn()

    assert [each.at_ns for each in keeping.found("access:key:made")] == ["2", "1"]


async def test_refusals_are_summed_up(keeping: Keeping) -> None:
    """A thousand equal ones are one event with a count; a credential names nobody."""
    denials = keeping.desk.live.denials
    await keeping.turn()
    for _ in range(1000):
        denials.refuse_action(BOB, Action.INFER, "fraud", why=WHY, epoch=1)
    denials.refuse_credential("expired")
    await keeping.turn(after_s=1)
    early = keeping.found("access:action:denied")
    await keeping.turn()

    (denied,) = keeping.found("access:action:denied")
    (refused,) = keeping.found("access:credential:refused")
    assert early == []
    assert (denied.actor, denied.tenant, denied.object) == ("bob", "acme", "model:fraud")
    assert (denied.after["count"], denied.after["ground"]) == (1000, "denied")
    assert (refused.actor, refused.after["ground"]) == ("", "expired")


async def test_flood_of_different_refusals_is_bounded(keeping: Keeping) -> None:
    """Beyond a hundred kinds the rest is one event without names."""
    await keeping.turn()
    for number in range(1000):
        stranger = Principal(f"s{number}", frozenset())
        keeping.desk.live.denials.refuse_action(stranger, Action.INFER, "m", why=WHY, epoch=1)
    await keeping.turn()

    found = keeping.found("access:*")
    rest = [each.after["count"] for each in found if each.after["ground"] == OTHERS]
    assert (len(found), rest) == (101, [900])


async def test_damage_is_said_and_not_signed(keeping: Keeping) -> None:
    """The state tells metrics; nothing is signed until a person has looked."""
    await keeping.turn()
    keeping.trail.append(2)
    before = keeping.trail.checkpoints.newest
    keeping.trail.sql("UPDATE audit_events SET body = replace(body, 'ada', 'bob')")

    await keeping.turn()

    assert keeping.auditing.state.damaged
    assert keeping.trail.checkpoints.newest == before


async def test_everything_waits_while_the_database_is_away(
    keeping: Keeping, tmp_path: Path
) -> None:
    """And comes in when it is back."""
    await keeping.turn()
    keeping.desk.keys.make_key(KeyOrder(subject="ci", roles=(Role.CALLER,)), ADMIN)
    keeping.spool.add(event(1), at_ns=1)
    keeping.desk.live.denials.refuse_credential("expired")
    file = tmp_path / "registry.sqlite"
    file.rename(tmp_path / "away")
    await keeping.turn()
    (tmp_path / "away").rename(file)

    await keeping.turn()

    names = {each.name for each in keeping.found("access:*")}
    assert names == {"access:key:made", "access:credential:refused"}
    assert len(keeping.found("access:key:made")) == 2


async def test_end_is_written_and_signed(keeping: Keeping) -> None:
    """With what was refused until then, even when the end comes at once; without a database not."""
    parts, keeping.parts = keeping.parts, None
    await keeping.auditing.aclose()
    assert keeping.found() == []
    keeping.parts = parts
    keeping.desk.live.denials.refuse_credential("expired")

    await keeping.auditing.aclose()

    assert {each.name for each in keeping.found()} >= {
        "product:instance:stopped",
        "access:credential:refused",
    }
    report = keeping.trail.verify()
    assert report.covered == report.events
